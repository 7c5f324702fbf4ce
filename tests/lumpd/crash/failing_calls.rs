//! Calls of the real daemon that fail: `strace` makes one sync or one write of it fail, and what it says then is held
//! against what is there after a restart. The store alone is held to the same in `replay::tests::errors`.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::oracle::Oracle;
use super::stored::{frames, hash_of};
use super::{Scratch, seconds, settings, text, tiny_network};
use crate::pictures::png;
use crate::process::{Daemon, Process, lumpd};

/// Images that the replay buffer keeps.
const SLOTS: u64 = 1024;

/// What a run came to. `lost` and `signals` have to be 0.
#[derive(Debug, Default)]
pub struct Tally {
    pub runs: u64,
    /// The daemon ended by itself, with an error.
    pub stopped: u64,
    /// It went on.
    pub went_on: u64,
    /// The call did not come.
    pub not_reached: u64,
    pub acknowledged: u64,
    pub lost: u64,
    pub signals: u64,
    pub seconds: f64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, stopped, went_on, not_reached, acknowledged, lost, signals, seconds } = self;
        write!(
            f,
            "{runs} runs with a failing call: {stopped} stopped, {went_on} went on, {not_reached} never made that call; \
             {acknowledged} frames acknowledged, {lost} of them lost, {signals} deaths by a signal, {seconds:.0} s"
        )
    }
}

/// Why this machine cannot do it, if it cannot.
pub fn missing() -> Option<String> {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    match traced {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("strace cannot trace: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("strace cannot be run: {error}")),
    }
}

/// Lets the calls of these numbers fail, each in a run of its own: `call` is `fdatasync`, `fsync` or `pwrite64`.
pub fn run(call: &str, error: &str, numbers: impl IntoIterator<Item = u64>) -> Tally {
    let start = Instant::now();
    let mut tally = Tally::default();
    for number in numbers {
        one(call, error, number, &mut tally);
        tally.runs += 1;
    }
    tally.seconds = seconds(start);
    tally
}

fn arguments(scratch: &Path) -> Vec<String> {
    let (network, socket) = (tiny_network(scratch), scratch.join("frames.sock"));
    let mut arguments: Vec<String> = ["--unix", text(&socket)].map(str::to_owned).into();
    arguments.extend(settings([
        "serve.listen=127.0.0.1:0",
        network.as_str(),
        format!("replay.slots={SLOTS}").as_str(),
        "replay.commit_frames=2",
        "learn.batch=8",
        "learn.replay_batch=8",
        "learn.steps_per_batch=1",
        "evaluate.holdout_ratio=0",
        "checkpoint.interval_seconds=0.2",
        "daemon.threads=1",
        "device.kind=cpu",
        "log.filter=error",
    ]));
    arguments
}

fn one(call: &str, error: &str, number: u64, tally: &mut Tally) {
    let scratch = Scratch::new();
    let (state, socket, trace) =
        (scratch.path().join("state"), scratch.path().join("frames.sock"), scratch.path().join("trace"));
    let arguments = arguments(scratch.path());
    let plain = lumpd();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "--seccomp-bpf", "-e", "signal=none", "-o", text(&trace)]);
    command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error={error}:when={number}")]);
    command.arg(plain.get_program()).arg("run").arg("--state-dir").arg(&state).args(&arguments);
    command.env_remove("RUST_LOG").env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null());
    let mut process = Process::spawn(command);
    let oracle = Oracle::default();
    let sent = Instant::now();
    let mut next = 0;
    // Until it ends, or until it has surely made the call.
    let status = loop {
        if let Some(status) = process.ended() {
            break Some(status);
        }
        let pictures: Vec<u64> = (next..next + 16).collect();
        // As many as there is room for: what makes room for another is not lost.
        if next + 16 <= SLOTS && oracle.over_unix(&socket, &pictures, 4) {
            next += 16;
        } else {
            thread::sleep(Duration::from_millis(10));
        }
        let calls = fs::read_to_string(&trace).unwrap_or_default();
        let injected = calls.contains("(INJECTED)");
        if (injected && sent.elapsed() > Duration::from_millis(1500)) || sent.elapsed() > Duration::from_secs(40) {
            break None;
        }
    };
    let injected = fs::read_to_string(&trace).unwrap_or_default().contains("(INJECTED)");
    match status {
        Some(status) => {
            use std::os::unix::process::ExitStatusExt;
            tally.stopped += 1;
            // A traced process that a signal ends makes strace end by the same one.
            if status.signal().is_some() || status.code().is_none_or(|code| code == 101 || code > 128) {
                eprintln!("{call} {number}: {status}\n{process}");
                tally.signals += 1;
            }
            assert_ne!(status.code(), Some(0), "{call} {number}: it ended as if all were well\n{process}");
        }
        None => {
            if injected {
                tally.went_on += 1;
            } else {
                tally.not_reached += 1;
            }
            let pid = fs::read_to_string(state.join("lumpd.lock")).unwrap_or_default();
            let _ = Command::new("kill").arg("-KILL").arg(pid.trim()).status();
            process.kill();
            // It is strace's child, not ours: it holds its lock until it is quite gone.
            let (folder, killed) = (Path::new("/proc").join(pid.trim()), Instant::now());
            while !pid.trim().is_empty() && folder.exists() && killed.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    if state.join("replay.buf").exists() {
        check(&scratch, &arguments, &oracle, tally);
    }
}

/// Starts it again without errors: what was acknowledged is there.
fn check(scratch: &Scratch, arguments: &[String], oracle: &Oracle, tally: &mut Tally) {
    let state = scratch.path().join("state");
    let daemon = Daemon::start(&state, arguments);
    assert_eq!(daemon.status()["buffer"]["damaged"], 0, "{}", daemon.log());
    assert_eq!(daemon.stop().0, Some(0));
    let stored = frames(&state.join("replay.buf"));
    for (picture, frame) in oracle.acknowledgements() {
        tally.acknowledged += 1;
        if !stored.get(&hash_of(&png(picture))).is_some_and(|frames| frames.contains(&frame)) {
            eprintln!("picture {picture}, acknowledged as frame {frame}, is not there: {}", scratch.path().display());
            tally.lost += 1;
        }
    }
    assert_eq!(tally.lost, 0, "{tally}");
}

#[test]
fn a_sync_or_write_that_fails_is_never_acknowledged() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    // Of the first calls, of those at the start and of those at work.
    let syncs = run("fdatasync", "EIO", [3, 60]);
    println!("fdatasync: {syncs}");
    let writes = run("pwrite64", "ENOSPC", [300]);
    println!("pwrite64: {writes}");
    assert!(syncs.acknowledged + writes.acknowledged > 0, "nothing was acknowledged at all: {syncs}\n{writes}");
    assert_eq!((syncs.lost, syncs.signals, writes.lost, writes.signals), (0, 0, 0, 0), "{syncs}\n{writes}");
}
