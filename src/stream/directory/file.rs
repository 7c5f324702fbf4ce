//! Reads a file that strangers may write: nothing but a regular file within the folder, within the limit, and whole.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::stream::frame::codes;
use crate::stream::ledger::Fingerprint;

/// Room taken before the first byte is read.
const FIRST_ALLOCATION: usize = 64 << 10;

/// Why a file was not read.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// It changed meanwhile: look again later.
    Changed,
    Refused {
        code: &'static str,
        detail: String,
    },
}

fn refused(code: &'static str, detail: impl Into<String>) -> Unread {
    Unread::Refused { code, detail: detail.into() }
}

pub fn fingerprint(found: &Metadata) -> Fingerprint {
    let mtime_ns = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
    Fingerprint { inode: found.ino(), size: found.size(), mtime_ns }
}

/// Opens without following links and without waiting for the writer of a pipe.
///
/// # Errors
/// [`Unread::Refused`] with the reason.
pub fn open(root: &Path, path: &Path, max_bytes: usize) -> Result<(File, Fingerprint), Unread> {
    let file = open_within(root, path).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => refused(codes::VANISHED, "the file was gone when it was opened"),
        Errno::LOOP | Errno::XDEV => refused(codes::NOT_A_FILE, "a symbolic link; put the file itself here"),
        Errno::NXIO => refused(codes::NOT_A_FILE, "a socket or device; put regular files here"),
        other => refused(codes::UNREADABLE, format!("opening failed: {other}; give the daemon read permission")),
    })?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(refused(codes::NOT_A_FILE, "a pipe, device or folder; put regular files here"));
    }
    let size = found.len();
    if size > max_bytes as u64 {
        let detail = format!("{size} bytes are over decode.max_bytes = {max_bytes}; raise it or shrink the image");
        return Err(refused(codes::TOO_MANY_BYTES, detail));
    }
    Ok((file, fingerprint(&found)))
}

#[cfg(target_os = "linux")]
fn open_within(root: &Path, path: &Path) -> Result<File, Errno> {
    use rustix::fs::{ResolveFlags, open, openat2};
    let folder = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(&folder, path, flags(), Mode::empty(), resolve) {
        Ok(file) => Ok(file.into()),
        // Kernels before 5.6, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_plainly(root, path),
        Err(errno) => Err(errno),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_within(root: &Path, path: &Path) -> Result<File, Errno> {
    open_plainly(root, path)
}

fn open_plainly(root: &Path, path: &Path) -> Result<File, Errno> {
    rustix::fs::openat(CWD, root.join(path), flags(), Mode::empty()).map(File::from)
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC
}

/// Reads a file opened by [`open`], and makes sure that it is still what it was.
///
/// # Errors
/// [`Unread::Changed`] where size, time or length read differ from `expected`.
pub fn read(file: &mut File, expected: Fingerprint) -> Result<Vec<u8>, Unread> {
    let size = usize::try_from(expected.size).map_err(|_| Unread::Changed)?;
    let mut bytes = Vec::with_capacity(size.min(FIRST_ALLOCATION));
    // One byte more than expected tells that the file has grown.
    file.by_ref().take(expected.size + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let now = fingerprint(&file.metadata().map_err(unreadable)?);
    if bytes.len() == size && now == expected { Ok(bytes) } else { Err(Unread::Changed) }
}

fn unreadable(error: io::Error) -> Unread {
    refused(codes::UNREADABLE, format!("reading failed: {error}; see whether the disk is well"))
}
