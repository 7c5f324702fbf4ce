//! The learner: the one thread that owns the training device.
//!
//! It turns waiting images into gradient steps, rehearses from the replay buffer while the stream is idle, publishes versions
//! of the encoder, measures what has been forgotten, and writes checkpoints. Readers never wait for it: they look through the
//! published window.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::json;

use super::lockstep::LockStep;
use super::mailbox::{Mailbox, Wake};
use super::measure::Monitor;
use super::probe_file::ProbeFile;
use super::published::{PublishError, Published, Publisher};
use super::requests::Reply;
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

/// Stored images whose embeddings must be finite before a version is published or a checkpoint written.
const SOUND_IMAGES: usize = 8;

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
        let interval = self.rehearsal_interval().filter(|_| self.trains() && self.trainer.rehearses())?;
        let idle = self.clock.last_batch + Duration::from_secs_f64(self.settings.learn.idle_after_seconds);
        Some(idle.max(self.clock.last_rehearsal.checked_add(interval)?))
    }

    fn checkpoint_interval(&self) -> Duration {
        Duration::from_secs_f64(self.settings.checkpoint.interval_seconds)
    }

    fn rehearsal_interval(&self) -> Option<Duration> {
        let rate = self.settings.learn.idle_steps_per_second;
        // A rate next to nothing has an interval beyond any clock.
        if self.lock.is_some() { None } else { Duration::try_from_secs_f64(1.0 / rate).ok() }
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

    /// Back to the last good checkpoint, from which different batches follow; too often, or without one, and training is given
    /// up.
    fn roll_back(&mut self, reason: &str) -> Result<(), LearnerError> {
        let (now, step) = (Instant::now(), self.trainer.steps());
        self.clock.rollbacks.retain(|at| now.duration_since(*at) < Duration::from_secs(3600));
        self.clock.rollbacks.push(now);
        let taken = self.go_back();
        self.shared.learning().nonfinite_steps = self.trainer.non_finite_steps();
        let given_up = match taken {
            Ok(true) if self.clock.rollbacks.len() <= MOST_ROLLBACKS => None,
            Ok(true) => Some(format!("{reason}, more than {MOST_ROLLBACKS} times within an hour")),
            Ok(false) => Some(format!("{reason}, and there is no checkpoint to go back to")),
            Err(error) => Some(format!("{reason}, and the last checkpoint cannot be taken up: {error}")),
        };
        if let Some(reason) = given_up {
            let message = format!("training is frozen: {reason}; queries go on");
            tracing::error!("{message}");
            self.shared.learning().frozen = Some(message.clone());
            self.shared.events.tell("training-frozen", message, json!({ "step": step }));
            return Ok(());
        }
        self.shared.learning().rollbacks += 1;
        let (to, rate) = (self.checkpoints.last_step(), self.trainer.learning_rate());
        let message =
            format!("{reason}: weights are back at those of step {}, the learning rate is {rate:.3e}", to.unwrap_or(0));
        tracing::warn!("{message}");
        self.shared.events.tell("training-rolled-back", message, json!({ "step": step, "to_step": to }));
        Ok(())
    }

    /// Goes on after training was given up: from the last good checkpoint where there is one.
    fn thaw(&mut self) -> Result<(), LearnerError> {
        self.clock.rollbacks.clear();
        self.go_back()?;
        Ok(())
    }

    /// Whether the network is of use: every number finite, and so the embeddings of stored images. Where it is not, the last
    /// good weights are taken up first: what is broken is neither published nor kept.
    fn sound(&mut self) -> Result<bool, LearnerError> {
        if self.is_finite()? {
            return Ok(true);
        }
        if self.shared.learning().frozen.is_some() {
            return Ok(false);
        }
        self.roll_back("the weights or the embeddings are not finite")?;
        self.is_finite()
    }

    fn is_finite(&self) -> Result<bool, LearnerError> {
        if !self.trainer.is_finite()? {
            return Ok(false);
        }
        // Weights may be finite and yet too large to compute with.
        let mut random = self.seed.random("sound", self.trainer.steps());
        let images = self.buffer.sample(SOUND_IMAGES, &mut random).pixels;
        let embedder = self.trainer.backbone().freeze().map_err(LearnError::from)?;
        let embeddings = self.monitor.input.embed(&*embedder, &images)?;
        Ok(embeddings.iter().all(|value| value.is_finite()))
    }

    /// To the weights of the last good checkpoint. The counter of steps goes on: it draws the batches, and the same ones
    /// would diverge again. False where there is none.
    fn go_back(&mut self) -> Result<bool, ResumeError> {
        let (step, rate) = (self.trainer.steps(), self.trainer.rate());
        let taken = self.checkpoints.roll_back(&mut self.trainer);
        self.trainer.change_course(step + 1, rate);
        taken
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

    /// What is due by the clock: a version, a checkpoint, images that the bank lacks.
    fn keep_up(&mut self) -> Result<(), LearnerError> {
        let now = Instant::now();
        // Nothing is shown or kept of weights that may be about to be given up.
        let calm = self.trainer.is_calm();
        if calm && now >= self.clock.next_publish && self.trainer.steps() > self.clock.published_step {
            self.publish("interval")?;
            self.measure();
        } else {
            self.publisher.refresh()?;
        }
        if calm && now >= self.clock.next_checkpoint {
            self.checkpoint()?;
        }
        Ok(())
    }

    fn publish(&mut self, why: &str) -> Result<(), LearnerError> {
        let started = Instant::now();
        let interval = Duration::from_secs_f64(self.settings.publish.interval_seconds);
        if !self.sound()? {
            self.clock.next_publish = started + interval;
            return Ok(());
        }
        let step = self.trainer.steps();
        let published = self.publisher.publish(self.trainer.backbone(), step)?;
        let took = started.elapsed();
        observe(Metric::PublishDuration, &[], took);
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
        Ok(())
    }

    /// Forgetting of every past task at the published version.
    fn measure(&mut self) {
        let Some(published) = self.shared.window.load_full() else { return };
        match self.monitor.measure(&published, &self.shared, &mut self.trainer, &self.probes, &self.segmenter) {
            Ok(evaluation) => {
                self.shared.learning().representation_std = evaluation.representation_std;
                self.shared.forgetting.store(Arc::new(evaluation.reports));
            }
            Err(error) => tracing::error!("forgetting could not be measured: {error}"),
        }
    }

    /// Whether one was written. A checkpoint that cannot be costs progress at the next restart, and is told; it stops nothing.
    fn checkpoint(&mut self) -> Result<bool, LearnerError> {
        self.clock.next_checkpoint = Instant::now() + self.checkpoint_interval();
        if !self.sound()? {
            return Ok(false);
        }
        let started = Instant::now();
        let segment = {
            let mut segmenter = self.segmenter.write().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = segmenter.register_mut().save() {
                tracing::error!(code = error.code(), "the task register could not be written: {error}");
            }
            segmenter.state()
        };
        self.drop_labels();
        let buffer = self.buffer.statistics();
        let state = State {
            version: self.publisher.version(),
            offered: buffer.seen,
            newest: buffer.newest.map(|frame| frame.0),
            covered: self.lock.as_ref().map(|lock| lock.covered().0),
            segment,
            monitor: self.monitor.state(),
        };
        match self.checkpoints.write(&self.trainer, state) {
            Ok(written) => {
                let (step, took) = (written.step, started.elapsed());
                observe(Metric::CheckpointDuration, &[], took);
                self.shared.learning().checkpoint = Some(written);
                let message = format!("checkpoint of step {step} written in {:.1} s", took.as_secs_f64());
                self.shared.events.tell("checkpoint", message, json!({ "step": step }));
                Ok(true)
            }
            Err(error) => {
                self.shared.learning().checkpoint_errors += 1;
                let message = format!("no checkpoint was written: {error}");
                tracing::error!("{message}");
                self.shared.events.tell("checkpoint-failed", message, json!({ "code": error.code() }));
                Ok(false)
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
