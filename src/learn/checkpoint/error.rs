use std::io;
use std::path::PathBuf;

/// Why a checkpoint could not be written or looked for. What is wrong with a stored one is a [`Reason`](super::Reason).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    #[error("could not {operation} {path}: {source}", path = path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "a checkpoint in {path} needs {needed} free bytes (twice its size) and there are {free}: free some space, or lower checkpoint.keep or checkpoint.max_bytes",
        path = path.display()
    )]
    NoSpace { path: PathBuf, needed: u64, free: u64 },

    #[error(
        "{name:?} cannot be a file of a checkpoint: use a-z, 0-9, '.', '_', '-', at most 64 characters, each name once"
    )]
    Name { name: String },

    #[error("a checkpoint of {files} files is too large: at most {most} files")]
    TooMany { files: usize, most: usize },

    #[error("the checkpoint in {path} does not verify ({reason}): check the disk; the others were kept", path = path.display())]
    Unverified { path: PathBuf, reason: String },

    #[error("there is no checkpoint of step {step} in {folder}: `lumpd checkpoint list` shows those there are", folder = folder.display())]
    NotThere { folder: PathBuf, step: u64 },
}

impl CheckpointError {
    /// Stable name for logs, metric labels and API problems.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "checkpoint-io",
            Self::NoSpace { .. } => "checkpoint-no-space",
            Self::Name { .. } => "checkpoint-file-name",
            Self::TooMany { .. } => "checkpoint-too-many-files",
            Self::Unverified { .. } => "checkpoint-unverified",
            Self::NotThere { .. } => "checkpoint-not-there",
        }
    }
}
