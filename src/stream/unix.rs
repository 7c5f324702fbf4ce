//! Unix sockets as files: made, guarded and removed.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::StreamError;

/// Owner and group may connect.
const MODE: u32 = 0o660;

/// The file of a bound socket; removed when dropped, unless another socket has taken its place.
#[derive(Debug)]
pub struct UnixSocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl UnixSocketFile {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Left behind it does no harm: the next start replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds a non-blocking unix socket of mode 0660. The file that a dead process left behind is replaced; the socket of a living
/// one, or anything else at that path, is left alone and refused.
///
/// # Errors
/// [`StreamError::SocketInUse`], [`StreamError::NotASocket`], [`StreamError::BindUnix`].
pub fn bind_unix(path: &Path) -> Result<(UnixListener, UnixSocketFile), StreamError> {
    let failed = |error| StreamError::BindUnix { path: path.to_owned(), error };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(StreamError::NotASocket { path: path.to_owned() }),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(StreamError::SocketInUse { path: path.to_owned() }),
            // Nobody listens.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
    }
    let bind = || {
        let listener = UnixListener::bind(path)?;
        // Until here the umask holds, which is narrower wherever it takes write permission from others.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
        listener.set_nonblocking(true)?;
        Ok((listener, UnixSocketFile { path: path.to_owned(), identity: identity(path)? }))
    };
    bind().map_err(failed)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}
