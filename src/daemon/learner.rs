//! The learner: the one thread that owns the training device.
//!
//! It turns waiting images into gradient steps, rehearses from the replay buffer while the stream is idle, publishes versions
//! of the encoder, measures what has been forgotten, and writes checkpoints. Readers never wait for it: they look through the
//! published window.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::json;

use super::mailbox::{Mailbox, Wake};
use super::measure::Monitor;
use super::probe_file::ProbeFile;
use super::published::{PublishError, Published, Publisher};
use super::resume::{Checkpoints, ResumeError, State};
use super::shared::Shared;
use crate::config::{Config, Seed};
use crate::evaluate::ProbeSets;
use crate::knn::Labels;
use crate::learn::{LearnError, Samples, Trainer};
use crate::replay::{Batch, StoreReader};
use crate::segment::{Segmenter, TaskId};
use crate::telemetry::{Metric, observe};

/// How long a part of a batch waits to become whole.
const BATCH_PATIENCE: Duration = Duration::from_secs(2);

/// Roll-backs within an hour after which training is given up.
const MOST_ROLLBACKS: usize = 3;

/// A publication may take at most one part in this many of the learner's time: slow devices publish less often.
const PUBLISH_SHARE: u32 = 4;

/// What the learner is asked to do between steps.
#[derive(Debug)]
pub enum Command {
    /// The stream has entered this task, or is back in it.
    TaskOpened(TaskId),
    /// The stream has left this task.
    TaskClosed(TaskId),
    /// This task is part of another from now on.
    TaskGone(TaskId),
    /// Write the last checkpoint and end.
    Stop,
}

/// What ends the learner.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnerError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Learn(#[from] LearnError),
    #[error(transparent)]
    Resume(#[from] ResumeError),
}

/// Everything the training thread owns.
pub struct Learner {
    pub settings: Config,
    pub seed: Seed,
    pub trainer: Trainer,
    pub mailbox: Arc<Mailbox<Command>>,
    pub buffer: StoreReader,
    pub publisher: Publisher,
    pub monitor: Monitor,
    pub probes: Arc<Mutex<ProbeSets<ProbeFile>>>,
    pub segmenter: Arc<RwLock<Segmenter>>,
    pub labels: Arc<Labels>,
    pub checkpoints: Checkpoints,
    pub shared: Arc<Shared>,
    pub clock: Clock,
}

/// When what is due next.
pub struct Clock {
    last_batch: Instant,
    last_rehearsal: Instant,
    next_publish: Instant,
    next_checkpoint: Instant,
    published_step: u64,
    rollbacks: Vec<Instant>,
}

impl Default for Clock {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            last_batch: now,
            last_rehearsal: now,
            next_publish: now,
            next_checkpoint: now,
            published_step: 0,
            rollbacks: Vec::new(),
        }
    }
}

impl Learner {
    /// Publishes the first version, calls `ready`, then runs until it is told to stop.
    ///
    /// # Errors
    /// Where the device fails. That training diverges or a checkpoint cannot be written is no error: it is told, and queries
    /// go on being answered.
    pub fn run(mut self, ready: impl FnOnce()) -> Result<(), LearnerError> {
        self.monitor.align(&self.segmenter);
        self.shared.forgetting.store(Arc::new(self.monitor.reports().reports));
        self.publish("start")?;
        self.measure();
        self.clock.next_checkpoint = Instant::now() + self.checkpoint_interval();
        ready();
        loop {
            let Wake { commands, images, .. } =
                self.mailbox.wait(self.settings.learn.batch, BATCH_PATIENCE, self.nap());
            let (told, mut closed) = (!commands.is_empty(), Vec::new());
            for command in commands {
                match command {
                    Command::TaskClosed(task) => closed.push(task),
                    Command::TaskOpened(task) => self.monitor.task_opened(task),
                    Command::TaskGone(task) => self.monitor.task_gone(task),
                    Command::Stop => {
                        self.checkpoint();
                        return Ok(());
                    }
                }
            }
            if !closed.is_empty() {
                self.end_tasks(&closed)?;
            } else if told {
                self.shared.forgetting.store(Arc::new(self.monitor.reports().reports));
            }
            self.learn(&images)?;
            self.keep_up()?;
        }
    }

    /// Until something is due, but at most a quarter of a second, so that the bank follows the buffer.
    fn nap(&self) -> Duration {
        let now = Instant::now();
        let rehearsal = match self.rehearsal_interval() {
            Some(interval) => (self.clock.last_rehearsal + interval).saturating_duration_since(now),
            None => Duration::MAX,
        };
        rehearsal.min(Duration::from_millis(250))
    }

    fn checkpoint_interval(&self) -> Duration {
        Duration::from_secs_f64(self.settings.checkpoint.interval_seconds)
    }

    fn rehearsal_interval(&self) -> Option<Duration> {
        let rate = self.settings.learn.idle_steps_per_second;
        (rate > 0.0).then(|| Duration::from_secs_f64(1.0 / rate))
    }

    /// Several steps for a batch of the stream, each with replayed images of its own; without one, a rehearsal if it is due.
    fn learn(&mut self, images: &[Vec<u8>]) -> Result<(), LearnerError> {
        if self.shared.learning().frozen.is_some() {
            return Ok(());
        }
        if !images.is_empty() {
            let stream = images.concat();
            for _ in 0..self.settings.learn.steps_per_batch {
                let replay = self.replayed();
                self.step(&stream, replay)?;
            }
            self.clock.last_batch = Instant::now();
            let mut learning = self.shared.learning();
            learning.images_trained += images.len() as u64;
            learning.idle = false;
            return Ok(());
        }
        let idle = self.clock.last_batch.elapsed().as_secs_f64() >= self.settings.learn.idle_after_seconds;
        self.shared.learning().idle = idle;
        let due = self.rehearsal_interval().is_some_and(|interval| self.clock.last_rehearsal.elapsed() >= interval);
        if idle && due && self.trainer.rehearses() {
            self.clock.last_rehearsal = Instant::now();
            let replay = self.rehearsed();
            self.step(&[], replay)?;
            self.shared.learning().idle_steps += 1;
        }
        Ok(())
    }

    fn replayed(&self) -> Batch {
        let mut random = self.seed.random("replay-batch", self.trainer.steps());
        self.buffer.sample(self.settings.learn.replay_batch, &mut random)
    }

    /// As many images as a step of the stream has with its replay: rehearsal is worth as much as learning.
    fn rehearsed(&self) -> Batch {
        let mut random = self.seed.random("rehearsal", self.trainer.steps());
        let count = self.settings.learn.batch + self.settings.learn.replay_batch;
        self.buffer.sample(count, &mut random)
    }

    fn step(&mut self, stream: &[u8], Batch { ids, pixels }: Batch) -> Result<(), LearnerError> {
        let started = Instant::now();
        let ids: Vec<u64> = ids.into_iter().map(|id| id.0).collect();
        let images = (stream.len() + pixels.len()) / self.trainer.preset().image_bytes();
        match self
            .trainer
            .step_samples(&Samples::unlabelled(stream), &Samples { pixels: &pixels, ids: &ids, labels: &[] })
        {
            Ok(report) => {
                observe(Metric::LearnStepDuration, &[], started.elapsed());
                let mut learning = self.shared.learning();
                learning.steps = self.trainer.steps();
                learning.nonfinite_steps = self.trainer.non_finite_steps();
                if let Some(loss) = report.loss {
                    // A mean over about the last ten steps: single losses of small batches say little.
                    learning.loss = Some(learning.loss.map_or(loss, |mean| mean + (loss - mean) / 10.0));
                    learning.rate.add(images as u64);
                }
                Ok(())
            }
            Err(error @ LearnError::Diverged { .. }) => self.roll_back(&error),
            Err(error) => Err(error.into()),
        }
    }

    /// Back to the last good checkpoint, from which different batches follow; too often, and training is given up.
    fn roll_back(&mut self, error: &LearnError) -> Result<(), LearnerError> {
        let now = Instant::now();
        self.clock.rollbacks.retain(|at| now.duration_since(*at) < Duration::from_secs(3600));
        self.clock.rollbacks.push(now);
        let step = self.trainer.steps();
        if self.clock.rollbacks.len() > MOST_ROLLBACKS {
            let message = format!("training is frozen: {error}, {MOST_ROLLBACKS} times within an hour; queries go on");
            self.shared.learning().frozen = Some(message.clone());
            self.shared.events.tell("training-frozen", message, json!({ "step": step }));
            return Ok(());
        }
        self.checkpoints.roll_back(&mut self.trainer)?;
        // The counter of steps goes on: it draws the batches, and the same ones would diverge again.
        self.trainer.advance_to(step + 1);
        self.shared.learning().rollbacks += 1;
        let to = self.checkpoints.last_step();
        let message = format!("{error}: weights are back at those of step {}", to.unwrap_or(0));
        self.shared.events.tell("training-rolled-back", message, json!({ "step": step, "to_step": to }));
        Ok(())
    }

    /// A boundary: a version of the encoder as it is at the task's end, which is what its forgetting is measured against.
    fn end_tasks(&mut self, tasks: &[TaskId]) -> Result<(), LearnerError> {
        if self.settings.publish.at_task_boundary {
            self.publish("task boundary")?;
        }
        self.trainer.at_boundary()?;
        for &task in tasks {
            self.monitor.task_ended(task);
        }
        self.measure();
        self.checkpoint();
        Ok(())
    }

    /// What is due by the clock: a version, a checkpoint, images that the bank lacks.
    fn keep_up(&mut self) -> Result<(), LearnerError> {
        let now = Instant::now();
        if now >= self.clock.next_publish && self.trainer.steps() > self.clock.published_step {
            self.publish("interval")?;
            self.measure();
        } else {
            self.publisher.refresh()?;
        }
        if now >= self.clock.next_checkpoint {
            self.checkpoint();
        }
        Ok(())
    }

    fn publish(&mut self, why: &str) -> Result<Arc<Published>, LearnerError> {
        let started = Instant::now();
        let step = self.trainer.steps();
        let published = self.publisher.publish(self.trainer.backbone(), step)?;
        let took = started.elapsed();
        observe(Metric::PublishDuration, &[], took);
        let interval = Duration::from_secs_f64(self.settings.publish.interval_seconds);
        self.clock.next_publish = Instant::now() + interval.max(took * PUBLISH_SHARE);
        self.clock.published_step = step;
        let Published { version, encoder, .. } = &*published;
        let message = format!(
            "version {version} of the encoder ({encoder}, step {step}, {why}): {} images embedded in {:.1} s",
            published.bank.len(),
            took.as_secs_f64()
        );
        let data =
            json!({ "version": version, "encoder": encoder.to_string(), "step": step, "images": published.bank.len() });
        self.shared.events.tell("version-published", message, data);
        Ok(published)
    }

    /// Forgetting of every past task at the published version.
    fn measure(&mut self) {
        let Some(published) = self.shared.window.load_full() else { return };
        let frames = self.shared.images();
        match self.monitor.measure(&published, frames, &mut self.trainer, &self.probes, &self.segmenter) {
            Ok(evaluation) => {
                self.shared.learning().representation_std = evaluation.representation_std;
                self.shared.forgetting.store(Arc::new(evaluation.reports));
            }
            Err(error) => tracing::error!("forgetting could not be measured: {error}"),
        }
    }

    /// A checkpoint that cannot be written costs progress at the next restart, and is told; it stops nothing.
    fn checkpoint(&mut self) {
        self.clock.next_checkpoint = Instant::now() + self.checkpoint_interval();
        let started = Instant::now();
        let segment = {
            let mut segmenter = self.segmenter.write().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = segmenter.register_mut().save() {
                tracing::error!(code = error.code(), "the task register could not be written: {error}");
            }
            segmenter.state()
        };
        self.drop_labels();
        let state = State { version: self.publisher.version(), segment, monitor: self.monitor.state() };
        match self.checkpoints.write(&self.trainer, state) {
            Ok(written) => {
                let (step, took) = (written.step, started.elapsed());
                observe(Metric::CheckpointDuration, &[], took);
                self.shared.learning().checkpoint = Some(written);
                let message = format!("checkpoint of step {step} written in {:.1} s", took.as_secs_f64());
                self.shared.events.tell("checkpoint", message, json!({ "step": step }));
            }
            Err(error) => {
                self.shared.learning().checkpoint_errors += 1;
                let message = format!("no checkpoint was written: {error}");
                tracing::error!("{message}");
                self.shared.events.tell("checkpoint-failed", message, json!({ "code": error.code() }));
            }
        }
    }

    /// Labels of images that are neither stored nor probes are of no more use, and would add up.
    fn drop_labels(&self) {
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |frame| self.buffer.slot(frame).is_some() || probes.contains(frame);
        if let Err(error) = self.labels.retain(held) {
            tracing::error!(code = error.code(), "labels could not be written: {error}");
        }
    }
}
