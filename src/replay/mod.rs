//! The bounded memory of what was seen: a file of a fixed size, a policy that says which images stay, and readers that
//! never wait for the disk.
//!
//! [`ReplayBuffer`] is the front door: offer, commit, then acknowledge. [`FrameStore`] below it keeps images in slots
//! that the caller chooses (probes). `layout` draws the file byte by byte, `policies` says which images stay, `backing`
//! is the only place that touches mapped memory. Decoding, sources and acknowledgements are others' work.
//!
//! # The promise
//! A frame acknowledged after a `commit` with `durability = "sync"` survives the kill of the process, a crash of the
//! kernel and a power cut, provided that the drive honours flushes and completes or rejects a sector's write: after a
//! restart it is in the buffer, unless a later acknowledged frame replaced it or the policy had rejected it. A frame
//! not acknowledged is there wholly or not at all. An image whose checksum fails is dropped, counted and logged, and
//! never served. Not covered: a drive that lies, other writers to the file, network file systems (refused).
//!
//! # Example
//! ```
//! use lumpd::config::{ReplaySettings, Seed};
//! use lumpd::replay::{Record, ReplayBuffer};
//! use lumpd::stream::SourceId;
//!
//! let folder = tempfile::tempdir().unwrap();
//! let settings = ReplaySettings { slots: 100, ..Default::default() };
//! let (mut buffer, _) = ReplayBuffer::open_or_create(&folder.path().join("replay.buf"), &settings, 8, Seed(0)).unwrap();
//! let pixels = [128; 8 * 8 * 3];
//! let id = buffer.next_id();
//! buffer
//!     .offer(&Record { id, source: SourceId(1), source_sequence: 0, wall_time_ns: 0, content_hash: [0; 16], pixels: &pixels })
//!     .unwrap();
//! buffer.commit().unwrap();
//!
//! let reader = buffer.reader();
//! assert_eq!(reader.sample(32, &mut Seed(0).random("example", 0)).ids, [id]);
//! ```

mod backing;
mod buffer;
mod erase;
mod error;
mod file;
mod index;
mod layout;
mod lock;
mod offline;
pub mod policies;
mod reader;
mod recover;
mod resize;
mod shared;
mod store;

#[doc = include_str!("FORMAT.md")]
pub mod format {}

#[cfg(test)]
mod tests;

pub use backing::{Backing, FileBacking};
pub use buffer::{Decision, Record, ReplayBuffer};
pub use error::ReplayError;
pub use file::Wanted;
pub use layout::{Counters, Geometry, Purpose, Shape, SlotMeta};
pub use offline::{BadSlot, Offline};
pub use reader::{Batch, BufferStatistics, Snapshot, StoreReader, Stored};
pub use resize::{Resized, resize};
pub use shared::{Committed, Recovery};
pub use store::FrameStore;
