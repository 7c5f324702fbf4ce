//! What survives: small files that are either the old one or the new one, whatever stops the machine, and the state
//! folder's database.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

mod database;

pub use database::{Database, DatabaseHealth, free_bytes};

/// Creates `path`, which must not exist, readable by its owner only, and returns once its bytes are on the disk. Its
/// name is durable only after [`sync_folder`] of the folder.
///
/// # Errors
/// Those of the file system; a partly written file may stay behind.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names within a folder durable: creations, renames and removals.
///
/// # Errors
/// Those of the file system.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // The parent of a bare file name is the empty path, which cannot be opened.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

/// Replaces the content of `path` (or creates it): a temporary file beside it, fsync, rename, fsync of the folder. A
/// reader sees the old bytes or the new ones, and so does the next start after a power cut. One writer a path.
///
/// ```
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("cursor.json");
/// lumpd::config::durable::replace(&path, b"1").unwrap();
/// lumpd::config::durable::replace(&path, b"2").unwrap();
/// assert_eq!(std::fs::read(&path).unwrap(), b"2");
/// ```
///
/// # Errors
/// Those of the file system; the old content is then still in place.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a file name"))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    let temporary = folder.join(temporary);
    // What an earlier attempt left behind was never renamed, so nobody depends on it.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_new(&temporary, bytes)?;
    std::fs::rename(&temporary, path)?;
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_left_over_of_an_interrupted_replacement_does_not_stop_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        std::fs::write(folder.path().join(".state.new"), b"half").unwrap();
        replace(&path, b"whole").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_old_content_stays_where_the_new_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        replace(&path, b"old").unwrap();
        std::fs::create_dir(folder.path().join(".state.new")).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }
}
