//! The running daemon: who owns what, and what everyone else may ask of it.
//!
//! Three kinds of thread, wired by queues. Sources run as tokio tasks and put frames into the intake. The memory thread
//! (`pipeline`) takes them out in fair order, decodes them in parallel, segments, keeps and acknowledges them, and hands copies to
//! the mailbox. The learner thread (`learner`) owns the training device: it empties the mailbox, rehearses, publishes versions
//! and writes checkpoints. Readers ask [`answers::Answers`], which looks at what has been published and waits for nobody.
//!
//! Locks are taken in one order: segmenter, probes, anything else.

pub mod answers;
mod events;
mod features;
mod history;
mod inlets;
mod learner;
mod lifecycle;
mod live;
mod lockstep;
mod mailbox;
mod measure;
mod moments;
mod pipeline;
mod probe_file;
mod published;
mod record;
mod requests;
mod resume;
mod shared;
mod start;
mod state_dir;
mod unwritten;

pub use lifecycle::{Daemon, DaemonError};
pub use start::StartError;
pub use state_dir::{StateDir, StateDirError};
