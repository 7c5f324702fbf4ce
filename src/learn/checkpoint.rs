//! What the learner knows, on disk, as generations: each a folder that is written whole or not at all.
//!
//! ```text
//! DIR/step-000000001200/     one generation
//!     MANIFEST.json          sizes and BLAKE3 hashes of the other files, and of itself; written last
//!     meta.json              the caller's metadata
//!     ...                    the caller's files
//! DIR/quarantine/            generations that did not verify, kept for a look
//! DIR/.tmp-*                 one being written, or one being removed
//! ```
//!
//! Loading walks back from the newest to one that verifies; only that is ever handed out. What the files mean, and
//! whether the weights in them are finite and of the right shape, is for the caller to check. One process a folder: the
//! lock of the state folder sees to that.
//!
//! ```
//! use lumpd::learn::checkpoint::{Generations, Keep};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let generations = Generations::open(folder.path(), Keep { generations: 3, ..Keep::default() }).unwrap();
//! generations.write(1200, &[("model.safetensors", b"weights".as_slice())], &serde_json::json!({"batch": 64})).unwrap();
//!
//! let loaded = generations.newest_valid().unwrap().loaded.unwrap();
//! assert_eq!(loaded.step, 1200);
//! assert_eq!(loaded.files["model.safetensors"], b"weights");
//! ```

mod error;
mod manifest;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::config::durable;

pub use error::CheckpointError;
pub use manifest::Reason;
use manifest::{MANIFEST, META, MOST_FILES, Manifest, is_file_name};

const TEMPORARY: &str = ".tmp-";
const QUARANTINE: &str = "quarantine";
/// Quarantined generations that stay; older ones go, for the disk's sake.
const MOST_QUARANTINED: usize = 3;

/// How much stays. The newest generation does, whatever its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Most generations, at least one.
    pub generations: usize,
    /// Most bytes of all generations together.
    pub bytes: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { generations: 3, bytes: u64::MAX }
    }
}

/// The generations in one folder.
#[derive(Debug, Clone)]
pub struct Generations {
    folder: PathBuf,
    keep: Keep,
}

/// What a look at a stored generation gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub step: u64,
    /// Bytes of its files on the disk.
    pub bytes: u64,
    /// What is wrong with it, if anything.
    pub damage: Option<Reason>,
}

/// A generation that was written and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    pub step: u64,
    pub path: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A generation that verified, in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub step: u64,
    pub files: BTreeMap<String, Vec<u8>>,
    /// As given to [`Generations::write`]; the last bit of a fraction may differ, so what has to be exact belongs into
    /// a file.
    pub meta: serde_json::Value,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Search {
    /// The newest generation that verifies; none where there is none.
    pub loaded: Option<Loaded>,
    /// Newer ones that do not, with the reason. Damaged ones are in quarantine now.
    pub skipped: Vec<(String, Reason)>,
}

/// Moments of a write, for tests that stop it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    FolderMade,
    FileWritten,
    ManifestWritten,
    FolderSynced,
    Renamed,
    Verified,
    Pruned,
}

/// Called at each stage; an error ends the write as if the process had been killed there.
type Reached<'a> = &'a mut dyn FnMut(Stage) -> Result<(), CheckpointError>;

impl Generations {
    /// Opens `folder`, made for its owner only where there is none, and removes what interrupted writes left.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn open(folder: &Path, keep: Keep) -> Result<Self, CheckpointError> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("make", folder))?;
        let generations = Self { folder: folder.into(), keep };
        for (name, path) in generations.folders(folder)? {
            if name.strip_prefix(TEMPORARY).and_then(parse_step).is_some() {
                fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(generations)
    }

    /// Those in `folder`, to look at: nothing is made or removed, as another process may be writing there.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.into(), keep: Keep::default() }
    }

    /// Writes a generation, reads it back, and only then removes the oldest beyond `keep`. Where `step` has one
    /// already, the new one takes its place in one move.
    ///
    /// # Errors
    /// See [`CheckpointError`]; what was there before is still there, and valid.
    pub fn write(
        &self,
        step: u64,
        files: &[(&str, &[u8])],
        meta: &serde_json::Value,
    ) -> Result<Generation, CheckpointError> {
        let written = self.write_in_stages(step, files, meta, &mut |_| Ok(()));
        if written.is_err() {
            // As the next start would do; should it fail, that one does.
            let _ = fs::remove_dir_all(self.temporary(step));
        }
        written
    }

    fn write_in_stages(
        &self,
        step: u64,
        files: &[(&str, &[u8])],
        meta: &serde_json::Value,
        reached: Reached<'_>,
    ) -> Result<Generation, CheckpointError> {
        check_names(files)?;
        let meta = meta.to_string().into_bytes();
        let all: Vec<(&str, &[u8])> = files.iter().copied().chain([(META, meta.as_slice())]).collect();
        let bytes = all.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        self.require_room(bytes)?;
        let temporary = self.temporary(step);
        remove_folder(&temporary)?;
        DirBuilder::new().mode(0o700).create(&temporary).map_err(io_error("make", &temporary))?;
        reached(Stage::FolderMade)?;
        for (name, bytes) in &all {
            write_file(&temporary, name, bytes)?;
            reached(Stage::FileWritten)?;
        }
        write_file(&temporary, MANIFEST, &Manifest::new(step, all.iter().copied()).to_bytes())?;
        reached(Stage::ManifestWritten)?;
        durable::sync_folder(&temporary).map_err(io_error("sync", &temporary))?;
        reached(Stage::FolderSynced)?;
        let path = self.folder.join(name_of(step));
        self.put_in_place(&temporary, &path)?;
        reached(Stage::Renamed)?;
        read(&path, step)
            .map_err(|reason| CheckpointError::Unverified { path: path.clone(), reason: reason.to_string() })?;
        reached(Stage::Verified)?;
        self.prune(step)?;
        reached(Stage::Pruned)?;
        Ok(Generation { step, path, bytes })
    }

    fn put_in_place(&self, temporary: &Path, path: &Path) -> Result<(), CheckpointError> {
        if path.exists() {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, temporary, CWD, path, RenameFlags::EXCHANGE)
                .map_err(|error| io_error("replace", path)(error.into()))?;
            durable::sync_folder(&self.folder).map_err(io_error("sync", &self.folder))?;
            // Now the temporary folder is the older one.
            return remove_folder(temporary);
        }
        fs::rename(temporary, path).map_err(io_error("name", path))?;
        durable::sync_folder(&self.folder).map_err(io_error("sync", &self.folder))
    }

    /// Looks for the newest generation that verifies. Damaged ones on the way are moved to quarantine; links, and those
    /// of a newer format, are left where they are.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] where the folder cannot be listed. That nothing verifies is no error.
    pub fn newest_valid(&self) -> Result<Search, CheckpointError> {
        self.newest(|_| Ok(()))
    }

    /// As [`newest_valid`](Self::newest_valid), but that `accept` may refuse one as damaged, for what its files say.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn newest(&self, mut accept: impl FnMut(&Loaded) -> Result<(), String>) -> Result<Search, CheckpointError> {
        let mut search = Search::default();
        for (step, path) in self.generations()?.into_iter().rev() {
            let found = read(&path, step)
                .and_then(|loaded| accept(&loaded).map(|()| loaded).map_err(|message| Reason::Refused { message }));
            match found {
                Ok(loaded) => {
                    search.loaded = Some(loaded);
                    break;
                }
                Err(reason) => {
                    let name = name_of(step);
                    tracing::warn!(generation = name, %reason, "a checkpoint does not verify and is skipped");
                    if !matches!(reason, Reason::Newer { .. }) {
                        self.quarantine(&name, &path);
                    }
                    search.skipped.push((name, reason));
                }
            }
        }
        Ok(search)
    }

    /// Steps of the generations, ascending, whether or not they verify.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn steps(&self) -> Result<Vec<u64>, CheckpointError> {
        Ok(self.generations()?.into_keys().collect())
    }

    /// Looks at every generation, ascending, and changes nothing.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn verify(&self) -> Result<Vec<Verified>, CheckpointError> {
        let look = |(step, path): (u64, PathBuf)| {
            let damage = read(&path, step).err();
            Verified { step, bytes: size(&path), damage }
        };
        Ok(self.generations()?.into_iter().map(look).collect())
    }

    /// Makes the generation of `step` the newest: those after it go to quarantine. Returns their steps.
    ///
    /// # Errors
    /// [`CheckpointError::NotThere`] or [`CheckpointError::Unverified`] where `step` has no valid generation, and then
    /// nothing is changed; [`CheckpointError::Io`].
    pub fn go_back_to(&self, step: u64) -> Result<Vec<u64>, CheckpointError> {
        let generations = self.generations()?;
        let Some(path) = generations.get(&step) else {
            return Err(CheckpointError::NotThere { folder: self.folder.clone(), step });
        };
        read(path, step)
            .map_err(|reason| CheckpointError::Unverified { path: path.clone(), reason: reason.to_string() })?;
        let newer: Vec<(u64, PathBuf)> = generations.into_iter().filter(|(found, _)| *found > step).collect();
        for (found, path) in newer.iter().rev() {
            self.move_to_quarantine(&name_of(*found), path).map_err(io_error("put aside", path))?;
        }
        Ok(newer.into_iter().map(|(found, _)| found).collect())
    }

    /// What is ours by its name, and a folder of its own.
    fn generations(&self) -> Result<BTreeMap<u64, PathBuf>, CheckpointError> {
        let folders = self.folders(&self.folder)?;
        Ok(folders.into_iter().filter_map(|(name, path)| Some((parse_step(&name)?, path))).collect())
    }

    /// Folders within `folder`, links to folders not among them.
    fn folders(&self, folder: &Path) -> Result<Vec<(String, PathBuf)>, CheckpointError> {
        let failed = || io_error("list", folder);
        let mut found = Vec::new();
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            other => other.map_err(failed())?,
        };
        for entry in entries {
            let entry = entry.map_err(failed())?;
            if entry.file_type().map_err(failed())?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                found.push((name, entry.path()));
            }
        }
        Ok(found)
    }

    /// Removes the oldest. The one just written stays, even where older ones have higher steps (after a roll back).
    fn prune(&self, written: u64) -> Result<(), CheckpointError> {
        let mut others = self.generations()?;
        let mut bytes = others.remove(&written).map_or(0, |path| size(&path));
        let mut kept = 1;
        // The newest of them are kept first.
        for (step, path) in others.into_iter().rev() {
            bytes = bytes.saturating_add(size(&path));
            kept += 1;
            if kept <= self.keep.generations && bytes <= self.keep.bytes {
                continue;
            }
            // What does not fit takes no room from what is older, and what is older goes, too.
            kept = self.keep.generations;
            // Under another name first: a generation that is half removed is not to be found.
            let going = self.temporary(step);
            fs::rename(&path, &going).map_err(io_error("remove", &path))?;
            remove_folder(&going)?;
        }
        Ok(())
    }

    /// Failures are only logged: a generation that cannot be moved is skipped again next time.
    fn quarantine(&self, name: &str, path: &Path) {
        if let Err(error) = self.move_to_quarantine(name, path) {
            tracing::warn!(path = %path.display(), %error, "could not move a damaged checkpoint to quarantine");
        }
        let quarantine = self.folder.join(QUARANTINE);
        let Ok(held) = self.folders(&quarantine) else { return };
        let held: BTreeMap<u64, PathBuf> =
            held.into_iter().filter_map(|(name, path)| Some((parse_step(&name)?, path))).collect();
        for path in held.values().take(held.len().saturating_sub(MOST_QUARANTINED)) {
            let _ = fs::remove_dir_all(path);
        }
    }

    fn move_to_quarantine(&self, name: &str, path: &Path) -> io::Result<()> {
        let quarantine = self.folder.join(QUARANTINE);
        DirBuilder::new().recursive(true).mode(0o700).create(&quarantine)?;
        let target = quarantine.join(name);
        if fs::symlink_metadata(&target).is_ok() {
            fs::remove_dir_all(&target)?;
        }
        fs::rename(path, &target)?;
        durable::sync_folder(&self.folder)
    }

    fn temporary(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{TEMPORARY}{}", name_of(step)))
    }

    /// Twice the size, so that the machine is not left without any.
    fn require_room(&self, bytes: u64) -> Result<(), CheckpointError> {
        let Ok(numbers) = rustix::fs::statvfs(&self.folder) else { return Ok(()) };
        let free = numbers.f_bavail.saturating_mul(numbers.f_frsize);
        match bytes.saturating_mul(2) {
            needed if free < needed => Err(CheckpointError::NoSpace { path: self.folder.clone(), needed, free }),
            _ => Ok(()),
        }
    }
}

/// Looks for the newest generation in `folder` that verifies without changing anything there: a daemon may be running on it.
///
/// # Errors
/// [`CheckpointError::Io`] where the folder cannot be listed. That nothing verifies is no error.
pub fn look(folder: &Path) -> Result<Search, CheckpointError> {
    let generations = Generations { folder: folder.into(), keep: Keep::default() };
    let mut search = Search::default();
    for (step, path) in generations.generations()?.into_iter().rev() {
        match read(&path, step) {
            Ok(loaded) => {
                search.loaded = Some(loaded);
                break;
            }
            Err(reason) => search.skipped.push((name_of(step), reason)),
        }
    }
    Ok(search)
}

fn read(folder: &Path, step: u64) -> Result<Loaded, Reason> {
    let mut files = Manifest::read(folder, step)?.read_files(folder)?;
    let meta = files.remove(META).ok_or_else(|| Reason::Manifest { message: format!("no {META}") })?;
    let meta = serde_json::from_slice(&meta).map_err(|_| Reason::Content { name: META.into() })?;
    Ok(Loaded { step, files, meta })
}

/// Bytes of the files in a folder, as far as they can be looked at.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

fn check_names(files: &[(&str, &[u8])]) -> Result<(), CheckpointError> {
    let mut taken = BTreeSet::from([META]);
    if let Some((name, _)) = files.iter().find(|(name, _)| !is_file_name(name) || !taken.insert(name)) {
        return Err(CheckpointError::Name { name: (*name).into() });
    }
    if files.len() > MOST_FILES {
        return Err(CheckpointError::TooMany { files: files.len(), most: MOST_FILES });
    }
    Ok(())
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
    let path = folder.join(name);
    durable::write_new(&path, bytes).map_err(io_error("write", &path))
}

fn remove_folder(path: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn name_of(step: u64) -> String {
    format!("step-{step:012}")
}

/// The step of exactly such a name.
fn parse_step(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (name_of(step) == name).then_some(step)
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    move |source| CheckpointError::Io { operation, path: path.into(), source }
}
