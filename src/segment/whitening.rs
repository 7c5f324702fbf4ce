//! The coordinates in which a reference block of features has unit variance: its principal components, scaled and clipped.

use super::SegmentError;
use super::bytes::{Reader, Writer, expect_length};
use super::correlation::variance_ratio;
use super::eigen::{dot32, leading_eigen};

/// Most principal components kept.
pub(super) const COMPONENTS: usize = 64;
/// Independent frames for each component: with fewer its variance would not be known well enough to divide by.
const FRAMES_PER_COMPONENT: f64 = 8.0;
const FEWEST_COMPONENTS: usize = 2;
/// Added to every variance, as a share of their mean: directions that hardly vary must not be blown up to noise. (With 0.05 fewer
/// changes from five classes to the other five are found.)
const SHRINKAGE: f64 = 0.2;
/// Smallest mean variance that counts: below it every frame is the same and there is nothing to scale.
const SMALLEST_VARIANCE: f64 = 1e-9;
/// Longer vectors than this quantile of the reference's are shortened to it: one odd frame is no change.
const CLIP_QUANTILE: f64 = 0.95;

/// The coordinates of one frame; those beyond the components kept are 0.
pub(super) type Coordinates = [f32; COMPONENTS];

/// A frozen linear map to whitened coordinates.
#[derive(Debug, Clone)]
pub(super) struct Whitening {
    /// Shape (features, COMPONENTS), row by row.
    projection: Vec<Coordinates>,
    /// The mean's projection.
    offset: Coordinates,
    /// Longest vector left as it is.
    longest: f32,
    components: usize,
    /// The coordinates' variances in the reference, 1 but for the shrinkage: their sum, and that of their squares.
    variances: [f64; 2],
}

impl Whitening {
    /// From `reference`, shape (frames, dimensions), row by row, and the variance ratio of its frames.
    ///
    /// There is a component for every eight independent frames, of which correlated ones are worth `ratio` times fewer. The
    /// components are found from the frames' inner products (the Gram matrix), which has the nonzero eigenvalues of the
    /// features' covariance.
    pub fn fit(reference: &[f32], dimensions: usize) -> (Self, f64) {
        let frames = reference.len() / dimensions;
        let mut mean = vec![0f64; dimensions];
        for frame in reference.chunks_exact(dimensions) {
            mean.iter_mut().zip(frame).for_each(|(sum, &x)| *sum += f64::from(x) / frames as f64);
        }
        let centred: Vec<f32> =
            reference.iter().enumerate().map(|(i, &x)| (f64::from(x) - mean[i % dimensions]) as f32).collect();
        let (values, vectors) = leading_eigen(&gram(&centred, dimensions), frames, COMPONENTS);
        let wanted = |ratio: f64| {
            let components = (frames as f64 / ratio / FRAMES_PER_COMPONENT) as usize;
            components.clamp(FEWEST_COMPONENTS, values.len())
        };
        let (mut components, mut ratio) = (wanted(1.0), 1.0);
        let mut map = Self::from_components(&centred, &mean, &values, &vectors, components);
        // Fewer components may be the more correlated ones: two rounds settle it.
        for _ in 0..2 {
            let coordinates: Vec<Coordinates> =
                reference.chunks_exact(dimensions).map(|frame| map.linear(frame)).collect();
            ratio = variance_ratio(&coordinates);
            if wanted(ratio) >= components {
                break;
            }
            components = wanted(ratio);
            map = Self::from_components(&centred, &mean, &values, &vectors, components);
        }
        let mut lengths: Vec<f32> =
            reference.chunks_exact(dimensions).map(|frame| length(&map.linear(frame))).collect();
        lengths.sort_by(f32::total_cmp);
        map.longest = lengths[((frames - 1) as f64 * CLIP_QUANTILE).round() as usize].max(f32::MIN_POSITIVE);
        (map, ratio)
    }

    /// Component j of a frame x: (x - mean)' A' u_j / sqrt(n - 1) / lambda_j^1/2, over sqrt(lambda_j + shrinkage), where
    /// lambda_j and u_j are the eigenpairs of A A' / (n - 1).
    fn from_components(centred: &[f32], mean: &[f64], values: &[f64], vectors: &[f64], kept: usize) -> Self {
        let dimensions = mean.len();
        let frames = centred.len() / dimensions;
        let average =
            (values[..kept].iter().map(|&value| value.max(0.0)).sum::<f64>() / kept as f64).max(SMALLEST_VARIANCE);
        let mut projection = vec![[0f32; COMPONENTS]; dimensions];
        let mut offset = [0f32; COMPONENTS];
        let mut variances = [0.0; 2];
        for component in 0..kept {
            let value = values[component].max(1e-6 * average);
            let variance = value / (value + SHRINKAGE * average);
            variances = [variances[0] + variance, variances[1] + variance * variance];
            let scale = 1.0 / ((value * (frames - 1) as f64).sqrt() * (value + SHRINKAGE * average).sqrt());
            let mut axis = vec![0f64; dimensions];
            for (frame, &weight) in centred.chunks_exact(dimensions).zip(&vectors[component * frames..]) {
                axis.iter_mut().zip(frame).for_each(|(sum, &x)| *sum += weight * f64::from(x));
            }
            axis.iter().zip(&mut projection).for_each(|(x, row)| row[component] = (x * scale) as f32);
            offset[component] = axis.iter().zip(mean).map(|(x, m)| x * scale * m).sum::<f64>() as f32;
        }
        Self { projection, offset, longest: f32::MAX, components: kept, variances }
    }

    pub fn components(&self) -> usize {
        self.components
    }

    /// T2 as a normal deviate: it is nearly a sum of squares of coordinates with these variances, which is nearly a multiple
    /// of chi squared (Satterthwaite), whose cube root is nearly normal (Wilson and Hilferty 1931).
    pub fn deviate(&self, t2: f64) -> f64 {
        let [sum, squares] = self.variances;
        let spread = 2.0 * squares / (9.0 * sum * sum);
        ((t2 / sum).cbrt() - (1.0 - spread)) / spread.sqrt()
    }

    pub fn dimensions(&self) -> usize {
        self.projection.len()
    }

    /// Whitened and clipped coordinates of one frame's features.
    pub fn apply(&self, features: &[f32]) -> Coordinates {
        let mut coordinates = self.linear(features);
        let length = length(&coordinates);
        if length > self.longest {
            coordinates.iter_mut().for_each(|z| *z *= self.longest / length);
        }
        coordinates
    }

    fn linear(&self, features: &[f32]) -> Coordinates {
        let mut sums = [0f32; COMPONENTS];
        for (&x, row) in features.iter().zip(&self.projection) {
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum += x * weight;
            }
        }
        sums.iter_mut().zip(&self.offset).for_each(|(sum, offset)| *sum -= offset);
        sums
    }

    pub fn write(&self, writer: &mut Writer) {
        writer.f32s(self.projection.as_flattened().iter());
        writer.f32s(self.offset.iter());
        writer.f32s([self.longest].iter());
        writer.u64(self.components as u64);
        writer.f64s(&self.variances);
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let flat = reader.f32s()?;
        let (projection, rest) = flat.as_chunks::<COMPONENTS>();
        if !rest.is_empty() {
            return Err(SegmentError::State("its projection has no whole rows"));
        }
        let offset = expect_length(reader.f32s()?, COMPONENTS)?;
        let longest = expect_length(reader.f32s()?, 1)?[0];
        let components = reader.u64()?;
        let variances = expect_length(reader.f64s()?, 2)?;
        if !(1..=COMPONENTS as u64).contains(&components) {
            return Err(SegmentError::State("its components do not fit"));
        }
        Ok(Self {
            projection: projection.to_vec(),
            offset: std::array::from_fn(|i| offset[i]),
            longest,
            components: components as usize,
            variances: [variances[0], variances[1]],
        })
    }
}

fn length(coordinates: &Coordinates) -> f32 {
    coordinates.iter().map(|z| z * z).sum::<f32>().sqrt()
}

/// A A' / (n - 1).
fn gram(centred: &[f32], dimensions: usize) -> Vec<f32> {
    let frames = centred.len() / dimensions;
    let row = |i: usize| &centred[i * dimensions..(i + 1) * dimensions];
    let mut products = vec![0.0; frames * frames];
    for i in 0..frames {
        for j in 0..=i {
            let product = dot32(row(i), row(j)) / (frames - 1) as f32;
            (products[i * frames + j], products[j * frames + i]) = (product, product);
        }
    }
    products
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    #[test]
    fn a_reference_has_mean_zero_and_nearly_unit_variance_in_its_own_coordinates() {
        let (frames, dimensions) = (256, 80);
        let mut random = Seed(5).random("whitening", 0);
        let reference: Vec<f32> = (0..frames * dimensions)
            .map(|i| (3.0 + random.normal() * (1.0 + (i % dimensions) as f64 / 40.0)) as f32)
            .collect();
        let (map, ratio) = Whitening::fit(&reference, dimensions);
        assert!((1.0..1.2).contains(&ratio), "{ratio}");
        assert_eq!(map.components(), 32);
        let coordinates: Vec<Coordinates> = reference.chunks_exact(dimensions).map(|frame| map.linear(frame)).collect();
        for component in 0..map.components() {
            let mean = coordinates.iter().map(|z| z[component]).sum::<f32>() / frames as f32;
            let variance = coordinates.iter().map(|z| z[component].powi(2)).sum::<f32>() / (frames - 1) as f32;
            assert!(mean.abs() < 1e-4, "{mean}");
            assert!((0.7..1.0).contains(&variance), "{variance}");
        }
        let clipped =
            reference.chunks_exact(dimensions).filter(|frame| length(&map.linear(frame)) > map.longest).count();
        assert!((8..18).contains(&clipped), "{clipped} of 256 beyond the 95 % quantile");
    }

    #[test]
    fn a_reference_that_hardly_varies_is_not_blown_up() {
        let mut reference = vec![0.5f32; 256 * 40];
        let (map, _) = Whitening::fit(&reference, 40);
        assert!(map.apply(&[0.5; 40]).iter().all(|&z| z == 0.0));
        // One direction varies; the others are rounding only.
        reference.chunks_exact_mut(40).enumerate().for_each(|(i, frame)| frame[7] += (i % 2) as f32);
        let (map, _) = Whitening::fit(&reference, 40);
        let mut frame = [0.5f32; 40];
        frame[9] += 1e-6;
        assert!(map.apply(&frame).iter().all(|z| z.abs() < 1.5), "{:?}", map.apply(&frame));
    }
}
