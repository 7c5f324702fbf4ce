//! The folder of everything that survives a restart: made where it is missing, and held by one daemon at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDirError {
    #[error("another lumpd{} runs on {path}: stop it, or set daemon.state_dir to another folder", pid(.holder))]
    Held { path: PathBuf, holder: String },
    #[error(
        "cannot {doing} {path}: {source}; check its owner and its permissions, or set daemon.state_dir to another folder"
    )]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl StateDirError {
    /// Whether another try may succeed without any change.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

fn pid(holder: &str) -> String {
    if holder.is_empty() { String::new() } else { format!(" (process {holder})") }
}

/// The held folder; let go when dropped, or when the process dies.
#[derive(Debug)]
pub struct StateDir {
    _lock: File,
}

impl StateDir {
    /// Makes the folder, readable by its owner only, and locks it.
    ///
    /// # Errors
    /// Another daemon holds it, or it cannot be made or written.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| StateDirError::Io { doing, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("make the state folder", path))?;
        let name = path.join("lumpd.lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&name)
            .map_err(io("open", &name))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message; without it the message is as true.
                let _ = lock.read_to_string(&mut holder);
                return Err(StateDirError::Held { path: path.into(), holder: holder.trim().into() });
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", &name)(error)),
        }
        let write_pid = || {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        let mut write_pid = write_pid;
        write_pid().map_err(io("write", &name))?;
        Ok(Self { _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_a_folder_and_the_message_names_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let held = StateDir::open(&path).unwrap();
        let error = StateDir::open(&path).unwrap_err();
        assert!(error.is_temporary());
        assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
        drop(held);
        StateDir::open(&path).unwrap();
    }
}
