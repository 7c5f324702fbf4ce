//! From a promise ("about one false alarm in so many frames") to a threshold.

use crate::config::DetectorKind;

/// Thresholds of the dyadic T2 statistic on the features of [`super::FeatureMap`], by the mean number of distinct frames between
/// false alarms.
///
/// Measured on change-free CIFAR-10 (all classes, pairs of classes, single domains; 150 runs of 8,000 images, so that at
/// 50,000 the mean is known to about 20 %; beyond 100,000 and below 2,000 it is extrapolated): `lumpd bench segment --data DIR
/// --calibrate [--detector NAME]`.
const DYADIC_T2: [(f64, f64); 6] = [(2e3, 3.644), (5e3, 3.985), (1e4, 4.261), (2e4, 4.551), (5e4, 4.972), (1e5, 5.261)];

/// The other detectors' thresholds, each of its own statistic, measured in the same way on the same runs.
const MMD: [(f64, f64); 6] = [(2e3, 0.301), (5e3, 0.428), (1e4, 0.498), (2e4, 0.56), (5e4, 0.629), (1e5, 0.685)];
const NEWMA: [(f64, f64); 6] = [(2e3, 1.835), (5e3, 2.006), (1e4, 2.103), (2e4, 2.214), (5e4, 2.334), (1e5, 2.448)];
const ADWIN: [(f64, f64); 6] = [(2e3, 2.924), (5e3, 3.446), (1e4, 3.823), (2e4, 4.29), (5e4, 4.665), (1e5, 4.969)];
const PAGE_HINKLEY: [(f64, f64); 6] =
    [(2e3, 10.687), (5e3, 12.643), (1e4, 14.629), (2e4, 16.142), (5e4, 17.819), (1e5, 19.015)];

/// Runs of 8,000 images spend a good part of their length collecting references: in one of 480,000 images false alarms come more
/// often than the tables say (`lumpd bench segment --only quiet-10000,quiet-50000`), so the tables are asked for this many
/// times the frames.
const LONG_RUN: f64 = 1.2;

/// A warning is expected this many times as often as a false alarm.
const WARNINGS_PER_ALARM: f64 = 10.0;

/// The drift threshold of a detector's statistic for a mean of `frames` between false alarms.
pub(super) fn drift(kind: DetectorKind, frames: u64) -> f64 {
    interpolate(table(kind), LONG_RUN * frames as f64)
}

/// The warning threshold that goes with it: below the drift threshold.
pub(super) fn warning(kind: DetectorKind, frames: u64) -> f64 {
    interpolate(table(kind), LONG_RUN * frames as f64 / WARNINGS_PER_ALARM)
}

fn table(kind: DetectorKind) -> &'static [(f64, f64)] {
    match kind {
        DetectorKind::DyadicT2 => &DYADIC_T2,
        DetectorKind::Mmd => &MMD,
        DetectorKind::Newma => &NEWMA,
        DetectorKind::Adwin => &ADWIN,
        DetectorKind::PageHinkley => &PAGE_HINKLEY,
    }
}

/// The normal deviate of a change of light, for a mean of `frames` between false alarms.
///
/// On independent photographs ([`super::light`] asks for a large change) there is hardly ever one above it; where a false alarm
/// is possible, frames are few and correlated: 3.9 was chosen for 50,000 frames on driving video, the slope is a normal tail's.
pub(super) fn light(frames: u64) -> f64 {
    3.9 + 0.25 * (frames.max(1) as f64 / 50_000.0).ln()
}

/// The warning threshold that goes with it.
pub(super) fn light_warning(frames: u64) -> f64 {
    light((frames as f64 / WARNINGS_PER_ALARM) as u64)
}

/// No threshold is below this share of a table's lowest: what is extrapolated would cross zero.
const LOWEST: f64 = 0.25;

/// Linear in the logarithm of the frames, as tails that fall exponentially ask for; the end pieces go on beyond the table.
fn interpolate(table: &[(f64, f64)], frames: f64) -> f64 {
    let x = frames.max(1.0).ln();
    let last = table.len() - 2;
    let piece = (0..last).find(|&i| x < table[i + 1].0.ln()).unwrap_or(last);
    let ((x0, y0), (x1, y1)) = (table[piece], table[piece + 1]);
    (y0 + (y1 - y0) * (x - x0.ln()) / (x1.ln() - x0.ln())).max(LOWEST * table[0].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_rise_with_the_promise_and_meet_the_table() {
        use DetectorKind::{Adwin, DyadicT2, Mmd, Newma, PageHinkley};
        for kind in [DyadicT2, Mmd, Newma, Adwin, PageHinkley] {
            for &(frames, threshold) in table(kind) {
                let asked = (frames / LONG_RUN).round() as u64;
                assert!((drift(kind, asked) - threshold).abs() < 1e-2);
            }
            let asked = [1, 100, 999, 4_000, 30_000, 150_000, 1_000_000, u64::MAX];
            assert!(asked.windows(2).all(|pair| drift(kind, pair[0]) <= drift(kind, pair[1])), "{kind:?}");
            assert!(asked[3..].windows(2).all(|pair| drift(kind, pair[0]) < drift(kind, pair[1])), "{kind:?}");
            assert!(asked.iter().all(|&frames| warning(kind, frames) <= drift(kind, frames)));
            assert!(asked.iter().all(|&frames| warning(kind, frames) > 0.0), "{kind:?}");
        }
    }

    #[test]
    fn every_detector_has_a_table_of_its_own_statistic() {
        use DetectorKind::{Adwin, DyadicT2, Mmd, Newma, PageHinkley};
        let of = |kind| drift(kind, 50_000);
        let (t2, mmd, newma, adwin, sums) = (of(DyadicT2), of(Mmd), of(Newma), of(Adwin), of(PageHinkley));
        // T2 and ADWIN's are logarithms and deviates, the kernel's a squared distance in units of its own spread, NEWMA's a
        // ratio to what is expected, Page and Hinkley's a sum of standard deviations.
        assert!((4.5..5.5).contains(&t2) && (4.5..5.5).contains(&adwin) && t2 != adwin);
        assert!((0.55..0.75).contains(&mmd) && (2.0..2.6).contains(&newma) && sums > 10.0);
    }

    #[test]
    fn light_asks_for_more_where_fewer_false_alarms_are_wanted() {
        assert!(light(10_000) < light(50_000) && light_warning(50_000) < light(50_000));
    }
}
