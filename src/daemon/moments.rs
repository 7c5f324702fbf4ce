//! When tasks began: the wall time of the first frame of every span, kept over restarts.
//!
//! The register knows frames by number only. A boundary is placed some hundred frames back, so the times of recent frames
//! are remembered until it is known which of them begin a task.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

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
}

impl Moments {
    /// # Errors
    /// Where the table cannot be read.
    pub fn open(database: Arc<Database>) -> Result<Self, redb::Error> {
        let transaction = database.begin_write()?;
        transaction.open_table(BEGINNINGS)?;
        transaction.commit()?;
        let mut beginnings = BTreeMap::new();
        for row in database.begin_read()?.open_table(BEGINNINGS)?.iter()? {
            let (frame, time) = row?;
            beginnings.insert(FrameId(frame.value()), time.value());
        }
        Ok(Self { database, times: Mutex::new(Times { recent: VecDeque::new(), beginnings }) })
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

    /// Keeps the time of this frame, if it is still remembered. A failure to write is logged: it costs a date, no data.
    pub fn keep(&self, frame: FrameId) {
        let mut times = self.times();
        let Ok(at) = times.recent.binary_search_by_key(&frame, |(id, _)| *id) else { return };
        let time = times.recent[at].1;
        times.beginnings.insert(frame, time);
        let oldest = if times.beginnings.len() > KEPT { times.beginnings.pop_first().map(|(id, _)| id) } else { None };
        if let Err(error) = self.store(frame, time, oldest) {
            tracing::error!("the beginning of a task could not be written: {error}");
        }
    }

    /// Keeps a beginning whose frame has not come yet: a boundary set by hand.
    pub fn begin(&self, frame: FrameId, time: i64) {
        let mut times = self.times();
        times.beginnings.insert(frame, time);
        let oldest = if times.beginnings.len() > KEPT { times.beginnings.pop_first().map(|(id, _)| id) } else { None };
        if let Err(error) = self.store(frame, time, oldest) {
            tracing::error!("the beginning of a task could not be written: {error}");
        }
    }

    fn store(&self, frame: FrameId, time: i64, oldest: Option<FrameId>) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(BEGINNINGS)?;
            table.insert(frame.0, time)?;
            if let Some(oldest) = oldest {
                table.remove(oldest.0)?;
            }
        }
        Ok(transaction.commit()?)
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
        Arc::new(Database::create(folder.path().join("state.redb")).unwrap())
    }

    #[test]
    fn a_beginning_is_kept_over_restarts_and_an_unknown_frame_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let moments = Moments::open(database(&folder)).unwrap();
        moments.note((1..=5000).map(|id| (FrameId(id), id as i64 * 10)));
        moments.keep(FrameId(4000));
        moments.keep(FrameId(1));
        drop(moments);
        let moments = Moments::open(database(&folder)).unwrap();
        assert_eq!(moments.of(FrameId(4000)), Some(40_000));
        assert_eq!(moments.of(FrameId(1)), None, "its time was no longer remembered");
    }
}
