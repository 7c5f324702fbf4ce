//! The Gaussian kernel of the detectors that compare whole distributions.

use super::whitening::Coordinates;

/// Frames that the bandwidth is taken from.
const SAMPLE: usize = 64;

pub(super) fn squared_distance(a: &Coordinates, b: &Coordinates) -> f64 {
    f64::from(a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>())
}

/// The median squared distance of frames of the reference: the square of the kernel's bandwidth (Gretton et al. 2012).
pub(super) fn median_squared_distance(reference: &[Coordinates]) -> f64 {
    let step = reference.len().div_ceil(SAMPLE).max(1);
    let sample: Vec<&Coordinates> = reference.iter().step_by(step).collect();
    let pairs = sample.iter().enumerate().flat_map(|(i, a)| sample[..i].iter().map(move |b| squared_distance(a, b)));
    let mut distances: Vec<f64> = pairs.collect();
    distances.sort_by(f64::total_cmp);
    distances.get(distances.len() / 2).copied().unwrap_or(1.0).max(1e-9)
}
