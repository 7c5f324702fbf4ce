//! What does not belong to one room: pages for those who run lumpd, ask it, read its files, or add to it.
//!
//! | page | for |
//! |---|---|
//! | [`operation`] | whoever runs the daemon: start, reload, stop, backup, alarms |
//! | [`api`] | whoever asks it: the rules that every request and answer follows |
//! | [`formats`] | whoever reads its files or speaks its wire format |
//! | [`algorithms`] | whoever wants to know what is computed, and where that comes from |
//! | [`extending`] | whoever adds a strategy, an objective, a source, a detector, a policy |
//!
//! `cargo doc --no-deps --open` shows them beside the rooms; links in them are checked by the compiler.

#[doc = include_str!("docs/operation.md")]
pub mod operation {}

#[doc = include_str!("docs/api.md")]
pub mod api {}

#[doc = include_str!("docs/formats.md")]
pub mod formats {}

#[doc = include_str!("docs/algorithms.md")]
pub mod algorithms {}

#[doc = include_str!("docs/extending.md")]
pub mod extending {}
