use std::io;
use std::path::PathBuf;

/// What can go wrong with a store, each with what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    #[error("could not {operation} {path}: {source}", path = path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "{path} needs {needed} bytes and its file system has {free} free: free some space, or make [replay] slots smaller",
        path = path.display()
    )]
    NoSpace { path: PathBuf, needed: u64, free: u64 },

    #[error(
        "{path} is in use by another daemon (process {pid}): stop that one, or give this one a state folder of its own",
        path = path.display()
    )]
    Locked { path: PathBuf, pid: String },

    #[error("{path} is on {kind}, a network file system without the guarantees the buffer needs: use a local disk", path = path.display())]
    NetworkFileSystem { path: PathBuf, kind: &'static str },

    #[error("{path} is not an image store: move it away", path = path.display())]
    NotAStore { path: PathBuf },

    #[error("both copies of the geometry of {path} are damaged: move the file away; a new one will be made", path = path.display())]
    DamagedGeometry { path: PathBuf },

    #[error(
        "{path} has format {major} with features {features:#x}, made by a newer lumpd: use that version, or move the file away",
        path = path.display()
    )]
    NewerFormat { path: PathBuf, major: u16, features: u64 },

    #[error(
        "{path} was made for {made}, and the settings ask for {wanted}: set [replay] and encoder.preset as they were, \
         choose another daemon.state_dir, or move the file away (what it remembers goes with it)",
        path = path.display()
    )]
    OtherGeometry { path: PathBuf, made: String, wanted: String },

    #[error(
        "{path} should be {expected} bytes long and is {found}: it was cut or is another file; restore it or move it away",
        path = path.display()
    )]
    Length { path: PathBuf, expected: u64, found: u64 },

    #[error("a store of {slots} slots of {side}x{side}x{channels} images is out of bounds: 1 to {most} slots, 1 to 4096 pixels, 1 to 4 channels",
        most = super::layout::MOST_SLOTS)]
    OutOfBounds { slots: usize, side: usize, channels: usize },

    #[error("an image of {found} bytes was offered to a store of images of {expected} bytes: resize it before")]
    ImageSize { expected: usize, found: usize },

    #[error("slot {slot} was named in a store of {slots} slots: name one below")]
    NoSuchSlot { slot: usize, slots: usize },

    #[error("the group has its {frames} frames: commit it before the next")]
    GroupFull { frames: usize },

    #[error(
        "the store stopped when a write did not reach the disk ({cause}): check the disk and restart; what was acknowledged is safe"
    )]
    Stopped { cause: String },
}

impl ReplayError {
    /// Stable name for exit codes, logs, metric labels and API problems.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "store-io",
            Self::NoSpace { .. } => "store-no-space",
            Self::Locked { .. } => "store-locked",
            Self::NetworkFileSystem { .. } => "store-network-file-system",
            Self::NotAStore { .. } => "store-not-a-store",
            Self::DamagedGeometry { .. } => "store-damaged-geometry",
            Self::NewerFormat { .. } => "store-newer-format",
            Self::OtherGeometry { .. } => "store-other-geometry",
            Self::Length { .. } => "store-length",
            Self::OutOfBounds { .. } => "store-out-of-bounds",
            Self::ImageSize { .. } => "store-image-size",
            Self::NoSuchSlot { .. } => "store-no-such-slot",
            Self::GroupFull { .. } => "store-group-full",
            Self::Stopped { .. } => "store-stopped",
        }
    }

    /// Whether the store can go on: false where only a restart helps.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Stopped { .. })
    }
}
