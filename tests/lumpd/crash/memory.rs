//! Memory does not grow with the number of frames.

use std::fmt;
use std::time::Instant;

use super::oracle::Oracle;
use super::{Scratch, resident, seconds, settings, text, tiny_network};
use crate::process::Daemon;

/// What a run came to.
#[derive(Debug)]
pub struct Tally {
    pub frames: u64,
    /// Resident bytes after a tenth of the frames, and after all of them.
    pub warm: u64,
    pub end: u64,
    pub seconds: f64,
}

impl Tally {
    /// Bytes gained after the warm-up.
    pub fn growth(&self) -> u64 {
        self.end.saturating_sub(self.warm)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (warm, end, growth) = (mib(self.warm), mib(self.end), mib(self.growth()));
        let Self { frames, seconds, .. } = self;
        write!(
            f,
            "{frames} frames: {warm:.1} MiB after a tenth, {end:.1} MiB at the end, growth {growth:.1} MiB, {seconds:.0} s"
        )
    }
}

/// Sends so many different frames through a socket to a daemon that trains, segments, publishes and writes checkpoints.
pub fn run(frames: u64) -> Tally {
    let start = Instant::now();
    let scratch = Scratch::new();
    let socket = scratch.path().join("frames.sock");
    let network = tiny_network(scratch.path());
    let mut arguments: Vec<String> = ["--unix", text(&socket)].map(str::to_owned).into();
    arguments.extend(settings([
        network.as_str(),
        "replay.slots=1024",
        "checkpoint.interval_seconds=5",
        "log.filter=warn",
    ]));
    let daemon = Daemon::start(&scratch.path().join("state"), &arguments);
    let send = |from: u64, to: u64| {
        // A connection a thousand frames, and a record of the answers as long: what is measured is the daemon's memory.
        for first in (from..to).step_by(1000) {
            let oracle = Oracle::default();
            let pictures: Vec<u64> = (first..(first + 1000).min(to)).collect();
            assert!(oracle.over_unix(&socket, &pictures, 64), "{:?}\n{}", oracle.refused(), daemon.log());
        }
    };
    send(0, frames / 10);
    let warm = resident(daemon.pid(), false);
    send(frames / 10, frames);
    let end = resident(daemon.pid(), false);
    assert_eq!(daemon.status()["stream"]["accepted"], frames);
    assert_eq!(daemon.stop().0, Some(0));
    Tally { frames, warm, end, seconds: seconds(start) }
}

#[test]
fn memory_is_bounded() {
    let tally = run(6_000);
    println!("{tally}");
    assert!(tally.growth() <= 16 << 20, "{tally}");
}
