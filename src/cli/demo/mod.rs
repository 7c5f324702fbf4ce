//! `lumpd demo`: a daemon on a folder of its own, fed by the simulated camera, told as it happens and held against the truth.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::configuration::{self, source};
use super::run::{Running, Start};
use super::simulate::read_script;
use super::{Exit, stop};
use crate::config::{self, Flags, Loaded, Origin, Plan, Seed, SourceKind, SourceSettings};
use crate::stream::camera::Camera;
use crate::stream::client::Address;
use crate::telemetry;

mod film;
mod play;
mod story;

const EXAMPLES: &str = "\
Examples:
  lumpd demo
  lumpd demo --rate 40 --set learn.objective=barlow
  lumpd demo --keep demo-state      what it learnt stays there, for `lumpd run --state-dir demo-state`";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Frames a second
    #[arg(long, default_value_t = 20.0, value_parser = super::feed::rate)]
    rate: f64,
    /// Another seed, other pictures and another start of the learner
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A script as for `lumpd simulate` instead of the built-in one
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Keep the state in this folder; where not given it is removed at the end
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Address of the HTTP API; 127.0.0.1:7717 where not given, or a free port if that is taken
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Set one value, as in --set learn.batch=32; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<String>,
}

pub fn run(arguments: &Arguments, out: &mut dyn Write, start: Start) -> anyhow::Result<()> {
    let camera = Camera::new(read_script(arguments.script.as_deref())?, Seed(arguments.seed));
    let folder = tempfile::Builder::new().prefix("lumpd-demo-").tempdir().context("make a temporary folder")?;
    let socket = folder.path().join("camera.sock");
    let state_dir = arguments.keep.clone().unwrap_or_else(|| folder.path().join("state"));
    let plan = plan(arguments, &state_dir, &socket)?;
    telemetry::start_log(&plan.config.log)?;
    let stop = stop::on_signal()?;
    let running = start(plan)?;
    let address = running.address();
    let (ended, daemon) = serve(running, stop.clone())?;
    let show = play::Show { camera, rate: arguments.rate, inlet: Address::Unix(socket), api: address, ended };
    let told = introduce(out, &show, arguments.keep.as_deref()).and_then(|()| show.play(out, &stop));
    // Also where the show failed: the daemon is ended in order.
    stop.cancel();
    let served = daemon.join().unwrap_or_else(|_| Err(anyhow!("the daemon broke down")));
    // That the daemon ended explains why the show did; the other way round it does not.
    served.and(told)
}

/// The daemon on a thread of its own; the token says that it has ended, for whatever reason.
fn serve(
    running: Box<dyn Running>,
    stop: CancellationToken,
) -> anyhow::Result<(CancellationToken, thread::JoinHandle<anyhow::Result<()>>)> {
    let ended = CancellationToken::new();
    let guard = ended.clone().drop_guard();
    let serve = move || {
        let _guard = guard;
        running.until_stopped(stop)
    };
    let daemon = thread::Builder::new().name("daemon".into()).spawn(serve).context("start the daemon's thread")?;
    Ok((ended, daemon))
}

/// Settings for two minutes of watching; whatever `--set` names stays as it is. Neither a file nor the environment is read: they
/// may belong to a daemon at work, whose state this must not touch.
fn plan(arguments: &Arguments, state_dir: &Path, socket: &Path) -> anyhow::Result<Plan> {
    let settings = arguments.settings.iter().map(|text| ("--set".to_string(), text.clone())).collect();
    let camera = SourceSettings { path: Some(socket.into()), ..source("camera".into(), SourceKind::Unix) };
    let flags = Flags { settings, sources: vec![("the demo's camera".into(), camera)] };
    let mut loaded = config::load(&[], [], &flags).context(Exit::Configuration)?;
    for key in ["daemon.state_dir", "serve.listen", "serve.socket"] {
        if loaded.origin(key) != &Origin::Default {
            let message = format!("--set {key} is not possible here: see --keep and --listen");
            return Err(anyhow!(message).context(Exit::Usage));
        }
    }
    shorten(&mut loaded);
    loaded.config.daemon.state_dir = state_dir.into();
    loaded.config.serve.listen = arguments.listen.unwrap_or_else(|| free(loaded.config.serve.listen));
    if loaded.origin("daemon.seed") == &Origin::Default {
        loaded.config.daemon.seed = arguments.seed;
    }
    configuration::plan(&loaded)
}

/// Smaller and more often than a service would.
fn shorten(loaded: &mut Loaded) {
    let is_default = |loaded: &Loaded, key| loaded.origin(key) == &Origin::Default;
    if is_default(loaded, "replay.slots") {
        loaded.config.replay.slots = 1024;
    }
    if is_default(loaded, "learn.steps_per_batch") {
        // Two cores have the time between the batches of so slow a camera.
        loaded.config.learn.steps_per_batch = 8;
    }
    if is_default(loaded, "publish.interval_seconds") {
        loaded.config.publish.interval_seconds = 10.0;
    }
    if is_default(loaded, "log.filter") {
        // The story is told on standard output; the log should add only what goes wrong.
        loaded.config.log.filter = "warn".into();
    }
}

/// The address itself where nobody listens there, else its host with a free port.
fn free(address: SocketAddr) -> SocketAddr {
    match TcpListener::bind(address) {
        Ok(_) => address,
        Err(_) => SocketAddr::new(address.ip(), 0),
    }
}

fn introduce(out: &mut dyn Write, show: &play::Show, keep: Option<&Path>) -> anyhow::Result<()> {
    let frames = show.camera.script().frames();
    let minutes = frames as f64 / show.rate / 60.0;
    writeln!(
        out,
        "lumpd demo: a simulated camera above a conveyor belt. lumpd sees its pictures, and nothing else.\n"
    )?;
    writeln!(
        out,
        "  stream   {frames} frames of {side}x{side}, {rate} a second, {minutes:.1} minutes",
        side = crate::stream::camera::SIDE,
        rate = show.rate
    )?;
    writeln!(out, "  API      http://{}/v1/status", show.api)?;
    writeln!(out, "  metrics  http://{}/metrics", show.api)?;
    let state = keep.map_or("a temporary folder, removed at the end".into(), |dir| dir.display().to_string());
    writeln!(out, "  state    {state}\n")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(settings: &[&str]) -> Arguments {
        let settings = settings.iter().map(ToString::to_string).collect();
        Arguments { rate: 20.0, seed: 3, script: None, keep: None, listen: None, settings }
    }

    #[test]
    fn the_plan_is_for_watching_but_what_is_set_stays() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("camera.sock");
        let plan = plan(&arguments(&["replay.slots=77"]), dir.path(), &socket).unwrap();
        assert_eq!(plan.config.replay.slots, 77);
        assert_eq!(plan.config.publish.interval_seconds, 10.0);
        assert_eq!(plan.config.daemon.state_dir, dir.path());
        assert_eq!(plan.config.daemon.seed, 3);
        assert_eq!(plan.config.source.len(), 1);
    }

    #[test]
    fn the_state_of_a_daemon_at_work_cannot_be_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = plan(&arguments(&["daemon.state_dir=/var/lib/lumpd"]), dir.path(), dir.path()).unwrap_err();
        assert_eq!(crate::cli::code(&error), 2);
    }

    #[test]
    fn a_taken_port_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(free(taken.local_addr().unwrap()).port(), 0);
    }
}
