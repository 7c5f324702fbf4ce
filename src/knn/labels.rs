//! The names that people gave to stored frames.
//!
//! Durable in one table of the state's database, mirrored in memory for readers. A reader takes a snapshot and sees all of a
//! change or none of it. The table is bounded by [`Labels::retain`], which the daemon calls with the frames it still holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use redb::{ReadableTable, TableDefinition};

use crate::config::durable::Database;
use crate::stream::FrameId;

use super::KnnError;

/// Longest label, in bytes of UTF-8.
pub const MAX_LABEL_BYTES: usize = 64;

const TABLE: TableDefinition<u64, &str> = TableDefinition::new("labels");

/// Labels as a reader sees them.
pub type LabelMap = HashMap<FrameId, Arc<str>>;

/// One label or none for each frame.
pub struct Labels {
    database: Arc<Database>,
    /// Replaced whole after each commit.
    mirror: ArcSwap<LabelMap>,
    /// Held from the transaction to the mirror, so that the mirror follows the order of the commits.
    writer: Mutex<()>,
}

impl Labels {
    /// Opens the table of `database`, made where it is missing.
    ///
    /// # Errors
    /// [`KnnError::Store`] if the database cannot be read or written.
    pub fn open(database: Arc<Database>) -> Result<Self, KnnError> {
        let stored = read_all(&database).map_err(|error| store("reading the labels", error))?;
        Ok(Self { database, mirror: ArcSwap::from_pointee(stored), writer: Mutex::new(()) })
    }

    /// Labels frames, all of them or, on an error, none. A frame that has a label gets the new one. Durable on return. That
    /// the frames are held is the caller's to check.
    ///
    /// # Errors
    /// [`KnnError::LabelLength`], [`KnnError::LabelCharacter`], [`KnnError::Store`].
    pub fn set(&self, labels: &[(FrameId, &str)]) -> Result<(), KnnError> {
        for &(frame, label) in labels {
            check(frame, label)?;
        }
        let changes: Vec<_> = labels.iter().map(|&(frame, label)| (frame, Some(label))).collect();
        self.apply(&changes, "writing labels")
    }

    /// Takes the labels of these frames away; how many had one. Durable on return.
    ///
    /// # Errors
    /// [`KnnError::Store`].
    pub fn remove(&self, frames: &[FrameId]) -> Result<usize, KnnError> {
        let before = self.count();
        let changes: Vec<_> = frames.iter().map(|&frame| (frame, None)).collect();
        self.apply(&changes, "removing labels")?;
        Ok(before.saturating_sub(self.count()))
    }

    /// Forgets the labels of frames that `held` denies; how many there were.
    ///
    /// # Errors
    /// [`KnnError::Store`].
    pub fn retain(&self, held: impl Fn(FrameId) -> bool) -> Result<usize, KnnError> {
        let gone: Vec<FrameId> = self.snapshot().keys().copied().filter(|&frame| !held(frame)).collect();
        if gone.is_empty() { Ok(0) } else { self.remove(&gone) }
    }

    /// The label of a frame.
    pub fn get(&self, frame: FrameId) -> Option<Arc<str>> {
        self.mirror.load().get(&frame).cloned()
    }

    /// All labels as of now, for an answer that asks for many.
    pub fn snapshot(&self) -> Arc<LabelMap> {
        self.mirror.load_full()
    }

    /// Labelled frames.
    pub fn count(&self) -> usize {
        self.mirror.load().len()
    }

    /// Frames of each label, in alphabetical order.
    pub fn counts(&self) -> BTreeMap<Arc<str>, usize> {
        let mut counts = BTreeMap::new();
        for label in self.mirror.load().values() {
            *counts.entry(label.clone()).or_insert(0) += 1;
        }
        counts
    }

    fn apply(&self, changes: &[(FrameId, Option<&str>)], doing: &'static str) -> Result<(), KnnError> {
        // The lock guards no data: after a panic elsewhere the table and the mirror are as the last commit left them.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        write(&self.database, changes).map_err(|error| store(doing, error))?;
        let mut next = LabelMap::clone(&self.mirror.load());
        // Frames of one label share its bytes.
        let mut known: HashMap<&str, Arc<str>> = HashMap::new();
        for &(frame, label) in changes {
            match label {
                Some(label) => {
                    let shared = known.entry(label).or_insert_with(|| Arc::from(label)).clone();
                    next.insert(frame, shared);
                }
                None => _ = next.remove(&frame),
            }
        }
        self.mirror.store(Arc::new(next));
        Ok(())
    }
}

fn check(frame: FrameId, label: &str) -> Result<(), KnnError> {
    if label.is_empty() || label.len() > MAX_LABEL_BYTES {
        return Err(KnnError::LabelLength { frame, found: label.len() });
    }
    if label.trim() != label || label.chars().any(char::is_control) {
        return Err(KnnError::LabelCharacter { frame });
    }
    Ok(())
}

fn store(doing: &'static str, source: redb::Error) -> KnnError {
    KnnError::Store { doing, source: Box::new(source) }
}

fn read_all(database: &Database) -> Result<LabelMap, redb::Error> {
    // A write transaction makes the table where there is none.
    database.write(|transaction| {
        let table = transaction.open_table(TABLE)?;
        let mut labels = LabelMap::new();
        let mut known: HashMap<String, Arc<str>> = HashMap::new();
        for row in table.iter()? {
            let (frame, label) = row?;
            let text = label.value().to_owned();
            let shared = known.entry(text).or_insert_with_key(|text| Arc::from(text.as_str())).clone();
            labels.insert(FrameId(frame.value()), shared);
        }
        Ok(labels)
    })
}

fn write(database: &Database, changes: &[(FrameId, Option<&str>)]) -> Result<(), redb::Error> {
    database.write(|transaction| {
        let mut table = transaction.open_table(TABLE)?;
        for (frame, label) in changes {
            match label {
                Some(label) => _ = table.insert(frame.0, *label)?,
                None => _ = table.remove(frame.0)?,
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(folder: &tempfile::TempDir) -> Labels {
        Labels::open(Arc::new(Database::create(&folder.path().join("state.redb")).unwrap())).unwrap()
    }

    #[test]
    fn labels_survive_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let labels = at(&folder);
        labels.set(&[(FrameId(1), "stop sign"), (FrameId(2), "stop sign"), (FrameId(3), "füllstand")]).unwrap();
        labels.set(&[(FrameId(2), "yield")]).unwrap();
        assert_eq!(labels.remove(&[FrameId(3), FrameId(77)]).unwrap(), 1);
        drop(labels);
        let labels = at(&folder);
        assert_eq!(labels.get(FrameId(1)).as_deref(), Some("stop sign"));
        assert_eq!(labels.get(FrameId(2)).as_deref(), Some("yield"));
        assert_eq!((labels.get(FrameId(3)), labels.count()), (None, 2));
        assert_eq!(labels.counts().into_iter().collect::<Vec<_>>(), [("stop sign".into(), 1), ("yield".into(), 1)]);
    }

    #[test]
    fn one_bad_label_leaves_all_as_it_was() {
        let labels = at(&tempfile::tempdir().unwrap());
        labels.set(&[(FrameId(1), "old")]).unwrap();
        let long = "x".repeat(MAX_LABEL_BYTES + 1);
        for (bad, code) in [("", "label-length"), (&long, "label-length"), ("a\nb", "label-character")] {
            let error = labels.set(&[(FrameId(1), "new"), (FrameId(2), bad)]).unwrap_err();
            assert_eq!(error.code(), code);
        }
        assert_eq!(labels.set(&[(FrameId(1), " x")]).unwrap_err().code(), "label-character");
        assert_eq!((labels.get(FrameId(1)).as_deref(), labels.count()), (Some("old"), 1));
        labels.set(&[(FrameId(1), &long[1..])]).unwrap();
    }

    #[test]
    fn labels_of_frames_no_longer_held_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let labels = at(&folder);
        let ids: Vec<(FrameId, &str)> = (0..10).map(|i| (FrameId(i), "x")).collect();
        labels.set(&ids).unwrap();
        let before = labels.snapshot();
        assert_eq!(labels.retain(|frame| frame.0 % 2 == 0).unwrap(), 5);
        assert_eq!((labels.count(), before.len()), (5, 10), "a snapshot does not change under its reader");
        drop(labels);
        assert_eq!(at(&folder).count(), 5);
    }
}
