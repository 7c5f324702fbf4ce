//! More files than the system's notifications can tell of, and restarts in between: none is missed.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::{Scratch, resident, seconds, settings, text, tiny_network};
use crate::process::Daemon;

/// Files of one folder.
const A_FOLDER: u64 = 5_000;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Tally {
    pub files: u64,
    pub restarts: u64,
    /// Files made while the daemon was held, so that its notifications overflowed.
    pub overflowed: u64,
    /// Frames that the replay buffer was offered, over all restarts.
    pub offered: u64,
    /// Growth of the daemon's memory from the first thousand files to the last, bytes.
    pub growth: u64,
    pub seconds: f64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, restarts, overflowed, offered, growth, seconds } = self;
        let missed = files.saturating_sub(*offered);
        write!(
            f,
            "{files} files, {overflowed} of them made while the daemon was held, {restarts} restarts: {offered} taken, \
             {missed} missed, {} twice, memory grew by {:.1} MiB, {seconds:.0} s",
            offered.saturating_sub(*files),
            *growth as f64 / f64::from(1 << 20)
        )
    }
}

/// A picture of eight by eight pixels, each number another one.
fn tiny_picture(number: u64) -> Vec<u8> {
    let mut pixels = [0; 192];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut pixels);
    [b"P6 8 8 255\n".as_slice(), &pixels].concat()
}

fn make(folder: &Path, numbers: std::ops::Range<u64>) {
    let old = SystemTime::now() - Duration::from_secs(3600);
    for number in numbers {
        let inner = folder.join(format!("{:04}", number / A_FOLDER));
        if number % A_FOLDER == 0 {
            fs::create_dir_all(&inner).expect("a folder can be made");
        }
        let path = inner.join(format!("{number:07}.ppm"));
        fs::write(&path, tiny_picture(number)).expect("a file can be written");
        File::options().append(true).open(&path).and_then(|file| file.set_modified(old)).expect("its time can be set");
    }
}

fn signal(daemon: &Daemon, name: &str) {
    let sent = Command::new("kill").arg(name).arg(daemon.pid().to_string()).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill {name}");
}

/// Makes so many files in rounds: in each, a part under the eyes of the daemon and a part while it is held by SIGSTOP, so
/// that its queue of notifications overflows; then it is stopped in good order, and some more come before the next start.
pub fn run(files: u64, rounds: u64) -> Tally {
    let start = Instant::now();
    let scratch = Scratch::new();
    let folder = scratch.path().join("in");
    fs::create_dir(&folder).expect("a folder can be made");
    let network = tiny_network(scratch.path());
    let mut arguments: Vec<String> = ["--watch", text(&folder)].map(str::to_owned).into();
    arguments.extend(settings([
        network.as_str(),
        "replay.slots=256",
        "evaluate.holdout_ratio=0",
        "checkpoint.interval_seconds=10",
        "log.filter=warn",
    ]));
    let mut tally = Tally { files, restarts: rounds - 1, ..Tally::default() };
    let mut made = 0;
    for round in 1..=rounds {
        let upto = files * round / rounds;
        let part = (upto - made) / 3;
        make(&folder, made..made + part);
        let mut daemon = Daemon::start(&scratch.path().join("state"), &arguments);
        let warm = resident(daemon.pid(), false);
        make(&folder, made + part..made + 2 * part);
        signal(&daemon, "-STOP");
        make(&folder, made + 2 * part..upto);
        tally.overflowed += upto - made - 2 * part;
        signal(&daemon, "-CONT");
        made = upto;
        let patience = Instant::now();
        while daemon.status()["buffer"]["seen"].as_u64() < Some(made) {
            let log = daemon.log();
            let patience = patience.elapsed() < Duration::from_secs(600 + files / 50);
            assert!(patience, "{} of {made}: {}\n{log}", daemon.status(), daemon.source("watch-1"));
            thread::sleep(Duration::from_millis(200));
        }
        let grown = resident(daemon.pid(), false).saturating_sub(warm);
        tally.growth = tally.growth.max(grown);
        daemon.wait("the end of the last look", |daemon| daemon.source("watch-1")["queued_bytes"] == 0);
        tally.offered = daemon.status()["buffer"]["seen"].as_u64().unwrap_or(0);
        assert_eq!(daemon.stop().0, Some(0));
    }
    tally.seconds = seconds(start);
    tally
}

#[test]
fn no_file_is_missed() {
    let tally = run(900, 3);
    println!("{tally}");
    assert_eq!(tally.offered, tally.files, "{tally}");
    assert!(tally.growth <= 64 << 20, "{tally}");
}
