//! A disk that others fill and free: no death, answers all along, and frames are taken again soon after there is room.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::{Scratch, seconds, settings, tiny_network};
use crate::pictures::png;
use crate::process::Daemon;

/// Bytes of the small disk.
const DISK: u64 = 48 << 20;
/// Longest time from room to the first frame taken.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);

/// File systems to try on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tmpfs,
    Ext4,
}

/// What a run came to. `unanswered` and `late` have to be 0.
#[derive(Debug, Default)]
pub struct Tally {
    pub cycles: u64,
    pub refused_while_full: u64,
    pub taken_while_full: u64,
    pub unanswered: u64,
    pub late: u64,
    pub slowest: f64,
    pub restarts: u64,
    pub seconds: f64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cycles, refused_while_full, taken_while_full, unanswered, late, slowest, restarts, seconds } = self;
        write!(
            f,
            "{cycles} cycles of a full disk: {taken_while_full} frames taken and {refused_while_full} refused while it was \
             full, {unanswered} queries unanswered, {late} late returns, {restarts} deaths, slowest return {slowest:.2} s, \
             {seconds:.0} s"
        )
    }
}

/// A small file system of its own; unmounted when dropped.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn mount(kind: Kind, scratch: &Path) -> Result<Self, String> {
        let at = scratch.join("disk");
        fs::create_dir(&at).map_err(|error| error.to_string())?;
        let tell = |command: &mut Command| match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match kind {
            Kind::Tmpfs => {
                tell(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "tmpfs"]).arg(&at))?
            }
            Kind::Ext4 => {
                let image = scratch.join("disk.img");
                File::create(&image).and_then(|file| file.set_len(DISK)).map_err(|error| error.to_string())?;
                tell(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
                tell(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at))?;
            }
        }
        Ok(Self { at })
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = File::create(self.at.join("others")).expect("a file can be made on a disk with room");
        for block in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0xA5; block]).is_ok() {}
        }
        let _ = file.sync_all();
    }

    fn free(&self) {
        fs::remove_file(self.at.join("others")).expect("what others wrote can be removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

/// Why this machine cannot do it, if it cannot.
pub fn missing(kind: Kind) -> Option<String> {
    let scratch = Scratch::new();
    Disk::mount(kind, scratch.path()).err().map(|error| format!("no small {kind:?} can be mounted: {error}"))
}

/// Fills and frees the daemon's disk so many times.
pub fn run(kind: Kind, cycles: u64) -> Tally {
    let start = Instant::now();
    let scratch = Scratch::new();
    let disk = Disk::mount(kind, scratch.path()).expect("a small disk, as was tried before");
    let state = disk.at.join("state");
    let network = tiny_network(scratch.path());
    let arguments = settings([
        network.as_str(),
        "replay.slots=1024",
        "evaluate.probes_per_task=32",
        "evaluate.max_probes=64",
        "checkpoint.interval_seconds=0.3",
        "publish.interval_seconds=0.5",
        "log.filter=error",
    ]);
    let mut daemon = Daemon::start(&state, &arguments);
    let mut picture = 0;
    let mut post = |daemon: &Daemon| {
        picture += 1;
        daemon.try_post("/v1/images", &png(picture)).is_some_and(|status| status == 201)
    };
    let mut tally = Tally { cycles, ..Tally::default() };
    for cycle in 0..cycles {
        assert!(post(&daemon), "cycle {cycle}: a frame is taken while there is room\n{}", daemon.log());
        disk.fill();
        for _ in 0..4 {
            if post(&daemon) {
                tally.taken_while_full += 1;
            } else {
                tally.refused_while_full += 1;
            }
            let asked = daemon.try_post("/v1/query?k=3", &png(1));
            tally.unanswered += u64::from(asked != Some(200));
        }
        if cycle % 8 == 0 {
            // Long enough for checkpoints and versions to come up.
            thread::sleep(Duration::from_millis(700));
        }
        disk.free();
        let room = Instant::now();
        while !post(&daemon) {
            if daemon.has_ended() {
                eprintln!("cycle {cycle}: the daemon has ended\n{}", daemon.log());
                tally.restarts += 1;
                daemon = Daemon::start(&state, &arguments);
            }
            if room.elapsed() > 4 * RESUMES_WITHIN {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        tally.late += u64::from(room.elapsed() > RESUMES_WITHIN);
        tally.slowest = tally.slowest.max(room.elapsed().as_secs_f64());
    }
    assert_eq!(daemon.stop().0, Some(0));
    tally.seconds = seconds(start);
    tally
}

#[test]
fn a_full_disk_is_not_fatal() {
    for kind in [Kind::Tmpfs, Kind::Ext4] {
        if let Some(reason) = missing(kind) {
            println!("skipped: {reason}");
            continue;
        }
        let tally = run(kind, 3);
        println!("{kind:?}: {tally}");
        assert_eq!((tally.unanswered, tally.late, tally.restarts), (0, 0, 0), "{kind:?}: {tally}");
    }
}
