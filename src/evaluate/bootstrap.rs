//! How far a share of what the probes say could be off, had other probes been drawn.

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

/// Percentile interval at 95 % of the sum of the first numbers over the sum of the second ones, from 1,000 resamples of the pairs
/// with replacement (Efron and Tibshirani 1993, chapter 13). None for fewer than two pairs, a number that is not finite, and
/// where the sum of the second ones is not above 0 in 97.5 % of the resamples: the ratio is then not defined.
///
/// The pairs are resampled as they are: what one owes to the other probes (a neighbourhood is one among them) stays
/// fixed, so the interval is a little narrow where few probes stand for a task.
pub fn ratio_interval(pairs: &[(f64, f64)], random: &mut Random) -> Option<Interval> {
    if pairs.len() < 2 || pairs.iter().any(|(a, b)| !a.is_finite() || !b.is_finite()) {
        return None;
    }
    let n = pairs.len();
    let mut resample = || {
        let drawn = (0..n).map(|_| pairs[random.below(n as u64) as usize]);
        drawn.fold((0.0, 0.0), |sums, pair| (sums.0 + pair.0, sums.1 + pair.1))
    };
    let sums: Vec<(f64, f64)> = (0..RESAMPLES).map(|_| resample()).collect();
    let tail = ((1.0 - LEVEL) / 2.0 * RESAMPLES as f64) as usize;
    let mut ratios: Vec<f64> = sums.iter().filter(|sums| sums.1 > 0.0).map(|sums| sums.0 / sums.1).collect();
    if ratios.len() < RESAMPLES - tail {
        return None;
    }
    ratios.sort_unstable_by(f64::total_cmp);
    Some(Interval { low: ratios[tail], high: ratios[ratios.len() - 1 - tail] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    fn over_one<const N: usize>(values: &[f64; N]) -> [(f64, f64); N] {
        values.map(|value| (value, 1.0))
    }

    #[test]
    fn the_interval_covers_the_true_mean_about_as_often_as_it_says() {
        let mut covered = 0;
        for trial in 0..300 {
            let mut random = Seed(1).random("trial", trial);
            let values: [f64; 60] = std::array::from_fn(|_| random.uniform());
            let interval = ratio_interval(&over_one(&values), &mut random).unwrap();
            covered += usize::from(interval.low <= 0.5 && 0.5 <= interval.high);
        }
        assert!((270..=297).contains(&covered), "{covered} of 300 for 95 %");
    }

    #[test]
    fn the_same_seed_gives_the_same_interval_and_equal_values_no_width() {
        let values: [f64; 40] = std::array::from_fn(|i| (i % 7) as f64);
        let interval = || ratio_interval(&over_one(&values), &mut Seed(3).random("interval", 1));
        assert_eq!(interval(), interval());
        let flat = ratio_interval(&[(0.5, 2.0); 30], &mut Seed(3).random("interval", 2)).unwrap();
        assert_eq!((flat.low, flat.high), (0.25, 0.25));
    }

    #[test]
    fn what_is_not_defined_has_no_interval() {
        let none = |pairs: &[(f64, f64)]| assert_eq!(ratio_interval(pairs, &mut Seed(0).random("interval", 0)), None);
        none(&[(1.0, 1.0)]);
        none(&[(1.0, 1.0), (f64::NAN, 1.0)]);
        none(&over_one(&[1.0; 40]).map(|(value, _)| (value, 0.0)));
        let about_nothing: [(f64, f64); 40] = std::array::from_fn(|at| (1.0, if at % 2 == 0 { 1.0 } else { -0.8 }));
        none(&about_nothing);
    }
}
