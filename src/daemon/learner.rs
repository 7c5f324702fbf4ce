//! The learner: the one thread that owns the training device.
//!
//! It turns waiting images into gradient steps, rehearses from the replay buffer while the stream is idle, publishes versions
//! of the encoder, measures what has been forgotten, and writes checkpoints. Readers never wait for it: they look through the
//! published window.

mod clock;
mod recovery;
mod upkeep;

use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use serde_json::json;

pub use clock::Clock;

use super::lockstep::LockStep;
use super::mailbox::{Mailbox, Wake};
use super::measure::Monitor;
use super::probe_file::ProbeFile;
use super::published::{PublishError, Publisher};
use super::requests::Reply;
use super::resume::{Checkpoints, ResumeError};
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

/// What the learner is asked to do between steps.
#[derive(Debug)]
pub enum Command {
    /// The stream has entered this task, or is back in it.
    TaskOpened(TaskId),
    /// The stream has left this task.
    TaskClosed(TaskId),
    /// This task is part of another from now on.
    TaskGone(TaskId),
    /// Let the bank follow the buffer at once.
    Refresh(Reply<()>),
    /// Write a checkpoint now.
    Checkpoint(Reply<()>),
    /// Go on after training was given up, from the last good checkpoint.
    Thaw,
    /// Some settings have changed.
    Configure(Box<Config>),
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

impl LearnerError {
    /// Whether a start anew may do without any change: memory of the device that ran out is free again then, and a device
    /// whose driver refuses this process may take another one.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Learn(error) => error.is_out_of_memory() || error.is_device_lost(),
            Self::Publish(_) | Self::Resume(_) => false,
        }
    }
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
    /// Where steps are locked to the stream.
    pub lock: Option<Arc<LockStep>>,
    pub clock: Clock,
}

impl Drop for Learner {
    /// However the learner ends, nobody waits for it.
    fn drop(&mut self) {
        self.lock.iter().for_each(|lock| lock.end());
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
        if self.checkpoints.last_step().is_none() {
            // From now on there is always one to go back to.
            self.checkpoint()?;
        }
        ready();
        loop {
            let Wake { commands, images, .. } =
                self.mailbox.wait(self.settings.learn.batch, self.patience(), self.nap());
            let (told, mut closed) = (!commands.is_empty(), Vec::new());
            for command in commands {
                match command {
                    Command::TaskClosed(task) => closed.push(task),
                    Command::TaskOpened(task) => self.monitor.task_opened(task),
                    Command::TaskGone(task) => self.monitor.task_gone(task),
                    Command::Refresh(reply) => {
                        while self.publisher.refresh()? {}
                        // Whoever asked may have gone.
                        let _ = reply.send(Ok(()));
                    }
                    Command::Checkpoint(reply) => {
                        let written = self.checkpoint()?;
                        let refused = || "no checkpoint was written: the events say why".to_owned();
                        let _ = reply.send(if written { Ok(()) } else { Err(refused()) });
                    }
                    Command::Thaw => self.thaw()?,
                    Command::Configure(settings) => self.settings = *settings,
                    Command::Stop => {
                        // Weights that may be about to be given up are not what a restart shall begin with.
                        if self.trainer.is_calm() {
                            self.checkpoint()?;
                        }
                        return Ok(());
                    }
                }
            }
            if !closed.is_empty() {
                self.end_tasks(&closed)?;
            } else if told {
                self.shared.forgetting.store(Arc::new(self.monitor.reports().reports));
            }
            self.shared.beat();
            self.learn(&images)?;
            self.answer_lock(images.is_empty())?;
            self.keep_up()?;
        }
    }

    /// Where steps are locked to the stream, no batch is partial.
    fn patience(&self) -> Duration {
        if self.lock.is_some() { Duration::MAX } else { BATCH_PATIENCE }
    }

    /// Where steps are locked to the stream, it goes on once a checkpoint covers the batch.
    fn answer_lock(&mut self, idle: bool) -> Result<(), LearnerError> {
        let Some(lock) = self.lock.clone().filter(|_| !idle) else { return Ok(()) };
        lock.learnt();
        self.checkpoint()?;
        if let Err(error) = lock.kept() {
            tracing::warn!(%error, "the journal of locked steps could not be emptied; the next start passes over it");
        }
        Ok(())
    }

    /// Until something is due, but at most a quarter of a second, so that the bank follows the buffer.
    fn nap(&self) -> Duration {
        let rehearsal = self.next_rehearsal().map(|due| due.saturating_duration_since(Instant::now()));
        rehearsal.unwrap_or(Duration::MAX).min(Duration::from_millis(250))
    }

    /// When the next rehearsal is due if no image comes before; none where there is none to come.
    fn next_rehearsal(&self) -> Option<Instant> {
        let rehearses = self.lock.is_none() && self.trains() && self.trainer.rehearses();
        let learn = &self.settings.learn;
        rehearses.then(|| self.clock.rehearsal_due(learn.idle_after_seconds, learn.idle_steps_per_second)).flatten()
    }

    /// Neither given up nor paused.
    fn trains(&self) -> bool {
        let learning = self.shared.learning();
        learning.frozen.is_none() && learning.paused_since.is_none()
    }

    /// Several steps for a batch of the stream, each with replayed images of its own; without one, a rehearsal if it is due.
    fn learn(&mut self, images: &[Vec<u8>]) -> Result<(), LearnerError> {
        if !self.trains() {
            self.mailbox.skip(images.len() as u64);
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
        if self.next_rehearsal().is_some_and(|due| due <= Instant::now()) {
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
        self.shared.beat();
        let started = Instant::now();
        let ids: Vec<u64> = ids.into_iter().map(|id| id.0).collect();
        let images = (stream.len() + pixels.len()) / self.trainer.preset().image_bytes();
        match self
            .trainer
            .step_samples(&Samples::unlabelled(stream), &Samples { pixels: &pixels, ids: &ids, labels: &[] })
        {
            Ok(report) => {
                observe(Metric::LearnStepDuration, &[], started.elapsed());
                if let Some(loss) = report.loss {
                    let bits = format!("{:016x}", loss.to_bits());
                    tracing::debug!(target: "lumpd::loss", step = report.step, loss, bits, "a step");
                }
                if let Some(skip) = report.skipped.filter(|_| report.loss.is_some()) {
                    tracing::warn!(step = report.step, code = skip.code(), loss = report.loss, "a step was skipped");
                }
                self.tell_if_halved();
                let mut learning = self.shared.learning();
                learning.steps = self.trainer.steps();
                learning.nonfinite_steps = self.trainer.non_finite_steps();
                learning.out_of_bounds_steps = self.trainer.out_of_bounds_steps();
                if let Some(loss) = report.loss {
                    // A mean over about the last ten steps: single losses of small batches say little.
                    learning.loss = Some(learning.loss.map_or(loss, |mean| mean + (loss - mean) / 10.0));
                    learning.rate.add(images as u64);
                }
                Ok(())
            }
            Err(error @ LearnError::Diverged { .. }) => self.roll_back(&error.to_string()),
            Err(error) => Err(error.into()),
        }
    }

    fn tell_if_halved(&mut self) {
        if self.trainer.is_halved() && !self.shared.learning().halved {
            self.shared.learning().halved = true;
            let message = "the device ran out of memory: batches are halved from now on".to_owned();
            tracing::warn!("{message}; set a smaller learn.batch, learn.replay_batch or a narrower encoder.preset");
            self.shared.events.tell("batch-halved", message, json!({ "step": self.trainer.steps() }));
        }
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
        self.checkpoint().map(drop)
    }
}
