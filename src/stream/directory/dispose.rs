//! What becomes of files whose images are committed and written down, and of those that were refused.
//!
//! With `after = "keep"` nothing: files are never changed. With `move` and `delete` the folder is a queue: a file that was
//! taken leaves it, and one that cannot be decoded, or that killed the process twice, goes to `.quarantine` within the
//! folder with a file beside it that says why. The quarantine is bounded; its oldest files make room.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::file::fingerprint;
use crate::stream::StreamError;
use crate::stream::frame::codes;
use crate::stream::ledger::Entry;

/// Folder of quarantined files within the watched one; hidden, so that it is not watched itself.
const QUARANTINE: &str = ".quarantine";
/// Files of the quarantine, the reasons not counted, and their bytes.
const QUARANTINED_FILES: usize = 1000;
const QUARANTINED_BYTES: u64 = 256 << 20;
/// Other names that are tried where a name is taken.
const OTHER_NAMES: u32 = 1000;

/// What becomes of files that were taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    Keep,
    /// To this folder, under the same path within it.
    Move(PathBuf),
    Delete,
}

/// Carries it out.
#[derive(Debug, Clone)]
pub struct Disposal {
    root: PathBuf,
    after: After,
    most_files: usize,
    most_bytes: u64,
}

impl Disposal {
    /// Makes the folder that files are moved to. `root`: the watched folder.
    ///
    /// # Errors
    /// [`StreamError::Done`] where it cannot be made, is on another file system, or would be watched itself.
    pub fn open(root: &Path, after: After) -> Result<Self, StreamError> {
        if let After::Move(done) = &after {
            let failed = |reason: String| StreamError::Done { path: done.clone(), reason };
            fs::create_dir_all(done).map_err(|error| failed(error.to_string()))?;
            let look = |path: &Path| fs::metadata(path).map_err(|error| failed(error.to_string()));
            if look(done)?.dev() != look(root)?.dev() {
                return Err(failed(
                    "it is on another file system than `path`, where a file cannot be moved to at once".into(),
                ));
            }
            if done.strip_prefix(root).is_ok_and(|within| !super::walk::is_ignored(within)) {
                return Err(failed("it is within `path`, and would be watched itself".into()));
            }
        }
        Ok(Self { root: root.into(), after, most_files: QUARANTINED_FILES, most_bytes: QUARANTINED_BYTES })
    }

    /// Whether anything becomes of files at all.
    pub fn acts(&self) -> bool {
        self.after != After::Keep
    }

    /// The image of this file is committed, and the ledger says so. A file that has changed meanwhile is left: it is a
    /// new one.
    ///
    /// # Errors
    /// Those of the file system; the file is then found again by the next scan.
    pub fn taken(&self, entry: &Entry) -> io::Result<()> {
        let Some(from) = self.unchanged(entry)? else { return Ok(()) };
        match &self.after {
            After::Keep => Ok(()),
            After::Delete => gone_is_fine(fs::remove_file(from)),
            After::Move(done) => {
                let to = done.join(&entry.0);
                if let Some(folder) = to.parent() {
                    fs::create_dir_all(folder)?;
                }
                gone_is_fine(move_to_new(&from, &to).map(drop))
            }
        }
    }

    /// The file was refused for good. Kept in place where it may be read yet, or is none of an image's.
    ///
    /// # Errors
    /// As [`taken`](Self::taken).
    pub fn refused(&self, entry: &Entry, code: &str, detail: &str) -> io::Result<()> {
        let stays = [codes::VANISHED, codes::UNREADABLE, codes::NOT_A_FILE, codes::TOO_MANY_BYTES];
        if !self.acts() || stays.contains(&code) {
            return Ok(());
        }
        let Some(from) = self.unchanged(entry)? else { return Ok(()) };
        let folder = self.root.join(QUARANTINE);
        fs::create_dir_all(&folder)?;
        // By time, so that the order of names is that of age.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut name = OsString::from(format!("{now:015}-"));
        name.push(entry.0.file_name().unwrap_or_default());
        let to = match move_to_new(&from, &folder.join(name)) {
            Ok(to) => to,
            Err(error) => return gone_is_fine(Err(error)),
        };
        fs::write(reason_of(&to), format!("{}\n{code}\n{detail}\n", entry.0.display()))?;
        self.make_room(&folder)
    }

    fn unchanged(&self, (path, expected): &Entry) -> io::Result<Option<PathBuf>> {
        let path = self.root.join(path);
        match fs::symlink_metadata(&path) {
            Ok(found) => Ok((fingerprint(&found) == *expected).then_some(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Drops the oldest files beyond the bounds. Reads the whole folder, which the bounds keep small.
    fn make_room(&self, folder: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.path().extension().is_none_or(|extension| extension != "reason") {
                files.push((entry.file_name(), entry.metadata()?.len()));
            }
        }
        files.sort_unstable();
        let (mut count, mut bytes) = (files.len(), files.iter().map(|(_, size)| size).sum::<u64>());
        for (name, size) in files {
            if count <= self.most_files && bytes <= self.most_bytes {
                break;
            }
            let path = folder.join(name);
            tracing::warn!(file = %path.display(), "the quarantine is full: its oldest file is dropped");
            gone_is_fine(fs::remove_file(reason_of(&path)))?;
            gone_is_fine(fs::remove_file(&path))?;
            (count, bytes) = (count - 1, bytes - size);
        }
        Ok(())
    }
}

fn reason_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".reason");
    name.into()
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Moves without ever replacing a file: `NAME.1`, `NAME.2` and so on where the name is taken. Returns the name.
fn move_to_new(from: &Path, to: &Path) -> io::Result<PathBuf> {
    for number in 0..=OTHER_NAMES {
        let mut name = to.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        match rename_new(from, Path::new(&name)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            moved => return moved.map(|()| name.into()),
        }
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, format!("{} and {OTHER_NAMES} more names are taken", to.display())))
}

#[cfg(target_os = "linux")]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems that do not know the flag.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => rename_where_free(from, to),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_where_free(from, to)
}

/// Somebody else may take the name in between: the best there is without the flag.
fn rename_where_free(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(root: &Path, name: &str) -> Entry {
        (name.into(), fingerprint(&fs::symlink_metadata(root.join(name)).unwrap()))
    }

    #[test]
    fn a_taken_file_is_moved_under_a_free_name_and_one_that_changed_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (root, done) = (folder.path().join("in"), folder.path().join("done"));
        fs::create_dir_all(root.join("deep")).unwrap();
        let disposal = Disposal::open(&root, After::Move(done.clone())).unwrap();
        for content in ["one", "two"] {
            fs::write(root.join("deep/a"), content).unwrap();
            disposal.taken(&entry(&root, "deep/a")).unwrap();
        }
        assert_eq!(fs::read(done.join("deep/a")).unwrap(), b"one");
        assert_eq!(fs::read(done.join("deep/a.1")).unwrap(), b"two");
        fs::write(root.join("b"), "old").unwrap();
        let seen = entry(&root, "b");
        fs::write(root.join("b"), "newer").unwrap();
        disposal.taken(&seen).unwrap();
        assert_eq!(fs::read(root.join("b")).unwrap(), b"newer");
        fs::remove_file(root.join("b")).unwrap();
        disposal.taken(&seen).unwrap();
    }

    #[test]
    fn the_quarantine_says_why_and_drops_its_oldest() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let disposal = Disposal { most_files: 2, most_bytes: 100, ..Disposal::open(root, After::Delete).unwrap() };
        let refuse = |name: &str, bytes: usize| {
            fs::write(root.join(name), vec![1; bytes]).unwrap();
            disposal.refused(&entry(root, name), "not-an-image", "it is text").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        let held = || {
            let names =
                fs::read_dir(root.join(QUARANTINE)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.map(|name| name.split_once('-').unwrap().1.to_owned()).collect();
            names.sort();
            names
        };
        ["a", "b", "c"].iter().for_each(|name| refuse(name, 10));
        assert_eq!(held(), ["b", "b.reason", "c", "c.reason"]);
        refuse("large", 95);
        assert_eq!(held(), ["large", "large.reason"], "bounded in bytes, too");
        let reason = fs::read_dir(root.join(QUARANTINE)).unwrap().map(|e| e.unwrap().path());
        let reason = fs::read_to_string(reason.max().unwrap()).unwrap();
        assert_eq!(reason, "large\nnot-an-image\nit is text\n");
        fs::write(root.join("link-like"), "x").unwrap();
        disposal.refused(&entry(root, "link-like"), codes::UNREADABLE, "").unwrap();
        assert!(root.join("link-like").exists(), "what may be read later stays");
    }

    #[test]
    fn a_folder_that_would_be_watched_is_no_place_to_move_to() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        let error = Disposal::open(&root, After::Move(root.join("done"))).unwrap_err();
        assert_eq!(error.code(), "done-folder");
        Disposal::open(&root, After::Move(root.join(".done"))).unwrap();
        assert!(root.join(".done").is_dir());
    }
}
