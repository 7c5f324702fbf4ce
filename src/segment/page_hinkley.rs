//! Page and Hinkley's test of a mean (Page 1954), on how far frames lie from the reference: cumulative sums, two-sided, of the
//! standardised distance less a drift that is tolerated.
//!
//! It sees nothing of a change that leaves the distance as it is, as when one class of things replaces another.

use super::SegmentError;
use super::bytes::{Reader, Writer, expect_length};
use super::referenced::Test;
use super::whitening::Coordinates;
use crate::config::DetectorKind;

/// Coordinates whose length is watched.
const WATCHED: usize = 8;
/// Standard deviations a frame that are tolerated.
const TOLERATED: f64 = 0.25;

pub(super) struct PageHinkley {
    frames: f64,
    mean: f64,
    deviation: f64,
    above: f64,
    below: f64,
}

fn distance(coordinates: &Coordinates) -> f64 {
    f64::from(coordinates[..WATCHED].iter().map(|z| z * z).sum::<f32>()).sqrt()
}

impl Test for PageHinkley {
    const KIND: DetectorKind = DetectorKind::PageHinkley;

    fn begin(reference: &[Coordinates]) -> Self {
        let frames = reference.len() as f64;
        let mean = reference.iter().map(distance).sum::<f64>() / frames;
        let variance = reference.iter().map(|frame| (distance(frame) - mean).powi(2)).sum::<f64>() / (frames - 1.0);
        Self { frames, mean, deviation: variance.sqrt().max(1e-6), above: 0.0, below: 0.0 }
    }

    fn update(&mut self, coordinates: &Coordinates) -> Option<f64> {
        let distance = distance(coordinates);
        let x = (distance - self.mean) / self.deviation;
        self.above = (self.above + x - TOLERATED).max(0.0);
        self.below = (self.below - x - TOLERATED).max(0.0);
        self.frames += 1.0;
        self.mean += (distance - self.mean) / self.frames;
        Some(self.above.max(self.below))
    }

    fn write(&self, writer: &mut Writer) {
        writer.f64s(&[self.frames, self.mean, self.deviation, self.above, self.below]);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let values = expect_length(reader.f64s()?, 5)?;
        let [frames, mean, deviation, above, below] = std::array::from_fn(|i| values[i]);
        Ok(Self { frames, mean, deviation, above, below })
    }
}
