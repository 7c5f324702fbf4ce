//! Where the bytes of a store are: one trait for the file, the memory of the tests and the crash simulator.
//!
//! The file is written with positional writes and read through a read-only memory map. Stores through a writable map
//! would reach the disk in any order and kill the process where the disk is full; a positional write returns an error.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use memmap2::{MmapOptions, MmapRaw};

use super::layout::HEADER;
use super::lock::LockFile;

/// The bytes of a store. A write is durable once a `sync` that began after it has returned.
pub trait Backing: Send + Sync + 'static {
    /// For messages.
    fn path(&self) -> &Path;

    /// # Errors
    /// Those of the file system.
    fn length(&self) -> io::Result<u64>;

    /// Fills `into`. Bytes that are being written meanwhile are not to be asked for.
    ///
    /// # Errors
    /// Where the bytes are not there or cannot be read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// # Errors
    /// Those of the file system; some of the bytes may then have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// # Errors
    /// After one, what was written since the last success may be lost although a later sync succeeds: never try again.
    fn sync(&self) -> io::Result<()>;

    /// Reserves room up to `length` and fills it with zeros; called once, when the store is made.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] where the room is not there.
    fn set_length(&self, length: u64) -> io::Result<()>;
}

/// A file that this process alone has locked.
#[derive(Debug)]
pub struct FileBacking {
    path: PathBuf,
    file: File,
    map: OnceLock<MmapRaw>,
    /// Held as long as anybody can read: a second writer may not reuse slots under a reader.
    _lock: LockFile,
}

impl FileBacking {
    /// The existing file at `path`.
    pub(super) fn open(path: &Path, lock: LockFile) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let backing = Self { path: path.into(), file, map: OnceLock::new(), _lock: lock };
        backing.map_file()?;
        Ok(backing)
    }

    /// A new file at `temporary` that is to become `path`; only its owner can read it.
    pub(super) fn create(temporary: &Path, path: &Path, lock: LockFile) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(temporary)?;
        Ok(Self { path: path.into(), file, map: OnceLock::new(), _lock: lock })
    }

    fn map_file(&self) -> io::Result<()> {
        // A raw map: no reference to its bytes ever exists, so that nobody may assume that they do not change. An empty
        // file, which is no store, cannot be mapped and is read without one.
        if self.file.metadata()?.len() > 0 {
            let map = MmapOptions::new().map_raw_read_only(&self.file)?;
            let _ = self.map.set(map);
        }
        Ok(())
    }
}

impl Backing for FileBacking {
    fn path(&self) -> &Path {
        &self.path
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        match self.map.get() {
            // For a header, asking for the page costs more than reading it.
            Some(map) if into.len() > HEADER && copy_from_map(map, offset, into)? => Ok(()),
            _ => self.file.read_exact_at(into, offset),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        reserve(&self.file, length)?;
        // The length is metadata, which a later `sync_data` need not write.
        self.file.sync_all()?;
        self.map_file()
    }
}

/// Copies mapped bytes out. False where the map cannot be asked safely, and the file has to be read instead.
#[cfg(target_os = "linux")]
fn copy_from_map(map: &MmapRaw, offset: u64, into: &mut [u8]) -> io::Result<bool> {
    let beyond = || io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the mapped file");
    let start = usize::try_from(offset).map_err(|_| beyond())?;
    let end = start.checked_add(into.len()).ok_or_else(beyond)?;
    if end > map.len() {
        return Err(beyond());
    }
    // Touching a mapped page that was truncated away, or that the disk cannot deliver, kills the process with SIGBUS.
    // Asking for the pages first turns that into EFAULT or EIO here. A truncation between this line and the copy still
    // kills: the lock file and the mode 0600 keep others from doing that.
    match map.advise_range(memmap2::Advice::PopulateRead, start, into.len()) {
        Ok(()) => {}
        // Linux before 5.14 does not know the advice.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(false),
        Err(error) => return Err(error),
    }
    // SAFETY: `start..end` is within the map (checked above), which lives as long as `self`; `into` is exclusively
    // borrowed memory of this process, outside the read-only map, so the ranges cannot overlap; u8 has no alignment and
    // no invalid value. Within this process nobody writes these bytes meanwhile: a slot is written only while it is
    // free, readers copy only slots that are live, under the index's read lock, and a slot is freed under its write
    // lock. Other processes are kept out by the lock file and the file's mode; should one write all the same, the copy
    // is garbage that the checksum refuses.
    unsafe { std::ptr::copy_nonoverlapping(map.as_ptr().add(start), into.as_mut_ptr(), into.len()) };
    Ok(true)
}

/// Elsewhere than on Linux there is no way to ask for the pages first, so that reads go through the file.
#[cfg(not(target_os = "linux"))]
fn copy_from_map(_map: &MmapRaw, _offset: u64, _into: &mut [u8]) -> io::Result<bool> {
    Ok(false)
}

/// Gives the empty file its blocks: a sparse file would run out of room in the middle of a write.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < length {
        let count = zeros.len().min(usize::try_from(length - offset).unwrap_or(usize::MAX));
        file.write_all_at(&zeros[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backing(folder: &Path) -> FileBacking {
        let path = folder.join("file");
        let lock = LockFile::acquire(&path).unwrap();
        FileBacking::create(&path, &path, lock).unwrap()
    }

    #[test]
    fn what_is_written_is_read_through_the_map() {
        let folder = tempfile::tempdir().unwrap();
        let backing = backing(folder.path());
        backing.set_length(16_384).unwrap();
        assert!(backing.map.get().is_some());
        backing.write_at(5_000, b"pixels").unwrap();
        // As many as go through the map, then as few as do not.
        for length in [500, 8] {
            let mut read = vec![0; length];
            backing.read_at(4_999, &mut read).unwrap();
            assert_eq!(&read[..8], b"\0pixels\0");
            assert!(backing.read_at(16_380, &mut read).is_err());
            assert!(backing.read_at(u64::MAX, &mut read).is_err());
        }
    }

    #[test]
    fn the_file_is_not_sparse_and_private() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let backing = backing(folder.path());
        backing.set_length(1 << 20).unwrap();
        let metadata = backing.file.metadata().unwrap();
        assert!(metadata.blocks() * 512 >= 1 << 20, "{} blocks", metadata.blocks());
        assert_eq!(metadata.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_truncation_from_outside_is_an_error_and_not_a_signal() {
        let folder = tempfile::tempdir().unwrap();
        let backing = backing(folder.path());
        backing.set_length(1 << 20).unwrap();
        OpenOptions::new().write(true).open(folder.path().join("file")).unwrap().set_len(4096).unwrap();
        assert!(backing.read_at(8_192, &mut [0; 1_000]).is_err());
    }
}
