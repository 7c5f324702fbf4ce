//! What a drift detector is, and the list of them.
//!
//! A detector is one file and one line in [`detector`]. It sees the features of distinct frames only (near-duplicates are
//! skipped before it), knows nothing of tasks, and is the same to the bit for the same features.

use super::adwin::Adwin;
use super::dyadic::DyadicT2;
use super::mmd::Mmd;
use super::newma::Newma;
use super::page_hinkley::PageHinkley;
use super::referenced::Referenced;
use super::{SegmentError, thresholds};
use crate::config::DetectorKind;

/// What the newest features say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Stable,
    /// Unusual, yet not enough for a drift.
    Warning,
    /// The world has changed; [`Detector::change`] says since when.
    Drift,
}

/// Where a detector is in its cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Collects its first reference; finds nothing.
    WarmingUp,
    /// Compares.
    Armed,
    /// A drift was found not long ago: collects a new reference, or watches whether the same change goes on.
    Settling,
}

/// Where a found change began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Distinct frames since it, the first of the new regime and the newest included; at least 1.
    pub samples_back: usize,
    /// The frames around it that would explain what was seen about as well (95 %), halved.
    pub uncertainty: usize,
    /// The change before this one still going on (a gradual change), not another one.
    pub continues: bool,
}

/// Finds changes of distribution in a sequence of feature vectors.
pub trait Detector: Send + Sync {
    /// Takes the features of the next distinct frame.
    fn update(&mut self, features: &[f32]) -> Verdict;

    /// The newest value that is compared with the thresholds; none while a reference is being collected.
    fn statistic(&self) -> Option<f64>;

    /// The statistic above which a drift is declared.
    fn threshold(&self) -> f64;

    /// The statistic above which a warning is given.
    fn warning_threshold(&self) -> f64;

    /// Promises another mean number of distinct frames between false alarms from now on; the reference stays.
    fn promise(&mut self, mean_frames_between_false_alarms: u64);

    fn phase(&self) -> Phase;

    /// Frames of the reference collected so far, and wanted.
    fn reference(&self) -> (usize, usize);

    /// How much more the means of consecutive frames vary than those of independent ones would; 1 for independent frames,
    /// none before there is a reference.
    fn variance_ratio(&self) -> Option<f64>;

    /// The change behind the newest [`Verdict::Drift`].
    fn change(&self) -> Option<Change>;

    /// Forgets the reference and begins anew, as after a boundary set by hand.
    fn reset(&mut self);

    /// Everything needed to go on bit for bit.
    fn state(&self) -> Vec<u8>;

    /// Takes a state back; on an error the detector is as new.
    ///
    /// # Errors
    /// If `state` is damaged or was written for other settings.
    fn restore(&mut self, state: &[u8]) -> Result<(), SegmentError>;
}

/// Makes a detector of `kind` that raises about one false alarm in `mean_frames_between_false_alarms` distinct frames.
pub fn detector(kind: DetectorKind, mean_frames_between_false_alarms: u64) -> Box<dyn Detector> {
    let asked = mean_frames_between_false_alarms;
    let (drift, warning) = (thresholds::drift(kind, asked), thresholds::warning(kind, asked));
    match kind {
        DetectorKind::DyadicT2 => Box::new(DyadicT2::new(asked)),
        other => simpler(other, drift, warning),
    }
}

/// A detector of `kind` that never alarms, so that its statistic can be watched where nothing changes.
pub fn uncalibrated(kind: DetectorKind) -> Box<dyn Detector> {
    match kind {
        DetectorKind::DyadicT2 => Box::new(DyadicT2::with_thresholds(f64::INFINITY, f64::INFINITY)),
        other => simpler(other, f64::INFINITY, f64::INFINITY),
    }
}

fn simpler(kind: DetectorKind, drift: f64, warning: f64) -> Box<dyn Detector> {
    match kind {
        DetectorKind::DyadicT2 => Box::new(DyadicT2::with_thresholds(drift, warning)),
        DetectorKind::Mmd => Box::new(Referenced::<Mmd>::new(drift, warning)),
        DetectorKind::Newma => Box::new(Referenced::<Newma>::new(drift, warning)),
        DetectorKind::Adwin => Box::new(Referenced::<Adwin>::new(drift, warning)),
        DetectorKind::PageHinkley => Box::new(Referenced::<PageHinkley>::new(drift, warning)),
    }
}
