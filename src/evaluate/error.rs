//! What can go wrong in this room.

use super::probes::StorageError;

/// What can go wrong when probes are kept or measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    #[error("{values} numbers are not rows of {width}: this is a fault of the program that called; report it")]
    Shape { values: usize, width: usize },
    #[error("{doing} failed: check that the disk of the state folder is readable, writable and not full")]
    Storage { doing: &'static str, source: StorageError },
    #[error(
        "the saved state of the forgetting metrics is damaged ({what}): restore an earlier checkpoint, or go on without it (every task then starts over)"
    )]
    State { what: String },
    #[error(
        "the saved state of the forgetting metrics is of another version of lumpd, which measured otherwise: every task starts over"
    )]
    OtherVersion,
}

impl EvaluateError {
    /// Stable name for logs, metrics and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Shape { .. } => "features-shape",
            Self::Storage { .. } => "probe-storage",
            Self::State { .. } | Self::OtherVersion => "forgetting-state",
        }
    }
}
