//! The bank of what was seen, and what its nearest neighbours say.
//!
//! A [`Bank`] holds the embeddings of one encoder version and never changes; a new version, or a few new frames, make a new
//! bank that shares what stayed the same, so that a query reads one bank from beginning to end. Search is exact. [`Labels`]
//! are the few names that people gave to stored frames; [`classify()`] lets labelled neighbours vote on a query.
//!
//! Left to others: which frames are in the bank (replay and probes), computing embeddings (encoder), and when a bank is
//! swapped for the next (daemon).
//!
//! ```
//! use lumpd::knn::{Bank, NewRow};
//! use lumpd::stream::{FrameId, SourceId};
//!
//! let row = |id, embedding| NewRow { frame: FrameId(id), source: SourceId(0), wall_time_ns: 0, embedding };
//! let bank = Bank::new("a".into(), 2).with_changes(&[], &[row(1, &[3.0, 0.0]), row(2, &[0.0, 5.0])])?;
//! let nearest = bank.nearest(&[1.0, 0.1], 1, |_| true)?;
//! assert_eq!(nearest[0].frame, FrameId(1));
//! # Ok::<(), lumpd::knn::KnnError>(())
//! ```

mod bank;
mod classify;
mod error;
mod labels;
mod principal;
mod search;

pub use bank::{Bank, Entry, NewRow};
pub use classify::{Classification, LabelProbability, LabelledNeighbour, classify, vote};
pub use error::KnnError;
pub use labels::{LabelMap, Labels, MAX_LABEL_BYTES};
pub use principal::{Principal, principal};
pub use search::Neighbour;
