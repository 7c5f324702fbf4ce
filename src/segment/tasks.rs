//! Tasks, and which frames are theirs.

use serde::{Deserialize, Serialize};

use super::sketch::{Point, Sketch};
use crate::stream::{FrameId, SourceId};

/// Number of a task: from 1, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub u32);

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Whose frames a segmentation sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Every source's.
    Shared,
    /// One source's.
    Source(SourceId),
}

impl Scope {
    /// As a key of a table: 0 is shared, a source is its number and 1.
    pub(super) fn key(self) -> u64 {
        match self {
            Self::Shared => 0,
            Self::Source(source) => u64::from(source.0) + 1,
        }
    }

    pub(super) fn from_key(key: u64) -> Option<Self> {
        match key.checked_sub(1) {
            None => Some(Self::Shared),
            Some(source) => u32::try_from(source).ok().map(|source| Self::Source(SourceId(source))),
        }
    }
}

/// Frames without a break in one task, both ends included; no last while the task is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub first: FrameId,
    pub last: Option<FrameId>,
    /// Distinct frames by which the first may be off, either way; 0 where it is known.
    pub uncertainty: u32,
}

/// A frame that stands for its task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Exemplar {
    frame: FrameId,
    #[serde(with = "super::sketch::packed")]
    at: Vec<f64>,
}

impl Exemplar {
    fn squared_distance(&self, other: &Self) -> f64 {
        self.at.iter().zip(&other.at).map(|(a, b)| (a - b) * (a - b)).sum()
    }
}

/// Exemplars kept of a task, of either kind.
const EXEMPLARS: usize = 8;

/// What is known of one task. Its spans are in the register ([`super::TaskRegister::spans`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub name: String,
    pub scope: Scope,
    /// The task that was open before this one first was.
    pub parent: Option<TaskId>,
    /// Frames observed in it, near-duplicates included.
    pub frames: u64,
    /// Near-duplicates among them.
    pub duplicates: u64,
    /// Times it came back.
    pub returns: u64,
    pub(super) sketch: Sketch,
    pub(super) exemplars: Vec<Exemplar>,
    /// As far from one another as can be.
    #[serde(default)]
    pub(super) varied: Vec<Exemplar>,
}

impl Task {
    pub(super) fn new(id: TaskId, scope: Scope, parent: Option<TaskId>) -> Self {
        Self {
            id,
            name: format!("task-{id}"),
            scope,
            parent,
            frames: 0,
            duplicates: 0,
            returns: 0,
            sketch: Sketch::default(),
            exemplars: Vec::new(),
            varied: Vec::new(),
        }
    }

    /// Frames close to the middle of the task, the most central first; at most 8.
    pub fn exemplars(&self) -> Vec<FrameId> {
        self.exemplars.iter().map(|exemplar| exemplar.frame).collect()
    }

    /// Frames as unlike one another as can be, in the order of frames; at most 8.
    pub fn varied_exemplars(&self) -> Vec<FrameId> {
        let mut frames: Vec<FrameId> = self.varied.iter().map(|exemplar| exemplar.frame).collect();
        frames.sort_unstable();
        frames
    }

    /// The mean of the frames' features, in the 64 dimensions of the sketch.
    pub fn mean(&self) -> &[f64] {
        self.sketch.mean()
    }

    /// Takes a frame that is certainly this task's into its sketch.
    pub(super) fn learn(&mut self, frame: FrameId, point: &Point) {
        self.sketch.add(point);
        let exemplar = Exemplar { frame, at: point.iter().map(|&x| f64::from(x)).collect() };
        self.keep_varied(exemplar.clone());
        self.exemplars.push(exemplar);
        self.keep_central();
    }

    /// Takes an exemplar in and, where there are too many, lets one of the two nearest to one another go (the newer).
    fn keep_varied(&mut self, exemplar: Exemplar) {
        self.varied.push(exemplar);
        if self.varied.len() <= EXEMPLARS {
            return;
        }
        let pairs = (0..self.varied.len()).flat_map(|newer| (0..newer).map(move |older| (older, newer)));
        let distances = pairs.map(|(older, newer)| (self.varied[older].squared_distance(&self.varied[newer]), newer));
        if let Some((_, newer)) = distances.min_by(|a, b| a.0.total_cmp(&b.0)) {
            self.varied.remove(newer);
        }
    }

    /// Takes in all that is known of `other`.
    pub(super) fn absorb(&mut self, other: Task) {
        self.sketch.merge(&other.sketch);
        self.frames += other.frames;
        self.duplicates += other.duplicates;
        self.returns += other.returns;
        self.exemplars.extend(other.exemplars);
        self.keep_central();
        other.varied.into_iter().for_each(|exemplar| self.keep_varied(exemplar));
    }

    fn keep_central(&mut self) {
        let sketch = &self.sketch;
        let remoteness = |exemplar: &Exemplar| {
            let point: Vec<f32> = exemplar.at.iter().map(|&x| x as f32).collect();
            sketch.remoteness(&point)
        };
        self.exemplars.sort_by_cached_key(|exemplar| (remoteness(exemplar).to_bits(), exemplar.frame));
        self.exemplars.truncate(EXEMPLARS);
    }
}

/// Boundaries kept of one scope; beyond it the oldest are forgotten.
const MOST_BOUNDARIES: usize = 16_384;

/// The boundaries of one scope in the order of frames: each task lasts until the next boundary.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Timeline {
    boundaries: Vec<Boundary>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Boundary {
    first: FrameId,
    task: TaskId,
    /// Distinct frames, as in [`Span`].
    uncertainty: u32,
}

impl Timeline {
    pub fn open_task(&self) -> Option<TaskId> {
        self.boundaries.last().map(|boundary| boundary.task)
    }

    pub fn task_before_open(&self) -> Option<TaskId> {
        self.boundaries.iter().rev().nth(1).map(|boundary| boundary.task)
    }

    pub fn newest_boundary(&self) -> Option<FrameId> {
        self.boundaries.last().map(|boundary| boundary.first)
    }

    pub fn task_of(&self, frame: FrameId) -> Option<TaskId> {
        let after = self.boundaries.partition_point(|boundary| boundary.first <= frame);
        self.boundaries[..after].last().map(|boundary| boundary.task)
    }

    /// Opens `task` at `first`; boundaries at or after it are replaced.
    pub fn open(&mut self, first: FrameId, task: TaskId, uncertainty: u32) {
        self.boundaries.retain(|earlier| earlier.first < first);
        self.boundaries.push(Boundary { first, task, uncertainty });
        self.tidy();
    }

    pub fn relabel(&mut self, from: TaskId, to: TaskId) -> bool {
        let mut changed = false;
        for boundary in self.boundaries.iter_mut().filter(|boundary| boundary.task == from) {
            boundary.task = to;
            changed = true;
        }
        self.tidy();
        changed
    }

    /// Two neighbouring spans of one task are one span.
    fn tidy(&mut self) {
        self.boundaries.dedup_by_key(|boundary| boundary.task);
        let surplus = self.boundaries.len().saturating_sub(MOST_BOUNDARIES);
        self.boundaries.drain(..surplus);
    }

    pub fn spans(&self, task: TaskId) -> Vec<Span> {
        let ends = self.boundaries.iter().skip(1).map(|next| Some(FrameId(next.first.0 - 1))).chain([None]);
        let spans = self.boundaries.iter().zip(ends).filter(|(boundary, _)| boundary.task == task);
        spans.map(|(&Boundary { first, uncertainty, .. }, last)| Span { first, last, uncertainty }).collect()
    }

    /// Each boundary: the first frame in 8 bytes, the task in 4, the uncertainty in 4.
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = |boundary: &Boundary| {
            let second = (u64::from(boundary.uncertainty) << 32) | u64::from(boundary.task.0);
            [boundary.first.0, second]
        };
        self.boundaries.iter().flat_map(words).flat_map(u64::to_le_bytes).collect()
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let (pairs, odd) = numbers.as_chunks::<2>();
        if !rest.is_empty() || !odd.is_empty() {
            return None;
        }
        let read = |[first, second]: &[[u8; 8]; 2]| {
            let ([a, b, c, d, rest @ ..], first) = (*second, FrameId(u64::from_le_bytes(*first)));
            let task = TaskId(u32::from_le_bytes([a, b, c, d]));
            Boundary { first, task, uncertainty: u32::from_le_bytes(rest) }
        };
        let boundaries: Vec<Boundary> = pairs.iter().map(read).collect();
        boundaries.is_sorted_by(|a, b| a.first < b.first).then_some(Self { boundaries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_find_their_task_after_boundaries_are_back_dated_and_relabelled() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.task_of(FrameId(5)), None);
        timeline.open(FrameId(1), TaskId(1), 0);
        timeline.open(FrameId(100), TaskId(2), 7);
        timeline.open(FrameId(200), TaskId(3), 30);
        assert_eq!(timeline.task_of(FrameId(99)), Some(TaskId(1)));
        assert_eq!(timeline.task_of(FrameId(100)), Some(TaskId(2)));
        assert_eq!(timeline.task_of(FrameId(9999)), Some(TaskId(3)));
        timeline.relabel(TaskId(3), TaskId(1));
        let span = |first, last: Option<u64>, uncertainty| Span {
            first: FrameId(first),
            last: last.map(FrameId),
            uncertainty,
        };
        let spans = [span(1, Some(99), 0), span(200, None, 30)];
        assert_eq!(timeline.spans(TaskId(1)), spans);
        timeline.relabel(TaskId(2), TaskId(1));
        assert_eq!(timeline.spans(TaskId(1)), [span(1, None, 0)]);
        timeline.open(FrameId(300), TaskId(u32::MAX), u32::MAX);
        assert_eq!(Timeline::from_bytes(&timeline.to_bytes()), Some(timeline));
    }

    #[test]
    fn boundaries_are_bounded() {
        let mut timeline = Timeline::default();
        for i in 0..MOST_BOUNDARIES as u64 + 100 {
            timeline.open(FrameId(i + 1), TaskId(i as u32 % 2), 0);
        }
        assert_eq!(timeline.boundaries.len(), MOST_BOUNDARIES);
        assert_eq!(timeline.task_of(FrameId(50)), None);
    }

    #[test]
    fn exemplars_are_the_central_frames() {
        let mut task = Task::new(TaskId(1), Scope::Shared, None);
        for frame in 0..300u64 {
            let mut random = crate::config::Seed(1).random("exemplar", frame);
            let spread = if frame % 10 == 0 { 0.1 } else { 1.0 };
            task.learn(FrameId(frame), &std::array::from_fn(|_| (spread * random.normal()) as f32));
        }
        let exemplars = task.exemplars();
        assert_eq!(exemplars.len(), EXEMPLARS);
        assert!(exemplars.iter().filter(|frame| frame.0 % 10 == 0).count() >= 7, "{exemplars:?}");
    }

    #[test]
    fn varied_exemplars_show_every_kind_of_frame() {
        let mut task = Task::new(TaskId(1), Scope::Shared, None);
        for frame in 0..600u64 {
            let mut random = crate::config::Seed(2).random("varied", frame);
            let kind = if frame % 100 == 99 { (frame / 100) as usize + 1 } else { 0 };
            task.learn(
                FrameId(frame),
                &std::array::from_fn(|i| if i == kind { 9.0 } else { 0.1 * random.normal() as f32 }),
            );
        }
        let varied = task.varied_exemplars();
        assert_eq!(varied.len(), EXEMPLARS);
        for rare in [99, 199, 299, 399, 499, 599] {
            assert!(varied.contains(&FrameId(rare)), "{varied:?}");
        }
    }
}
