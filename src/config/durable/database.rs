//! The embedded database of the state folder, which outlives a full disk.
//!
//! redb refuses everything after its first failed write, because it cannot know what that write left behind: only
//! closing and opening it again helps, which rolls back to the last commit. [`Database`] does that once there is room
//! again. Until then every call fails at once, and its caller keeps what it has for later.
//!
//! While the file system has no room the database is not even tried, but every [`PATIENCE`]; else after a pause that
//! doubles up to [`LONGEST_PAUSE`]. So a full disk costs a question to the file system, and the call after it has room
//! again succeeds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use redb::{Error, ReadTransaction, ReadableDatabase, WriteTransaction};

/// First pause before the database is opened again.
const FIRST_PAUSE: Duration = Duration::from_millis(125);
/// Longest pause where there is room.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Pause where there is none: quotas and reserves make the number of free bytes untrue at times.
const PATIENCE: Duration = Duration::from_secs(30);
/// Free bytes below which a file system counts as full.
const ROOM: u64 = 512 << 10;

/// Bytes of pages that redb keeps in memory. Its own default, 1 GiB, is more than all that the daemon needs otherwise.
const CACHE: usize = 16 << 20;

fn builder() -> redb::Builder {
    let mut builder = redb::Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

/// Whether the database can be written, and how often it could not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseHealth {
    /// What stands in the way now; none where the last write succeeded.
    pub trouble: Option<String>,
    /// Times that it was closed because the disk refused a read or a write.
    pub failures: u64,
    /// Times that it was opened again and written to.
    pub recoveries: u64,
}

/// A redb database. Shared by everyone who keeps a table in it; one process at a time.
///
/// ```
/// use lumpd::config::durable::Database;
/// const TABLE: redb::TableDefinition<'_, u32, u32> = redb::TableDefinition::new("example");
/// let folder = tempfile::tempdir().unwrap();
/// let database = Database::create(&folder.path().join("state.redb")).unwrap();
/// database.write(|write| Ok(write.open_table(TABLE)?.insert(1, 2).map(|_| ())?)).unwrap();
/// let two = database.read(|read| Ok(read.open_table(TABLE)?.get(1)?.map(|row| row.value()))).unwrap();
/// assert_eq!(two, Some(2));
/// ```
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<redb::Database>,
    /// From the first failure until a write succeeds.
    trouble: Option<Trouble>,
    failures: u64,
    recoveries: u64,
}

#[derive(Debug)]
struct Trouble {
    reason: String,
    since: Instant,
    last_try: Instant,
    pause: Duration,
}

impl Database {
    /// Opens the database at `path`, or makes it.
    ///
    /// # Errors
    /// Those of redb: it is in use, damaged, or the disk refuses.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let open = Some(builder().create(path)?);
        Ok(Self { path: path.into(), state: RwLock::new(State { open, ..State::default() }) })
    }

    /// Reads what was committed last.
    ///
    /// # Errors
    /// Those of `work` and of redb, and [`Error::Io`] at once while the database is closed. After an error of the disk
    /// it is closed.
    pub fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, Error>) -> Result<T, Error> {
        self.with(|database| work(&database.begin_read()?))
    }

    /// Does `work` in a transaction and commits it: durable on return. After an error nothing of it has happened, or,
    /// where the disk failed in the commit itself, perhaps all of it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, Error>) -> Result<T, Error> {
        let result = self.with(|database| {
            let transaction = database.begin_write()?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })?;
        if self.state().trouble.is_some() {
            self.recovered();
        }
        Ok(result)
    }

    /// How it is doing.
    pub fn health(&self) -> DatabaseHealth {
        let State { trouble, failures, recoveries, .. } = &*self.state();
        let trouble = trouble.as_ref().map(|trouble| trouble.reason.clone());
        DatabaseHealth { trouble, failures: *failures, recoveries: *recoveries }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        // Every change under the lock is a few plain stores, whole or not begun.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock for reading is held over `work`: nobody closes the database under a transaction.
    fn with<T>(&self, work: impl FnOnce(&redb::Database) -> Result<T, Error>) -> Result<T, Error> {
        if self.state().open.is_none() {
            self.open_again()?;
        }
        let state = self.state();
        let result = match &state.open {
            Some(database) => work(database),
            None => return Err(closed(&state)),
        };
        drop(state);
        result.inspect_err(|error| {
            if is_of_the_disk(error) {
                self.close(error);
            }
        })
    }

    fn close(&self, error: &Error) {
        let mut state = self.state_mut();
        // Another thread may have met the same failure first.
        if state.open.take().is_none() {
            return;
        }
        state.failures += 1;
        let now = Instant::now();
        match &mut state.trouble {
            Some(trouble) => trouble.last_try = now,
            None => {
                let path = self.path.display();
                tracing::error!(
                    "{path} cannot be written ({error}): it is opened again once the disk has room and takes writes; \
                     what was acknowledged is safe"
                );
                let reason = format!("the state database cannot be written: {error}; free some space on its disk");
                state.trouble = Some(Trouble { reason, since: now, last_try: now, pause: FIRST_PAUSE });
            }
        }
    }

    /// Opens the closed database if a try is due.
    fn open_again(&self) -> Result<(), Error> {
        let full = free_bytes(&self.path).is_some_and(|free| free < ROOM);
        let mut state = self.state_mut();
        let Some(trouble) = &mut state.trouble else { return Ok(()) };
        let pause = if full { PATIENCE } else { trouble.pause };
        if trouble.last_try.elapsed() < pause {
            return Err(closed(&state));
        }
        trouble.last_try = Instant::now();
        if !full {
            trouble.pause = (2 * trouble.pause).min(LONGEST_PAUSE);
        }
        if state.open.is_none() {
            state.open = Some(builder().open(&self.path)?);
        }
        Ok(())
    }

    fn recovered(&self) {
        let mut state = self.state_mut();
        if let Some(trouble) = state.trouble.take() {
            state.recoveries += 1;
            let seconds = trouble.since.elapsed().as_secs_f64();
            tracing::info!("{} is written again, after {seconds:.1} s", self.path.display());
        }
    }
}

fn closed(state: &State) -> Error {
    let reason = state.trouble.as_ref().map_or("the state database is closed", |trouble| trouble.reason.as_str());
    Error::Io(io::Error::other(reason.to_owned()))
}

/// Errors after which redb stays closed.
fn is_of_the_disk(error: &Error) -> bool {
    matches!(error, Error::Io(_) | Error::PreviousIo | Error::DatabaseClosed)
}

/// Bytes that an ordinary user can still write beside `path`; none where the file system does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let numbers = rustix::fs::statvfs(folder).ok()?;
    numbers.f_bavail.checked_mul(numbers.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::TableDefinition;

    const TABLE: TableDefinition<'_, u32, u32> = TableDefinition::new("test");

    fn insert(database: &Database, key: u32) -> Result<(), Error> {
        database.write(|write| {
            write.open_table(TABLE)?.insert(key, key)?;
            Ok(())
        })
    }

    fn keys(database: &Database) -> Vec<u32> {
        let read = database.read(|read| {
            let table = read.open_table(TABLE)?;
            redb::ReadableTable::iter(&table)?.map(|row| Ok(row?.0.value())).collect()
        });
        read.unwrap()
    }

    fn full() -> Error {
        Error::Io(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn after_an_error_of_the_disk_it_is_opened_again_with_what_was_committed() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::create(&folder.path().join("state.redb")).unwrap();
        insert(&database, 1).unwrap();
        let failed = database.write(|write| {
            write.open_table(TABLE)?.insert(2, 2)?;
            Err::<(), _>(full())
        });
        assert!(failed.is_err());
        assert!(database.health().trouble.is_some());
        assert!(insert(&database, 3).unwrap_err().to_string().contains("free some space"), "closed, and says why");
        std::thread::sleep(FIRST_PAUSE);
        insert(&database, 4).unwrap();
        assert_eq!(keys(&database), [1, 4], "what failed has not happened");
        let health = database.health();
        assert_eq!((health.trouble, health.failures, health.recoveries), (None, 1, 1));
    }

    #[test]
    fn pauses_double_up_to_a_bound_while_writes_go_on_failing() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::create(&folder.path().join("state.redb")).unwrap();
        let mut tries = 0_u64;
        let start = Instant::now();
        while start.elapsed() < 8 * FIRST_PAUSE {
            let _ = database.write(|_| {
                tries += 1;
                Err::<(), _>(full())
            });
            std::thread::sleep(Duration::from_millis(1));
        }
        // At once, after 1, 3 and 7 pauses.
        assert!((2..=4).contains(&tries), "{tries}");
        let trouble = database.health();
        assert_eq!((trouble.failures, trouble.recoveries), (tries, 0));
    }

    #[test]
    fn an_error_of_the_caller_closes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::create(&folder.path().join("state.redb")).unwrap();
        let refused = database.write(|_| Err::<(), _>(Error::Corrupted("a row of ours".into())));
        assert!(refused.is_err());
        assert_eq!(database.health(), DatabaseHealth::default());
        insert(&database, 1).unwrap();
    }
}
