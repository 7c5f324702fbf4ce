//! The boundaries that segmentation finds on streams of real images, against the truth.
//!
//! ```text
//! cargo bench --bench segment -- --data DIR [--seeds 20] [--only pairs,half] [--calibrate]
//! ```
//!
//! DIR holds `cifar-10-batches-bin`. Streams have ten segments of 1,000 to 3,000 images; an alarm within 512 distinct images
//! after a change finds it. The thresholds are those the program ships; `--calibrate` measures them on change-free streams.

mod streams;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use lumpd::config::{Random, Seed, SegmentSettings};
use lumpd::segment::score::{Score, alarms_at_intervals, covering, position_errors, quantile};
use lumpd::segment::{Detector, DyadicT2, FeatureMap, SegmentEvent, Segmenter, TaskRegister};
use lumpd::stream::{FrameId, SourceId};
use rayon::prelude::*;
use streams::{Pool, SIDE, Stream};

const SOURCE: SourceId = SourceId(1);
const MARGIN: u64 = 512;
const CALIBRATION_RUNS: u64 = 150;

struct Arguments {
    data: PathBuf,
    seeds: u64,
    only: Option<Vec<String>>,
    calibrate: bool,
}

fn main() -> Result<()> {
    let Some(arguments) = arguments()? else {
        println!("segment: skipped, no data: give --data DIR (a folder with cifar-10-batches-bin) or set LUMPD_DATA");
        return Ok(());
    };
    let pool = Pool::read(&arguments.data)?;
    if arguments.calibrate {
        calibrate(&pool);
        return Ok(());
    }
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|only| only.iter().any(|n| n == name));
    println!(
        "stream       F1     (naive)  P     R     delay p50/p90  position p50/p90  covering  false/10k  withdrawn"
    );
    for (name, repeats, make) in rows() {
        if wanted(name) {
            row(&pool, name, repeats, make, arguments.seeds);
        }
    }
    for (name, domains) in [("recur-pairs", false), ("recur-domains", true)] {
        if wanted(name) {
            recurrence(&pool, name, domains, arguments.seeds);
        }
    }
    for target in [10_000, 50_000] {
        if wanted("null") {
            null(&pool, target);
        }
    }
    if wanted("cost") {
        cost(&pool)?;
    }
    Ok(())
}

fn arguments() -> Result<Option<Arguments>> {
    let mut data = std::env::var_os("LUMPD_DATA").map(PathBuf::from);
    let (mut seeds, mut only, mut calibrate) = (20, None, false);
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let mut value = || given.next().with_context(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--data" => data = Some(value()?.into()),
            "--seeds" => seeds = value()?.parse().context("--seeds wants a number")?,
            "--only" => only = Some(value()?.split(',').map(String::from).collect()),
            "--calibrate" => calibrate = true,
            "--bench" => {}
            other => anyhow::bail!("unknown argument {other}"),
        }
    }
    Ok(data.map(|data| Arguments { data, seeds, only, calibrate }))
}

type Make = fn(&Pool, &mut Random) -> Stream;

fn rows() -> Vec<(&'static str, u64, Make)> {
    vec![
        ("pairs", 1, |pool, random| pool.pairs(random, 1000)),
        ("half", 1, |pool, random| pool.halves(random)),
        ("domains", 1, |pool, random| pool.domains(random)),
        ("gradual", 1, |pool, random| pool.gradual(random)),
        ("burst4", 4, |pool, random| {
            let stream = pool.pairs(random, 1000);
            pool.repeat(random, stream, 4, false)
        }),
        ("long-burst4", 4, |pool, random| long_burst(pool, random, 4)),
        ("long-burst8", 8, |pool, random| long_burst(pool, random, 8)),
        ("long-burst30", 30, |pool, random| long_burst(pool, random, 30)),
    ]
}

/// Segments of 512 to 1,536 distinct images.
fn long_burst(pool: &Pool, random: &mut Random, times: usize) -> Stream {
    let stream = pool.pairs(random, 512);
    pool.repeat(random, stream, times, true)
}

/// What segmentation made of a stream; frames count from 0.
struct Outcome {
    alarms: Vec<u64>,
    boundaries: Vec<u64>,
    withdrawn: usize,
    segmenter: Segmenter,
    events: Vec<SegmentEvent>,
}

fn segment(stream: &Stream, target: u64) -> Outcome {
    let settings = SegmentSettings { mean_frames_between_false_alarms: target, ..SegmentSettings::default() };
    let register = TaskRegister::in_memory(settings.max_tasks);
    let mut segmenter = Segmenter::new(settings, register);
    let mut events = Vec::new();
    for (frame, features) in (1..).zip(&stream.frames) {
        events.extend(segmenter.observe_features(SOURCE, FrameId(frame), features).events);
    }
    let opened = |event: &SegmentEvent| match event {
        SegmentEvent::TaskOpened { first, detected_at, .. } => Some((first.0 - 1, detected_at.0 - 1)),
        _ => None,
    };
    let (boundaries, alarms) = events.iter().filter_map(opened).skip(1).unzip();
    let withdrawn = events.iter().filter(|event| matches!(event, SegmentEvent::BoundaryWithdrawn { .. })).count();
    Outcome { alarms, boundaries, withdrawn, segmenter, events }
}

fn row(pool: &Pool, name: &str, repeats: u64, make: Make, seeds: u64) {
    let outcomes: Vec<_> = (0..seeds)
        .into_par_iter()
        .map(|seed| {
            let stream = make(pool, &mut Seed(1000 + seed).random(name, 0));
            let (length, margin) = (stream.frames.len() as u64, MARGIN * repeats);
            let outcome = segment(&stream, 50_000);
            // A gradual change counts from where it begins, 256 frames before its middle, to 768 after.
            let (starts, margin) = match name {
                "gradual" => (stream.changes.iter().map(|change| change - 256).collect(), 1024),
                _ => (stream.changes.clone(), margin),
            };
            let score = Score::of(&outcome.alarms, &starts, margin);
            let naive = Score::of(&alarms_at_intervals(MARGIN * repeats, length), &starts, margin);
            let errors = position_errors(&outcome.boundaries, &stream.changes, margin);
            (score, naive, errors, covering(&outcome.boundaries, &stream.changes, length), length, outcome.withdrawn)
        })
        .collect();
    let (mut score, mut naive, mut errors) = (Score::default(), Score::default(), Vec::new());
    let (mut covered, mut frames, mut withdrawn) = (0.0, 0, 0);
    for (s, n, e, c, length, w) in &outcomes {
        score.add(s);
        naive.add(n);
        errors.extend(e);
        (covered, frames, withdrawn) = (covered + c, frames + length, withdrawn + w);
    }
    let share = |part: usize, rest: usize| part as f64 / (part + rest).max(1) as f64;
    println!(
        "{name:<12} {:.3}  ({:.3})  {:.3} {:.3} {:>6}/{:<6} {:>8}/{:<6} {:>11.3} {:>10.2} {:>8}",
        score.f1().unwrap_or(f64::NAN),
        naive.f1().unwrap_or(f64::NAN),
        share(score.found, score.false_alarms),
        share(score.found, score.missed),
        shown(score.delay_quantile(0.5)),
        shown(score.delay_quantile(0.9)),
        shown(quantile(&errors, 0.5)),
        shown(quantile(&errors, 0.9)),
        covered / outcomes.len() as f64,
        1e4 * score.false_alarms as f64 / frames as f64,
        withdrawn,
    );
}

fn shown(value: Option<u64>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

/// Of the tasks opened within 64 frames of a change: are those that were there before recognised, and only those?
fn recurrence(pool: &Pool, name: &str, domains: bool, seeds: u64) {
    let counts: Vec<[usize; 4]> = (0..seeds)
        .into_par_iter()
        .map(|seed| {
            let stream = pool.recurring(&mut Seed(1000 + seed).random(name, 0), domains);
            let outcome = segment(&stream, 50_000);
            let register = outcome.segmenter.register();
            let middle = |segment: usize| {
                let start = if segment == 0 { 0 } else { stream.changes[segment - 1] };
                let end = stream.changes.get(segment).copied().unwrap_or(stream.frames.len() as u64);
                register.task_of(SOURCE, FrameId((start + end) / 2))
            };
            let mut counts = [0; 4];
            for (i, &change) in stream.changes.iter().enumerate() {
                let opened = outcome.boundaries.iter().any(|boundary| boundary.abs_diff(change) <= 64);
                let earlier = stream.kinds[..=i].iter().position(|&kind| kind == stream.kinds[i + 1]);
                match (opened, earlier) {
                    (false, _) => {}
                    (true, Some(earlier)) => counts[usize::from(middle(earlier) == middle(i + 1))] += 1,
                    (true, None) => counts[2 + usize::from((0..=i).all(|other| middle(other) != middle(i + 1)))] += 1,
                }
            }
            counts
        })
        .collect();
    let [missed, known, confused, new] = counts.iter().fold([0; 4], |a, b| std::array::from_fn(|i| a[i] + b[i]));
    let (hit, miss) = (known as f64 / (known + missed).max(1) as f64, new as f64 / (new + confused).max(1) as f64);
    println!(
        "{name:<13} returning {known}/{}, new {new}/{}, balanced accuracy {:.3}",
        known + missed,
        new + confused,
        (hit + miss) / 2.0
    );
}

/// Twelve runs of 40,000 images without a change.
fn null(pool: &Pool, target: u64) {
    let all: Vec<usize> = (0..10).collect();
    let counts: Vec<(usize, u64)> = (0..12u64)
        .into_par_iter()
        .map(|run| {
            let frames = pool.classes(&mut Seed(77).random("null", run), &all, 40_000);
            let outcome = segment(&Stream { frames, changes: Vec::new(), kinds: vec![0] }, target);
            let warnings = outcome.events.iter().filter(|event| matches!(event, SegmentEvent::Warning { .. })).count();
            (outcome.alarms.len(), warnings as u64)
        })
        .collect();
    let alarms: usize = counts.iter().map(|count| count.0).sum();
    let warnings: u64 = counts.iter().map(|count| count.1).sum();
    let measured = 480_000usize.checked_div(alarms).map_or("more than 480000".into(), |mean| mean.to_string());
    println!(
        "null          asked {target}, measured {measured} images between false alarms ({alarms}); {warnings} warnings"
    );
}

/// Time per image on one thread.
fn cost(pool: &Pool) -> Result<()> {
    let map = FeatureMap::new();
    let images = &pool.images[..20_000];
    let start = Instant::now();
    let features: Vec<Vec<f32>> = images.iter().map(|image| map.extract(image, SIDE)).collect::<Result<_, _>>()?;
    let extraction = start.elapsed();
    let start = Instant::now();
    let outcome = segment(&Stream { frames: features, changes: Vec::new(), kinds: vec![0] }, 50_000);
    let rest = start.elapsed();
    let state = outcome.segmenter.state().len();
    let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / images.len() as f64;
    println!(
        "cost          features {:.1} us, the rest {:.1} us an image on one thread; state {} KiB",
        each(extraction),
        each(rest),
        state / 1024
    );
    Ok(())
}

/// The mean number of frames between false alarms by threshold, on change-free runs.
///
/// A run of n frames stays below a threshold with probability exp(-n / mean): so the runs' largest statistics give the mean
/// for every threshold at once.
fn calibrate(pool: &Pool) {
    let runs: Vec<(f64, f64)> = (0..CALIBRATION_RUNS)
        .into_par_iter()
        .map(|run| {
            let frames = pool.changeless(run);
            let mut detector = DyadicT2::with_thresholds(f64::INFINITY, f64::INFINITY);
            let largest = frames.iter().fold(f64::NEG_INFINITY, |largest, frame| {
                detector.update(frame);
                largest.max(detector.statistic().unwrap_or(f64::NEG_INFINITY))
            });
            (largest, frames.len() as f64)
        })
        .collect();
    println!("threshold  frames between false alarms: all classes, class pairs, single domains, together");
    for step in 0..20 {
        let threshold = 2.6 + 0.2 * f64::from(step);
        let mean = |kind: Option<usize>| {
            let of_kind = || (0..runs.len()).filter(|run| kind.is_none_or(|kind| run % 3 == kind)).map(|run| runs[run]);
            let (count, frames) = of_kind().fold((0.0, 0.0), |(count, frames), run| (count + 1.0, frames + run.1));
            let below = of_kind().filter(|run| run.0 <= threshold).count() as f64;
            -frames / count / (below / count).ln()
        };
        let [all, pairs, domains, together] = [Some(0), Some(1), Some(2), None].map(mean);
        println!("{threshold:>9.2}  {all:>9.0} {pairs:>9.0} {domains:>9.0} {together:>9.0}");
    }
}
