//! What became of every file: so that a file taken once is not taken again after a restart, a refused one is not retried for
//! ever, and one that kills the process is left alone.
//!
//! Two tables of the daemon's database:
//!
//! ```text
//! stream_sources  name -> number, from 1
//! stream_files    (source, path within the folder) ->
//!                 (state: 0 tried, 1 taken, 2 refused; marks; inode; size; mtime ns; frame id; code; detail)
//! ```
//!
//! A file is the same while path, inode, size and modification time are. (The device is not compared: its number changes over
//! reboots for removable, mapped and network devices.) A renamed file counts as new; its bytes are then found to be a
//! duplicate where the daemon still remembers them.
//!
//! The order of a frame's life is: [`Ledger::mark`] before it is offered, commit of its image, [`Ledger::record`]. A crash in
//! between leaves the mark. A file found marked after a restart is suspect and is worked on alone; once the process has died
//! twice with it alone in its hands, it is refused as "crashed-twice", without opening it ([`KILLER`]).
//!
//! Growth: about 80 bytes and the path for each file in the folder. [`Ledger::prune`] forgets files that are gone.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::{FrameId, SourceId, StreamError};
use crate::config::durable::Database;

const SOURCES: TableDefinition<'_, &str, u32> = TableDefinition::new("stream_sources");
const FILES: TableDefinition<'_, (u32, &[u8]), Row<'_>> = TableDefinition::new("stream_files");

/// With what a file is worked on. A death in company is one mark, for it may be another's doing; alone it counts twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    Others,
    Alone,
}

const ALONE: u8 = 2;
/// Marks of a file that, being alone, killed the process twice, whether or not it did so in company before. Fewer would
/// condemn files that a power cut or a `kill -9` happened to hit twice in a crowd.
pub const KILLER: u8 = 2 * ALONE;

/// State, marks, inode, size, modification time, frame id, code, detail.
type Row<'a> = (u8, u8, u64, u64, i64, u64, &'a str, &'a str);

const TRIED: u8 = 0;
const TAKEN: u8 = 1;
const REFUSED: u8 = 2;
const MAX_DETAIL_BYTES: usize = 240;
/// Entries looked at in one step of pruning.
const PRUNE_STEP: usize = 1024;

/// What a file's content is recognised by, beside its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    pub inode: u64,
    pub size: u64,
    /// Modification time, nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
}

/// What the ledger knows of a file as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// Never seen, or changed since.
    Unknown,
    /// Marked so many times and never decided.
    Tried(u8),
    Taken(FrameId),
    Refused {
        code: String,
        detail: String,
    },
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Taken(FrameId),
    Refused {
        code: &'static str,
        detail: String,
    },
    /// Nothing: its mark is taken back, and it will be offered again.
    Undecided,
}

/// A file as the ledger is asked about it: path within the folder, and content.
pub type Entry = (PathBuf, Fingerprint);

/// The two tables. Cheap to clone. Every call but [`Ledger::look_up`] waits for the disk: not for an async task.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Database>);

impl Ledger {
    /// Makes the tables where there are none.
    ///
    /// # Errors
    /// [`StreamError::Ledger`], as of every call.
    pub fn new(database: Arc<Database>) -> Result<Self, StreamError> {
        let ledger = Self(database);
        ledger.write(|write| {
            write.open_table(SOURCES)?;
            write.open_table(FILES)?;
            Ok(())
        })?;
        Ok(ledger)
    }

    /// The number of a source's name: the same for ever, never given to another name.
    ///
    /// # Errors
    /// [`StreamError::Ledger`].
    pub fn source_id(&self, name: &str) -> Result<SourceId, StreamError> {
        self.write(|write| {
            let mut sources = write.open_table(SOURCES)?;
            if let Some(id) = sources.get(name)? {
                return Ok(SourceId(id.value()));
            }
            let mut last = 0;
            for entry in sources.iter()? {
                last = last.max(entry?.1.value());
            }
            sources.insert(name, last + 1)?;
            Ok(SourceId(last + 1))
        })
    }

    /// Every source that ever had a number.
    ///
    /// # Errors
    /// [`StreamError::Ledger`].
    pub fn sources(&self) -> Result<BTreeMap<SourceId, String>, StreamError> {
        let read = self.0.read(|read| {
            let table = read.open_table(SOURCES)?;
            table
                .iter()?
                .map(|row| row.map(|(name, id)| (SourceId(id.value()), name.value().to_owned())))
                .collect::<Result<_, _>>()
                .map_err(Into::into)
        });
        read.map_err(failed)
    }

    /// What is known of these files, in their order. Reads only what other calls have committed.
    ///
    /// # Errors
    /// [`StreamError::Ledger`].
    pub fn look_up(&self, source: SourceId, files: &[Entry]) -> Result<Vec<FileState>, StreamError> {
        let look = self.0.read(|read| {
            let table = read.open_table(FILES)?;
            files
                .iter()
                .map(|(path, fingerprint)| {
                    let row = table.get((source.0, key(path)))?;
                    Ok(row.map_or(FileState::Unknown, |row| state(row.value(), *fingerprint)))
                })
                .collect()
        });
        look.map_err(failed)
    }

    /// Writes down, durably, that these files are about to be worked on, alone or with others.
    ///
    /// # Errors
    /// [`StreamError::Ledger`].
    pub fn mark(&self, source: SourceId, files: &[Entry], company: Company) -> Result<(), StreamError> {
        let weight = match company {
            Company::Others => 1,
            Company::Alone => ALONE,
        };
        self.write(|write| {
            let mut table = write.open_table(FILES)?;
            for (path, fingerprint) in files {
                let known = table.get((source.0, key(path)))?.map(|row| state(row.value(), *fingerprint));
                let marks = if let Some(FileState::Tried(marks)) = known { marks } else { 0 }.saturating_add(weight);
                table.insert((source.0, key(path)), row(TRIED, marks, *fingerprint, 0, "", ""))?;
            }
            Ok(())
        })
    }

    /// Writes down, durably, what became of these files. To be called after the commit of the images.
    ///
    /// # Errors
    /// [`StreamError::Ledger`].
    pub fn record(&self, source: SourceId, files: &[(Entry, Outcome)]) -> Result<(), StreamError> {
        self.write(|write| {
            let mut table = write.open_table(FILES)?;
            for ((path, fingerprint), outcome) in files {
                let key = (source.0, key(path));
                match outcome {
                    Outcome::Taken(id) => table.insert(key, row(TAKEN, 0, *fingerprint, id.0, "", ""))?,
                    Outcome::Refused { code, detail } => {
                        let detail = &detail[..detail.floor_char_boundary(MAX_DETAIL_BYTES)];
                        table.insert(key, row(REFUSED, 0, *fingerprint, 0, code, detail))?
                    }
                    Outcome::Undecided => table.remove(key)?,
                };
            }
            Ok(())
        })
    }

    /// Forgets the files of a source that `gone` says are gone; how many. Walks all entries in steps of bounded memory.
    ///
    /// # Errors
    /// [`StreamError::Ledger`].
    pub fn prune(&self, source: SourceId, gone: impl Fn(&Path) -> bool) -> Result<usize, StreamError> {
        let mut pruned = 0;
        let mut after = Vec::new();
        loop {
            let paths = self.paths_after(source, &after).map_err(failed)?;
            let Some(last) = paths.last() else { return Ok(pruned) };
            after.clone_from(last);
            let dead: Vec<_> = paths.iter().filter(|path| gone(Path::new(OsStr::from_bytes(path)))).collect();
            if dead.is_empty() {
                continue;
            }
            pruned += dead.len();
            self.write(|write| {
                let mut table = write.open_table(FILES)?;
                for path in &dead {
                    table.remove((source.0, path.as_slice()))?;
                }
                Ok(())
            })?;
        }
    }

    fn paths_after(&self, source: SourceId, after: &[u8]) -> Result<Vec<Vec<u8>>, redb::Error> {
        // The smallest path greater than `after` is `after` and a zero byte.
        let from = if after.is_empty() { Vec::new() } else { [after, &[0]].concat() };
        let end: &[u8] = &[];
        self.0.read(|read| {
            let table = read.open_table(FILES)?;
            let range = table.range((source.0, from.as_slice())..(source.0 + 1, end))?;
            let mut paths = Vec::new();
            for entry in range.take(PRUNE_STEP) {
                paths.push(entry?.0.value().1.to_vec());
            }
            Ok(paths)
        })
    }

    fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T, StreamError> {
        self.0.write(work).map_err(failed)
    }
}

fn key(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn row<'a>(state: u8, marks: u8, of: Fingerprint, frame: u64, code: &'a str, detail: &'a str) -> Row<'a> {
    (state, marks, of.inode, of.size, of.mtime_ns, frame, code, detail)
}

fn state((state, marks, inode, size, mtime_ns, frame, code, detail): Row<'_>, now: Fingerprint) -> FileState {
    match state {
        _ if now != (Fingerprint { inode, size, mtime_ns }) => FileState::Unknown,
        TAKEN => FileState::Taken(FrameId(frame)),
        REFUSED => FileState::Refused { code: code.to_owned(), detail: detail.to_owned() },
        _ => FileState::Tried(marks),
    }
}

fn failed(error: redb::Error) -> StreamError {
    StreamError::Ledger { reason: error.to_string() }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
