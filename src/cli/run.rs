//! `lumpd run`: the daemon, until a signal stops it.

use std::io::Write;
use std::net::SocketAddr;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::configuration::{self, ConfigurationArguments, SourceArguments};
use super::{stop, validate};
use crate::config::Plan;
use crate::telemetry;

const EXAMPLES: &str = "\
Examples:
  lumpd run --watch /srv/camera
  lumpd run --config lumpd.toml --set learn.batch=32
  LUMPD__LOG__FILTER=debug lumpd run --unix /run/lumpd/frames.sock

Ctrl-C or SIGTERM finishes the last batch and writes a checkpoint; a second one ends at once.";

#[derive(Debug, Args)]
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

    /// Returns once `stop` is cancelled and everything is on the disk, or with the failure that ended the daemon.
    fn until_stopped(self: Box<Self>, stop: CancellationToken) -> anyhow::Result<()>;
}

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
    writeln!(out, "lumpd listens on http://{}", running.address())?;
    out.flush()?;
    running.until_stopped(stop)
}
