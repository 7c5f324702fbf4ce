//! Measures every past task at every published version: the evaluation's monitor, given an encoder and the probes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value;

use super::probe_file::ProbeFile;
use super::published::{Input, Published};
use super::shared::{Evaluation, Shared};
use crate::config::{KnnSettings, Seed};
use crate::evaluate::{EvaluateError, Features, ForgettingMonitor, MeterError, ProbeMeter, ProbeSets, Version, Views};
use crate::knn::{Labels, classify};
use crate::learn::{Trainer, ViewMaker};
use crate::segment::{Segmenter, TaskId};
use crate::stream::FrameId;

/// Tasks measured at a version that no task's end brought about: the others are measured at the next ones, in turn.
const TASKS_A_VERSION: usize = 8;

/// The monitor, and what it needs of the daemon.
pub struct Monitor {
    pub monitor: ForgettingMonitor,
    pub seed: Seed,
    pub input: Input,
    pub views: ViewMaker,
    pub labels: Arc<Labels>,
    pub knn: KnnSettings,
}

/// What a measurement gave.
pub struct Measured {
    pub reports: Evaluation,
    /// Collapse alarm: near 0 where the encoder gives every image the same features.
    pub representation_std: Option<f64>,
}

impl Monitor {
    /// Makes up for what happened between the checkpoint and the end of the last run: the register is ahead of it.
    pub fn align(&mut self, segmenter: &RwLock<Segmenter>) {
        let segmenter = segmenter.read().unwrap_or_else(PoisonError::into_inner);
        let register = segmenter.register();
        let noted: BTreeMap<TaskId, bool> =
            self.monitor.report().tasks.into_iter().map(|task| (task.task, task.open)).collect();
        for task in register.tasks() {
            let open = register.open_task(task.scope) == Some(task.id);
            match noted.get(&task.id) {
                Some(known) if *known == open => {}
                _ if open => self.monitor.task_opened(task.id),
                _ => self.monitor.task_closed(task.id),
            }
        }
        for gone in noted.into_keys().filter(|task| register.task(*task).is_none()) {
            self.monitor.task_removed(gone);
        }
    }

    pub fn task_opened(&mut self, task: TaskId) {
        self.monitor.task_opened(task);
    }

    pub fn task_ended(&mut self, task: TaskId) {
        self.monitor.task_closed(task);
    }

    /// The task is part of another from now on; its probes go with it.
    pub fn task_gone(&mut self, task: TaskId) {
        self.monitor.task_removed(task);
    }

    /// The state for a checkpoint. That it cannot be written costs the measurements so far, and is logged.
    pub fn state(&self) -> Option<Vec<u8>> {
        let state = self.monitor.to_bytes();
        state.inspect_err(|error| tracing::error!(code = error.code(), "the measurements are not kept: {error}")).ok()
    }

    /// Measures the published version.
    ///
    /// # Errors
    /// Where the probes cannot be sorted by task.
    pub fn measure(
        &mut self,
        published: &Published,
        shared: &Shared,
        trainer: &mut Trainer,
        probes: &Mutex<ProbeSets<ProbeFile>>,
        segmenter: &RwLock<Segmenter>,
    ) -> Result<Measured, EvaluateError> {
        let held = Held::now(probes, segmenter)?;
        let version = Version {
            encoder: published.encoder.to_string(),
            step: published.step,
            frames: shared.images(),
            wall_time_ns: i64::try_from(published.at.as_nanosecond()).unwrap_or(i64::MAX),
        };
        let mut meter = Meter {
            published,
            shared,
            trainer,
            images: &held.images,
            seed: self.seed,
            input: &self.input,
            views: &self.views,
            labels: &self.labels,
            knn: &self.knn,
        };
        let observation = self.monitor.observe(&version, &held.by_task, &mut meter, TASKS_A_VERSION);
        for (task, error) in observation.failed {
            tracing::error!(task = task.0, "its probes could not be measured: {error}");
        }
        Ok(self.reports())
    }

    /// The reports as of the last measurement.
    pub fn reports(&self) -> Measured {
        let report = self.monitor.report();
        let representation_std = report.representation.as_ref().and_then(|representation| representation.feature_std);
        let matrix = self.monitor.accuracy_matrix();
        let accuracy = serde_json::json!({ "rows": matrix.rows(), "summary": matrix.summary() });
        let forgetting = serde_json::to_value(report).unwrap_or(Value::Null);
        let history = serde_json::to_value(self.monitor.histories()).unwrap_or(Value::Null);
        Measured { reports: Evaluation { forgetting, accuracy, history }, representation_std }
    }
}

/// The probes as they are when a measurement begins: meanwhile the stream goes on and replaces some.
struct Held {
    by_task: BTreeMap<TaskId, Vec<FrameId>>,
    /// At most `evaluate.max_probes`.
    images: BTreeMap<FrameId, Vec<u8>>,
}

impl Held {
    /// Sorts the probes by task (boundaries may have moved) and copies their images.
    fn now(probes: &Mutex<ProbeSets<ProbeFile>>, segmenter: &RwLock<Segmenter>) -> Result<Self, EvaluateError> {
        let segmenter = segmenter.read().unwrap_or_else(PoisonError::into_inner);
        let mut probes = probes.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = probes.storage_mut().sources();
        probes.reassign(|frame| segmenter.register().task_of(*sources.get(&frame)?, frame))?;
        drop(segmenter);
        let by_task = probes.by_task();
        let mut images = BTreeMap::new();
        for &frame in by_task.values().flatten() {
            if let Some(image) = probes.image(frame)? {
                images.insert(frame, image);
            }
        }
        Ok(Self { by_task, images })
    }
}

/// One version, for the monitor.
struct Meter<'a> {
    published: &'a Published,
    shared: &'a Shared,
    trainer: &'a mut Trainer,
    images: &'a BTreeMap<FrameId, Vec<u8>>,
    seed: Seed,
    input: &'a Input,
    views: &'a ViewMaker,
    labels: &'a Labels,
    knn: &'a KnnSettings,
}

impl Meter<'_> {
    fn images(&self, frames: &[FrameId]) -> Result<Vec<u8>, MeterError> {
        self.shared.beat();
        let mut images = Vec::with_capacity(frames.len() * self.input.preset.image_bytes());
        for frame in frames {
            images.extend(self.images.get(frame).ok_or_else(|| format!("probe {frame} is not held"))?);
        }
        Ok(images)
    }

    fn features(&self, rows: Vec<f32>) -> Result<Features, MeterError> {
        Ok(Features::new(self.published.embedder.features(), rows)?)
    }
}

impl ProbeMeter for Meter<'_> {
    fn embed(&mut self, probes: &[FrameId]) -> Result<Features, MeterError> {
        let images = self.images(probes)?;
        self.features(self.input.embed(&*self.published.embedder, &images)?)
    }

    fn views(&mut self, probes: &[FrameId]) -> Result<Views, MeterError> {
        let images = self.images(probes)?;
        let (mut first, mut second) = (Vec::new(), Vec::new());
        // One image at a time: its views depend on the probe alone, not on its neighbours in the batch.
        for (frame, image) in probes.iter().zip(images.chunks_exact(self.input.preset.image_bytes())) {
            let views = self.views.pair(image, &mut self.seed.random("probe-views", frame.0), &self.input.device)?;
            first.push(views.first);
            second.push(views.second);
        }
        let embed = |views: Vec<candle_core::Tensor>| -> Result<Features, MeterError> {
            self.features(self.input.embed_views(&*self.published.embedder, &views)?)
        };
        Ok(Views { first: embed(first)?, second: embed(second)? })
    }

    fn loss(&mut self, probes: &[FrameId]) -> Result<Option<f64>, MeterError> {
        let images = self.images(probes)?;
        Ok(self.trainer.probe_loss(&images)?)
    }

    fn label(&self, probe: FrameId) -> Option<Arc<str>> {
        self.labels.get(probe)
    }

    fn classify(&self, probe: FrameId, embedding: &[f32]) -> Option<Arc<str>> {
        let labels = self.labels.snapshot();
        let label_of = |frame: FrameId| if frame == probe { None } else { labels.get(&frame).cloned() };
        let vote = classify(&self.published.bank, embedding, self.knn.k, self.knn.temperature, label_of);
        vote.ok().flatten().map(|vote| vote.label)
    }
}
