//! A daemon with its API: what `run` and `demo` start.

use std::net::SocketAddr;

use anyhow::{Context, anyhow};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::notify::Notifier;
use super::run::{Reloader, Running};
use super::{Exit, supervised};
use crate::config::{Config, Plan, Reload, reload};
use crate::daemon::{Daemon, DaemonError, StartError, StateDir};
use crate::device::{self, DeviceError};
use crate::encoder::EncoderError;
use crate::learn::LearnError;
use crate::replay::ReplayError;
use crate::serve::{Access, Hooks, Limits, Served, Server, Tokens, router};
use crate::telemetry::{self, Metric};

/// Threads that move bytes; computing has its own.
const IO_THREADS: usize = 2;

struct Service {
    config: Config,
    runtime: Runtime,
    daemon: Daemon,
    server: Server,
    hooks: Hooks,
    access: Access,
}

/// Starts a daemon and binds its API.
pub(super) fn start(plan: Plan) -> anyhow::Result<Box<dyn Running>> {
    let mut config = plan.config;
    limit_threads(config.daemon.threads)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .enable_all()
        .build()
        .context("start the threads that serve sockets")?;
    // The folder first: it is made for its owner alone, and another daemon on it is named before its socket is found taken.
    let state_dir = StateDir::open(&config.daemon.state_dir).map_err(|error| classed(error.into()))?;
    let access = Access::load(&config.serve).map_err(|error| anyhow!(error).context(Exit::Configuration))?;
    let server = runtime.block_on(bind(&config))?;
    // Port 0 has become a port: whoever asks where to send images is told that one.
    config.serve.listen = server.bound().tcp;
    let _context = runtime.enter();
    let daemon = Daemon::start(state_dir, &config, runtime.handle()).map_err(classed)?;
    let hooks = hooks(&config, &daemon)?;
    drop(_context);
    Ok(Box::new(Service { config, runtime, daemon, server, hooks, access }))
}

async fn bind(config: &Config) -> anyhow::Result<Server> {
    let socket = config.api_socket();
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("make the folder of the socket {}", socket.display()))?;
    }
    Server::bind(&config.serve, &socket).await.map_err(|error| anyhow!(error).context(Exit::Io))
}

/// The one pool of computing threads: decoding, kernels, search.
fn limit_threads(threads: usize) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|number| format!("compute-{number}"))
        .start_handler(|_| device::give_way())
        .build_global()
        .context("start the computing threads")
}

fn classed(error: StartError) -> anyhow::Error {
    let exit = match &error {
        error if error.is_temporary() => Exit::Temporary,
        StartError::Encoder(_) | StartError::Stream(_) | StartError::Resume(_) => Exit::Configuration,
        StartError::Learn(LearnError::Encoder(EncoderError::NoPrecision { .. })) => Exit::Configuration,
        StartError::Device(DeviceError::NotBuilt { .. } | DeviceError::NoSuchOrdinal { .. }) => Exit::Configuration,
        StartError::Replay(ReplayError::OtherGeometry { .. } | ReplayError::OutOfBounds { .. }) => Exit::Configuration,
        _ => Exit::Io,
    };
    anyhow!(error).context(exit)
}

fn hooks(config: &Config, daemon: &Daemon) -> anyhow::Result<Hooks> {
    let renderer = telemetry::install().context("start the metrics")?;
    telemetry::gauge(Metric::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
    let status = daemon.answers().status();
    telemetry::gauge(Metric::DeviceInfo, &[backend_of(&status.device.taken), &status.device.taken], 1.0);
    telemetry::gauge(Metric::StartTime, &[], jiff::Timestamp::now().as_millisecond() as f64 / 1000.0);
    for source in &config.source {
        telemetry::count(Metric::StreamFrames, &[&source.name], 0);
    }
    let record = daemon.recorder();
    Ok(Hooks {
        render_metrics: Box::new(move || {
            record();
            renderer.render()
        }),
        on_served: Box::new(note),
    })
}

fn backend_of(device: &str) -> &str {
    device.split(':').next().unwrap_or(device)
}

fn note(served: &Served) {
    let class = format!("{}xx", served.status / 100);
    telemetry::count(Metric::HttpRequests, &[&served.route, &class], 1);
    telemetry::observe(Metric::HttpDuration, &[&served.route], served.took);
}

/// Takes over what can be taken over.
///
/// # Errors
/// What is wrong with the new settings; then nothing has changed.
fn take_over(
    wanted: Config,
    access: &Access,
    configure: &impl Fn(Option<&Reload>),
    running: &Config,
) -> anyhow::Result<Config> {
    let found = reload(running, &wanted);
    let tokens = Tokens::load(&found.config.serve)?;
    anyhow::ensure!(
        running.serve.listen.ip().is_loopback() || !tokens.is_empty(),
        "serve.listen can be reached from other machines, and no token would be left"
    );
    telemetry::change_log(&found.config.log.filter)?;
    access.replace(tokens);
    configure(Some(&found));
    if !found.restart.is_empty() {
        tracing::warn!(keys = found.restart.join(", "), "these settings count from the next start on");
    }
    Ok(found.config)
}

impl Running for Service {
    fn address(&self) -> SocketAddr {
        self.server.bound().tcp
    }

    fn reloader(&self) -> Reloader {
        let (access, daemon) = (self.access.clone(), self.daemon.reconfigurer());
        // Port 0 has become a port, which is no change of the settings.
        let port = self.config.serve.listen;
        let running = std::sync::Mutex::new(self.config.clone());
        Box::new(move |read| {
            let mut running = running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let taken = read.and_then(|mut wanted| {
                if wanted.serve.listen.port() == 0 && wanted.serve.listen.ip() == port.ip() {
                    wanted.serve.listen = port;
                }
                take_over(wanted, &access, &daemon, &running)
            });
            telemetry::gauge(Metric::ConfigReloadSuccess, &[], f64::from(u8::from(taken.is_ok())));
            telemetry::gauge(
                Metric::ConfigReloadTimestamp,
                &[],
                jiff::Timestamp::now().as_millisecond() as f64 / 1000.0,
            );
            match taken {
                Ok(config) => *running = config,
                Err(error) => {
                    tracing::error!("the configuration was not taken, the old one stays: {error:#}");
                    daemon(None);
                }
            }
        })
    }

    fn until_stopped(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { config, runtime, daemon, server, hooks, access } = *self;
        let limits = Limits::new(&config.serve, &config.decode);
        let stop_serving = CancellationToken::new();
        let api = router(daemon.answers(), &limits, hooks, &access);
        let serving = {
            let stop = stop_serving.clone();
            runtime.spawn(async move { server.run(api, &limits, stop).await })
        };
        let notifier = Notifier::from_environment();
        let supervised = supervised::start(notifier.clone(), daemon.answers(), daemon.silence())
            .context("start the thread that tells the service manager")?;
        let ended = daemon.ended();
        runtime.block_on(async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = ended.cancelled() => {}
            }
        });
        drop(supervised);
        let patience = std::time::Duration::from_secs_f64(config.daemon.drain_seconds + 10.0).as_micros();
        notifier.say(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={patience}\nSTATUS=finishing the last batch and writing a checkpoint"
        ));
        // Readers are answered until the last checkpoint is written.
        let stopped = daemon.stop(runtime.handle());
        stop_serving.cancel();
        runtime.block_on(serving).context("the API broke down")?;
        let class = |error: &DaemonError| if error.is_temporary() { Exit::Temporary } else { Exit::Io };
        stopped.map_err(|error| {
            let class = class(&error);
            anyhow!(error).context(class)
        })
    }
}
