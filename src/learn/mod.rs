//! The learner: what it knows survives a restart as generations of a checkpoint.

pub mod checkpoint;
