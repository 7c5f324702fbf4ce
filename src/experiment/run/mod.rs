//! One run: the stream through the learner, what is known after every stage, and a result at the end.
//!
//! A run is a function of its settings. What it needs to go on is written at intervals and at the end of every stage; killed and
//! started again it gives, on the CPU, the result that it would have given: the same bits.

mod evaluation;
mod label_free;
mod memory;
mod ood;
mod progress;
#[cfg(test)]
mod tests;
mod views;

use std::fs::{File, TryLockError};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Device;

use super::dataset::{self, Dataset};
use super::plan::Plan;
use super::result::{Averages, CurvePoint, DataRecord, FORMAT, RESULT_FILE, RunResult, TaskRecord, averages};
use super::{BoundaryKind, ExperimentError, RunSettings, Split};
use crate::config::{DeviceKind, DeviceSettings, Seed, durable};
use crate::device;
use crate::encoder::{EncoderId, GivenWeights, to_safetensors};
use crate::learn::checkpoint::{Generations, Keep};
use crate::learn::{Samples, Trainer};
use evaluation::Evaluation;
use label_free::LabelFree;
use memory::Memory;
use progress::{Progress, Row};

/// Checkpoints kept: the newest, and one before it should it be damaged.
const CHECKPOINTS: Keep = Keep { generations: 2, bytes: u64::MAX };

/// The trained encoder, where it is asked for.
const ENCODER_FILE: &str = "encoder.safetensors";

/// Where a run finds its data and leaves its files, and how it was asked for.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folder of the datasets.
    pub data: PathBuf,
    /// The run's own folder.
    pub out: PathBuf,
    /// The command, for the record.
    pub command: String,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    pub stage: usize,
    pub stages: usize,
    pub epoch: usize,
    pub epochs: usize,
    /// Images presented so far and in all, repetitions counted.
    pub presented: u64,
    pub presentations: u64,
    /// Of the last step.
    pub loss: Option<f64>,
}

/// Called after every batch; a break ends the run there, to be taken up again at its last checkpoint.
pub type Watch<'a> = &'a mut dyn FnMut(Standing) -> ControlFlow<()>;

/// Plays a run, or what is left of it, and writes its result. None where `watch` ended it.
///
/// # Errors
/// Where the dataset, a setting or the device is not as it has to be, or the folder holds another run.
pub fn run(settings: &RunSettings, place: &Place, watch: Watch<'_>) -> Result<Option<RunResult>, ExperimentError> {
    settings.check()?;
    std::fs::create_dir_all(&place.out).map_err(ExperimentError::io("make", &place.out))?;
    let _lock = claim(settings, &place.out)?;
    if let Some(result) = RunResult::read(&place.out)? {
        return Ok(Some(result));
    }
    let preset = settings.encoder()?;
    let dataset = dataset::open(settings.dataset_name(), &place.data, preset.side, Seed(settings.seed))?;
    let mut run = Run::start(settings, place, &dataset)?;
    match run.play(watch)? {
        ControlFlow::Break(()) => Ok(None),
        ControlFlow::Continue(()) => run.end().map(Some),
    }
}

/// The folder is of these settings, or it is empty and becomes so; and it is this process's as long as the file is open.
fn claim(settings: &RunSettings, folder: &Path) -> Result<File, ExperimentError> {
    let path = folder.join("settings.toml");
    compare(settings, folder, &path)?;
    let file = File::open(&path).map_err(ExperimentError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ExperimentError::Busy { path: folder.into() }),
        Err(TryLockError::Error(error)) => Err(ExperimentError::io("lock", &path)(error)),
    }
}

fn compare(settings: &RunSettings, folder: &Path, path: &Path) -> Result<(), ExperimentError> {
    let wanted = toml::to_string(settings)
        .map_err(|error| ExperimentError::File { path: path.into(), message: error.to_string() })?;
    let saved = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return durable::replace(path, wanted.as_bytes()).map_err(ExperimentError::io("write", path));
        }
        saved => saved.map_err(ExperimentError::io("read", path))?,
    };
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (saved, wanted) = (lines(&saved), lines(&wanted));
    // How often a checkpoint is written changes no result.
    let free = |line: &&String| line.starts_with("checkpoint_seconds");
    let other = |a: &[String], b: &[String]| a.iter().find(|line| !free(line) && !b.contains(line)).cloned();
    match (other(&saved, &wanted), other(&wanted, &saved)) {
        (None, None) => Ok(()),
        (saved, wanted) => {
            let said = |line: Option<String>| line.unwrap_or_else(|| "not set".into());
            let key = wanted.as_ref().or(saved.as_ref()).and_then(|line| line.split(' ').next()).unwrap_or_default();
            let (path, key) = (folder.into(), key.to_owned());
            Err(ExperimentError::OtherRun { path, key, saved: said(saved), wanted: said(wanted) })
        }
    }
}

/// A learner as it is before its first step, and the name of the weights where the settings give some.
fn learner(
    settings: &RunSettings,
    dataset: &Dataset,
    device: &Device,
) -> Result<(Trainer, Option<EncoderId>), ExperimentError> {
    let learn = settings.learn(dataset.class_names.len());
    let mut trainer = Trainer::new(settings.encoder()?, &learn, device, Seed(settings.seed))?;
    let Some(path) = &settings.weights else { return Ok((trainer, None)) };
    let given = trainer.give(&GivenWeights::read(path, trainer.preset())?)?;
    Ok((trainer, Some(given)))
}

/// Everything that a run owns.
struct Run<'a> {
    settings: &'a RunSettings,
    place: &'a Place,
    dataset: &'a Dataset,
    split: Split,
    plan: Plan,
    device: (Device, String),
    trainer: Trainer,
    /// Name of the weights that were given.
    given: Option<EncoderId>,
    memory: Memory,
    /// Where it is asked for.
    label_free: Option<LabelFree>,
    progress: Progress,
    generations: Generations,
    checkpointed: Instant,
    started: (Instant, u64),
}

impl<'a> Run<'a> {
    fn start(settings: &'a RunSettings, place: &'a Place, dataset: &'a Dataset) -> Result<Self, ExperimentError> {
        let split = Split::new(settings, dataset)?;
        let plan = Plan::new(settings, &split, &dataset.train);
        memory::check_numbers(dataset.train.len())?;
        let chosen = device::choose(&DeviceSettings { kind: DeviceKind::Auto, ordinal: 0 })
            .map_err(|error| ExperimentError::setting("device", "auto", error))?;
        let seed = Seed(settings.seed);
        let (mut trainer, given) = learner(settings, dataset, &chosen.device)?;
        let generations = Generations::open(&place.out.join("checkpoints"), CHECKPOINTS)?;
        let loaded = generations.newest_valid()?.loaded;
        let mut label_free = settings.label_free.then(|| LabelFree::new(seed));
        let (progress, memory) = match loaded {
            Some(loaded) => {
                let files: Vec<(String, Vec<u8>)> = loaded.files.into_iter().collect();
                trainer.restore(&files)?;
                let progress = Progress::parse(progress::find(&files, progress::FILE)?)?;
                if let Some(kept) = &mut label_free {
                    *kept = LabelFree::restore(progress::find(&files, label_free::FILE)?, seed)?;
                }
                let image = progress::find(&files, memory::FILE)?;
                (progress, Memory::restore(settings, &place.out, dataset.side, image)?)
            }
            None => (Progress::default(), Memory::create(settings, &place.out, dataset.side)?),
        };
        let mut run = Self {
            started: (Instant::now(), progress.presented),
            device: (chosen.device, chosen.info.to_string()),
            checkpointed: Instant::now(),
            settings,
            place,
            dataset,
            split,
            plan,
            trainer,
            given,
            memory,
            label_free,
            progress,
            generations,
        };
        run.recall_segmentation()?;
        Ok(run)
    }

    /// The detectors are a function of the stream: they see again what they saw.
    fn recall_segmentation(&mut self) -> Result<(), ExperimentError> {
        if self.settings.boundaries != BoundaryKind::Found {
            return Ok(());
        }
        let (mut left, mut number) = (self.progress.presented, 0);
        for stage in 0..self.plan.stages.len() {
            for epoch in 0..self.plan.stages[stage].epochs {
                for image in self.plan.epoch(stage, epoch) {
                    if left == 0 {
                        return Ok(());
                    }
                    self.memory.segment(number, self.dataset.train.image(image), self.dataset.side)?;
                    (left, number) = (left - 1, number + 1);
                }
            }
        }
        Ok(())
    }

    fn play(&mut self, watch: Watch<'_>) -> Result<ControlFlow<()>, ExperimentError> {
        if self.progress.baseline.is_none() {
            self.progress.baseline = Some(self.evaluation(self.split.tasks.len(), 0)?.baseline()?);
            self.curve()?;
        }
        while self.progress.stage < self.plan.stages.len() {
            if self.stage(watch)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.end_stage()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn stage(&mut self, watch: Watch<'_>) -> Result<ControlFlow<()>, ExperimentError> {
        let stage = self.progress.stage;
        let epochs = self.plan.stages[stage].epochs;
        while self.progress.epoch < epochs {
            let order = self.plan.epoch(stage, self.progress.epoch);
            while self.progress.offset < order.len() {
                let end = (self.progress.offset + self.settings.batch).min(order.len());
                let loss = self.batch(&order[self.progress.offset..end])?;
                self.progress.offset = end;
                self.curve_if_due()?;
                let standing = Standing {
                    stage,
                    stages: self.plan.stages.len(),
                    epoch: self.progress.epoch,
                    epochs,
                    presented: self.progress.presented,
                    presentations: self.plan.presentations(),
                    loss,
                };
                if watch(standing).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                if self.checkpointed.elapsed() >= Duration::from_secs_f64(self.settings.checkpoint_seconds) {
                    self.checkpoint()?;
                }
            }
            (self.progress.epoch, self.progress.offset) = (self.progress.epoch + 1, 0);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The steps on one batch; then its images are offered to the memory, and shown to the segmentation.
    fn batch(&mut self, images: &[usize]) -> Result<Option<f64>, ExperimentError> {
        let seed = Seed(self.settings.seed);
        let train = &self.dataset.train;
        let pixels = train.pack(images);
        let labels: Vec<u32> = images.iter().map(|image| train.classes[*image]).collect();
        let numbers: Vec<u64> = (self.progress.presented..).take(images.len()).collect();
        let ids: Vec<u64> = numbers.iter().zip(images).map(|(number, image)| memory::id(*number, *image)).collect();
        let stream = Samples { pixels: &pixels, ids: &ids, labels: &labels };
        let mut last = None;
        for _ in 0..self.settings.steps_per_batch {
            let mut random = seed.random("replay-batch", self.trainer.steps());
            let wanted = if self.trainer.rehearses() { self.settings.replay_batch } else { 0 };
            let (replay_pixels, replay_ids) = self.memory.sample(wanted, &mut random);
            let replay_labels: Vec<u32> = replay_ids.iter().map(|id| train.classes[memory::image_of(*id)]).collect();
            let replay = Samples { pixels: &replay_pixels, ids: &replay_ids, labels: &replay_labels };
            let report = self.trainer.step_samples(&stream, &replay)?;
            last = report.loss.or(last);
            self.progress.loss(report.loss);
        }
        if self.trainer.rehearses() {
            self.memory.offer(&ids, &pixels)?;
        }
        if self.settings.boundaries == BoundaryKind::Found {
            for (number, image) in numbers.iter().zip(images) {
                if self.memory.segment(*number, train.image(*image), self.dataset.side)? {
                    self.progress.boundaries.push(*number);
                    self.trainer.at_boundary()?;
                }
            }
        }
        self.progress.presented += images.len() as u64;
        Ok(last)
    }

    fn curve_if_due(&mut self) -> Result<(), ExperimentError> {
        let every = self.settings.curve_every as u64;
        let passed = self.progress.curve.last().map_or(0, |(images, _)| *images);
        if every > 0 && self.progress.presented / every > passed / every { self.curve() } else { Ok(()) }
    }

    fn curve(&mut self) -> Result<(), ExperimentError> {
        if self.settings.curve_every > 0 {
            let accuracy = evaluation::overall(&self.trainer, self.dataset, &self.split, &self.device.0)?;
            self.progress.curve.push((self.progress.presented, accuracy.to_bits()));
        }
        Ok(())
    }

    fn evaluation(&self, tasks: usize, tried: usize) -> Result<Evaluation, ExperimentError> {
        Evaluation::new(&self.trainer, self.dataset, &self.split, &self.device.0, (tasks, tried))
    }

    fn end_stage(&mut self) -> Result<(), ExperimentError> {
        let stage = self.plan.stages[self.progress.stage].clone();
        let last = self.split.tasks.len() - 1;
        let seen = stage.task.map_or(last, |task| task.max(self.progress.seen.unwrap_or(0)));
        self.progress.seen = Some(seen);
        // The next task's images are asked, too, and none of those after it.
        let tried = if self.label_free.is_some() { seen + 1 } else { 0 };
        let evaluation = self.evaluation(self.split.tasks.len().min(seen + 2), tried)?;
        let (paper, strict) = evaluation.row(seen)?;
        let (mut linear, mut steady, mut precision) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(label_free) = &mut self.label_free {
            linear = evaluation.linear_row(seen, Seed(self.settings.seed));
            (steady, precision) = evaluation.steady_rows(seen)?;
            if let Some(task) = stage.task {
                let at = (self.progress.stage, task);
                label_free.end_stage(at, &mut self.trainer, self.dataset, &self.split, &self.device.0)?;
            }
        }
        self.progress.rows.push(Row { task: stage.task, paper, strict, linear, steady, precision });
        self.progress.end_stage();
        let (id, _) = self.trainer.embedder()?;
        self.progress.encoders.push(id.to_string());
        views::keep(&self.trainer, &self.place.out, self.progress.stage, self.settings.views)?;
        let is_last = self.progress.stage + 1 == self.plan.stages.len();
        if self.settings.boundaries == BoundaryKind::Given && !is_last {
            self.progress.boundaries.push(self.progress.presented);
            self.trainer.at_boundary()?;
        }
        (self.progress.stage, self.progress.epoch, self.progress.offset) = (self.progress.stage + 1, 0, 0);
        self.checkpoint()
    }

    fn checkpoint(&mut self) -> Result<(), ExperimentError> {
        let mut files = self.trainer.save()?;
        files.push((memory::FILE.to_owned(), self.memory.image()?));
        if let Some(label_free) = &self.label_free {
            files.push((label_free::FILE.to_owned(), label_free.to_bytes()?));
        }
        files.push((progress::FILE.to_owned(), self.progress.to_bytes()));
        let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
        self.generations.write(self.trainer.steps(), &borrowed, &serde_json::json!({}))?;
        self.checkpointed = Instant::now();
        Ok(())
    }

    fn end(&mut self) -> Result<RunResult, ExperimentError> {
        let (settings, dataset) = (self.settings, self.dataset);
        let (paper, strict) = self.progress.matrices();
        let joint = settings.is_joint();
        let linear_probe = match settings.linear_probe {
            true => self.evaluation(self.split.tasks.len(), 0)?.linear_probe(Seed(settings.seed))?,
            false => None,
        };
        let names =
            |classes: &[u32]| classes.iter().map(|class| dataset.class_names[*class as usize].clone()).collect();
        let result = RunResult {
            format: FORMAT,
            settings: RunSettings { checkpoint_seconds: RunSettings::default().checkpoint_seconds, ..settings.clone() },
            version: env!("CARGO_PKG_VERSION").into(),
            device: self.device.1.clone(),
            command: self.place.command.clone(),
            given: self.given.map(|id| id.to_string()),
            data: DataRecord {
                name: dataset.name.clone(),
                blake3: dataset.hash(),
                train: dataset.train.len(),
                test: dataset.test.len(),
                classes: dataset.class_names.len(),
                notes: dataset.notes.clone(),
            },
            tasks: self
                .split
                .tasks
                .iter()
                .map(|task| TaskRecord {
                    classes: names(&task.classes),
                    train: task.train.len(),
                    test: task.test.len(),
                })
                .collect(),
            averages: Averages { paper: averages(&paper, joint), strict: averages(&strict, joint) },
            paper,
            strict,
            linear_probe,
            linear: self.progress.linear(),
            steady: self.progress.steady(),
            precision: self.progress.precision(),
            label_free: self.label_free.as_ref().map_or_else(Vec::new, |kept| kept.records(self.split.tasks.len())),
            curve: self
                .progress
                .curve
                .iter()
                .map(|(images, bits)| CurvePoint { images: *images, accuracy: f64::from_bits(*bits) })
                .collect(),
            losses: self.progress.losses.iter().map(|bits| f64::from_bits(*bits)).collect(),
            boundaries: self.progress.boundaries.clone(),
            encoders: self.progress.encoders.clone(),
            ood: ood::all(settings, self.place, &self.trainer, &self.device.0)?,
            views: views::all(settings, self.place, dataset, &self.split, &self.device.0)?,
        };
        if settings.save_encoder {
            let path = self.place.out.join(ENCODER_FILE);
            durable::replace(&path, &to_safetensors(self.trainer.backbone())?)
                .map_err(ExperimentError::io("write", &path))?;
        }
        result.write(&self.place.out)?;
        self.write_timing()?;
        // The result is there: nothing is to be taken up again.
        for gone in ["checkpoints", "encoders"] {
            let path = self.place.out.join(gone);
            if path.is_dir() {
                std::fs::remove_dir_all(&path).map_err(ExperimentError::io("remove", &path))?;
            }
        }
        Memory::remove(&self.place.out)?;
        RunResult::read(&self.place.out)?.ok_or_else(|| ExperimentError::NoResult { path: self.place.out.clone() })
    }

    /// Of this sitting: the time that a run took in pieces is not known to any of them.
    fn write_timing(&self) -> Result<(), ExperimentError> {
        let (seconds, presented) = (self.started.0.elapsed().as_secs_f64(), self.progress.presented - self.started.1);
        let timing = serde_json::json!({
            "seconds": seconds,
            "images_presented": presented,
            "images_per_second": presented as f64 / seconds,
            "threads": rayon::current_num_threads(),
            "result": RESULT_FILE,
        });
        let path = self.place.out.join("timing.json");
        durable::replace(&path, timing.to_string().as_bytes()).map_err(ExperimentError::io("write", &path))
    }
}
