//! Maximum mean discrepancy of the newest 64 frames and a fixed reference (Gretton et al., JMLR 2012; online as in Cobb et al.
//! 2021): the unbiased estimate with a Gaussian kernel, times the frames of the window.

use std::collections::VecDeque;

use super::SegmentError;
use super::bytes::{Reader, Writer};
use super::kernel::{median_squared_distance, squared_distance};
use super::referenced::{Test, read_coordinates, write_coordinates};
use super::whitening::Coordinates;
use crate::config::DetectorKind;

const WINDOW: usize = 64;
/// Frames kept of the reference.
const KEPT: usize = 128;

pub(super) struct Mmd {
    reference: Vec<Coordinates>,
    bandwidth: f64,
    /// Mean kernel of two different frames of the reference.
    within_reference: f64,
    /// The newest frames, and for each its mean kernel with the reference.
    window: VecDeque<(Coordinates, f64)>,
    /// Sum of kernels over pairs of the window, and of the means with the reference.
    within_window: f64,
    across: f64,
}

impl Mmd {
    fn kernel(&self, a: &Coordinates, b: &Coordinates) -> f64 {
        (-squared_distance(a, b) / (2.0 * self.bandwidth)).exp()
    }

    /// Sum of a frame's kernels with the window.
    fn with_window(&self, frame: &Coordinates) -> f64 {
        self.window.iter().map(|(other, _)| self.kernel(frame, other)).sum()
    }
}

impl Test for Mmd {
    const KIND: DetectorKind = DetectorKind::Mmd;

    fn begin(reference: &[Coordinates]) -> Self {
        let kept: Vec<Coordinates> = reference.iter().step_by(reference.len().div_ceil(KEPT)).copied().collect();
        let mut mmd = Self {
            bandwidth: median_squared_distance(&kept),
            reference: kept,
            within_reference: 0.0,
            window: VecDeque::with_capacity(WINDOW),
            within_window: 0.0,
            across: 0.0,
        };
        let n = mmd.reference.len();
        let pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
        let sum: f64 = pairs.map(|(i, j)| mmd.kernel(&mmd.reference[i], &mmd.reference[j])).sum();
        mmd.within_reference = 2.0 * sum / (n * (n - 1)) as f64;
        mmd
    }

    fn update(&mut self, coordinates: &Coordinates) -> Option<f64> {
        if self.window.len() == WINDOW
            && let Some((oldest, with_reference)) = self.window.pop_front()
        {
            self.within_window -= self.with_window(&oldest);
            self.across -= with_reference;
        }
        self.within_window += self.with_window(coordinates);
        let with_reference = self.reference.iter().map(|other| self.kernel(coordinates, other)).sum::<f64>();
        let with_reference = with_reference / self.reference.len() as f64;
        self.across += with_reference;
        self.window.push_back((*coordinates, with_reference));
        let w = WINDOW as f64;
        let squared = self.within_reference + 2.0 * self.within_window / (w * (w - 1.0)) - 2.0 * self.across / w;
        (self.window.len() == WINDOW).then_some(w * squared)
    }

    fn write(&self, writer: &mut Writer) {
        write_coordinates(writer, self.reference.iter());
        write_coordinates(writer, self.window.iter().map(|(frame, _)| frame));
        writer.f64s(&self.window.iter().map(|&(_, across)| across).collect::<Vec<f64>>());
        for value in [self.bandwidth, self.within_reference, self.within_window, self.across] {
            writer.f64(value);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let (reference, frames) = (read_coordinates(reader)?, read_coordinates(reader)?);
        let across = super::bytes::expect_length(reader.f64s()?, frames.len())?;
        if frames.len() > WINDOW || reference.len() < 2 {
            return Err(SegmentError::State("its window does not fit"));
        }
        Ok(Self {
            reference,
            window: frames.into_iter().zip(across).collect(),
            bandwidth: reader.f64()?,
            within_reference: reader.f64()?,
            within_window: reader.f64()?,
            across: reader.f64()?,
        })
    }
}
