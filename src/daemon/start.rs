//! Start and stop: what is opened in which order, which threads run, and how they end without losing anything.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redb::Database;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::answers::{Answers, DaemonState, DeviceStatus};
use super::learner::{Clock, Command, Learner};
use super::live::{Live, Opened, name_of};
use super::mailbox::Mailbox;
use super::measure::Monitor;
use super::moments::Moments;
use super::pipeline::{Pipeline, Recent};
use super::probe_file::ProbeFile;
use super::published::{Input, Publisher};
use super::resume::{Checkpoints, ResumeError, Resumed};
use super::shared::{Shared, Written};
use super::state_dir::{StateDir, StateDirError};
use crate::config::{Config, HTTP_SOURCE, Seed, SourceSettings};
use crate::decode::Decoder;
use crate::device::{self, DeviceError};
use crate::encoder::{EncoderError, Preset};
use crate::evaluate::{EvaluateError, ForgettingMonitor, ProbeSets};
use crate::knn::{KnnError, Labels};
use crate::learn::{LearnError, Trainer, ViewMaker};
use crate::replay::{ReplayBuffer, ReplayError};
use crate::segment::{SegmentError, Segmenter, TaskRegister};
use crate::stream::{self, FrameId, Inlet, Intake, IntakeHandle, Ledger, QueueLimits, StreamError};

/// Batches of the stream that may wait for training.
const WAITING_BATCHES: usize = 4;

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
    Thread(io::Error),
}

impl StartError {
    /// Whether another try may succeed without any change: someone else holds what is needed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::StateDir(error) => error.is_temporary(),
            Self::Device(_) => true,
            Self::Replay(error) => matches!(error, ReplayError::Locked { .. }),
            _ => false,
        }
    }
}

/// What ended a daemon that should run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    #[error("the {thread} has ended: {reason}")]
    Ended { thread: &'static str, reason: String },
    #[error(
        "the {thread} did not end within daemon.drain_seconds = {seconds}; what came after the last checkpoint is learnt again"
    )]
    Drain { thread: &'static str, seconds: f64 },
}

/// A running daemon.
pub struct Daemon {
    live: Arc<Live>,
    shared: Arc<Shared>,
    intake: IntakeHandle,
    mailbox: Arc<Mailbox<Command>>,
    sources: JoinSet<()>,
    stop_sources: CancellationToken,
    memory: JoinHandle<Result<(), String>>,
    learner: JoinHandle<Result<(), String>>,
    ended: CancellationToken,
    drain: Duration,
    _state_dir: StateDir,
}

/// What is opened before any thread runs.
struct Parts {
    config: Config,
    seed: Seed,
    input: Input,
    trainer: Trainer,
    segmenter: Arc<RwLock<Segmenter>>,
    buffer: ReplayBuffer,
    probes: Arc<Mutex<ProbeSets<ProbeFile>>>,
    labels: Arc<Labels>,
    moments: Arc<Moments>,
    ledger: Ledger,
    checkpoints: Checkpoints,
    resumed: Option<Resumed>,
    monitor: ForgettingMonitor,
    shared: Arc<Shared>,
}

impl Daemon {
    /// Opens everything, takes up the last checkpoint, binds the sources, and starts the threads. Readers are answered once
    /// [`Answers::readiness`] says so.
    ///
    /// # Errors
    /// Whatever keeps the daemon from starting; nothing has been changed but what was missing.
    pub fn start(config: &Config, runtime: &Handle) -> Result<Self, StartError> {
        let state_dir = StateDir::open(&config.daemon.state_dir)?;
        let parts = Parts::open(config)?;
        let (intake, handle) = Intake::new();
        let inlets = Inlets::open(&parts, &handle)?;
        let mailbox = Arc::new(Mailbox::new(WAITING_BATCHES * config.learn.batch));
        let live = Arc::new(parts.live(&inlets, &handle, &mailbox, runtime.clone()));
        let (shared, ended) = (Arc::clone(&parts.shared), CancellationToken::new());
        let (pipeline, learner) = parts.split(intake, &mailbox);

        let memory = spawn("memory", &ended, move || pipeline.run().map_err(|error| error.to_string()))?;
        let ready = {
            let shared = Arc::clone(&shared);
            move || shared.set_state(DaemonState::Running)
        };
        let learner = spawn("learner", &ended, move || learner.run(ready).map_err(|error| error.to_string()))?;
        let stop_sources = CancellationToken::new();
        let sources = inlets.run(&stop_sources, runtime);
        let drain = Duration::from_secs_f64(config.daemon.drain_seconds);
        Ok(Self {
            live,
            shared,
            intake: handle,
            mailbox,
            sources,
            stop_sources,
            memory,
            learner,
            ended,
            drain,
            _state_dir: state_dir,
        })
    }

    /// What may be asked of it.
    pub fn answers(&self) -> Arc<dyn Answers> {
        Arc::<Live>::clone(&self.live)
    }

    /// Brings the metrics up to date; called before they are rendered.
    pub fn recorder(&self) -> impl Fn() + Send + Sync + 'static {
        let live = Arc::clone(&self.live);
        move || live.record()
    }

    /// Cancelled when a thread ends that should run: then [`Daemon::stop`] says why.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Stops in order: sources, then what they brought, then the learner with a last checkpoint.
    ///
    /// # Errors
    /// The failure that ended a thread, or that one does not end in time.
    pub fn stop(mut self, runtime: &Handle) -> Result<(), DaemonError> {
        let deadline = Instant::now() + self.drain;
        self.shared.set_state(DaemonState::Draining);
        self.stop_sources.cancel();
        let sources = async { while self.sources.join_next().await.is_some() {} };
        let left = deadline.saturating_duration_since(Instant::now());
        if runtime.block_on(async { tokio::time::timeout(left, sources).await }).is_err() {
            tracing::warn!("sources did not end in time; frames that were not answered will be sent again");
        }
        self.intake.close();
        let memory = join(self.memory, "memory thread", deadline, self.drain);
        self.mailbox.send(Command::Stop);
        let learner = join(self.learner, "learner", deadline, self.drain);
        memory.and(learner)
    }
}

fn spawn(
    name: &'static str,
    ended: &CancellationToken,
    body: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<Result<(), String>>, StartError> {
    // Dropped when the thread ends, however it ends.
    let guard = ended.clone().drop_guard();
    let run = move || {
        let _guard = guard;
        body().inspect_err(|error| tracing::error!(thread = name, "{error}"))
    };
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(StartError::Thread)
}

fn join(
    thread: JoinHandle<Result<(), String>>,
    name: &'static str,
    deadline: Instant,
    drain: Duration,
) -> Result<(), DaemonError> {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return Err(DaemonError::Drain { thread: name, seconds: drain.as_secs_f64() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = |reason| DaemonError::Ended { thread: name, reason };
    match thread.join() {
        Ok(result) => result.map_err(ended),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(ended(format!("it panicked: {}", words.unwrap_or("without words"))))
        }
    }
}

impl Parts {
    fn open(config: &Config) -> Result<Self, StartError> {
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
        let database = open_database(&dir.join("state.redb"))?;
        let buffer_path = dir.join("replay.buf");
        let (buffer, recovery) = ReplayBuffer::open_or_create(&buffer_path, &config.replay, preset.side, seed)?;
        tracing::info!(images = recovery.live, damaged = recovery.damaged, "the replay buffer is open");
        let mut checkpoints = Checkpoints::open(&dir.join("checkpoints"), config.checkpoint.keep)?;
        let resumed = checkpoints.resume(&mut trainer)?;
        let segmenter = open_segmenter(config, &database, resumed.as_ref())?;
        let probes = open_probes(config, dir, preset.side, seed, &segmenter)?;
        let monitor = open_monitor(config, seed, resumed.as_ref());
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
            ledger: Ledger::new(database)?,
            checkpoints,
            resumed,
            monitor,
            shared,
        })
    }

    fn live(&self, inlets: &Inlets, intake: &IntakeHandle, mailbox: &Arc<Mailbox<Command>>, runtime: Handle) -> Live {
        Live {
            config: self.config.clone(),
            shared: Arc::clone(&self.shared),
            input: self.input.clone(),
            decoder: Decoder::new(&self.config.decode),
            buffer: self.buffer.reader(),
            segmenter: Arc::clone(&self.segmenter),
            probes: Arc::clone(&self.probes),
            labels: Arc::clone(&self.labels),
            moments: Arc::clone(&self.moments),
            mailbox: Arc::clone(mailbox),
            intake: intake.clone(),
            opened: inlets.opened.clone(),
            inlets: inlets.lanes.clone(),
            names: inlets.names.clone(),
            runtime,
        }
    }

    /// Into the two threads.
    fn split(self, intake: Intake, mailbox: &Arc<Mailbox<Command>>) -> (Pipeline, Learner) {
        let reader = self.buffer.reader();
        let next = self.next_frame();
        let publisher = Publisher::new(
            Arc::clone(&self.shared.window),
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
        let recent = Recent::of(reader.metas().into_iter().map(|meta| (meta.id, meta.content_hash)).collect());
        let pipeline = Pipeline {
            intake,
            decoder: Decoder::new(&self.config.decode),
            fit: self.config.decode.fit,
            side: self.input.preset.side as u32,
            group: self.config.replay.commit_frames,
            segmenter: Arc::clone(&self.segmenter),
            buffer: self.buffer,
            probes: Arc::clone(&self.probes),
            labels: self.labels,
            moments: self.moments,
            mailbox: Arc::clone(mailbox),
            shared: Arc::clone(&self.shared),
            next,
            recent,
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
            checkpoints: self.checkpoints,
            shared: self.shared,
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

fn open_database(path: &Path) -> Result<Arc<Database>, StartError> {
    let database =
        Database::create(path).map_err(|error| StartError::Database { path: path.into(), source: error.into() })?;
    Ok(Arc::new(database))
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

fn open_monitor(config: &Config, seed: Seed, resumed: Option<&Resumed>) -> ForgettingMonitor {
    let history = config.evaluate.history;
    let saved = resumed.and_then(|resumed| resumed.monitor.as_deref());
    match saved.map(|bytes| ForgettingMonitor::from_bytes(bytes, history, seed)) {
        Some(Ok(monitor)) => monitor,
        Some(Err(error)) => {
            tracing::warn!(code = error.code(), "the measurements begin anew: {error}");
            ForgettingMonitor::new(history, seed)
        }
        None => ForgettingMonitor::new(history, seed),
    }
}

/// Every source, opened and with its lane in the queue.
struct Inlets {
    opened: Vec<Opened>,
    lanes: BTreeMap<String, Inlet>,
    names: BTreeMap<stream::SourceId, String>,
    waiting: Vec<(Box<dyn stream::Source>, Inlet, Opened)>,
}

impl Inlets {
    fn open(parts: &Parts, intake: &IntakeHandle) -> Result<Self, StartError> {
        let (ledger, config) = (&parts.ledger, &parts.config);
        let mut inlets =
            Self { opened: Vec::new(), lanes: BTreeMap::new(), names: BTreeMap::new(), waiting: Vec::new() };
        for settings in &config.source {
            let source = stream::open(settings, config.decode.max_bytes, ledger)?;
            let limits = QueueLimits { bytes: settings.queue_bytes };
            let inlet = intake.register(ledger.source_id(&settings.name)?, &settings.name, limits);
            let opened = Opened {
                name: settings.name.clone(),
                kind: name_of(settings.kind),
                address: address_of(settings),
                failure: Arc::default(),
            };
            inlets.lanes.insert(settings.name.clone(), inlet.clone());
            inlets.opened.push(opened.clone());
            inlets.waiting.push((source, inlet, opened));
        }
        let http = intake.register(ledger.source_id(HTTP_SOURCE)?, HTTP_SOURCE, QueueLimits::default());
        inlets.lanes.insert(HTTP_SOURCE.into(), http);
        let address = format!("POST /v1/images on {}", config.serve.listen);
        inlets.opened.push(Opened { name: HTTP_SOURCE.into(), kind: "http".into(), address, failure: Arc::default() });
        inlets.names = ledger.sources()?;
        Ok(inlets)
    }

    /// Runs every source as a task until it is stopped or fails.
    fn run(self, stop: &CancellationToken, runtime: &Handle) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for (source, inlet, opened) in self.waiting {
            let run = source.run(inlet, stop.clone());
            let supervised = async move {
                if let Err(error) = run.await {
                    tracing::error!(source = opened.name, code = error.code(), "the source has ended: {error}");
                    *opened.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                }
            };
            tasks.spawn_on(supervised, runtime);
        }
        tasks
    }
}

fn address_of(settings: &SourceSettings) -> String {
    let path = settings.path.as_ref().map(|path| path.display().to_string());
    path.or(settings.listen.map(|address| address.to_string())).unwrap_or_default()
}
