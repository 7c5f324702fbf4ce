//! `kill -9` of the real daemon while frames come through every inlet at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use lumpd::config::{Random, Seed};

use super::oracle::Oracle;
use super::stored::{Hash, frames, hash_of};
use super::{Scratch, seconds, settings, text, tiny_network};
use crate::pictures::{move_in, png};
use crate::process::Daemon;

/// Cycles on one state folder, after which all of it is looked at and a new one begins.
const CYCLES_A_FOLDER: u64 = 50;
/// New frames of one inlet in one cycle, at most.
const FRAMES: u64 = 8;

/// What a run came to. The last four have to be 0.
#[derive(Debug, Default)]
pub struct Tally {
    pub cycles: u64,
    pub acknowledged: u64,
    pub sent_again: u64,
    pub lost: u64,
    pub phantoms: u64,
    pub duplicates: u64,
    pub wrong_numbers: u64,
    pub seconds: f64,
}

impl Tally {
    pub fn violations(&self) -> u64 {
        self.lost + self.phantoms + self.duplicates + self.wrong_numbers
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cycles, acknowledged, sent_again, lost, phantoms, duplicates, wrong_numbers, seconds } = self;
        write!(
            f,
            "{cycles} cycles of kill -9, {acknowledged} frames acknowledged through folder, unix socket, TCP and HTTP, \
             {sent_again} sent again: {lost} lost, {phantoms} phantoms, {duplicates} duplicates, {wrong_numbers} under \
             another number, {seconds:.0} s"
        )
    }
}

/// Kills a daemon `cycles` times.
///
/// # Panics
/// Where a daemon does not start again, or refuses what it took before.
pub fn run(cycles: u64, seed: u64) -> Tally {
    let start = Instant::now();
    let mut tally = Tally::default();
    while tally.cycles < cycles {
        let some = (cycles - tally.cycles).min(CYCLES_A_FOLDER);
        one_folder(some, &mut Seed(seed).random("kill", tally.cycles), &mut tally);
    }
    tally.seconds = seconds(start);
    tally
}

/// The inlets of one state folder, and what was sent through each.
struct Field<'a> {
    scratch: &'a Path,
    oracle: Oracle,
    next: u64,
    by_unix: BTreeSet<u64>,
    by_tcp: BTreeSet<u64>,
    by_http: BTreeSet<u64>,
    by_folder: BTreeSet<u64>,
}

impl Field<'_> {
    fn start(&self) -> Daemon {
        let (folder, socket) = (self.scratch.join("in"), self.scratch.join("frames.sock"));
        let mut arguments: Vec<String> =
            ["--watch", text(&folder), "--unix", text(&socket), "--tcp", "127.0.0.1:0"].map(str::to_owned).into();
        let network = tiny_network(self.scratch);
        arguments.extend(settings([
            network.as_str(),
            "replay.slots=4096",
            "evaluate.holdout_ratio=0",
            "checkpoint.interval_seconds=1",
            "log.filter=warn",
        ]));
        Daemon::start(&self.scratch.join("state"), &arguments)
    }

    fn new_pictures(&mut self, count: u64) -> Vec<u64> {
        let first = self.next;
        self.next += count;
        (first..self.next).collect()
    }

    /// Sends through all inlets at once until the daemon is killed, at a random moment of that.
    fn cycle(&mut self, random: &mut Random) {
        let daemon = self.start();
        let address = daemon.address();
        // Another one at each start: a port of one's own may be somebody else's by the next.
        let tcp =
            daemon.source("tcp-3")["address"].as_str().and_then(|address| address.rsplit(':').next()?.parse().ok());
        let port: u16 = tcp.expect("the TCP source says where it listens");
        let news: Vec<u64> = (0..4).map(|_| 1 + random.below(FRAMES)).collect();
        for (index, &count) in news.iter().enumerate() {
            let pictures = self.new_pictures(count);
            [&mut self.by_unix, &mut self.by_tcp, &mut self.by_http, &mut self.by_folder][index].extend(pictures);
        }
        // What was not answered goes out again, through another socket than before.
        let unix = self.oracle.unanswered(self.by_tcp.iter().chain(&self.by_unix).copied());
        let (unix, tcp) = unix.split_at(unix.len() / 2);
        let http = self.oracle.unanswered(self.by_http.iter().copied());
        let files: Vec<u64> = self.by_folder.iter().rev().take(news[3] as usize).copied().collect();
        let (before, wanted) = (self.oracle.count(), random.below(news.iter().take(3).sum::<u64>()) as usize);
        let (oracle, scratch) = (&self.oracle, self.scratch);
        let (wait, window) = (random.below(8_000), 1 + random.below(16) as usize);
        thread::scope(|scope| {
            scope.spawn(move || oracle.over_unix(&scratch.join("frames.sock"), unix, window));
            scope.spawn(move || oracle.over_tcp(port, tcp, window));
            scope.spawn(move || oracle.over_http(&address, &http));
            scope.spawn(move || {
                for picture in files {
                    oracle.sending(picture);
                    move_in(&scratch.join("in"), &format!("{picture:06}.png"), &png(picture));
                }
            });
            let start = Instant::now();
            while oracle.count() < before + wanted && start.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_micros(300));
            }
            thread::sleep(Duration::from_micros(wait));
            daemon.kill();
        });
    }

    /// Holds what is in the file against what was said.
    fn check(&self, tally: &mut Tally) -> BTreeMap<Hash, Vec<u64>> {
        let stored = frames(&self.scratch.join("state/replay.buf"));
        let known: BTreeSet<Hash> = self.oracle.sent().into_iter().map(|picture| hash_of(&png(picture))).collect();
        tally.phantoms += stored.keys().filter(|hash| !known.contains(*hash)).count() as u64;
        tally.duplicates += stored.values().filter(|frames| frames.len() > 1).count() as u64;
        for (picture, frame) in self.oracle.acknowledgements() {
            match stored.get(&hash_of(&png(picture))) {
                None => {
                    eprintln!("picture {picture}, acknowledged as frame {frame}, is not stored");
                    tally.lost += 1;
                }
                Some(frames) if !frames.contains(&frame) => {
                    eprintln!("picture {picture}, acknowledged as frame {frame}, is stored as {frames:?}");
                    tally.wrong_numbers += 1;
                }
                Some(_) => {}
            }
        }
        stored
    }

    /// Sends what was never answered, waits for the folder, stops in good order: everything must be there once.
    fn finish(&mut self, tally: &mut Tally) {
        let mut daemon = self.start();
        let rest = self.oracle.unanswered(self.by_unix.iter().chain(&self.by_tcp).chain(&self.by_http).copied());
        assert!(self.oracle.over_unix(&self.scratch.join("frames.sock"), &rest, 8), "{}", daemon.log());
        let all = self.next as usize;
        daemon.wait("every frame", |daemon| daemon.status()["buffer"]["used"].as_u64() >= Some(all as u64));
        assert_eq!(daemon.status()["buffer"]["damaged"], 0, "{}", daemon.log());
        assert_eq!(daemon.stop().0, Some(0));
        let stored = self.check(tally);
        tally.lost += all.saturating_sub(stored.len()) as u64;
        let refused = self.oracle.refused();
        assert!(refused.keys().all(|code| code == "shutting-down"), "{refused:?}");
        // A file is acknowledged by being taken once and for all.
        tally.acknowledged += (self.oracle.count() + self.by_folder.len()) as u64;
        tally.sent_again += self.oracle.again();
    }
}

fn one_folder(cycles: u64, random: &mut Random, tally: &mut Tally) {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path().join("in")).expect("a folder can be made");
    let mut field = Field {
        scratch: scratch.path(),
        oracle: Oracle::default(),
        next: 0,
        by_unix: BTreeSet::new(),
        by_tcp: BTreeSet::new(),
        by_http: BTreeSet::new(),
        by_folder: BTreeSet::new(),
    };
    for _ in 0..cycles {
        field.cycle(random);
        field.check(tally);
        tally.cycles += 1;
    }
    field.finish(tally);
    assert_eq!(tally.violations(), 0, "kept in {}: {tally}", scratch.path().display());
}

#[test]
fn acknowledged_frames_survive_kill_9_through_every_inlet() {
    let tally = run(5, 1);
    println!("{tally}");
    assert_eq!(tally.violations(), 0, "{tally}");
}
