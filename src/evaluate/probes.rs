//! The probes: a few images of each task that the encoder never trains on.
//!
//! Whether a frame may be held out, and its rank among the probes of its task, are functions of (seed, frame number) alone.
//! A task keeps the candidates of the lowest ranks: a uniform sample of its frames whatever their order (bottom-k sampling,
//! Cohen and Kaplan 2007), which needs no counters, is the same after a restart, follows when a boundary is moved back, and
//! is made smaller by dropping its highest ranks. Where all sets together are full, a new probe takes the place of the
//! highest rank of the largest set, so that all shrink evenly. (A set that shrank and grows again later favours the later
//! frames; it does so only when its task returns, or is merged.)

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{EvaluateSettings, Seed};
use crate::segment::TaskId;
use crate::stream::FrameId;

use super::EvaluateError;

/// Why a storage could not do what it was asked.
pub type StorageError = Box<dyn std::error::Error + Send + Sync>;

/// Where probes are kept through restarts: numbered slots. When a change is durable is the storage's own affair.
pub trait ProbeStorage {
    /// What is kept beside an image.
    type Meta;

    /// Slots there are.
    fn slots(&self) -> usize;

    /// Keeps an image (RGB8 at the encoder's side, row after row) in a slot, in place of what was there.
    ///
    /// # Errors
    /// If it cannot be stored; what was there then stays.
    fn put(&mut self, slot: usize, frame: FrameId, meta: &Self::Meta, image: &[u8]) -> Result<(), StorageError>;

    /// Empties slots.
    ///
    /// # Errors
    /// If that cannot be stored.
    fn remove(&mut self, slots: &[usize]) -> Result<(), StorageError>;

    /// The image in a slot.
    ///
    /// # Errors
    /// If the slot is empty or cannot be read.
    fn image(&self, slot: usize) -> Result<Vec<u8>, StorageError>;

    /// Every slot in use, and the frame in it.
    fn entries(&self) -> Vec<(usize, FrameId)>;
}

/// What became of an observed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// It is a probe: it must be neither trained on nor offered to the replay buffer.
    HeldOut,
    /// It goes on to training and replay.
    Passed,
}

/// Rank of a candidate: the lower, the longer it is kept. The frame's number tells equals apart.
type Rank = (u64, FrameId);

/// The probe sets of all tasks, in memory beside their storage.
#[derive(Debug)]
pub struct ProbeSets<S> {
    storage: S,
    seed: Seed,
    holdout_ratio: f64,
    per_task: usize,
    capacity: usize,
    slots: BTreeMap<FrameId, usize>,
    free: Vec<usize>,
    tasks: BTreeMap<TaskId, BTreeSet<Rank>>,
}

impl<S: ProbeStorage> ProbeSets<S> {
    /// Takes up what `storage` holds. `task_of` says which task a frame belongs to by now; a probe of no task is removed,
    /// as is what the settings no longer allow.
    ///
    /// # Errors
    /// [`EvaluateError::Storage`].
    pub fn open(
        storage: S,
        settings: &EvaluateSettings,
        seed: Seed,
        task_of: impl Fn(FrameId) -> Option<TaskId>,
    ) -> Result<Self, EvaluateError> {
        let capacity = settings.max_probes.min(storage.slots());
        let entries = storage.entries();
        let used: BTreeSet<usize> = entries.iter().map(|entry| entry.0).collect();
        // The lowest slot is taken first.
        let free = (0..storage.slots()).rev().filter(|slot| !used.contains(slot)).collect();
        let (slots, tasks) = (BTreeMap::new(), BTreeMap::new());
        let (holdout_ratio, per_task) = (settings.holdout_ratio, settings.probes_per_task);
        let mut sets = Self { storage, seed, holdout_ratio, per_task, capacity, slots, free, tasks };
        // A frame that is there twice is as good in either slot.
        let twins: Vec<usize> =
            entries.into_iter().filter_map(|(slot, frame)| sets.slots.insert(frame, slot)).collect();
        sets.empty(&twins)?;
        sets.reassign(task_of)?;
        Ok(sets)
    }

    /// Takes a frame of `task` as a probe, or lets it pass. A frame that is already held (it came again after a crash)
    /// stays held.
    ///
    /// # Errors
    /// [`EvaluateError::Storage`]; the frame is then not held, and all others are as before.
    pub fn observe(
        &mut self,
        frame: FrameId,
        meta: &S::Meta,
        image: &[u8],
        task: TaskId,
    ) -> Result<Placement, EvaluateError> {
        if self.slots.contains_key(&frame) {
            return Ok(Placement::HeldOut);
        }
        let Some(rank) = self.candidate(frame) else { return Ok(Placement::Passed) };
        let victim = match self.full_set(task) {
            Some(full) => match self.tasks.get(&full).and_then(BTreeSet::last) {
                Some(&highest) if full != task || rank < highest => Some((full, highest)),
                _ => return Ok(Placement::Passed),
            },
            None => None,
        };
        let slot = match victim {
            Some((_, highest)) => self.slots.get(&highest.1).copied(),
            None => self.free.last().copied(),
        };
        let Some(slot) = slot else { return Ok(Placement::Passed) };
        let put = self.storage.put(slot, frame, meta, image);
        put.map_err(|source| EvaluateError::Storage { doing: "keeping a probe", source })?;
        match victim {
            Some((full, highest)) => _ = self.leave(full, highest),
            None => _ = self.free.pop(),
        }
        self.slots.insert(frame, slot);
        self.tasks.entry(task).or_default().insert(rank);
        Ok(Placement::HeldOut)
    }

    /// Asks anew which task each probe belongs to, after boundaries were moved or tasks merged. Probes of no task, and
    /// those that their new set has no room for, are removed.
    ///
    /// # Errors
    /// [`EvaluateError::Storage`].
    pub fn reassign(&mut self, task_of: impl Fn(FrameId) -> Option<TaskId>) -> Result<(), EvaluateError> {
        self.tasks.clear();
        let (held, unknown): (Vec<FrameId>, Vec<FrameId>) =
            self.slots.keys().partition(|frame| task_of(**frame).is_some());
        let mut vacant: Vec<usize> = unknown.iter().filter_map(|frame| self.slots.remove(frame)).collect();
        for frame in held {
            let rank = self.rank(frame);
            if let Some(task) = task_of(frame) {
                self.tasks.entry(task).or_default().insert(rank);
            }
        }
        while let Some((task, highest)) = self.surplus() {
            vacant.extend(self.leave(task, highest));
        }
        self.empty(&vacant)
    }

    /// Removes probes for good: their images are erased. Returns how many of the frames were probes.
    ///
    /// # Errors
    /// [`EvaluateError::Storage`]; the frames are then no probes any more, but may still be on the disk.
    pub fn forget(&mut self, frames: &[FrameId]) -> Result<usize, EvaluateError> {
        let vacant: Vec<usize> = frames.iter().filter_map(|frame| self.slots.remove(frame)).collect();
        self.tasks.values_mut().for_each(|set| set.retain(|rank| !frames.contains(&rank.1)));
        self.tasks.retain(|_, set| !set.is_empty());
        self.empty(&vacant)?;
        Ok(vacant.len())
    }

    /// The probe that must go first for the limits to hold; none where they do.
    fn surplus(&self) -> Option<(TaskId, Rank)> {
        let over = self.tasks.iter().find(|(_, set)| set.len() > self.per_task).map(|(task, _)| *task);
        let task = over.or_else(|| self.largest().filter(|_| self.slots.len() > self.capacity))?;
        Some((task, *self.tasks.get(&task)?.last()?))
    }

    /// The set that must give a probe up before `task` gets another; none while there is room.
    fn full_set(&self, task: TaskId) -> Option<TaskId> {
        let own = self.tasks.get(&task).map_or(0, BTreeSet::len);
        if own >= self.per_task {
            return Some(task);
        }
        if self.slots.len() < self.capacity {
            return None;
        }
        // Among equals the task's own: it must not grow beyond the others.
        let largest = self.largest()?;
        let most = self.tasks.get(&largest).map_or(0, BTreeSet::len);
        Some(if own >= most { task } else { largest })
    }

    fn largest(&self) -> Option<TaskId> {
        self.tasks.iter().max_by_key(|(task, set)| (set.len(), std::cmp::Reverse(**task))).map(|(task, _)| *task)
    }

    /// The rank of a frame that may be held out.
    fn candidate(&self, frame: FrameId) -> Option<Rank> {
        let share = self.seed.random("probe-holdout", frame.0).uniform();
        (share < self.holdout_ratio).then(|| self.rank(frame))
    }

    fn rank(&self, frame: FrameId) -> Rank {
        (self.seed.random("probe-rank", frame.0).next_u64(), frame)
    }

    /// Takes a probe out of its set and of the index; the slot it had.
    fn leave(&mut self, task: TaskId, rank: Rank) -> Option<usize> {
        if let Some(set) = self.tasks.get_mut(&task) {
            set.remove(&rank);
            if set.is_empty() {
                self.tasks.remove(&task);
            }
        }
        self.slots.remove(&rank.1)
    }

    fn empty(&mut self, slots: &[usize]) -> Result<(), EvaluateError> {
        if slots.is_empty() {
            return Ok(());
        }
        let removed = self.storage.remove(slots);
        removed.map_err(|source| EvaluateError::Storage { doing: "removing probes", source })?;
        self.free.extend(slots);
        Ok(())
    }

    /// Probes of every task that has some, in the order in which they are kept: a set that shrinks loses its last ones.
    pub fn by_task(&self) -> BTreeMap<TaskId, Vec<FrameId>> {
        let frames = |set: &BTreeSet<Rank>| set.iter().map(|rank| rank.1).collect();
        self.tasks.iter().map(|(task, set)| (*task, frames(set))).collect()
    }

    /// The image of a probe; none where the frame is not one.
    ///
    /// # Errors
    /// [`EvaluateError::Storage`].
    pub fn image(&self, frame: FrameId) -> Result<Option<Vec<u8>>, EvaluateError> {
        let Some(&slot) = self.slots.get(&frame) else { return Ok(None) };
        let image = self.storage.image(slot);
        image.map(Some).map_err(|source| EvaluateError::Storage { doing: "reading a probe", source })
    }

    /// Whether the frame is a probe.
    pub fn contains(&self, frame: FrameId) -> bool {
        self.slots.contains_key(&frame)
    }

    /// Probes of all tasks.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no probe.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Most probes of all tasks.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The storage, for its own upkeep.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.storage
    }
}

/// A storage in memory, for experiments that need no restart.
#[derive(Debug, Clone)]
pub struct MemoryStorage {
    slots: Vec<Option<(FrameId, Vec<u8>)>>,
}

impl MemoryStorage {
    /// With room for `slots` probes.
    pub fn new(slots: usize) -> Self {
        Self { slots: vec![None; slots] }
    }
}

impl ProbeStorage for MemoryStorage {
    type Meta = ();

    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn put(&mut self, slot: usize, frame: FrameId, _meta: &(), image: &[u8]) -> Result<(), StorageError> {
        *self.slots.get_mut(slot).ok_or("there is no such slot")? = Some((frame, image.to_vec()));
        Ok(())
    }

    fn remove(&mut self, slots: &[usize]) -> Result<(), StorageError> {
        for &slot in slots {
            *self.slots.get_mut(slot).ok_or("there is no such slot")? = None;
        }
        Ok(())
    }

    fn image(&self, slot: usize) -> Result<Vec<u8>, StorageError> {
        let probe = self.slots.get(slot).and_then(Option::as_ref).ok_or("the slot is empty")?;
        Ok(probe.1.clone())
    }

    fn entries(&self) -> Vec<(usize, FrameId)> {
        let entry = |(slot, place): (usize, &Option<(FrameId, Vec<u8>)>)| Some((slot, place.as_ref()?.0));
        self.slots.iter().enumerate().filter_map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: EvaluateSettings =
        EvaluateSettings { probes_per_task: 20, max_probes: 50, holdout_ratio: 0.25, history: 8 };

    fn open(
        storage: MemoryStorage,
        seed: u64,
        task_of: impl Fn(FrameId) -> Option<TaskId>,
    ) -> ProbeSets<MemoryStorage> {
        ProbeSets::open(storage, &SETTINGS, Seed(seed), task_of).unwrap()
    }

    fn empty(seed: u64) -> ProbeSets<MemoryStorage> {
        open(MemoryStorage::new(50), seed, |_| None)
    }

    fn observe(sets: &mut ProbeSets<MemoryStorage>, frame: u64, task: u32) -> Placement {
        let image = [frame as u8; 12];
        sets.observe(FrameId(frame), &(), &image, TaskId(task)).unwrap()
    }

    fn sizes(sets: &ProbeSets<MemoryStorage>) -> Vec<usize> {
        sets.by_task().values().map(Vec::len).collect()
    }

    /// Tasks of 200 frames.
    fn task_of(frame: FrameId) -> Option<TaskId> {
        Some(TaskId(frame.0 as u32 / 200))
    }

    #[test]
    fn sets_are_bounded_and_shrink_evenly() {
        let mut sets = empty(1);
        let held = (0..200).filter(|&frame| observe(&mut sets, frame, 0) == Placement::HeldOut).count();
        assert!((20..=60).contains(&held), "{held} of 200 at a ratio of a quarter, 20 of them kept");
        assert_eq!(sizes(&sets), [20]);
        (200..1000).for_each(|frame| _ = observe(&mut sets, frame, frame as u32 / 200));
        assert_eq!(sizes(&sets), [10, 10, 10, 10, 10]);
        let probe = sets.by_task()[&TaskId(3)][0];
        assert_eq!(sets.image(probe).unwrap().unwrap(), [probe.0 as u8; 12]);
        assert_eq!(sets.image(FrameId(5000)).unwrap(), None);
    }

    #[test]
    fn a_shrunk_set_is_the_beginning_of_what_it_was() {
        let mut sets = empty(2);
        (0..200).for_each(|frame| _ = observe(&mut sets, frame, 0));
        let before = sets.by_task()[&TaskId(0)].clone();
        (200..1000).for_each(|frame| _ = observe(&mut sets, frame, frame as u32 / 200));
        assert_eq!(sets.by_task()[&TaskId(0)], before[..10]);
    }

    #[test]
    fn probes_are_uniform_over_the_task() {
        let mut quarters = [0u32; 4];
        for seed in 0..200 {
            let mut sets = empty(seed);
            (0..400).for_each(|frame| _ = observe(&mut sets, frame, 0));
            sets.by_task()[&TaskId(0)].iter().for_each(|frame| quarters[frame.0 as usize / 100] += 1);
        }
        assert!(quarters.iter().all(|&hits| (880..1120).contains(&hits)), "{quarters:?} of 4000");
    }

    #[test]
    fn a_forgotten_probe_is_gone_from_its_set_and_from_the_storage_and_its_slot_is_free() {
        let mut sets = empty(4);
        (0..400).for_each(|frame| _ = observe(&mut sets, frame, 0));
        let probe = sets.by_task()[&TaskId(0)][3];
        let slot = sets.slots[&probe];
        assert_eq!(sets.forget(&[probe, FrameId(9999)]).unwrap(), 1);
        assert!(!sets.contains(probe) && !sets.by_task()[&TaskId(0)].contains(&probe));
        assert!(sets.storage_mut().entries().iter().all(|(taken, _)| *taken != slot));
        assert_eq!(sets.len(), 19);
        (400..800).for_each(|frame| _ = observe(&mut sets, frame, 1));
        assert_eq!(sizes(&sets), [19, 20]);
    }

    #[test]
    fn a_restart_takes_up_what_the_storage_holds() {
        let mut sets = empty(3);
        (0..1000).for_each(|frame| _ = observe(&mut sets, frame, frame as u32 / 200));
        let before = sets.by_task();
        let mut again = open(sets.storage.clone(), 3, task_of);
        assert_eq!(again.by_task(), before);
        (1000..1400).for_each(|frame| {
            assert_eq!(observe(&mut sets, frame, frame as u32 / 200), observe(&mut again, frame, frame as u32 / 200));
        });
        assert_eq!(again.by_task(), sets.by_task());
        let known = before[&TaskId(4)][0];
        assert_eq!(observe(&mut again, known.0, 4), Placement::HeldOut, "replayed after a crash");
    }

    #[test]
    fn probes_follow_a_boundary_that_moves_and_leave_with_their_task() {
        let mut sets = empty(4);
        (0..300).for_each(|frame| _ = observe(&mut sets, frame, 0));
        let late = |frame: &FrameId| frame.0 >= 150;
        let moved = sets.by_task()[&TaskId(0)].iter().filter(|frame| late(frame)).count();
        sets.reassign(|frame| Some(TaskId(u32::from(late(&frame))))).unwrap();
        assert_eq!(sizes(&sets), [20 - moved, moved]);
        sets.reassign(|frame| (!late(&frame)).then_some(TaskId(0))).unwrap();
        assert_eq!((sizes(&sets), sets.storage.entries().len()), (vec![20 - moved], 20 - moved));
    }

    #[test]
    fn a_smaller_limit_takes_effect_at_the_next_start() {
        let mut sets = empty(5);
        (0..1000).for_each(|frame| _ = observe(&mut sets, frame, frame as u32 / 200));
        let settings = EvaluateSettings { probes_per_task: 8, max_probes: 30, ..SETTINGS };
        let again = ProbeSets::open(sets.storage, &settings, Seed(5), task_of).unwrap();
        assert_eq!(sizes(&again), [6; 5]);
        assert_eq!(again.storage.entries().len(), 30);
    }

    #[test]
    fn more_tasks_than_probes_do_not_exceed_the_limit() {
        let mut sets = empty(6);
        (0..4000).for_each(|frame| _ = observe(&mut sets, frame, frame as u32 / 20));
        assert_eq!((sets.len(), sets.storage.entries().len()), (50, 50));
    }

    #[test]
    fn an_error_of_the_storage_says_what_failed_and_leaves_all_as_it_was() {
        let mut sets = empty(7);
        (0..1000).for_each(|frame| _ = observe(&mut sets, frame, frame as u32 / 200));
        let before = sets.by_task();
        sets.storage.slots.clear();
        let newcomer = (1000..).map(FrameId).find(|&frame| sets.candidate(frame).is_some()).unwrap();
        let error = sets.observe(newcomer, &(), &[], TaskId(9)).unwrap_err();
        assert_eq!(error.code(), "probe-storage");
        assert!(error.to_string().starts_with("keeping a probe failed"));
        assert_eq!(sets.by_task(), before);
    }
}
