//! The running daemon: who owns what, and what everyone else may ask of it.

pub mod answers;
