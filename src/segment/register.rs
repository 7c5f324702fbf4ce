//! The register of tasks: what there was, when, and what became of it; it survives restarts.
//!
//! Memory and disk are bounded: `max_tasks` tasks a scope (some 14 KiB each), 16,384 boundaries a scope, 4,096 former numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redb::{ReadableTable, TableDefinition};

use super::SegmentError;
use super::tasks::{Scope, Span, Task, TaskId, Timeline};
use crate::config::durable::Database;
use crate::stream::{FrameId, SourceId};

/// Task number -> task (JSON).
const TASKS: TableDefinition<u32, &[u8]> = TableDefinition::new("segment_tasks");
/// Scope -> boundaries (first frame in 8 bytes, task in 4, uncertainty in 4, little-endian).
const TIMELINES: TableDefinition<u64, &[u8]> = TableDefinition::new("segment_timelines");
/// Former task number -> the task it became; 0 -> the next number to give.
const FORMER: TableDefinition<u32, u32> = TableDefinition::new("segment_former_tasks");
/// Key of the next number in [`FORMER`]: no task has it.
const NEXT: u32 = 0;

const MOST_FORMER: usize = 4096;
const LONGEST_NAME: usize = 64;

/// Two tasks that became one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Merged {
    pub kept: TaskId,
    pub gone: TaskId,
    /// Of their sketches; none where one had too few frames to tell.
    pub distance: Option<f64>,
}

/// All tasks of all scopes.
#[derive(Clone)]
pub struct TaskRegister {
    database: Option<Arc<Database>>,
    max_tasks: usize,
    tasks: BTreeMap<TaskId, Task>,
    timelines: BTreeMap<Scope, Timeline>,
    former: BTreeMap<TaskId, TaskId>,
    next: u32,
    unsaved_tasks: BTreeSet<TaskId>,
    unsaved_timelines: BTreeSet<Scope>,
}

impl TaskRegister {
    /// A register that is not kept. Beyond `max_tasks` (at least 2) in a scope the two nearest are merged.
    pub fn in_memory(max_tasks: usize) -> Self {
        Self {
            database: None,
            max_tasks: max_tasks.max(2),
            tasks: BTreeMap::new(),
            timelines: BTreeMap::new(),
            former: BTreeMap::new(),
            next: 1,
            unsaved_tasks: BTreeSet::new(),
            unsaved_timelines: BTreeSet::new(),
        }
    }

    /// The register kept in `database`, as it was last saved.
    ///
    /// # Errors
    /// If the database cannot be read, or what it holds is damaged.
    pub fn open(database: Arc<Database>, max_tasks: usize) -> Result<Self, SegmentError> {
        let mut register = Self { database: Some(database.clone()), ..Self::in_memory(max_tasks) };
        // A write transaction makes the tables where there are none.
        let read = database.write(|transaction| {
            let rows = transaction.open_table(TASKS)?;
            let (mut tasks, mut timelines) = (Vec::new(), Vec::new());
            for row in rows.iter()? {
                let (id, bytes) = row?;
                tasks.push((id.value(), bytes.value().to_vec()));
            }
            let rows = transaction.open_table(TIMELINES)?;
            for row in rows.iter()? {
                let (scope, bytes) = row?;
                timelines.push((scope.value(), bytes.value().to_vec()));
            }
            let former = transaction.open_table(FORMER)?;
            for row in former.iter()? {
                let (from, to) = row?;
                match from.value() {
                    NEXT => register.next = to.value(),
                    from => _ = register.former.insert(TaskId(from), TaskId(to.value())),
                }
            }
            Ok((tasks, timelines))
        });
        let (tasks, timelines) = read.map_err(store)?;
        for (id, bytes) in tasks {
            let task = read_task(id, &bytes)?;
            register.tasks.insert(task.id, task);
        }
        for (scope, bytes) in timelines {
            register.read_timeline(scope, &bytes)?;
        }
        Ok(register)
    }

    fn read_timeline(&mut self, key: u64, bytes: &[u8]) -> Result<(), SegmentError> {
        let damaged = |reason: &str| SegmentError::Damaged { task: 0, reason: reason.into() };
        let scope = Scope::from_key(key).ok_or_else(|| damaged("a timeline of no source"))?;
        let timeline = Timeline::from_bytes(bytes).ok_or_else(|| damaged("a timeline out of order"))?;
        self.timelines.insert(scope, timeline);
        Ok(())
    }

    /// Writes what changed since the last time in one transaction; does nothing where nothing did.
    ///
    /// # Errors
    /// If the database cannot be written; what changed stays unsaved, and is tried again with the next call.
    pub fn save(&mut self) -> Result<(), SegmentError> {
        let Some(database) = &self.database else { return Ok(()) };
        if self.unsaved_tasks.is_empty() && self.unsaved_timelines.is_empty() {
            return Ok(());
        }
        let mut tasks = Vec::with_capacity(self.unsaved_tasks.len());
        for &id in &self.unsaved_tasks {
            let bytes = self.tasks.get(&id).map(serde_json::to_vec).transpose();
            tasks.push((id, bytes.map_err(|error| damaged(id.0, &error))?));
        }
        let written = database.write(|transaction| {
            let mut rows = transaction.open_table(TASKS)?;
            for (id, bytes) in &tasks {
                match bytes {
                    Some(bytes) => drop(rows.insert(id.0, bytes.as_slice())?),
                    None => drop(rows.remove(id.0)?),
                }
            }
            let mut rows = transaction.open_table(TIMELINES)?;
            for scope in &self.unsaved_timelines {
                let bytes = self.timelines.get(scope).map(Timeline::to_bytes).unwrap_or_default();
                rows.insert(scope.key(), bytes.as_slice())?;
            }
            let mut rows = transaction.open_table(FORMER)?;
            rows.retain(|from, _| self.former.contains_key(&TaskId(from)))?;
            rows.insert(NEXT, self.next)?;
            for (from, to) in &self.former {
                rows.insert(from.0, to.0)?;
            }
            Ok(())
        });
        written.map_err(store)?;
        self.unsaved_tasks.clear();
        self.unsaved_timelines.clear();
        Ok(())
    }

    /// Every task, by number.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &Task> {
        self.tasks.values()
    }

    /// The task of that number, or the one it became.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&self.current(id))
    }

    /// What became of a task that returned to an earlier identity or was merged; itself otherwise.
    pub fn current(&self, id: TaskId) -> TaskId {
        self.former.get(&id).copied().unwrap_or(id)
    }

    /// The task a frame of `source` belongs to, as known by now: a later look may place a boundary elsewhere. Frames not yet
    /// observed are taken to be of the open task; none for frames before the first task known.
    pub fn task_of(&self, source: SourceId, frame: FrameId) -> Option<TaskId> {
        let own = self.timelines.get(&Scope::Source(source)).and_then(|timeline| timeline.task_of(frame));
        own.or_else(|| self.timelines.get(&Scope::Shared)?.task_of(frame))
    }

    /// When the task was: its spans in the order of frames.
    pub fn spans(&self, id: TaskId) -> Vec<Span> {
        let id = self.current(id);
        let scope = self.tasks.get(&id).map(|task| task.scope);
        scope.and_then(|scope| self.timelines.get(&scope)).map(|timeline| timeline.spans(id)).unwrap_or_default()
    }

    /// The task that is open in `scope`.
    pub fn open_task(&self, scope: Scope) -> Option<TaskId> {
        self.timelines.get(&scope).and_then(Timeline::open_task)
    }

    /// The task that was open before the newest boundary of a scope.
    pub(super) fn task_before_open(&self, scope: Scope) -> Option<TaskId> {
        self.timelines.get(&scope).and_then(Timeline::task_before_open)
    }

    pub(super) fn newest_boundary(&self, scope: Scope) -> Option<FrameId> {
        self.timelines.get(&scope).and_then(Timeline::newest_boundary)
    }

    /// Gives a task a name.
    ///
    /// # Errors
    /// If there is no such task, or the name is not fit to print.
    pub fn rename(&mut self, id: TaskId, name: &str) -> Result<(), SegmentError> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(SegmentError::TaskName { max: LONGEST_NAME });
        }
        let id = self.current(id);
        let task = self.tasks.get_mut(&id).ok_or(SegmentError::UnknownTask(id))?;
        task.name = name.into();
        self.unsaved_tasks.insert(id);
        Ok(())
    }

    /// Makes two tasks of one scope one; the older number stays.
    ///
    /// # Errors
    /// If either does not exist, they are the same, or of different scopes.
    pub fn merge(&mut self, a: TaskId, b: TaskId) -> Result<Merged, SegmentError> {
        let (a, b) = (self.current(a), self.current(b));
        let (first, second) = (self.existing(a)?, self.existing(b)?);
        if a == b || first.scope != second.scope {
            return Err(SegmentError::CannotMerge(a, b));
        }
        let distance = first.sketch.distance(&second.sketch, 1.0);
        let (kept, gone) = (a.min(b), a.max(b));
        self.replace(gone, kept);
        Ok(Merged { kept, gone, distance })
    }

    fn existing(&self, id: TaskId) -> Result<&Task, SegmentError> {
        self.tasks.get(&id).ok_or(SegmentError::UnknownTask(id))
    }

    /// Opens a new task of `scope` at `first`, and says what had to be merged for it.
    pub(super) fn open_new(&mut self, scope: Scope, first: FrameId, uncertainty: usize) -> (TaskId, Option<Merged>) {
        let id = TaskId(self.next);
        self.next = self.next.saturating_add(1);
        let parent = self.open_task(scope);
        self.tasks.insert(id, Task::new(id, scope, parent));
        self.timelines.entry(scope).or_default().open(first, id, u32::try_from(uncertainty).unwrap_or(u32::MAX));
        self.unsaved_tasks.insert(id);
        self.unsaved_timelines.insert(scope);
        (id, self.make_room(scope))
    }

    /// Merges the two nearest tasks of a scope that has too many; the open one is left alone.
    fn make_room(&mut self, scope: Scope) -> Option<Merged> {
        let open = self.open_task(scope);
        let all: Vec<&Task> = self.tasks.values().filter(|task| task.scope == scope).collect();
        if all.len() <= self.max_tasks {
            return None;
        }
        let closed: Vec<&Task> = all.into_iter().filter(|task| Some(task.id) != open).collect();
        let pairs = closed.iter().enumerate().flat_map(|(i, b)| closed[..i].iter().map(move |a| (*a, *b)));
        // All pairs of up to 4,096 tasks: the cheap distance.
        let apart = |(a, b): &(&Task, &Task)| a.sketch.diagonal_distance(&b.sketch, 1.0).unwrap_or(f64::INFINITY);
        let (first, second) = pairs.min_by(|x, y| apart(x).total_cmp(&apart(y)))?;
        let (kept, gone, distance) = (first.id, second.id, first.sketch.distance(&second.sketch, 1.0));
        self.replace(gone, kept);
        Some(Merged { kept, gone, distance })
    }

    /// Task `gone` has been task `kept` all along.
    pub(super) fn replace(&mut self, gone: TaskId, kept: TaskId) {
        let Some(absorbed) = self.tasks.remove(&gone) else { return };
        for (scope, timeline) in &mut self.timelines {
            if timeline.relabel(gone, kept) {
                self.unsaved_timelines.insert(*scope);
            }
        }
        if let Some(task) = self.tasks.get_mut(&kept) {
            task.absorb(absorbed);
        }
        for task in self.tasks.values_mut().filter(|task| task.parent == Some(gone)) {
            task.parent = (task.id != kept).then_some(kept);
            self.unsaved_tasks.insert(task.id);
        }
        self.former.values_mut().filter(|to| **to == gone).for_each(|to| *to = kept);
        self.former.insert(gone, kept);
        while self.former.len() > MOST_FORMER {
            self.former.pop_first();
        }
        self.unsaved_tasks.extend([gone, kept]);
    }

    /// The oldest task of `scope`, other than `except`, that is nearer to `sketch` than its `limit`, and its distance. The
    /// oldest, since a false alarm may have given one task two identities.
    pub(super) fn oldest_within(
        &self,
        limit: impl Fn(TaskId) -> f64,
        scope: Scope,
        except: TaskId,
        sketch: &super::sketch::Sketch,
        variance_ratio: f64,
    ) -> Option<(TaskId, f64)> {
        let others = self.tasks.values().filter(|task| task.scope == scope && task.id != except);
        let distances = others.filter_map(|task| Some((task.id, task.sketch.distance(sketch, variance_ratio)?)));
        distances.filter(|(id, distance)| *distance < limit(*id)).min_by_key(|(id, _)| *id)
    }

    /// A task to be changed; it will be saved.
    pub(super) fn change(&mut self, id: TaskId) -> Option<&mut Task> {
        let task = self.tasks.get_mut(&id)?;
        self.unsaved_tasks.insert(id);
        Some(task)
    }
}

fn read_task(id: u32, bytes: &[u8]) -> Result<Task, SegmentError> {
    let task: Task = serde_json::from_slice(bytes).map_err(|error| damaged(id, &error))?;
    if task.id.0 != id || !task.sketch.is_sound() {
        return Err(damaged(id, &"its number or its sketch does not fit"));
    }
    Ok(task)
}

fn damaged(task: u32, reason: &dyn std::fmt::Display) -> SegmentError {
    SegmentError::Damaged { task, reason: reason.to_string() }
}

fn store(error: redb::Error) -> SegmentError {
    SegmentError::Store(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    fn database(dir: &std::path::Path) -> Arc<Database> {
        Arc::new(Database::create(&dir.join("state.redb")).unwrap())
    }

    fn teach(register: &mut TaskRegister, id: TaskId, level: f64) {
        let task = register.change(id).unwrap();
        for n in 0..100 {
            let mut random = Seed(u64::from(id.0)).random("teach", n);
            task.learn(FrameId(n), &std::array::from_fn(|_| (level + random.normal()) as f32));
        }
    }

    #[test]
    fn the_register_survives_a_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut register = TaskRegister::open(database(dir.path()), 8).unwrap();
        let (a, _) = register.open_new(Scope::Shared, FrameId(1), 0);
        let (b, _) = register.open_new(Scope::Shared, FrameId(100), 0);
        let (c, _) = register.open_new(Scope::Source(SourceId(4)), FrameId(150), 0);
        teach(&mut register, a, 0.0);
        teach(&mut register, b, 3.0);
        register.rename(b, "  gears ").unwrap();
        register.save().unwrap();
        let (d, _) = register.open_new(Scope::Shared, FrameId(200), 0);
        register.replace(d, a);
        register.save().unwrap();
        let (tasks, spans) = (register.tasks.clone(), register.spans(a));
        drop(register);
        let mut register = TaskRegister::open(database(dir.path()), 8).unwrap();
        assert_eq!(register.tasks, tasks);
        assert_eq!(register.spans(a), spans);
        assert_eq!(spans.len(), 2);
        assert_eq!(register.task(b).unwrap().name, "gears");
        assert_eq!(register.current(d), a);
        assert_eq!(register.task_of(SourceId(4), FrameId(160)), Some(c));
        assert_eq!(register.task_of(SourceId(5), FrameId(160)), Some(b));
        assert_eq!(register.open_new(Scope::Shared, FrameId(300), 0).0, TaskId(d.0 + 1), "numbers are not reused");
    }

    #[test]
    fn beyond_the_limit_the_two_nearest_are_merged_and_told() {
        let mut register = TaskRegister::in_memory(3);
        let ids: Vec<TaskId> = [0.0, 5.0, 5.3]
            .iter()
            .enumerate()
            .map(|(i, &level)| {
                let (id, merged) = register.open_new(Scope::Shared, FrameId(100 * i as u64 + 1), 0);
                assert_eq!(merged, None);
                teach(&mut register, id, level);
                id
            })
            .collect();
        let (_, merged) = register.open_new(Scope::Shared, FrameId(400), 0);
        let merged = merged.unwrap();
        assert_eq!((merged.kept, merged.gone), (ids[1], ids[2]));
        assert!(merged.distance.unwrap() < 0.2);
        assert_eq!(register.tasks().len(), 3);
        assert_eq!(register.task_of(SourceId(1), FrameId(250)), Some(ids[1]));
        assert_eq!(register.task(ids[2]).unwrap().id, ids[1]);
        for i in 5..40 {
            register.open_new(Scope::Shared, FrameId(100 * i), 0);
            assert_eq!(register.tasks().len(), 3);
        }
    }

    #[test]
    fn merging_and_renaming_refuse_what_makes_no_sense() {
        let mut register = TaskRegister::in_memory(8);
        let (a, _) = register.open_new(Scope::Shared, FrameId(1), 0);
        let (b, _) = register.open_new(Scope::Source(SourceId(1)), FrameId(2), 0);
        assert_eq!(register.merge(a, a).unwrap_err().code(), "cannot-merge-tasks");
        assert_eq!(register.merge(a, b).unwrap_err().code(), "cannot-merge-tasks");
        assert_eq!(register.merge(a, TaskId(77)).unwrap_err().code(), "unknown-task");
        assert_eq!(register.rename(a, "\u{7}").unwrap_err().code(), "invalid-task-name");
        assert_eq!(register.rename(TaskId(9), "x").unwrap_err().code(), "unknown-task");
    }

    #[test]
    fn a_damaged_task_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        drop(TaskRegister::open(database.clone(), 8).unwrap());
        let damage = database.write(|write| {
            write.open_table(TASKS)?.insert(3, b"{".as_slice())?;
            Ok(())
        });
        damage.unwrap();
        let Err(error) = TaskRegister::open(database, 8) else { panic!("a damaged task was read") };
        assert_eq!(error.code(), "damaged-task");
        assert!(error.to_string().contains("task 3"), "{error}");
    }
}
