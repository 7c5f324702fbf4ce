//! How far a mean over the probes could be off, had other probes been drawn.

use serde::{Deserialize, Serialize};

use crate::config::Random;

/// Share of the resampled means that an interval holds.
const LEVEL: f64 = 0.95;

/// Resampled means behind an interval.
const RESAMPLES: usize = 1000;

/// An interval, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// Percentile interval of the mean at 95 %, from 1,000 resamples with replacement (Efron and Tibshirani 1993, chapter 13).
/// None for fewer than two values, or one that is not finite.
///
/// The values are resampled as they are: what a value owes to the other probes (a neighbourhood is one among them) stays
/// fixed, so the interval is a little narrow where few probes stand for a task.
pub fn mean_interval(values: &[f64], random: &mut Random) -> Option<Interval> {
    if values.len() < 2 || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let n = values.len();
    let mut resample = || (0..n).map(|_| values[random.below(n as u64) as usize]).sum::<f64>() / n as f64;
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = ((1.0 - LEVEL) / 2.0 * RESAMPLES as f64) as usize;
    Some(Interval { low: means[tail], high: means[RESAMPLES - 1 - tail] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    #[test]
    fn the_interval_covers_the_true_mean_about_as_often_as_it_says() {
        let mut covered = 0;
        for trial in 0..300 {
            let mut random = Seed(1).random("trial", trial);
            let values: Vec<f64> = (0..60).map(|_| random.uniform()).collect();
            let interval = mean_interval(&values, &mut random).unwrap();
            covered += usize::from(interval.low <= 0.5 && 0.5 <= interval.high);
        }
        assert!((270..=297).contains(&covered), "{covered} of 300 for 95 %");
    }

    #[test]
    fn the_same_seed_gives_the_same_interval_and_equal_values_no_width() {
        let values: Vec<f64> = (0..40).map(|i| f64::from(i % 7)).collect();
        let interval = || mean_interval(&values, &mut Seed(3).random("interval", 1));
        assert_eq!(interval(), interval());
        let flat = mean_interval(&[0.25; 30], &mut Seed(3).random("interval", 2)).unwrap();
        assert_eq!((flat.low, flat.high), (0.25, 0.25));
    }

    #[test]
    fn one_value_has_no_interval() {
        assert_eq!(mean_interval(&[1.0], &mut Seed(0).random("interval", 0)), None);
        assert_eq!(mean_interval(&[1.0, f64::NAN], &mut Seed(0).random("interval", 0)), None);
    }
}
