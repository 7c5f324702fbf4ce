//! Where steps are locked to the stream, a daemon that is killed at any moment goes on to the same bits.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use lumpd::config::Seed;

use super::oracle::Oracle;
use super::{Scratch, seconds, settings, text, tiny_network};
use crate::process::Daemon;

/// What a run came to. `different` has to be 0.
#[derive(Debug, Default)]
pub struct Tally {
    pub kills: u64,
    pub steps: u64,
    /// Losses of killed runs that were held against those of the run without a kill.
    pub compared: u64,
    pub different: u64,
    /// The fewest losses compared after a kill and before the next.
    pub fewest: u64,
    pub seconds: f64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, steps, compared, different, fewest, seconds } = self;
        write!(
            f,
            "{kills} kills in {steps} steps: {compared} losses compared bit by bit, at least {fewest} after each kill, \
             {different} different, {seconds:.0} s"
        )
    }
}

fn start(scratch: &Path, name: &str) -> Daemon {
    let network = tiny_network(scratch);
    let socket = scratch.join(format!("{name}.sock"));
    let mut arguments: Vec<String> = ["--unix", text(&socket)].map(str::to_owned).into();
    arguments.extend(settings([
        network.as_str(),
        "learn.step_locked=true",
        "evaluate.holdout_ratio=0",
        "learn.batch=4",
        "learn.replay_batch=4",
        "learn.steps_per_batch=4",
        "replay.slots=32",
        "daemon.threads=1",
        "publish.interval_seconds=3600",
        "checkpoint.keep=2",
        "log.filter=warn,lumpd::loss=debug",
    ]));
    Daemon::start(&scratch.join(name), &arguments)
}

/// The bits of each step's loss, as the log tells them.
fn losses(log: &str) -> Vec<(u64, String)> {
    let field = |line: &str, name: &str| {
        let rest = line.split(&format!("{name}=")).nth(1)?;
        Some(rest.split([' ', '\u{1b}']).next()?.trim_matches('"').to_owned())
    };
    let lines = log.lines().filter(|line| line.contains("lumpd::loss"));
    lines.filter_map(|line| Some((field(line, "step")?.parse().ok()?, field(line, "bits")?))).collect()
}

/// Sends what is not answered yet in order, one frame at a time.
fn feed(oracle: &Oracle, socket: &Path, frames: u64) -> bool {
    oracle.over_unix(socket, &oracle.unanswered(0..frames), 1)
}

/// Trains on the same stream twice: once without a kill, once with so many, each at least `apart` losses after the last.
pub fn run(kills: u64, apart: u64, seed: u64) -> Tally {
    let begun = Instant::now();
    let scratch = Scratch::new();
    // As many frames as give the losses between the kills, and as many after the last one.
    let frames = (kills + 1) * (apart + 60) / 4 * 4;
    let whole = start(scratch.path(), "whole");
    assert!(feed(&Oracle::default(), &scratch.path().join("whole.sock"), frames), "{}", whole.log());
    let (_, log) = whole.stop();
    let reference: BTreeMap<u64, String> = losses(&log).into_iter().collect();
    assert_eq!(reference.len() as u64, frames, "four steps for every four frames");

    let mut tally = Tally { steps: frames, fewest: u64::MAX, ..Tally::default() };
    let (oracle, mut random) = (Oracle::default(), Seed(seed).random("kills", 0));
    for life in 0..=kills {
        let killed = start(scratch.path(), "killed");
        let socket = scratch.path().join("killed.sock");
        let last = life == kills;
        let log = thread::scope(|scope| {
            let sending = scope.spawn(|| feed(&oracle, &socket, frames));
            if last {
                assert!(sending.join().expect("the sender"), "{}", killed.log());
                return killed.stop().1;
            }
            let wanted = apart as usize + random.below(40) as usize;
            let patience = Instant::now();
            while losses(&killed.log()).len() < wanted && patience.elapsed() < Duration::from_secs(120) {
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(Duration::from_micros(random.below(60_000)));
            let log = killed.kill_with_log();
            tally.kills += 1;
            log
        });
        let found = losses(&log);
        tally.fewest = tally.fewest.min(found.len() as u64);
        for (step, bits) in found {
            tally.compared += 1;
            if reference.get(&step) != Some(&bits) {
                eprintln!("life {life}, step {step}: {bits} and not {:?}", reference.get(&step));
                tally.different += 1;
            }
        }
    }
    tally.seconds = seconds(begun);
    tally
}

#[test]
fn a_killed_daemon_goes_on_to_the_same_bits() {
    let tally = run(2, 20, 1);
    println!("{tally}");
    assert_eq!((tally.different, tally.kills), (0, 2), "{tally}");
    assert!(tally.compared >= tally.steps, "{tally}");
}
