//! How far what the probes say could be off, had other probes been drawn.

use serde::{Deserialize, Serialize};

/// Standard errors to either side of a 95 % interval.
const ERRORS: f64 = 1.96;

/// An interval, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// 95 % interval around an estimate, from what it is `without` each of the probes in turn: the jackknife's standard error
/// (Efron and Tibshirani 1993, chapter 11), and the normal distribution. None for fewer than two probes, and where a number
/// is not finite.
pub fn jackknife_interval(estimate: f64, without: &[f64]) -> Option<Interval> {
    let n = without.len() as f64;
    let mean = without.iter().sum::<f64>() / n;
    let squares: f64 = without.iter().map(|value| (value - mean).powi(2)).sum();
    let half = ERRORS * ((n - 1.0) / n * squares).sqrt();
    let (low, high) = (estimate - half, estimate + half);
    (without.len() > 1 && low.is_finite() && high.is_finite()).then_some(Interval { low, high })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    /// Of a mean.
    fn interval<const N: usize>(values: &[f64; N]) -> Interval {
        let sum: f64 = values.iter().sum();
        let without: Vec<f64> = values.iter().map(|value| (sum - value) / (N as f64 - 1.0)).collect();
        jackknife_interval(sum / N as f64, &without).unwrap()
    }

    #[test]
    fn the_interval_covers_the_true_mean_about_as_often_as_it_says() {
        let mut covered = 0;
        for trial in 0..300 {
            let mut random = Seed(1).random("trial", trial);
            let values: [f64; 60] = std::array::from_fn(|_| random.uniform());
            let interval = interval(&values);
            covered += usize::from(interval.low <= 0.5 && 0.5 <= interval.high);
        }
        assert!((270..=297).contains(&covered), "{covered} of 300 for 95 %");
    }

    #[test]
    fn of_a_mean_it_is_the_textbooks_standard_error() {
        // The sample's standard deviation is 1, so that of the mean of three is 1 / sqrt(3).
        let found = interval(&[1.0, 2.0, 3.0]);
        let half = ERRORS / 3f64.sqrt();
        assert!((found.low - (2.0 - half)).abs() < 1e-12 && (found.high - (2.0 + half)).abs() < 1e-12, "{found:?}");
        let flat = interval(&[0.25; 30]);
        assert_eq!((flat.low, flat.high), (0.25, 0.25));
    }

    #[test]
    fn what_is_not_defined_has_no_interval() {
        assert_eq!(jackknife_interval(1.0, &[1.0]), None);
        assert_eq!(jackknife_interval(1.0, &[1.0, f64::NAN]), None);
        assert_eq!(jackknife_interval(f64::INFINITY, &[1.0, 1.0]), None);
    }
}
