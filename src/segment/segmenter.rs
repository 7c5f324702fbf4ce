use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use super::bytes::{Reader, Writer};
use super::detector::{Detector, Phase, detector};
use super::features::FeatureMap;
use super::pace::Pace;
use super::register::TaskRegister;
use super::scope::ScopeState;
use super::sketch::Projection;
use super::tasks::{Scope, TaskId};
use super::{SegmentError, SegmentEvent};
use crate::config::{SegmentScope, SegmentSettings};
use crate::stream::{FrameId, SourceId};

const MAGIC: &[u8] = b"lumpd-segment-5";

/// What segmentation makes of one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The task that is open now, this frame's as far as is known; a boundary found later may be placed before it.
    pub task: TaskId,
    /// A near-duplicate of the last distinct frame.
    pub duplicate: bool,
    /// What happened with this frame. Where there is anything, the register has changed and wants saving.
    pub events: Vec<SegmentEvent>,
}

/// Boundaries by kind since the state began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Boundaries {
    /// To a task not seen before (as far as is known by now).
    pub new: u64,
    /// To a task that returned.
    pub returned: u64,
    /// Found, and taken back: the task after it was the task before it.
    pub withdrawn: u64,
    /// Set by hand.
    pub manual: u64,
    /// Tasks merged to make room.
    pub merged: u64,
}

impl Boundaries {
    pub(super) fn counts(self) -> [u64; 5] {
        [self.new, self.returned, self.withdrawn, self.manual, self.merged]
    }

    pub(super) fn from_counts([new, returned, withdrawn, manual, merged]: [u64; 5]) -> Self {
        Self { new, returned, withdrawn, manual, merged }
    }
}

/// The state of one scope's segmentation, for metrics and the API.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScopeReport {
    pub scope: Scope,
    pub phase: Phase,
    /// Distinct frames of the detector's reference so far, and wanted.
    pub reference_frames: usize,
    pub reference_wanted: usize,
    /// None while a reference is being collected.
    pub statistic: Option<f64>,
    pub threshold: f64,
    pub warning_threshold: f64,
    pub variance_ratio: Option<f64>,
    /// About one false boundary in so many distinct frames.
    pub target_frames_between_false_alarms: u64,
    /// What was asked for, where it was in hours: the frames are what comes in them at the rate below.
    pub target_hours_between_false_alarms: Option<f64>,
    /// None where nothing was asked in hours, and before there are enough to tell.
    pub distinct_frames_an_hour: Option<f64>,
    pub duplicates_skipped: u64,
    pub boundaries: Boundaries,
    pub task: Option<TaskId>,
    pub frames_in_task: u64,
    pub last_frame: Option<FrameId>,
}

/// The room's front door: frames in, tasks and events out.
///
/// One thread owns it. Its memory is bounded: about 1.5 MB a scope (the reference while it is collected, the projection,
/// 512 recent frames), and the register's.
pub struct Segmenter {
    settings: SegmentSettings,
    features: FeatureMap,
    projection: Projection,
    register: TaskRegister,
    scopes: BTreeMap<Scope, ScopeState>,
    now_ns: Option<i64>,
}

impl Segmenter {
    /// Segmentation that goes on with the tasks of `register`; the detectors begin with their warm-up.
    pub fn new(settings: SegmentSettings, register: TaskRegister) -> Self {
        let (features, projection) = (FeatureMap::new(), Projection::new());
        Self { settings, features, projection, register, scopes: BTreeMap::new(), now_ns: None }
    }

    /// Tells the time at which the frames that follow were seen, in nanoseconds since any one moment. Only a promise in hours
    /// needs it: without it the promise in frames stays.
    pub fn tell_time(&mut self, now_ns: i64) {
        self.now_ns = Some(now_ns);
    }

    /// Takes one frame: `image` is square RGB, 8 bits a channel, shape (side, side, 3). Frames of one source come in the
    /// order of their numbers; one at or before the last observed in its scope changes nothing.
    ///
    /// # Errors
    /// If `image` does not have that shape, or `side` is not 16 to 4096.
    pub fn observe(
        &mut self,
        source: SourceId,
        frame: FrameId,
        image: &[u8],
        side: usize,
    ) -> Result<Observation, SegmentError> {
        let features = self.features.extract(image, side)?;
        Ok(self.observe_features(source, frame, &features))
    }

    /// Takes many frames in order, their features computed in parallel. The result is the same as one by one.
    ///
    /// # Errors
    /// As for [`Segmenter::observe`]; then no frame has been observed.
    pub fn observe_batch(
        &mut self,
        frames: &[(SourceId, FrameId, &[u8])],
        side: usize,
    ) -> Result<Vec<Observation>, SegmentError> {
        let map = &self.features;
        let features: Vec<Vec<f32>> =
            frames.par_iter().map(|(_, _, image)| map.extract(image, side)).collect::<Result<_, _>>()?;
        let pairs = frames.iter().zip(features);
        Ok(pairs.map(|(&(source, frame, _), features)| self.observe_features(source, frame, &features)).collect())
    }

    /// Takes a frame whose features ([`FeatureMap::extract`]) are known already.
    pub fn observe_features(&mut self, source: SourceId, frame: FrameId, features: &[f32]) -> Observation {
        let scope = self.scope_of(source);
        let state = state_of(&mut self.scopes, &self.settings, scope);
        let (mut duplicate, mut events) = (false, Vec::new());
        if state.last < Some(frame) {
            let projection = &self.projection;
            (duplicate, events) =
                state.observe(&mut self.register, frame, features, |features| projection.apply(features));
            if let Some((hours, now_ns)) = self.settings.mean_hours_between_false_alarms.zip(self.now_ns) {
                state.keep_pace(hours, now_ns, duplicate);
            }
        }
        let task = self.register.open_task(scope).unwrap_or(TaskId(0));
        Observation { task, duplicate, events }
    }

    fn scope_of(&self, source: SourceId) -> Scope {
        match self.settings.scope {
            SegmentScope::Shared => Scope::Shared,
            SegmentScope::PerSource => Scope::Source(source),
        }
    }

    /// Closes the open task of the source's scope by hand: `first` is the first frame of a new one, and must be later than
    /// every frame observed.
    pub fn mark_boundary(&mut self, source: SourceId, first: FrameId) -> Vec<SegmentEvent> {
        let scope = self.scope_of(source);
        let state = state_of(&mut self.scopes, &self.settings, scope);
        let next = state.last.map_or(first, |last| first.max(FrameId(last.0 + 1)));
        state.mark_boundary(&mut self.register, next)
    }

    /// The tasks. A clone of it may be published to readers.
    pub fn register(&self) -> &TaskRegister {
        &self.register
    }

    /// The tasks, to rename, merge and save.
    pub fn register_mut(&mut self) -> &mut TaskRegister {
        &mut self.register
    }

    /// Everything but the register needed to go on bit for bit, for the checkpoint; at most about 2 MB a scope.
    pub fn state(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.blob(MAGIC);
        writer.u64(self.scopes.len() as u64);
        self.scopes.values().for_each(|scope| scope.write(&mut writer));
        writer.finish()
    }

    /// Takes back what [`Segmenter::state`] gave. A scope whose register has a boundary newer than the state begins its
    /// warm-up anew within the task that is open now.
    ///
    /// # Errors
    /// If `state` is damaged, or was written by another version or for another setting; then nothing has changed, and the
    /// detectors begin with their warm-up.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), SegmentError> {
        let mut reader = Reader::new(state);
        if reader.blob()? != MAGIC {
            return Err(SegmentError::State("it was written by another version"));
        }
        let mut scopes = BTreeMap::new();
        for _ in 0..reader.u64()? {
            let mut scope = ScopeState::read(&mut reader, |pace| made(&self.settings, pace))?;
            let newest = self.register.newest_boundary(scope.scope);
            if newest > scope.last || newest.is_none() {
                scope.begin_anew();
            }
            scopes.insert(scope.scope, scope);
        }
        reader.end()?;
        self.scopes = scopes;
        Ok(())
    }

    /// The state of every scope that has seen a frame.
    pub fn report(&self) -> Vec<ScopeReport> {
        self.scopes.values().map(|state| self.report_of(state)).collect()
    }

    fn report_of(&self, state: &ScopeState) -> ScopeReport {
        let task = self.register.open_task(state.scope);
        let (reference_frames, reference_wanted) = state.detector.reference();
        ScopeReport {
            scope: state.scope,
            phase: state.detector.phase(),
            reference_frames,
            reference_wanted,
            statistic: state.detector.statistic(),
            threshold: state.detector.threshold(),
            warning_threshold: state.detector.warning_threshold(),
            variance_ratio: state.detector.variance_ratio(),
            target_frames_between_false_alarms: state.pace.promised(),
            target_hours_between_false_alarms: self.settings.mean_hours_between_false_alarms,
            distinct_frames_an_hour: state.pace.frames_an_hour(),
            duplicates_skipped: state.duplicates_skipped,
            boundaries: state.boundaries,
            task,
            frames_in_task: task.and_then(|task| self.register.task(task)).map_or(0, |task| task.frames),
            last_frame: state.last,
        }
    }
}

/// A detector, and the pace it is made for: the one given, where the promise is in hours.
fn made(settings: &SegmentSettings, pace: Pace) -> (Box<dyn Detector>, Pace) {
    let pace = match settings.mean_hours_between_false_alarms {
        Some(_) => pace,
        None => Pace::new(settings.mean_frames_between_false_alarms),
    };
    (detector(settings.detector, pace.promised()), pace)
}

fn state_of<'a>(
    scopes: &'a mut BTreeMap<Scope, ScopeState>,
    settings: &SegmentSettings,
    scope: Scope,
) -> &'a mut ScopeState {
    scopes.entry(scope).or_insert_with(|| {
        let (detector, pace) = made(settings, Pace::new(settings.mean_frames_between_false_alarms));
        ScopeState::new(scope, detector, pace)
    })
}
