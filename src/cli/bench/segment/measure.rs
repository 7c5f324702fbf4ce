//! What segmentation makes of the streams, scored.

use std::fmt;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use super::pool::{Pool, SIDE};
use super::rows::{ASKED, Changes};
use super::streams::{self, Stream};
use crate::config::{DetectorKind, Random, Seed, SegmentSettings};
use crate::segment::score::{Score, alarms_at_intervals, covering, position_errors, quantile};
use crate::segment::{FeatureMap, SegmentEvent, Segmenter, TaskRegister};
use crate::stream::{FrameId, SourceId};

const SOURCE: SourceId = SourceId(1);
/// Distinct images after a change in which an alarm finds it, and between two alarms of the naive detector.
const MARGIN: u64 = 512;
/// How near to a change a boundary must be for the task after it to count as found.
const NEAR: u64 = 64;

/// The draws of a row's stream.
pub fn random(row: &str, seed: u64) -> Random {
    Seed(1000 + seed).random(row, 0)
}

/// What segmentation made of a stream; frames count from 0.
struct Outcome {
    alarms: Vec<u64>,
    boundaries: Vec<u64>,
    withdrawn: usize,
    warnings: usize,
    segmenter: Segmenter,
}

fn segment(pool: &Pool, stream: &Stream, detector: DetectorKind, asked: u64) -> Outcome {
    let settings = SegmentSettings { detector, mean_frames_between_false_alarms: asked, ..SegmentSettings::default() };
    let register = TaskRegister::in_memory(settings.max_tasks);
    let mut segmenter = Segmenter::new(settings, register);
    let mut events = Vec::new();
    for (id, &frame) in (1..).zip(&stream.frames) {
        events.extend(segmenter.observe_features(SOURCE, FrameId(id), &pool.features(frame)).events);
    }
    let opened = |event: &SegmentEvent| match event {
        SegmentEvent::TaskOpened { first, detected_at, .. } => Some((first.0 - 1, detected_at.0 - 1)),
        _ => None,
    };
    let (boundaries, alarms) = events.iter().filter_map(opened).skip(1).unzip();
    let count = |which: fn(&SegmentEvent) -> bool| events.iter().filter(|event| which(event)).count();
    let withdrawn = count(|event| matches!(event, SegmentEvent::BoundaryWithdrawn { .. }));
    let warnings = count(|event| matches!(event, SegmentEvent::Warning { .. }));
    Outcome { alarms, boundaries, withdrawn, warnings, segmenter }
}

/// Scores of a row's streams together.
#[derive(Debug, Default, Serialize)]
pub struct Found {
    pub streams: u64,
    pub changes: usize,
    pub f1: Option<f64>,
    pub naive_f1: Option<f64>,
    pub found: usize,
    pub missed: usize,
    pub false_alarms: usize,
    pub frames: u64,
    pub delay_median: Option<u64>,
    pub delay_p90: Option<u64>,
    pub position_median: Option<u64>,
    pub position_p90: Option<u64>,
    pub covering: f64,
    pub withdrawn: usize,
    /// Most false alarms between two changes of one stream.
    pub most_false_in_a_segment: usize,
}

impl Found {
    pub fn cells(&self) -> Vec<String> {
        let share = |part: usize, rest: usize| format!("{:.3}", part as f64 / (part + rest).max(1) as f64);
        let f1 = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.3}"));
        let both = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => format!("{a}/{b}"),
            _ => "-".into(),
        };
        vec![
            f1(self.f1),
            f1(self.naive_f1),
            share(self.found, self.false_alarms),
            share(self.found, self.missed),
            both(self.delay_median, self.delay_p90),
            both(self.position_median, self.position_p90),
            format!("{:.3}", self.covering),
            self.withdrawn.to_string(),
            format!("{} in {} (at most {})", self.false_alarms, self.frames, self.most_false_in_a_segment),
        ]
    }
}

/// Streams with changes.
pub fn changes(pool: &Pool, detector: DetectorKind, row: &str, changes: &Changes, seeds: u64) -> Found {
    let margin = MARGIN * changes.repeats + changes.ramp;
    let outcomes: Vec<_> = (0..seeds)
        .into_par_iter()
        .map(|seed| {
            let stream = (changes.make)(pool, &mut random(row, seed));
            let length = stream.frames.len() as u64;
            let outcome = segment(pool, &stream, detector, ASKED);
            let starts: Vec<u64> = stream.changes.iter().map(|change| change - changes.ramp / 2).collect();
            let score = Score::of(&outcome.alarms, &starts, margin);
            let naive = Score::of(&alarms_at_intervals(MARGIN * changes.repeats, length), &starts, margin);
            let errors = position_errors(&outcome.boundaries, &stream.changes, margin);
            let covered = covering(&outcome.boundaries, &stream.changes, length);
            let worst = most_false(&outcome.alarms, &starts, margin);
            (score, naive, errors, covered, length, outcome.withdrawn, worst)
        })
        .collect();
    let (mut score, mut naive, mut errors) = (Score::default(), Score::default(), Vec::new());
    let mut found = Found { streams: seeds, ..Found::default() };
    for (own, its_naive, its_errors, covered, length, withdrawn, worst) in &outcomes {
        score.add(own);
        naive.add(its_naive);
        errors.extend(its_errors);
        found.covering += covered / seeds as f64;
        found.frames += length;
        found.withdrawn += withdrawn;
        found.most_false_in_a_segment = found.most_false_in_a_segment.max(*worst);
    }
    Found {
        changes: score.found + score.missed,
        f1: score.f1(),
        naive_f1: naive.f1(),
        found: score.found,
        missed: score.missed,
        false_alarms: score.false_alarms,
        delay_median: score.delay_quantile(0.5),
        delay_p90: score.delay_quantile(0.9),
        position_median: quantile(&errors, 0.5),
        position_p90: quantile(&errors, 0.9),
        ..found
    }
}

/// Most false alarms between two changes.
fn most_false(alarms: &[u64], changes: &[u64], margin: u64) -> usize {
    let mut used = vec![false; alarms.len()];
    for &change in changes {
        if let Some(i) = (0..alarms.len()).find(|&i| !used[i] && (change..change + margin).contains(&alarms[i])) {
            used[i] = true;
        }
    }
    let mut counts = vec![0; changes.len() + 1];
    for (alarm, _) in alarms.iter().zip(&used).filter(|&(_, &used)| !used) {
        counts[changes.partition_point(|change| change <= alarm)] += 1;
    }
    counts.into_iter().max().unwrap_or(0)
}

/// Alarms where nothing changes.
#[derive(Debug, Serialize)]
pub struct Alarms {
    pub asked: u64,
    pub frames: u64,
    /// Frames that were no near-duplicates, which is what is asked for.
    pub distinct: u64,
    pub alarms: usize,
    pub warnings: usize,
}

impl fmt::Display for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = |frames: u64| match frames.checked_div(self.alarms as u64) {
            Some(mean) => mean.to_string(),
            None => format!("more than {frames}"),
        };
        let Self { asked, frames, distinct, alarms, warnings } = self;
        let (all, unlike) = (mean(*frames), mean(*distinct));
        write!(f, "asked {asked}; measured {all} frames between false alarms, {unlike} distinct ones ")?;
        write!(f, "({alarms} in {frames}, {distinct} distinct); {warnings} warnings")
    }
}

pub fn quiet(
    pool: &Pool,
    detector: DetectorKind,
    row: &str,
    make: impl Fn(&Pool, &mut Random) -> Stream + Sync,
    asked: u64,
    runs: u64,
) -> Alarms {
    let all: Vec<Alarms> = (0..runs)
        .into_par_iter()
        .map(|run| {
            let stream = make(pool, &mut random(row, run));
            let outcome = segment(pool, &stream, detector, asked);
            let frames = stream.frames.len() as u64;
            let skipped: u64 = outcome.segmenter.report().iter().map(|report| report.duplicates_skipped).sum();
            let (alarms, warnings) = (outcome.alarms.len(), outcome.warnings);
            Alarms { asked, frames, distinct: frames - skipped, alarms, warnings }
        })
        .collect();
    let none = Alarms { asked, frames: 0, distinct: 0, alarms: 0, warnings: 0 };
    all.into_iter().fold(none, |sum, run| Alarms {
        asked,
        frames: sum.frames + run.frames,
        distinct: sum.distinct + run.distinct,
        alarms: sum.alarms + run.alarms,
        warnings: sum.warnings + run.warnings,
    })
}

/// Of the tasks opened near a change: are those that were there before recognised, and only those?
#[derive(Debug, Default, Serialize)]
pub struct Identity {
    pub returning: usize,
    pub recognised: usize,
    pub new: usize,
    pub taken_for_new: usize,
}

impl Identity {
    pub fn balanced_accuracy(&self) -> f64 {
        let share = |part: usize, all: usize| part as f64 / all.max(1) as f64;
        0.5 * (share(self.recognised, self.returning) + share(self.taken_for_new, self.new))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { returning, recognised, new, taken_for_new } = self;
        write!(f, "returning {recognised} of {returning}, new {taken_for_new} of {new}, ")?;
        write!(f, "balanced accuracy {:.3}", self.balanced_accuracy())
    }
}

pub fn returns(pool: &Pool, detector: DetectorKind, row: &str, of_domains: bool, seeds: u64) -> Identity {
    let each: Vec<Identity> = (0..seeds)
        .into_par_iter()
        .map(|seed| {
            let stream = streams::recurring(pool, &mut random(row, seed), of_domains);
            identity(&stream, &segment(pool, &stream, detector, ASKED))
        })
        .collect();
    each.iter().fold(Identity::default(), |sum, own| Identity {
        returning: sum.returning + own.returning,
        recognised: sum.recognised + own.recognised,
        new: sum.new + own.new,
        taken_for_new: sum.taken_for_new + own.taken_for_new,
    })
}

fn identity(stream: &Stream, outcome: &Outcome) -> Identity {
    let register = outcome.segmenter.register();
    let middle = |segment: usize| {
        let start = if segment == 0 { 0 } else { stream.changes[segment - 1] };
        let end = stream.changes.get(segment).copied().unwrap_or(stream.frames.len() as u64);
        register.task_of(SOURCE, FrameId((start + end) / 2))
    };
    let mut identity = Identity::default();
    for (i, &change) in stream.changes.iter().enumerate() {
        if outcome.boundaries.iter().all(|boundary| boundary.abs_diff(change) > NEAR) {
            continue;
        }
        let now = middle(i + 1);
        match stream.kinds[..=i].iter().position(|&kind| kind == stream.kinds[i + 1]) {
            Some(earlier) => {
                identity.returning += 1;
                identity.recognised += usize::from(middle(earlier) == now);
            }
            None => {
                identity.new += 1;
                identity.taken_for_new += usize::from((0..=i).all(|other| middle(other) != now));
            }
        }
    }
    identity
}

/// Time of an image on one thread, and memory.
#[derive(Debug, Serialize)]
pub struct Cost {
    pub features_us: f64,
    pub rest_us: f64,
    pub state_bytes: usize,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { features_us, rest_us, state_bytes } = self;
        write!(f, "features {features_us:.1} us, all else {rest_us:.1} us an image; state {} KiB", state_bytes / 1024)
    }
}

pub fn cost(pool: &Pool, detector: DetectorKind) -> anyhow::Result<Cost> {
    let map = FeatureMap::new();
    let images = &pool.images[..20_000];
    let each = |time: Duration| time.as_secs_f64() * 1e6 / images.len() as f64;
    let start = Instant::now();
    for image in images {
        std::hint::black_box(map.extract(image, SIDE)?);
    }
    let features = start.elapsed();
    let all = streams::classes(pool, &mut random("cost", 0), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], images.len());
    let start = Instant::now();
    let outcome = segment(pool, &Stream { frames: all, ..Stream::default() }, detector, ASKED);
    let rest = start.elapsed();
    let state_bytes = outcome.segmenter.state().len();
    Ok(Cost { features_us: each(features), rest_us: each(rest), state_bytes })
}
