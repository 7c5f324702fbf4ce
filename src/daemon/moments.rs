//! When tasks began: the wall time of the first frame of every span, kept over restarts.
//!
//! The register knows frames by number only. A boundary is placed some hundred frames back, so the times of recent frames
//! are remembered until it is known which of them begin a task.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{ReadableTable, TableDefinition};

use crate::config::durable::Database;
use crate::stream::FrameId;

/// Frame number -> nanoseconds since the Unix epoch.
const BEGINNINGS: TableDefinition<'_, u64, i64> = TableDefinition::new("daemon.task-beginnings");

/// Frames whose times are remembered: more than any boundary is dated back.
const RECENT: usize = 4096;

/// Beginnings kept; beyond it the oldest are forgotten.
const KEPT: usize = 16_384;

/// Times of frames that begin a span of a task.
pub struct Moments {
    database: Arc<Database>,
    times: Mutex<Times>,
}

struct Times {
    recent: VecDeque<(FrameId, i64)>,
    beginnings: BTreeMap<FrameId, i64>,
    /// Beginnings to write or, where they are no longer kept, to remove.
    unsaved: BTreeSet<FrameId>,
}

impl Moments {
    /// # Errors
    /// Where the table cannot be read.
    pub fn open(database: Arc<Database>) -> Result<Self, redb::Error> {
        // A write transaction makes the table where there is none.
        let beginnings = database.write(|transaction| {
            let mut beginnings = BTreeMap::new();
            for row in transaction.open_table(BEGINNINGS)?.iter()? {
                let (frame, time) = row?;
                beginnings.insert(FrameId(frame.value()), time.value());
            }
            Ok(beginnings)
        })?;
        let times = Times { recent: VecDeque::new(), beginnings, unsaved: BTreeSet::new() };
        Ok(Self { database, times: Mutex::new(times) })
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the times (nanoseconds since the Unix epoch) of frames, in their order.
    pub fn note(&self, frames: impl IntoIterator<Item = (FrameId, i64)>) {
        let mut times = self.times();
        times.recent.extend(frames);
        let surplus = times.recent.len().saturating_sub(RECENT);
        times.recent.drain(..surplus);
    }

    /// Keeps the time of this frame, if it is still remembered; [`Moments::save`] writes it.
    pub fn keep(&self, frame: FrameId) {
        let mut times = self.times();
        let Ok(at) = times.recent.binary_search_by_key(&frame, |(id, _)| *id) else { return };
        let time = times.recent[at].1;
        times.beginnings.insert(frame, time);
        times.unsaved.insert(frame);
        if times.beginnings.len() > KEPT
            && let Some((oldest, _)) = times.beginnings.pop_first()
        {
            times.unsaved.insert(oldest);
        }
    }

    /// Keeps a beginning whose frame has not come yet: a boundary set by hand. [`Moments::save`] writes it.
    pub fn begin(&self, frame: FrameId, time: i64) {
        let mut times = self.times();
        times.beginnings.insert(frame, time);
        times.unsaved.insert(frame);
    }

    /// Writes what changed since the last time; does nothing where nothing did.
    ///
    /// # Errors
    /// Those of the database; what changed is then tried again with the next call.
    pub fn save(&self) -> Result<(), redb::Error> {
        let mut times = self.times();
        if times.unsaved.is_empty() {
            return Ok(());
        }
        self.database.write(|transaction| {
            let mut table = transaction.open_table(BEGINNINGS)?;
            for frame in &times.unsaved {
                match times.beginnings.get(frame) {
                    Some(time) => drop(table.insert(frame.0, time)?),
                    None => drop(table.remove(frame.0)?),
                }
            }
            Ok(())
        })?;
        times.unsaved.clear();
        Ok(())
    }

    /// Wall time of the first frame of a span, nanoseconds since the Unix epoch.
    pub fn of(&self, frame: FrameId) -> Option<i64> {
        self.times().beginnings.get(&frame).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(folder: &tempfile::TempDir) -> Arc<Database> {
        Arc::new(Database::create(&folder.path().join("state.redb")).unwrap())
    }

    #[test]
    fn a_beginning_is_kept_over_restarts_and_an_unknown_frame_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let moments = Moments::open(database(&folder)).unwrap();
        moments.note((1..=5000).map(|id| (FrameId(id), id as i64 * 10)));
        moments.keep(FrameId(4000));
        moments.keep(FrameId(1));
        moments.save().unwrap();
        drop(moments);
        let moments = Moments::open(database(&folder)).unwrap();
        assert_eq!(moments.of(FrameId(4000)), Some(40_000));
        assert_eq!(moments.of(FrameId(1)), None, "its time was no longer remembered");
    }
}
