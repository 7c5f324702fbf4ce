//! Forgetting as the daemon measures it, without labels, on test images of every past task: beside the real accuracies these
//! say what the measures are worth. See [`crate::experiment::report`].

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::evaluation::embed;
use crate::config::Seed;
use crate::evaluate::{Features, ForgettingMonitor, MeterError, ProbeMeter, Version, Views};
use crate::experiment::dataset::{Dataset, Labelled};
use crate::experiment::result::ForgettingRecord;
use crate::experiment::{ExperimentError, Split};
use crate::learn::{Trainer, ViewMaker};
use crate::segment::TaskId;
use crate::stream::FrameId;

/// Name among the files of a checkpoint.
pub(super) const FILE: &str = "forgetting.safetensors";

/// Test images of a task at most, as the daemon keeps probes.
const PROBES: usize = 256;
/// Views that are embedded together.
const VIEWS_TOGETHER: usize = 64;
/// Stages of a task whose measurements are kept: more than any plan has.
const HISTORY: usize = 10_000;

/// The monitor of a run.
pub(super) struct LabelFree {
    monitor: ForgettingMonitor,
    seed: Seed,
}

impl LabelFree {
    pub(super) fn new(seed: Seed) -> Self {
        Self { monitor: ForgettingMonitor::new(HISTORY), seed }
    }

    pub(super) fn restore(bytes: &[u8], seed: Seed) -> Result<Self, ExperimentError> {
        Ok(Self { monitor: ForgettingMonitor::from_bytes(bytes, HISTORY)?, seed })
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, ExperimentError> {
        Ok(self.monitor.to_bytes()?)
    }

    /// After a stage, which was of `task` (from 0): the encoder as it is becomes what that task is compared with, unless it was
    /// learnt before, and is compared with what it was after every other one.
    pub(super) fn end_stage(
        &mut self,
        (stage, task): (usize, usize),
        trainer: &mut Trainer,
        dataset: &Dataset,
        split: &Split,
        device: &Device,
    ) -> Result<(), ExperimentError> {
        let id = task_id(task);
        if self.monitor.history(id).is_empty() {
            self.monitor.task_closed(id);
        }
        let (encoder, _) = trainer.embedder()?;
        let version =
            Version { encoder: encoder.to_string(), step: trainer.steps(), frames: stage as u64, wall_time_ns: 0 };
        let learnt = |at: usize| at == task || !self.monitor.history(task_id(at)).is_empty();
        let probes: BTreeMap<TaskId, Vec<FrameId>> = split
            .tasks
            .iter()
            .enumerate()
            .filter(|(at, _)| learnt(*at))
            .map(|(at, task)| (task_id(at), probes(&task.test)))
            .collect();
        let views = ViewMaker::new(trainer.preset());
        let mut meter = Meter { trainer, part: &dataset.test, device, views, seed: self.seed };
        let observation = self.monitor.observe(&version, &probes, &mut meter, usize::MAX);
        match observation.failed.into_iter().next() {
            Some((task, error)) => Err(ExperimentError::Measure { task: task.0, message: error.to_string() }),
            None => Ok(()),
        }
    }

    /// Every comparison with the end of a task.
    pub(super) fn records(&self, tasks: usize) -> Vec<ForgettingRecord> {
        let of = |task: usize| {
            let later = self.monitor.history(task_id(task)).iter().skip(1);
            later.map(move |measured| ForgettingRecord {
                task,
                stage: measured.version.frames as usize,
                neighbour_overlap: measured.neighbour_overlap,
                forgetting_index: measured.forgetting_index,
                neighbours_kept: measured.neighbours_kept,
                cka_debiased: measured.cka_debiased,
                cka_kept: measured.cka_kept,
                loss: measured.loss,
                loss_change: measured.loss_change,
                view_recall: measured.view_recall,
                view_recall_change: measured.view_recall_change,
                view_bits: measured.view_bits,
                view_bits_change: measured.view_bits_change,
                view_loss_change: measured.view_loss_change,
            })
        };
        (0..tasks).flat_map(of).collect()
    }
}

fn task_id(task: usize) -> TaskId {
    TaskId(task as u32 + 1)
}

/// Spread evenly, since images may be in the order of their classes; named by their place among the test images.
fn probes(images: &[usize]) -> Vec<FrameId> {
    let step = images.len().div_ceil(PROBES).max(1);
    images.iter().step_by(step).map(|image| FrameId(*image as u64 + 1)).collect()
}

/// The encoder as it is, for the monitor.
struct Meter<'a> {
    trainer: &'a mut Trainer,
    part: &'a Labelled,
    device: &'a Device,
    views: ViewMaker,
    seed: Seed,
}

impl Meter<'_> {
    fn images(probes: &[FrameId]) -> Vec<usize> {
        probes.iter().map(|probe| probe.0 as usize - 1).collect()
    }
}

impl ProbeMeter for Meter<'_> {
    fn embed(&mut self, probes: &[FrameId]) -> Result<Features, MeterError> {
        let (_, embedder) = self.trainer.embedder()?;
        Ok(embed(&embedder, self.trainer.preset(), self.device, self.part, &Self::images(probes))?.features)
    }

    fn views(&mut self, probes: &[FrameId]) -> Result<Views, MeterError> {
        let (_, embedder) = self.trainer.embedder()?;
        let (mut first, mut second) = (Vec::new(), Vec::new());
        // One image at a time: its views depend on the probe alone.
        for (probe, image) in probes.iter().zip(Self::images(probes)) {
            let mut random = self.seed.random("probe-views", probe.0);
            let views = self.views.pair(&self.part.pack(&[image]), &mut random, self.device)?;
            first.push(views.first);
            second.push(views.second);
        }
        let features = |views: &[Tensor]| -> Result<Features, MeterError> {
            let mut rows = Vec::new();
            for together in views.chunks(VIEWS_TOGETHER) {
                let features = embedder.embed(&Tensor::cat(together, 0)?)?.to_dtype(DType::F32)?;
                rows.extend(features.flatten_all()?.to_vec1::<f32>()?);
            }
            Ok(Features::new(embedder.features(), rows)?)
        };
        Ok(Views { first: features(&first)?, second: features(&second)? })
    }

    fn loss(&mut self, probes: &[FrameId]) -> Result<Option<f64>, MeterError> {
        Ok(self.trainer.probe_loss(&self.part.pack(&Self::images(probes)))?)
    }
}
