//! One stream of frames becoming tasks: a detector, the frames not yet surely of one task, and what happened.

use std::collections::VecDeque;

use super::bytes::{Reader, Writer, expect_length};
use super::detector::{Change, Detector, Verdict};
use super::duplicates::NearDuplicates;
use super::pace::Pace;
use super::register::{Merged, TaskRegister};
use super::sketch::{DIMENSIONS, Point, Sketch};
use super::tasks::{Scope, TaskId};
use super::{Boundaries, SegmentError, SegmentEvent};
use crate::stream::FrameId;

/// Distinct frames that a boundary can still be placed among: as far as a detector looks back.
const UNSURE: usize = 512;
/// Distinct frames of a new task before it is compared with earlier ones.
const MATCH_AFTER: usize = 256;
/// A new task this near to an earlier one is that one. An effect size, not a test: with enough frames a test would
/// tell any two tasks apart.
const SAME_TASK: f64 = 0.002;
/// The same for the task right before it, which a detector has just told apart from it: its boundary is taken back only for
/// one much nearer.
const SAME_AS_BEFORE: f64 = 0.001;

/// A distinct frame that may yet turn out to belong to a later task.
struct Recent {
    frame: FrameId,
    /// It and its near-duplicates.
    frames: u64,
    point: Point,
}

/// The state of one scope.
pub(super) struct ScopeState {
    pub scope: Scope,
    pub detector: Box<dyn Detector>,
    pub pace: Pace,
    duplicates: NearDuplicates,
    recent: VecDeque<Recent>,
    /// The open task is new and has not been compared with earlier ones.
    provisional: bool,
    warned: bool,
    pub last: Option<FrameId>,
    pub duplicates_skipped: u64,
    pub boundaries: Boundaries,
}

impl ScopeState {
    /// `detector` was made for the frames that `pace` promises.
    pub fn new(scope: Scope, detector: Box<dyn Detector>, pace: Pace) -> Self {
        Self {
            scope,
            detector,
            pace,
            duplicates: NearDuplicates::default(),
            recent: VecDeque::with_capacity(UNSURE + 1),
            provisional: false,
            warned: false,
            last: None,
            duplicates_skipped: 0,
            boundaries: Boundaries::default(),
        }
    }

    /// Takes the next frame: whether it is a near-duplicate, and what happened.
    pub fn observe(
        &mut self,
        register: &mut TaskRegister,
        frame: FrameId,
        features: &[f32],
        point: impl FnOnce(&[f32]) -> Point,
    ) -> (bool, Vec<SegmentEvent>) {
        let mut events = Vec::new();
        self.last = Some(frame);
        let task = register.open_task(self.scope).unwrap_or_else(|| self.open(register, frame, frame, 0, &mut events));
        let duplicate = self.duplicates.is_duplicate(features);
        if let Some(task) = register.change(task) {
            task.frames += 1;
            task.duplicates += u64::from(duplicate);
        }
        if duplicate {
            self.duplicates_skipped += 1;
            self.recent.back_mut().iter_mut().for_each(|recent| recent.frames += 1);
            return (true, events);
        }
        self.recent.push_back(Recent { frame, frames: 1, point: point(features) });
        if self.recent.len() > UNSURE {
            self.settle(register, task, 1);
        }
        match self.detector.update(features) {
            Verdict::Drift => self.drift(register, frame, task, &mut events),
            Verdict::Warning => self.warn(frame, task, &mut events),
            // The statistic must first be clearly below before a warning is worth repeating.
            Verdict::Stable => self.warned &= self.detector.statistic() > Some(0.5 * self.detector.warning_threshold()),
        }
        if self.provisional && self.recent.len() >= MATCH_AFTER {
            self.recognise(register, &mut events);
        }
        (false, events)
    }

    fn warn(&mut self, frame: FrameId, task: TaskId, events: &mut Vec<SegmentEvent>) {
        if !std::mem::replace(&mut self.warned, true) {
            let statistic = self.detector.statistic().unwrap_or(f64::NAN);
            events.push(SegmentEvent::Warning { task, frame, statistic });
        }
    }

    /// The oldest `count` unsure frames are `task`'s for good.
    fn settle(&mut self, register: &mut TaskRegister, task: TaskId, count: usize) {
        let settled = self.recent.drain(..count.min(self.recent.len()));
        if let Some(task) = register.change(task) {
            settled.for_each(|recent| task.learn(recent.frame, &recent.point));
        }
    }

    fn drift(&mut self, register: &mut TaskRegister, frame: FrameId, task: TaskId, events: &mut Vec<SegmentEvent>) {
        let everything = Change { samples_back: self.recent.len(), uncertainty: 0, continues: false };
        let change = self.detector.change().unwrap_or(everything);
        self.duplicates.relearn();
        self.warned = false;
        if change.continues {
            // Frames of the transition would blur the new task's sketch.
            self.recent.clear();
            self.provisional = true;
            return;
        }
        self.settle(register, task, self.recent.len().saturating_sub(change.samples_back));
        let first = self.recent.front().map_or(frame, |recent| recent.frame);
        self.boundaries.new += 1;
        self.open(register, first, frame, change.uncertainty, events);
        self.provisional = true;
        self.recent.clear();
    }

    /// Closes the open task before `first` and opens a new one; the unsure frames go with it.
    fn open(
        &mut self,
        register: &mut TaskRegister,
        first: FrameId,
        detected_at: FrameId,
        uncertainty: usize,
        events: &mut Vec<SegmentEvent>,
    ) -> TaskId {
        let before = register.open_task(self.scope);
        let (task, merged) = register.open_new(self.scope, first, uncertainty);
        if let Some(before) = before {
            let moved: u64 = self.recent.iter().map(|recent| recent.frames).sum();
            let duplicates = moved - self.recent.len() as u64;
            for (id, gains) in [(before, false), (task, true)] {
                if let Some(task) = register.change(id) {
                    let step = |count: u64, by: u64| if gains { count + by } else { count.saturating_sub(by) };
                    (task.frames, task.duplicates) = (step(task.frames, moved), step(task.duplicates, duplicates));
                }
            }
            let last = FrameId(first.0.saturating_sub(1));
            events.push(SegmentEvent::TaskClosed { task: register.current(before), last });
        }
        events.push(SegmentEvent::TaskOpened { task, first, detected_at, uncertainty });
        events.extend(merged.map(|merged| self.merged(merged)));
        task
    }

    fn merged(&mut self, Merged { kept, gone, distance }: Merged) -> SegmentEvent {
        self.boundaries.merged += 1;
        SegmentEvent::TasksMerged { kept, gone, distance }
    }

    /// Gives the open task its earlier identity back, if it had one.
    fn recognise(&mut self, register: &mut TaskRegister, events: &mut Vec<SegmentEvent>) {
        self.provisional = false;
        let Some(provisional) = register.open_task(self.scope) else { return };
        let sketch = Sketch::of(self.recent.iter().map(|recent| &recent.point));
        let ratio = self.detector.variance_ratio().unwrap_or(1.0);
        let before = register.task_before_open(self.scope);
        let limit = |task: TaskId| if before == Some(task) { SAME_AS_BEFORE } else { SAME_TASK };
        let earlier = register.oldest_within(limit, self.scope, provisional, &sketch, ratio);
        let Some((task, distance)) = earlier else { return };
        let Some(first) = register.newest_boundary(self.scope) else { return };
        register.replace(provisional, task);
        let withdrawn = register.newest_boundary(self.scope) != Some(first);
        self.boundaries.new = self.boundaries.new.saturating_sub(1);
        if withdrawn {
            self.boundaries.withdrawn += 1;
            events.push(SegmentEvent::BoundaryWithdrawn { task, provisional, first, distance });
        } else {
            self.boundaries.returned += 1;
            register.change(task).into_iter().for_each(|task| task.returns += 1);
            events.push(SegmentEvent::TaskReturned { task, provisional, first, distance });
        }
    }

    /// Keeps a promise in hours: takes the time of a frame, and has the detector promise other frames where their rate asks
    /// for it.
    pub fn keep_pace(&mut self, hours: f64, now_ns: i64, duplicate: bool) {
        self.pace.tick(now_ns, !duplicate);
        if let Some(frames) = self.pace.promise(hours) {
            self.detector.promise(frames);
        }
    }

    /// A boundary set by hand: the next frame is the first of a new task.
    pub fn mark_boundary(&mut self, register: &mut TaskRegister, first: FrameId) -> Vec<SegmentEvent> {
        let mut events = Vec::new();
        if let Some(task) = register.open_task(self.scope) {
            self.settle(register, task, self.recent.len());
        }
        self.boundaries.manual += 1;
        self.open(register, first, first, 0, &mut events);
        self.begin_anew();
        events
    }

    /// Begins the warm-up anew within the open task.
    pub fn begin_anew(&mut self) {
        self.detector.reset();
        self.duplicates.relearn();
        self.recent.clear();
        (self.provisional, self.warned) = (false, false);
    }

    pub fn write(&self, writer: &mut Writer) {
        writer.u64(self.scope.key());
        self.pace.write(writer);
        writer.optional(self.last.map(|frame| frame.0));
        writer.u64s(self.boundaries.counts().into_iter());
        writer.u64s([self.duplicates_skipped, u64::from(self.provisional), u64::from(self.warned)].into_iter());
        self.duplicates.write(writer);
        writer.u64s(self.recent.iter().map(|recent| recent.frame.0));
        writer.u64s(self.recent.iter().map(|recent| recent.frames));
        let points: Vec<f32> = self.recent.iter().flat_map(|recent| recent.point).collect();
        writer.f32s(points.iter());
        writer.blob(&self.detector.state());
    }

    /// `made` gives a detector and the pace it was made for, from the pace that was written.
    pub fn read(
        reader: &mut Reader<'_>,
        made: impl FnOnce(Pace) -> (Box<dyn Detector>, Pace),
    ) -> Result<Self, SegmentError> {
        let scope = Scope::from_key(reader.u64()?).ok_or(SegmentError::State("it is of no source"))?;
        let (detector, pace) = made(Pace::read(reader)?);
        let mut state = Self::new(scope, detector, pace);
        state.last = reader.optional()?.map(FrameId);
        let counts = expect_length(reader.u64s()?, 5)?;
        state.boundaries = Boundaries::from_counts(std::array::from_fn(|i| counts[i]));
        let flags = expect_length(reader.u64s()?, 3)?;
        (state.duplicates_skipped, state.provisional, state.warned) = (flags[0], flags[1] == 1, flags[2] == 1);
        state.duplicates = NearDuplicates::read(reader)?;
        let frames = reader.u64s()?;
        let counts = expect_length(reader.u64s()?, frames.len())?;
        let points = expect_length(reader.f32s()?, frames.len() * DIMENSIONS)?;
        let parts = frames.into_iter().zip(counts).zip(points.as_chunks::<DIMENSIONS>().0);
        state.recent = parts.map(|((frame, frames), &point)| Recent { frame: FrameId(frame), frames, point }).collect();
        if state.recent.len() > UNSURE || state.recent.iter().any(|recent| recent.frames == 0) {
            return Err(SegmentError::State("its recent frames do not fit"));
        }
        state.detector.restore(reader.blob()?)?;
        Ok(state)
    }
}
