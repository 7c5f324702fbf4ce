//! Thresholds: how often a detector's statistic goes above a level where nothing changes.
//!
//! A run of n frames stays below a level with probability exp(-n / mean): so the largest statistics of the runs give the mean
//! number of frames between false alarms for every level at once.

use rayon::prelude::*;

use super::pool::Pool;
use super::streams;
use crate::config::DetectorKind;
use crate::segment::uncalibrated;

const RUNS: u64 = 150;
/// Means that a level is given for.
const MEANS: [f64; 8] = [500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5];

/// Lines of the table: a mean and its level.
pub fn run(pool: &Pool, kind: DetectorKind) -> Vec<String> {
    let mut largest: Vec<(f64, f64)> = (0..RUNS)
        .into_par_iter()
        .map(|run| {
            let frames = streams::changeless(pool, run);
            let mut detector = uncalibrated(kind);
            let largest = frames.iter().fold(f64::NEG_INFINITY, |largest, &frame| {
                detector.update(&pool.features(frame));
                largest.max(detector.statistic().unwrap_or(f64::NEG_INFINITY))
            });
            (largest, frames.len() as f64)
        })
        .collect();
    largest.sort_by(|a, b| a.0.total_cmp(&b.0));
    let frames = largest.iter().map(|run| run.1).sum::<f64>() / largest.len() as f64;
    let line = |mean: f64| {
        // The level that a share exp(-frames / mean) of the runs stayed below.
        let rank = (-frames / mean).exp() * largest.len() as f64 - 0.5;
        let low = rank.floor().clamp(0.0, largest.len() as f64 - 2.0);
        let (a, b) = (largest[low as usize].0, largest[low as usize + 1].0);
        let level = a + (b - a) * (rank - low).clamp(0.0, 1.0);
        let certain = rank >= 0.5 && rank <= largest.len() as f64 - 2.0;
        format!("{mean:>27}  {level:.3}{}", if certain { "" } else { "  (too few runs to tell)" })
    };
    std::iter::once("frames between false alarms  threshold".into()).chain(MEANS.into_iter().map(line)).collect()
}
