//! A running daemon: its threads, and how they end without losing anything.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::answers::{Answers, DaemonState};
use super::history;
use super::inlets::Inlets;
use super::learner::{Command, LearnerError};
use super::live::{Live, Watch};
use super::mailbox::Mailbox;
use super::pipeline::PipelineError;
use super::shared::Shared;
use super::start::{Parts, StartError};
use super::state_dir::StateDir;
use crate::config::{Config, Reload};
use crate::device;
use crate::stream::{Intake, IntakeHandle};

/// Batches of the stream that may wait for training.
const WAITING_BATCHES: usize = 4;

/// What ended a daemon that should run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    #[error("the {thread} has ended: {reason}")]
    Ended { thread: &'static str, reason: String, temporary: bool },
    #[error(
        "the {thread} did not end within daemon.drain_seconds = {seconds}; what came after the last checkpoint is learnt again"
    )]
    Drain { thread: &'static str, seconds: f64 },
}

impl DaemonError {
    /// Whether a start anew may do without any change.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Ended { temporary: true, .. })
    }
}

/// What ended a thread.
#[derive(Debug)]
struct Failure {
    reason: String,
    temporary: bool,
}

/// A running daemon.
pub struct Daemon {
    live: Arc<Live>,
    shared: Arc<Shared>,
    intake: IntakeHandle,
    mailbox: Arc<Mailbox<Command>>,
    sources: JoinSet<()>,
    stop_sources: CancellationToken,
    memory: JoinHandle<Result<(), Failure>>,
    learner: JoinHandle<Result<(), Failure>>,
    ended: CancellationToken,
    drain: Duration,
    _state_dir: StateDir,
}

impl Daemon {
    /// Opens everything in the state folder, takes up the last checkpoint, binds the sources, and starts the threads. Readers
    /// are answered once [`Answers::readiness`] says so. `state_dir` is that of the settings.
    ///
    /// # Errors
    /// Whatever keeps the daemon from starting; nothing has been changed but what was missing.
    pub fn start(state_dir: StateDir, config: &Config, runtime: &Handle) -> Result<Self, StartError> {
        let parts = Parts::open(config)?;
        let (intake, handle) = Intake::new();
        let inlets = Inlets::open(&parts, &handle)?;
        let mailbox = Arc::new(Mailbox::new(WAITING_BATCHES * config.learn.batch));
        let live = Arc::new(parts.live(&inlets, &handle, &mailbox, runtime.clone()));
        let (shared, ended) = (Arc::clone(&parts.shared), CancellationToken::new());
        let (pipeline, learner) = parts.split(intake, &mailbox);

        let lasting = |error: PipelineError| Failure { reason: error.to_string(), temporary: false };
        let memory = spawn("memory", &ended, move || pipeline.run().map_err(lasting))?;
        let ready = {
            let shared = Arc::clone(&shared);
            move || shared.set_state(DaemonState::Running)
        };
        let failed = |error: LearnerError| Failure { reason: error.to_string(), temporary: error.is_temporary() };
        let learner = spawn("learner", &ended, move || {
            device::give_way();
            learner.run(ready).map_err(failed)
        })?;
        let stop_sources = CancellationToken::new();
        let sources = inlets.run(&stop_sources, runtime);
        runtime.spawn(sample(Arc::clone(&live), stop_sources.clone()));
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

    /// Takes over what can be changed while it runs: see [`crate::config::reload`]. `None` where what was read is in error: that
    /// is an event, too. What exactly is wrong stays in the log, since whoever may read events need not see the file.
    pub fn reconfigurer(&self) -> impl Fn(Option<&Reload>) + Send + Sync + 'static {
        let (live, mailbox) = (Arc::clone(&self.live), Arc::clone(&self.mailbox));
        move |found| {
            let events = &live.shared.events;
            let Some(found) = found else {
                let message = "the configuration was not taken, the old one stays: the log says what is wrong";
                return events.tell("configuration-refused", message.into(), json!({}));
            };
            live.settings.store(Arc::new(found.config.clone()));
            mailbox.send(Command::Configure(Box::new(found.config.clone())));
            let message = format!("the configuration was read again: {}", found.summary());
            let data = json!({ "applied": found.applied, "restart": found.restart });
            events.tell("configuration-reloaded", message, data);
        }
    }

    /// Since when nothing was seen of the training thread, for a watchdog. It is not seen while it waits for a device that hangs.
    pub fn silence(&self) -> impl Fn() -> Duration + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.silence()
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
        // Whoever follows the events learns here that there will be no more.
        self.shared.events.tell("stopping", "the daemon is stopping".into(), serde_json::json!({}));
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

/// Looks at the numbers until it is stopped.
async fn sample(live: Arc<Live>, stop: CancellationToken) {
    let (mut ticks, mut watch) = (tokio::time::interval(history::INTERVAL), Watch::default());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let live = Arc::clone(&live);
        // Locks are taken: off the threads that serve sockets.
        let looked = tokio::task::spawn_blocking(move || {
            live.sample(&mut watch);
            watch
        });
        match looked.await {
            Ok(looked) => watch = looked,
            Err(error) => {
                tracing::error!(%error, "the history ends here");
                return;
            }
        }
    }
}

fn spawn(
    name: &'static str,
    ended: &CancellationToken,
    body: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<JoinHandle<Result<(), Failure>>, StartError> {
    // Dropped when the thread ends, however it ends.
    let guard = ended.clone().drop_guard();
    let run = move || {
        let _guard = guard;
        body().inspect_err(|failure| tracing::error!(thread = name, "{}", failure.reason))
    };
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(StartError::Thread)
}

fn join(
    thread: JoinHandle<Result<(), Failure>>,
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
    let ended = |Failure { reason, temporary }| DaemonError::Ended { thread: name, reason, temporary };
    match thread.join() {
        Ok(result) => result.map_err(ended),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            let reason = format!("it panicked: {}", words.unwrap_or("without words"));
            Err(ended(Failure { reason, temporary: false }))
        }
    }
}
