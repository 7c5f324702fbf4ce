//! Where frames come from: folders, sockets and whoever else holds an [`Inlet`], into one fair, bounded queue.
//!
//! ```text
//! directory ─┐  Inlet                        next_batch          settle(Verdict)
//! unix, tcp ─┼──────────> Intake (one queue ────────────> daemon ───────────────┐
//! HTTP      ─┘            a source, DRR)                                        │
//!     ^                                                                         │
//!     └──────────────── Receipt: Accepted | Duplicate | Refused ────────────────┘
//! ```
//!
//! A source reserves room before it reads a frame, so that the bytes of a source that are not decided yet never exceed its
//! queue. Whoever takes a frame out answers it exactly once by [`Frame::settle`]; dropping it answers "shutting-down". The
//! counters of the source hang on that same call and cannot be forgotten.
//!
//! This room knows nothing of pixels: bytes become images in `decode`. Adding a kind of source is one file that implements
//! [`Source`] and one line in [`open`].
//!
//! ```
//! use lumpd::stream::{Draft, Intake, Next, Origin, QueueLimits, SourceId, Verdict};
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # runtime.block_on(async {
//! let (mut intake, handle) = Intake::new();
//! let inlet = handle.register(SourceId(1), "camera", QueueLimits::default());
//! let receipt = inlet.offer(Draft::new(Origin::Peer { name: "demo".into(), sequence: 1 }, vec![1, 2, 3])).await.unwrap();
//! if let Next::Frames(frames) = intake.next_batch(64, std::time::Duration::from_secs(1)) {
//!     for frame in frames {
//!         frame.settle(Verdict::refused("not-an-image", "three bytes are no picture"));
//!     }
//! }
//! assert!(matches!(receipt.await, Verdict::Refused { code: "not-an-image", .. }));
//! # });
//! ```

mod account;
pub mod camera;
pub mod client;
pub mod directory;
mod error;
mod frame;
pub mod jpeg;
pub mod ledger;
pub mod mjpeg;
mod peers;
pub mod queue;
pub mod socket;
mod source;
mod unix;
pub mod wire;

pub use account::SourceReport;
pub use error::StreamError;
pub use frame::{Draft, Frame, FrameId, MAX_LABEL_BYTES, Origin, Receipt, SourceId, Verdict, codes};
pub use ledger::Ledger;
pub use peers::{Admitted, Peer, Peers};
pub use queue::{Inlet, Intake, IntakeHandle, Next, QueueLimits, Rejected, Reservation};
pub use source::{RunFuture, Source, open};
pub use unix::{UnixSocketFile, bind_unix};
