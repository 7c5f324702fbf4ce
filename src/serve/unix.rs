//! The unix socket as a file: mode 0660 from its first moment, a stale one replaced, a live one left alone, and taken away at the
//! end.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::ServeError;

/// A listening socket and the file by which it is found.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

/// Removes the file when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Socket {
    pub(super) async fn bind(path: &Path) -> Result<Self, ServeError> {
        refuse_live(path).await?;
        let failed = |source: io::Error| match source.kind() {
            ErrorKind::InvalidInput => ServeError::SocketPathTooLong { path: path.into() },
            _ => ServeError::Unix { path: path.into(), source },
        };
        // Made under another name and moved into place when it is ready, so that nobody finds it with wider permissions, and a
        // stale one is replaced in one step.
        let new = path.with_file_name(format!(".{}", std::process::id()));
        // One that a process of the same number left behind.
        if fs::symlink_metadata(&new).is_ok_and(|left| left.file_type().is_socket()) {
            let _ = fs::remove_file(&new);
        }
        let listener = UnixListener::bind(&new).map_err(failed)?;
        let file = place(&new, path).map_err(|source| {
            let _ = fs::remove_file(&new);
            failed(source)
        })?;
        Ok(Self { listener, file })
    }
}

async fn refuse_live(path: &Path) -> Result<(), ServeError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NotASocket { path: path.into() }),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ServeError::Unix { path: path.into(), source }),
    }
    match UnixStream::connect(path).await {
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        // It answers, or is too busy to: somebody is there.
        Ok(_) => Err(ServeError::SocketInUse { path: path.into() }),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ServeError::SocketInUse { path: path.into() }),
        Err(source) => Err(ServeError::Unix { path: path.into(), source }),
    }
}

fn place(new: &Path, path: &Path) -> io::Result<SocketFile> {
    fs::set_permissions(new, fs::Permissions::from_mode(0o660))?;
    let inode = inode(new)?;
    fs::rename(new, path)?;
    Ok(SocketFile { path: path.into(), inode })
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_has_mode_0660_and_goes_away_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lumpd.sock");
        let socket = Socket::bind(&path).await.unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        UnixStream::connect(&path).await.unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_live_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lumpd.sock");
        let _live = Socket::bind(&path).await.unwrap();
        let error = Socket::bind(&path).await.unwrap_err();
        assert_eq!(error.code(), "socket-in-use");
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lumpd.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the file outlives a listener that does not clean up");
        let _socket = Socket::bind(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lumpd.sock");
        fs::write(&path, "precious").unwrap();
        assert_eq!(Socket::bind(&path).await.unwrap_err().code(), "not-a-socket");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_socket_of_a_successor_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lumpd.sock");
        let first = Socket::bind(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Socket::bind(&path).await.unwrap();
        drop(first);
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Socket::bind(&folder.path().join("no/lumpd.sock")).await.unwrap_err();
        assert!(missing.to_string().contains("check that its folder exists"), "{missing}");
        let long = Socket::bind(&folder.path().join("x".repeat(60)).join("y".repeat(60)).join("s")).await.unwrap_err();
        assert_eq!(long.code(), "socket-path-too-long");
    }
}
