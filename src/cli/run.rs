//! `lumpd run`: the daemon, until a signal stops it.

use std::io::Write;
use std::net::SocketAddr;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::configuration::{self, ConfigurationArguments, SourceArguments};
use super::{stop, validate};
use crate::config::{Config, Plan};
use crate::telemetry;

const EXAMPLES: &str = "\
Examples:
  lumpd run --watch /srv/camera
  lumpd run --config lumpd.toml --set learn.batch=32
  LUMPD__LOG__FILTER=debug lumpd run --unix /run/lumpd/frames.sock

Ctrl-C or SIGTERM finishes the last batch and writes a checkpoint; a second one ends at once. SIGHUP reads the settings
again: what can be taken over is, what needs a restart is named in the log, and in error the old ones stay.";

#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    configuration: ConfigurationArguments,
    #[command(flatten)]
    sources: SourceArguments,
}

/// A started daemon, as far as the command line is concerned.
pub trait Running: Send {
    /// Where the HTTP API listens.
    fn address(&self) -> SocketAddr;

    /// Takes other settings over while it runs, or says why they are not taken.
    fn reloader(&self) -> Reloader;

    /// Returns once `stop` is cancelled and everything is on the disk, or with the failure that ended the daemon.
    fn until_stopped(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()>;
}

/// Gives a running daemon the settings that were read again, or the reason why they could not be.
pub type Reloader = Box<dyn Fn(anyhow::Result<Config>) + Send>;

/// Starts a daemon.
pub type Start = fn(Plan) -> anyhow::Result<Box<dyn Running>>;

pub fn run(arguments: &Arguments, out: &mut dyn Write, start: Start) -> anyhow::Result<()> {
    let loaded = arguments.configuration.load_with(arguments.sources.sources())?;
    let plan = configuration::plan(&loaded)?;
    telemetry::start_log(&plan.config.log)?;
    validate::environment(&plan, &loaded)?;
    // Before the start, which may take long, so that it can be interrupted.
    let stop = stop::on_signal()?;
    let running = start(plan)?;
    let (again, reload) = (arguments.clone(), running.reloader());
    stop::on_hangup(move || reload(again.read()))?;
    writeln!(out, "lumpd listens on http://{}", running.address())?;
    out.flush()?;
    running.until_stopped(stop)
}

impl Arguments {
    /// File, environment and flags once more, checked.
    fn read(&self) -> anyhow::Result<Config> {
        let loaded = self.configuration.load_with(self.sources.sources())?;
        Ok(configuration::plan(&loaded)?.config)
    }
}
