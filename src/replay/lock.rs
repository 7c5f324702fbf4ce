//! One daemon a store: a lock that the kernel releases with the process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::ReplayError;

/// The locked file `NAME.lock` beside the store. A file of its own: the store itself may be replaced by a rename.
#[derive(Debug)]
pub(super) struct LockFile {
    _file: File,
}

impl LockFile {
    /// # Errors
    /// [`ReplayError::Locked`] at once where another process (or another part of this one) has it.
    pub fn acquire(store: &Path) -> Result<Self, ReplayError> {
        let path = lock_path(store);
        let failed = |source| ReplayError::Io { operation: "lock", path: path.clone(), source };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ReplayError::Locked { path: store.into(), pid: owner(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // The number is for people only; the lock is what counts.
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn lock_path(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => pid.to_string(),
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is_until_the_first_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("replay.buf");
        let first = LockFile::acquire(&store).unwrap();
        let error = LockFile::acquire(&store).unwrap_err();
        assert_eq!(error.code(), "store-locked");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        LockFile::acquire(&store).unwrap();
    }
}
