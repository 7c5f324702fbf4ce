//! The rows of the table: which streams, and what is wanted of them.

use serde::Serialize;

use super::measure::{self, Alarms, Cost, Found, Identity};
use super::pool::Pool;
use super::streams::{self, RAMP, Stream};
use crate::config::{DetectorKind, Random};

/// Asked of every scored row.
pub const ASKED: u64 = 50_000;

/// One row.
pub struct Row {
    pub name: &'static str,
    pub wanted: &'static str,
    kind: Kind,
}

enum Kind {
    /// Boundaries on streams with changes.
    Changes(Changes),
    /// False alarms where nothing changes.
    Quiet {
        asked: u64,
        runs: u64,
        make: Make,
    },
    /// Tasks that return.
    Returns {
        of_domains: bool,
    },
    Cost,
}

type Make = fn(&Pool, &mut Random) -> Stream;

/// How streams with changes are made and scored.
pub struct Changes {
    pub make: Make,
    /// Frames for each distinct image: an alarm has 512 distinct images' time.
    pub repeats: u64,
    /// Frames over which a change goes on: it counts from where it begins, and its margin is the longer.
    pub ramp: u64,
    /// Streams that there are, where fewer than are asked for.
    pub most: u64,
}

/// What a row came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Found(Found),
    Alarms(Alarms),
    Identity(Identity),
    Cost(Cost),
}

impl Answer {
    pub fn text(&self) -> String {
        match self {
            Self::Found(found) => found.cells().join(" "),
            Self::Alarms(alarms) => alarms.to_string(),
            Self::Identity(identity) => identity.to_string(),
            Self::Cost(cost) => cost.to_string(),
        }
    }
}

impl Row {
    pub fn measure(&self, pool: &Pool, detector: DetectorKind, seeds: u64) -> anyhow::Result<Answer> {
        Ok(match &self.kind {
            Kind::Changes(changes) => {
                Answer::Found(measure::changes(pool, detector, self.name, changes, seeds.min(changes.most)))
            }
            Kind::Quiet { asked, runs, make } => {
                Answer::Alarms(measure::quiet(pool, detector, self.name, *make, *asked, *runs))
            }
            Kind::Returns { of_domains } => {
                Answer::Identity(measure::returns(pool, detector, self.name, *of_domains, seeds))
            }
            Kind::Cost => Answer::Cost(measure::cost(pool, detector)?),
        })
    }

    /// The stream of a seed, where the row has streams with changes.
    pub fn stream(&self, pool: &Pool, seed: u64) -> Option<Stream> {
        match &self.kind {
            Kind::Changes(changes) => Some((changes.make)(pool, &mut measure::random(self.name, seed))),
            _ => None,
        }
    }
}

fn changes(name: &'static str, wanted: &'static str, repeats: u64, make: Make) -> Row {
    Row { name, wanted, kind: Kind::Changes(Changes { make, repeats, ramp: 0, most: u64::MAX }) }
}

fn quiet(name: &'static str, wanted: &'static str, asked: u64, runs: u64, make: Make) -> Row {
    Row { name, wanted, kind: Kind::Quiet { asked, runs, make } }
}

/// A stream of class pairs with 512 distinct images a segment and more, each of them several times.
fn repeated(pool: &Pool, random: &mut Random, times: usize) -> Stream {
    let stream = streams::pairs(pool, random, 512);
    streams::repeat(random, stream, times)
}

/// Change-free: one pair of classes, 5,000 distinct images, each of them several times.
fn repeated_quiet(pool: &Pool, random: &mut Random, times: usize) -> Stream {
    let pair = random.choose(10, 2);
    let frames = streams::classes(pool, random, &pair, 5_000);
    streams::repeat(random, Stream { frames, changes: Vec::new(), kinds: vec![0] }, times)
}

fn all_classes(pool: &Pool, random: &mut Random) -> Stream {
    let frames = streams::classes(pool, random, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 40_000);
    Stream { frames, changes: Vec::new(), kinds: vec![0] }
}

/// Every row, in the order of the table.
pub fn rows() -> Vec<Row> {
    let gradual = Changes { make: |_, random| streams::gradual(random), repeats: 1, ramp: RAMP as u64, most: u64::MAX };
    let in_order = Changes { make: |pool, _| streams::tracks_in_order(pool), repeats: 1, ramp: 0, most: 1 };
    vec![
        changes("pairs", "F1 .98, delay 30/100, position 2", 1, |pool, random| streams::pairs(pool, random, 1000)),
        changes("half", "F1 .94, delay 100, position 8", 1, streams::halves),
        changes("domains", "F1 .98, delay 15, position 2", 1, |_, random| streams::domains(random)),
        Row { name: "gradual", wanted: "F1 .96", kind: Kind::Changes(gradual) },
        changes("repeated-4", "F1 .95", 4, |pool, random| repeated(pool, random, 4)),
        changes("repeated-8", "F1 .93", 8, |pool, random| repeated(pool, random, 8)),
        changes("repeated-30", "F1 .90", 30, |pool, random| repeated(pool, random, 30)),
        Row { name: "gtsrb-order", wanted: "F1 .90", kind: Kind::Changes(in_order) },
        changes("gtsrb-3", "F1 .90", 1, |pool, random| streams::tracks_shuffled(pool, random, 1)),
        changes("gtsrb-12", "F1 .90", 1, |pool, random| streams::tracks_shuffled(pool, random, 4)),
        quiet("quiet-10000", "5,000 to 20,000", 10_000, 12, all_classes),
        quiet("quiet-50000", "25,000 to 100,000", 50_000, 12, all_classes),
        quiet("quiet-4", "25,000 or more", ASKED, 12, |pool, random| repeated_quiet(pool, random, 4)),
        quiet("quiet-8", "25,000 or more", ASKED, 12, |pool, random| repeated_quiet(pool, random, 8)),
        quiet("quiet-30", "25,000 or more", ASKED, 12, |pool, random| repeated_quiet(pool, random, 30)),
        quiet("quiet-gtsrb", "25,000 or more", ASKED, 21, |pool, random| {
            let phase = random.below(3) as usize;
            streams::one_phase(pool, random, phase, 7)
        }),
        Row { name: "return-pairs", wanted: "balanced accuracy .98", kind: Kind::Returns { of_domains: false } },
        Row { name: "return-domains", wanted: "balanced accuracy .98", kind: Kind::Returns { of_domains: true } },
        Row { name: "cost", wanted: "60 us together", kind: Kind::Cost },
    ]
}
