//! From a path to a store: lock, check the file system, open what is there or make it whole before it gets its name.

use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};

use crate::config::durable;

use super::ReplayError;
use super::backing::FileBacking;
use super::layout::{Geometry, Identity, MOST_SLOTS, Purpose, Shape};
use super::lock::LockFile;
use super::shared::Recovery;
use super::store::FrameStore;

/// What a store has to be like. An existing file that is not is refused, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub purpose: Purpose,
    /// Number of the policy, 0 where the caller chooses the slots.
    pub policy: u16,
    /// Images kept.
    pub slots: usize,
    /// Most writes of one commit. Only counts when the file is made.
    pub spares: usize,
    /// Pixels of a side.
    pub side: usize,
    /// Channels of a pixel.
    pub channels: usize,
}

impl Wanted {
    /// Geometry of a new file.
    ///
    /// # Errors
    /// [`ReplayError::OutOfBounds`].
    pub fn geometry(&self, identity: Identity) -> Result<Geometry, ReplayError> {
        let &Self { purpose, policy, slots, spares, side, channels } = self;
        Shape::new(side, channels)
            .filter(|_| slots <= MOST_SLOTS)
            .and_then(|shape| Geometry::new(purpose, policy, shape, slots, spares.clamp(1, 1 << 16), identity))
            .ok_or(ReplayError::OutOfBounds { slots, side, channels })
    }
}

impl FrameStore<FileBacking> {
    /// Opens the store at `path`, or makes it with all its room on the disk.
    ///
    /// # Errors
    /// Each [`ReplayError`] of locking, of room, and of a file that is not what is wanted.
    pub fn open_or_create(path: &Path, wanted: &Wanted) -> Result<(Self, Recovery), ReplayError> {
        check_file_system(folder(path))?;
        let lock = LockFile::acquire(path)?;
        let io = |operation| move |source| ReplayError::Io { operation, path: path.into(), source };
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.is_file() => Err(ReplayError::NotAStore { path: path.into() }),
            Ok(_) => Self::open(FileBacking::open(path, lock).map_err(io("open"))?, wanted),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(path, wanted, lock),
            Err(error) => Err(io("look at")(error)),
        }
    }
}

/// Makes the file under another name, so that `path` is a whole store or does not exist.
fn create(path: &Path, wanted: &Wanted, lock: LockFile) -> Result<(FrameStore<FileBacking>, Recovery), ReplayError> {
    let geometry = wanted.geometry(new_identity(path))?;
    require_room(path, geometry.file_length())?;
    let temporary = temporary_path(path);
    let io = |operation| move |source| ReplayError::Io { operation, path: path.into(), source };
    // The lock is ours, so what is there is left over from a creation that was interrupted.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("make")(error)),
        _ => {}
    }
    let made = FileBacking::create(&temporary, path, lock)
        .map_err(io("make"))
        .and_then(|backing| FrameStore::create(backing, geometry))
        .and_then(|store| {
            fs::rename(&temporary, path).map_err(io("name"))?;
            durable::sync_folder(folder(path)).map_err(io("name"))?;
            Ok((store, Recovery::default()))
        });
    if made.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    made
}

pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(super) fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

pub(super) use crate::config::durable::free_bytes;

pub(super) fn require_room(path: &Path, needed: u64) -> Result<(), ReplayError> {
    match free_bytes(path) {
        Some(free) if free < needed => Err(ReplayError::NoSpace { path: path.into(), needed, free }),
        _ => Ok(()),
    }
}

/// Not a secret: it only has to differ from file to file. Independent of the configured seed, which two files may
/// share.
pub(super) fn new_identity(path: &Path) -> Identity {
    let entropy = std::hash::RandomState::new().build_hasher().finish();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut hash = blake3::Hasher::new();
    hash.update(path.as_os_str().as_encoded_bytes()).update(&entropy.to_le_bytes());
    hash.update(&now.to_le_bytes()).update(&std::process::id().to_le_bytes());
    let mut identity = [0; 16];
    identity.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    identity
}

/// Network file systems neither order writes as promised nor lock reliably; file systems that copy on write can run out
/// of room on overwriting, which is survived but worth a word. Numbers: linux/magic.h.
#[cfg(target_os = "linux")]
fn check_file_system(folder: &Path) -> Result<(), ReplayError> {
    const NETWORK: [(u32, &str); 6] = [
        (0x6969, "NFS"),
        (0x517B, "SMB"),
        (0xFE53_4D42, "SMB2"),
        (0xFF53_4D42, "CIFS"),
        (0x00C3_6400, "Ceph"),
        (0x5346_414F, "AFS"),
    ];
    const COPY_ON_WRITE: [(u32, &str); 2] = [(0x9123_683E, "btrfs"), (0x2FC1_2FC1, "ZFS")];
    let found = rustix::fs::statfs(folder)
        .map_err(|error| ReplayError::Io { operation: "look at", path: folder.into(), source: error.into() })?
        .f_type as u32;
    let named = |list: &[(u32, &'static str)]| list.iter().find(|(magic, _)| *magic == found).map(|(_, kind)| *kind);
    if let Some(kind) = named(&NETWORK) {
        return Err(ReplayError::NetworkFileSystem { path: folder.into(), kind });
    }
    if let Some(kind) = named(&COPY_ON_WRITE) {
        tracing::warn!(folder = %folder.display(), kind, "reserved room may be taken by others on a file system that copies on write");
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn check_file_system(_folder: &Path) -> Result<(), ReplayError> {
    Ok(())
}
