//! How good found boundaries are, against known ones.
//!
//! The definitions are those of the field (van den Burg and Williams 2020): margin-F1, covering, delays of what was found.
//! Always put [`alarms_at_intervals`], the detector that looks at nothing, beside a headline.

use std::ops::Range;

/// Alarms against true changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Score {
    /// Changes found, each by the first alarm within the margin after it.
    pub found: usize,
    /// Alarms that found nothing.
    pub false_alarms: usize,
    /// Changes with no alarm within the margin.
    pub missed: usize,
    /// Frames from the change to its alarm, of those found.
    pub delays: Vec<u64>,
}

impl Score {
    /// Matches alarms with changes (both ascending): an alarm at a counts for a change at c if c <= a < c + margin. Every
    /// alarm counts once.
    pub fn of(alarms: &[u64], changes: &[u64], margin: u64) -> Self {
        let mut used = vec![false; alarms.len()];
        let mut score = Self::default();
        for &change in changes {
            let hit = (0..alarms.len()).find(|&i| !used[i] && (change..change + margin).contains(&alarms[i]));
            match hit {
                Some(i) => {
                    used[i] = true;
                    score.delays.push(alarms[i] - change);
                }
                None => score.missed += 1,
            }
        }
        score.found = score.delays.len();
        score.false_alarms = alarms.len() - score.found;
        score
    }

    /// Adds another stream's score.
    pub fn add(&mut self, other: &Self) {
        self.found += other.found;
        self.false_alarms += other.false_alarms;
        self.missed += other.missed;
        self.delays.extend_from_slice(&other.delays);
    }

    /// 2 TP / (2 TP + FP + FN); none where there was nothing to find and nothing was found.
    pub fn f1(&self) -> Option<f64> {
        let all = 2 * self.found + self.false_alarms + self.missed;
        (all > 0).then(|| 2.0 * self.found as f64 / all as f64)
    }

    /// The delay that a share `q` of the found changes did not exceed; none where none was found.
    pub fn delay_quantile(&self, q: f64) -> Option<u64> {
        quantile(&self.delays, q)
    }
}

/// The smallest of `values` that at least a share `q` of them do not exceed.
pub fn quantile(values: &[u64], q: f64) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// Distances from each true change to the nearest found boundary, of those within `margin`.
pub fn position_errors(boundaries: &[u64], changes: &[u64], margin: u64) -> Vec<u64> {
    let nearest = |&change: &u64| boundaries.iter().map(|boundary| boundary.abs_diff(change)).min();
    changes.iter().filter_map(nearest).filter(|&error| error <= margin).collect()
}

/// Covering of the true segments by the found ones: 1/T sum over true A of |A| max over found A' of |A and A'| / |A or A'|.
pub fn covering(boundaries: &[u64], changes: &[u64], length: u64) -> f64 {
    let found = segments(boundaries, length);
    let weighted = segments(changes, length).into_iter().map(|truth| {
        let best = found.iter().map(|guess| overlap(&truth, guess)).fold(0.0, f64::max);
        (truth.end - truth.start) as f64 * best
    });
    weighted.sum::<f64>() / length as f64
}

fn segments(boundaries: &[u64], length: u64) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(boundaries.iter().copied());
    let ends = boundaries.iter().copied().chain([length]);
    starts.zip(ends).map(|(start, end)| start..end).collect()
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> f64 {
    let shared = a.end.min(b.end).saturating_sub(a.start.max(b.start));
    let either = (a.end - a.start) + (b.end - b.start) - shared;
    if either == 0 { 0.0 } else { shared as f64 / either as f64 }
}

/// The alarms of a detector that looks at nothing and alarms every `interval` frames.
pub fn alarms_at_intervals(interval: u64, length: u64) -> Vec<u64> {
    (1..).map(|i| i * interval).take_while(|&alarm| alarm < length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_count_once_and_only_after_the_change() {
        let score = Score::of(&[90, 120, 130, 900], &[100, 500, 890], 64);
        assert_eq!((score.found, score.false_alarms, score.missed), (2, 2, 1));
        assert_eq!(score.delays, [20, 10]);
        assert!((score.f1().unwrap() - 4.0 / 7.0).abs() < 1e-12);
        assert_eq!(score.delay_quantile(0.5), Some(10));
        assert_eq!(score.delay_quantile(0.9), Some(20));
        assert_eq!(Score::default().f1(), None);
        assert_eq!(Score::default().delay_quantile(0.5), None);
    }

    #[test]
    fn covering_is_one_for_the_truth_and_as_computed_by_hand_otherwise() {
        assert_eq!(covering(&[30, 60], &[30, 60], 100), 1.0);
        assert_eq!(covering(&[], &[50], 100), 0.5);
        let by_hand = (50.0 * 0.8 + 50.0 * 50.0 / 60.0) / 100.0;
        assert!((covering(&[40], &[50], 100) - by_hand).abs() < 1e-12);
        assert_eq!(position_errors(&[40, 80], &[50, 300], 64), [10]);
        assert_eq!(alarms_at_intervals(512, 1600), [512, 1024, 1536]);
    }
}
