//! Every file below a folder, in a stable order and in bounded memory.

use std::collections::{BinaryHeap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Names of one folder held at a time. A larger folder is listed again for the next ones: n names cost n / 32,768 listings.
const HELD_NAMES: usize = 32_768;
/// Folders deeper than this are not entered.
const MAX_DEPTH: usize = 64;

/// Whether a path within the folder is none of ours: hidden, or by its name unfinished.
pub fn is_ignored(path: &Path) -> bool {
    path.iter().any(|part| part.as_bytes().starts_with(b"."))
        || matches!(path.extension().map(OsStr::as_bytes), Some(b"tmp" | b"part"))
}

/// What a walk comes upon.
#[derive(Debug)]
pub enum Found {
    /// Anything that is not a folder; path within the root.
    File(PathBuf),
    /// A folder that could not be listed.
    Unreadable(PathBuf, io::Error),
}

/// Walks depth first; within a folder by the bytes of the names ("10" before "9": pad numbers with zeros), files and folders
/// together. Links to folders are not followed. Names added behind the walk are missed; the watch reports those.
pub struct Walk {
    root: PathBuf,
    recursive: bool,
    held: usize,
    levels: Vec<Level>,
}

/// A folder on the way down.
struct Level {
    folder: PathBuf,
    names: VecDeque<(OsString, bool)>,
    /// The last name of those held; names up to it are done once `names` is empty.
    last: Option<OsString>,
    complete: bool,
}

impl Walk {
    /// Of `start`, a folder within `root` (empty for all of it).
    pub fn new(root: PathBuf, start: PathBuf, recursive: bool) -> Self {
        Self::with_names_held(root, start, recursive, HELD_NAMES)
    }

    fn with_names_held(root: PathBuf, start: PathBuf, recursive: bool, held: usize) -> Self {
        let first = Level { folder: start, names: VecDeque::new(), last: None, complete: false };
        Self { root, recursive, held, levels: vec![first] }
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let depth = self.levels.len();
            let level = self.levels.last_mut()?;
            match level.names.pop_front() {
                Some((name, false)) => return Some(Found::File(level.folder.join(name))),
                Some((name, true)) => {
                    if self.recursive && depth < MAX_DEPTH {
                        let folder = level.folder.join(name);
                        self.levels.push(Level { folder, names: VecDeque::new(), last: None, complete: false });
                    }
                }
                None if level.complete => _ = self.levels.pop(),
                None => {
                    if let Err(error) = level.fill(&self.root, self.held) {
                        let folder = std::mem::take(&mut level.folder);
                        self.levels.pop();
                        return Some(Found::Unreadable(folder, error));
                    }
                }
            }
        }
    }
}

impl Level {
    /// The smallest names after the last one, as many as may be held.
    fn fill(&mut self, root: &Path, held: usize) -> io::Result<()> {
        let mut smallest = BinaryHeap::new();
        self.complete = true;
        for entry in std::fs::read_dir(root.join(&self.folder))? {
            let entry = entry?;
            let name = entry.file_name();
            if is_ignored(Path::new(&name)) || self.last.as_ref().is_some_and(|last| name <= *last) {
                continue;
            }
            smallest.push((name, entry.file_type()?.is_dir()));
            if smallest.len() > held {
                smallest.pop();
                self.complete = false;
            }
        }
        self.names = smallest.into_sorted_vec().into();
        self.last = self.names.back().map(|(name, _)| name.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(root: &Path, recursive: bool, held: usize) -> Vec<String> {
        Walk::with_names_held(root.to_owned(), PathBuf::new(), recursive, held)
            .map(|found| match found {
                Found::File(path) => path.display().to_string(),
                Found::Unreadable(path, error) => panic!("{}: {error}", path.display()),
            })
            .collect()
    }

    #[test]
    fn the_order_is_that_of_the_names_however_few_are_held() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["c", "a", "b/2", "b/1", "b/x/9", "d", ".hidden", "e.tmp", "f.part", ".git/config"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        for held in [1, 2, 3, 100] {
            assert_eq!(walk(folder.path(), true, held), ["a", "b/1", "b/2", "b/x/9", "c", "d"], "{held} names held");
            assert_eq!(walk(folder.path(), false, held), ["a", "c", "d"]);
        }
    }

    #[test]
    fn a_link_to_a_folder_is_a_thing_and_not_a_way() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        assert_eq!(walk(folder.path(), true, 100), ["loop"]);
    }
}
