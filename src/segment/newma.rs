//! NEWMA (Keriven, Garreau and Poli, IEEE TSP 2020): two exponential averages of random Fourier features, one that forgets
//! faster; no frame is kept.
//!
//! The statistic is the squared distance of the averages over what it is expected to be of independent frames: c (1 - |b|^2),
//! with c = L / (2 - L) + l / (2 - l) - 2 L l / (L + l - L l) for the rates L > l and b the slower average.

use super::SegmentError;
use super::bytes::{Reader, Writer, expect_length};
use super::kernel::median_squared_distance;
use super::referenced::Test;
use super::whitening::{COMPONENTS, Coordinates};
use crate::config::{DetectorKind, Seed};

/// Frequencies; each gives a cosine and a sine.
const FREQUENCIES: usize = 128;
/// Rates for a window of 128 frames.
const FAST: f64 = 0.0124;
const SLOW: f64 = 0.0045;

pub(super) struct Newma {
    bandwidth: f64,
    frequencies: Vec<Coordinates>,
    fast: Vec<f64>,
    slow: Vec<f64>,
    seen: u64,
}

impl Newma {
    fn with(bandwidth: f64) -> Self {
        let frequency = |number: usize| {
            let mut random = Seed(0).random("segment-newma", number as u64);
            std::array::from_fn::<f32, COMPONENTS, _>(|_| (random.normal() / bandwidth.sqrt()) as f32)
        };
        let zeros = vec![0.0; 2 * FREQUENCIES];
        Self {
            bandwidth,
            frequencies: (0..FREQUENCIES).map(frequency).collect(),
            fast: zeros.clone(),
            slow: zeros,
            seen: 0,
        }
    }

    fn push(&mut self, coordinates: &Coordinates) {
        let scale = 1.0 / (FREQUENCIES as f64).sqrt();
        self.seen += 1;
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let angle = f64::from(frequency.iter().zip(coordinates).map(|(w, z)| w * z).sum::<f32>());
            let (sine, cosine) = angle.sin_cos();
            for (at, value) in [(2 * i, cosine * scale), (2 * i + 1, sine * scale)] {
                self.fast[at] += FAST * (value - self.fast[at]);
                self.slow[at] += SLOW * (value - self.slow[at]);
            }
        }
    }
}

impl Test for Newma {
    const KIND: DetectorKind = DetectorKind::Newma;

    fn begin(reference: &[Coordinates]) -> Self {
        let mut newma = Self::with(median_squared_distance(reference));
        reference.iter().for_each(|frame| newma.push(frame));
        newma
    }

    fn update(&mut self, coordinates: &Coordinates) -> Option<f64> {
        self.push(coordinates);
        // The averages begin at 0: their weights do not yet sum to 1.
        let weight = |rate: f64| 1.0 - (1.0 - rate).powf(self.seen as f64);
        let (fast, slow) = (weight(FAST), weight(SLOW));
        let (mut apart, mut length) = (0.0, 0.0);
        for (a, b) in self.fast.iter().zip(&self.slow) {
            let (a, b) = (a / fast, b / slow);
            (apart, length) = (apart + (a - b) * (a - b), length + b * b);
        }
        let expected = FAST / (2.0 - FAST) + SLOW / (2.0 - SLOW) - 2.0 * FAST * SLOW / (FAST + SLOW - FAST * SLOW);
        Some(apart / (expected * (1.0 - length).max(1e-3)))
    }

    fn write(&self, writer: &mut Writer) {
        writer.f64(self.bandwidth);
        writer.u64(self.seen);
        writer.f64s(&self.fast);
        writer.f64s(&self.slow);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let bandwidth = reader.f64()?;
        if bandwidth.is_nan() || bandwidth <= 0.0 {
            return Err(SegmentError::State("its bandwidth does not fit"));
        }
        let seen = reader.u64()?;
        let fast = expect_length(reader.f64s()?, 2 * FREQUENCIES)?;
        let slow = expect_length(reader.f64s()?, 2 * FREQUENCIES)?;
        Ok(Self { seen, fast, slow, ..Self::with(bandwidth) })
    }
}
