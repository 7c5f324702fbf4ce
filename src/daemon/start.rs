//! What is opened before any thread runs, in which order, and what of it each thread gets.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;

use super::answers::DeviceStatus;
use super::features::FeatureSupply;
use super::inlets::Inlets;
use super::learner::{Clock, Command, Learner};
use super::live::{Live, name_of};
use super::lockstep::{JOURNAL, LockStep, Pending};
use super::mailbox::Mailbox;
use super::measure::Monitor;
use super::moments::Moments;
use super::pipeline::{Pipeline, Recent};
use super::probe_file::ProbeFile;
use super::published::{Input, Publisher};
use super::requests::Requests;
use super::resume::{Checkpoints, ResumeError, Resumed};
use super::shared::{Shared, Written};
use super::state_dir::StateDirError;
use super::unwritten::Unwritten;
use crate::config::durable::Database;
use crate::config::{Config, Seed};
use crate::decode::Decoder;
use crate::device::{self, DeviceError};
use crate::encoder::{EncoderError, GivenWeights, Preset};
use crate::evaluate::{EvaluateError, ForgettingMonitor, ProbeSets};
use crate::knn::{KnnError, Labels};
use crate::learn::{LearnError, Trainer, ViewMaker};
use crate::replay::{ReplayBuffer, ReplayError};
use crate::segment::{SegmentError, Segmenter, TaskRegister};
use crate::stream::{FrameId, Intake, IntakeHandle, Ledger, StreamError};

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    #[error(transparent)]
    Learn(#[from] LearnError),
    #[error("{path}: {source}; see that the state folder can be written")]
    Journal { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Database { path: PathBuf, source: redb::Error },
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Knn(#[from] KnnError),
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    #[error(transparent)]
    Resume(#[from] ResumeError),
    #[error("a thread could not be started: {0}; check the limits of the process")]
    Thread(std::io::Error),
}

impl StartError {
    /// Whether another try may succeed without any change: someone else holds what is needed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::StateDir(error) => error.is_temporary(),
            // A driver may come up later; what is not in the build never will.
            Self::Device(error) => matches!(error, DeviceError::Unusable { .. }),
            Self::Replay(error) => matches!(error, ReplayError::Locked { .. }),
            _ => false,
        }
    }
}

/// What is opened before any thread runs.
pub(super) struct Parts {
    pub(super) config: Config,
    seed: Seed,
    input: Input,
    trainer: Trainer,
    segmenter: Arc<RwLock<Segmenter>>,
    buffer: ReplayBuffer,
    probes: Arc<Mutex<ProbeSets<ProbeFile>>>,
    labels: Arc<Labels>,
    moments: Arc<Moments>,
    database: Arc<Database>,
    pub(super) ledger: Ledger,
    checkpoints: Checkpoints,
    resumed: Option<Resumed>,
    monitor: ForgettingMonitor,
    /// Where steps are locked to the stream: what they keep step by, and what waits to be learnt from.
    lock: Option<Arc<LockStep>>,
    pending: Vec<Pending>,
    pub(super) shared: Arc<Shared>,
    requests: Arc<Requests>,
    settings: Arc<ArcSwap<Config>>,
}

impl Parts {
    /// Opens everything and takes up the last checkpoint.
    ///
    /// # Errors
    /// Whatever keeps the daemon from starting.
    pub(super) fn open(config: &Config) -> Result<Self, StartError> {
        let (dir, seed) = (&config.daemon.state_dir, Seed(config.daemon.seed));
        let chosen = device::choose(&config.device)?;
        let status = DeviceStatus {
            asked: name_of(config.device.kind),
            taken: chosen.info.to_string(),
            reason: chosen.reason.clone(),
        };
        tracing::info!(device = status.taken, reason = status.reason, "training runs on");
        let preset = Preset::load(&config.encoder.preset)?;
        let mut trainer = Trainer::new(preset.clone(), &config.learn, &chosen.device, seed)?;
        trainer.freeze(&config.encoder.freeze)?;
        give(&mut trainer, config)?;
        let database = open_database(&dir.join("state.redb"))?;
        let buffer_path = dir.join("replay.buf");
        let (buffer, recovery) = ReplayBuffer::open_or_create(&buffer_path, &config.replay, preset.side, seed)?;
        tracing::info!(images = recovery.live, damaged = recovery.damaged, "the replay buffer is open");
        let mut checkpoints = Checkpoints::open(&dir.join("checkpoints"), &config.checkpoint)?;
        let resumed = checkpoints.resume(&mut trainer)?;
        let segmenter = open_segmenter(config, &database, resumed.as_ref())?;
        let probes = open_probes(config, dir, preset.side, seed, &segmenter)?;
        let monitor = open_monitor(config, resumed.as_ref());
        let (lock, pending) = open_lock(config, dir, resumed.as_ref(), &buffer)?.unzip();
        let shared = Shared::new(status, Arc::new(ArcSwapOption::empty()));
        if let Some(resumed) = &resumed {
            tracing::info!(step = resumed.step, "going on from the checkpoint");
            let mut learning = shared.learning();
            learning.steps = resumed.step;
            learning.checkpoint = Some(Written { at: resumed.written_at, step: resumed.step });
        }
        let failed = |source| StartError::Database { path: dir.join("state.redb"), source };
        Ok(Self {
            config: config.clone(),
            seed,
            input: Input { preset: Arc::new(preset), device: chosen.device },
            trainer,
            segmenter: Arc::new(RwLock::new(segmenter)),
            buffer,
            probes: Arc::new(Mutex::new(probes)),
            labels: Arc::new(Labels::open(Arc::clone(&database))?),
            moments: Arc::new(Moments::open(Arc::clone(&database)).map_err(failed)?),
            ledger: Ledger::new(Arc::clone(&database))?,
            database,
            checkpoints,
            resumed,
            monitor,
            lock,
            pending: pending.unwrap_or_default(),
            shared,
            requests: Requests::new(),
            settings: Arc::new(ArcSwap::from_pointee(config.clone())),
        })
    }

    /// The side that answers.
    pub(super) fn live(
        &self,
        inlets: &Inlets,
        intake: &IntakeHandle,
        mailbox: &Arc<Mailbox<Command>>,
        runtime: Handle,
    ) -> Live {
        Live {
            settings: Arc::clone(&self.settings),
            shared: Arc::clone(&self.shared),
            input: self.input.clone(),
            decoder: Decoder::new(&self.config.decode),
            buffer: self.buffer.reader(),
            segmenter: Arc::clone(&self.segmenter),
            probes: Arc::clone(&self.probes),
            labels: Arc::clone(&self.labels),
            moments: Arc::clone(&self.moments),
            database: Arc::clone(&self.database),
            mailbox: Arc::clone(mailbox),
            intake: intake.clone(),
            opened: inlets.opened.clone(),
            inlets: inlets.lanes.clone(),
            names: inlets.names.clone(),
            runtime,
            requests: Arc::clone(&self.requests),
            map: Mutex::default(),
        }
    }

    /// What the memory thread and the learner own.
    pub(super) fn split(self, intake: Intake, mailbox: &Arc<Mailbox<Command>>) -> (Pipeline, Learner) {
        let reader = self.buffer.reader();
        let next = self.next_frame();
        let publisher = Publisher::new(
            Arc::clone(&self.shared),
            self.input.clone(),
            reader.clone(),
            self.resumed.as_ref().map_or(0, |resumed| resumed.version),
        );
        let monitor = Monitor {
            monitor: self.monitor,
            seed: self.seed,
            input: self.input.clone(),
            views: ViewMaker::new(&self.input.preset),
            labels: Arc::clone(&self.labels),
            knn: self.config.knn.clone(),
        };
        let mut known: Vec<_> = reader.metas().into_iter().map(|meta| (meta.id, meta.content_hash)).collect();
        known.extend(self.pending.iter().map(|frame| (frame.id, frame.hash)));
        let recent = Recent::of(known, self.config.replay.duplicate_window);
        mailbox.push_images(self.pending.into_iter().map(|frame| frame.pixels));
        let pipeline = Pipeline {
            intake,
            decoder: Decoder::new(&self.config.decode),
            fit: self.config.decode.fit,
            side: self.input.preset.side as u32,
            group: if self.lock.is_some() { 1 } else { self.config.replay.commit_frames },
            lock: self.lock.clone(),
            segmenter: Arc::clone(&self.segmenter),
            buffer: self.buffer,
            probes: Arc::clone(&self.probes),
            labels: Arc::clone(&self.labels),
            moments: self.moments,
            mailbox: Arc::clone(mailbox),
            shared: Arc::clone(&self.shared),
            next,
            recent,
            requests: self.requests,
            unwritten: Unwritten::default(),
            features: FeatureSupply::new(Arc::clone(&self.shared.window), self.input.clone(), reader.clone()),
            scrub: 0,
        };
        let learner = Learner {
            settings: self.config,
            seed: self.seed,
            trainer: self.trainer,
            mailbox: Arc::clone(mailbox),
            buffer: reader,
            publisher,
            monitor,
            probes: self.probes,
            segmenter: self.segmenter,
            labels: self.labels,
            checkpoints: self.checkpoints,
            shared: self.shared,
            lock: self.lock,
            clock: Clock::default(),
        };
        (pipeline, learner)
    }

    /// A number above all that were given out, wherever one is remembered.
    fn next_frame(&self) -> FrameId {
        let segmenter = self.segmenter.read().unwrap_or_else(PoisonError::into_inner);
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = segmenter.report().into_iter().filter_map(|report| report.last_frame);
        let held = probes.storage_mut().newest();
        let newest = seen.chain(held).map(|frame| frame.0 + 1).max().unwrap_or(1);
        FrameId(newest.max(self.buffer.next_id().0))
    }
}

/// The weights of the settings; a checkpoint that is taken up later goes before them.
fn give(trainer: &mut Trainer, config: &Config) -> Result<(), StartError> {
    let Some(path) = &config.encoder.weights else { return Ok(()) };
    let weights = GivenWeights::read(path, trainer.preset())?;
    for note in &weights.notes {
        tracing::info!(path = %path.display(), "encoder.weights: {note}");
    }
    let id = trainer.give(&weights)?;
    tracing::info!(path = %path.display(), %id, "encoder.weights were read");
    Ok(())
}

fn open_database(path: &Path) -> Result<Arc<Database>, StartError> {
    let database = Database::create(path).map_err(|source| StartError::Database { path: path.into(), source })?;
    Ok(Arc::new(database))
}

/// The journal of locked steps, and the images in it that no checkpoint covers.
type Locked = (Arc<LockStep>, Vec<Pending>);

/// The journal of steps that are locked to the stream, where they are.
fn open_lock(
    config: &Config,
    dir: &Path,
    resumed: Option<&Resumed>,
    buffer: &ReplayBuffer,
) -> Result<Option<Locked>, StartError> {
    if !config.learn.step_locked {
        return Ok(None);
    }
    let committed = FrameId(buffer.next_id().0.saturating_sub(1));
    // A checkpoint of before steps were locked covers all there is.
    let covered = resumed.map_or(FrameId(0), |resumed| resumed.covered.map_or(committed, FrameId));
    let failed = |source| StartError::Journal { path: dir.join(JOURNAL), source };
    let (lock, pending) = LockStep::open(dir, config.learn.batch, covered, committed).map_err(failed)?;
    Ok(Some((Arc::new(lock), pending)))
}

fn open_segmenter(
    config: &Config,
    database: &Arc<Database>,
    resumed: Option<&Resumed>,
) -> Result<Segmenter, StartError> {
    let register = TaskRegister::open(Arc::clone(database), config.segment.max_tasks)?;
    let mut segmenter = Segmenter::new(config.segment.clone(), register);
    if let Some(state) = resumed.and_then(|resumed| resumed.segment.as_deref())
        && let Err(error) = segmenter.restore(state)
    {
        tracing::warn!(code = error.code(), "the detectors begin anew: {error}");
    }
    Ok(segmenter)
}

fn open_probes(
    config: &Config,
    dir: &Path,
    side: usize,
    seed: Seed,
    segmenter: &Segmenter,
) -> Result<ProbeSets<ProbeFile>, StartError> {
    let (slots, spares) = (config.evaluate.max_probes, config.replay.commit_frames);
    let file = ProbeFile::open_or_create(&dir.join("probes.buf"), slots, spares, side)?;
    let sources = file.sources();
    let task_of = |frame: FrameId| segmenter.register().task_of(*sources.get(&frame)?, frame);
    Ok(ProbeSets::open(file, &config.evaluate, seed, task_of)?)
}

fn open_monitor(config: &Config, resumed: Option<&Resumed>) -> ForgettingMonitor {
    let history = config.evaluate.history;
    let saved = resumed.and_then(|resumed| resumed.monitor.as_deref());
    match saved.map(|bytes| ForgettingMonitor::from_bytes(bytes, history)) {
        Some(Ok(monitor)) => monitor,
        Some(Err(error)) => {
            tracing::warn!(code = error.code(), "the measurements begin anew: {error}");
            ForgettingMonitor::new(history)
        }
        None => ForgettingMonitor::new(history),
    }
}
