//! Frozen features of an image: its texture, and a coarse layout of its colours.
//!
//! Texture is one layer of random filters, rectified on both sides, pooled over four quadrants. The filters see no level, so
//! a layout of 4 x 4 cells, the root of each colour's mean, says how light and of what colour the image is.
//!
//! They never learn, so a change in them is a change of the world: with features of an encoder in training the same
//! detector raises ten to a hundred times more false alarms. The filters come from a seed of their own, not from the user's,
//! since the thresholds are calibrated on exactly these features.
//!
//! Everything up to the last square root is integer arithmetic: the same image has the same features, bit for bit, on every
//! machine and with every instruction set ([`FilterBank`]).

use super::SegmentError;
use crate::config::Seed;
use crate::device::kernels::FilterBank;

/// Filters.
const FILTERS: usize = 64;
/// Pixels of a filter's side, and between two of its positions.
const FILTER_SIDE: usize = 6;
const STRIDE: usize = 2;
/// Bytes of one row of a patch (6 pixels of 3 channels), and of a whole patch.
const ROW: usize = FILTER_SIDE * 3;
const PATCH: usize = FILTER_SIDE * ROW;
const PAIRS: usize = PATCH / 2;
/// Fixed point of the filters' coefficients: the sum of a quadrant's 49 responses, each at most 10.4 * 128 * 4096, stays below 2^31.
const SCALE: f64 = 4096.0;
/// Responses below this share of full contrast are noise.
const OFFSET: i32 = (0.05 * SCALE * 255.0) as i32;
/// Cells of the layout along a side.
const CELLS: usize = 4;
/// Added to a brightness before its logarithm is taken: below a twentieth of white a camera shows noise.
const DARK: f64 = 0.05;
/// Weights of red, green and blue in brightness (ITU-R BT.601).
const LUMA: [f64; 3] = [0.299, 0.587, 0.114];
/// Larger images are averaged to this side, the one the thresholds were calibrated at.
const SIDE: usize = 32;
const SMALLEST_SIDE: usize = 16;
const LARGEST_SIDE: usize = 4096;
/// Seed of the filters. Changing it changes every feature: the thresholds and stored tasks would no longer fit.
const FILTER_SEED: Seed = Seed(0x6c75_6d70_645f_7263);

/// The frozen map from a square RGB image to 560 features.
pub struct FeatureMap {
    bank: FilterBank<PAIRS>,
}

impl FeatureMap {
    /// Features of texture, the first ones: 64 filters, 2 signs, 4 quadrants.
    pub const TEXTURE: usize = FILTERS * 2 * 4;
    /// Features of one image: texture, and the layout of 16 cells of 3 colours.
    pub const DIMENSIONS: usize = Self::TEXTURE + CELLS * CELLS * 3;

    /// The one and only such map.
    pub fn new() -> Self {
        Self {
            bank: FilterBank::new(&std::array::from_fn::<_, FILTERS, _>(|number| pairs(&draw_filter(number as u64)))),
        }
    }

    /// The features of `image`, shape (side, side, 3), 8 bits a channel.
    ///
    /// # Errors
    /// If `image` is not `side * side * 3` bytes, or `side` is not 16 to 4096.
    pub fn extract(&self, image: &[u8], side: usize) -> Result<Vec<f32>, SegmentError> {
        if !(SMALLEST_SIDE..=LARGEST_SIDE).contains(&side) || image.len() != side * side * 3 {
            return Err(SegmentError::ImageSize { side, bytes: image.len() });
        }
        if side > SIDE { Ok(self.describe(&average(image, side), SIDE)) } else { Ok(self.describe(image, side)) }
    }

    /// The logarithm of an image's mean brightness (0 to 1, 0.05 added), from its features; none for other vectors.
    pub fn brightness(features: &[f32]) -> Option<f64> {
        let layout = features.get(Self::TEXTURE..Self::DIMENSIONS).filter(|_| features.len() == Self::DIMENSIONS)?;
        let cells = layout.as_chunks::<3>().0.iter();
        let sum: f64 =
            cells.map(|cell| cell.iter().zip(LUMA).map(|(&x, w)| w * f64::from(x) * f64::from(x)).sum::<f64>()).sum();
        Some((sum / (CELLS * CELLS) as f64 + DARK).ln())
    }

    fn describe(&self, image: &[u8], side: usize) -> Vec<f32> {
        let mut features = self.convolve(image, side);
        features.extend(layout(image, side));
        features
    }

    fn convolve(&self, image: &[u8], side: usize) -> Vec<f32> {
        let mut pixels = [0i16; SIDE * SIDE * 3];
        // The filters' coefficients sum to zero, so the offset changes nothing but the size of the numbers.
        pixels.iter_mut().zip(image).for_each(|(wide, &byte)| *wide = i16::from(byte) - 128);
        let positions = (side - FILTER_SIDE) / STRIDE + 1;
        let half = positions / 2;
        let mut features = Vec::with_capacity(Self::DIMENSIONS);
        for (rows, columns) in [
            (0..half, 0..half),
            (0..half, half..positions),
            (half..positions, 0..half),
            (half..positions, half..positions),
        ] {
            let places = rows.flat_map(|row| columns.clone().map(move |column| (row * STRIDE, column * STRIDE)));
            let patches: Vec<_> = places.map(|(row, column)| patch(&pixels, side, row, column)).collect();
            let mut sums = [[0i32; 2]; FILTERS];
            self.bank.add_rectified(&patches, OFFSET, &mut sums);
            let unit = 1.0 / (patches.len() as f64 * SCALE * 255.0);
            features.extend(
                (0..2).flat_map(|sign| sums.iter().map(move |sum| (f64::from(sum[sign]) * unit).sqrt() as f32)),
            );
        }
        features
    }
}

impl Default for FeatureMap {
    fn default() -> Self {
        Self::new()
    }
}

/// The root of each cell's mean, colour by colour, as a share of white.
fn layout(image: &[u8], side: usize) -> impl Iterator<Item = f32> {
    let (mut sums, mut counts) = ([[0u64; 3]; CELLS * CELLS], [0u64; CELLS * CELLS]);
    let cell_of: Vec<usize> = (0..side).map(|at| at * CELLS / side).collect();
    for (row, line) in image.chunks_exact(side * 3).enumerate() {
        for (pixel, column) in line.as_chunks::<3>().0.iter().zip(&cell_of) {
            let cell = cell_of[row] * CELLS + column;
            counts[cell] += 1;
            sums[cell].iter_mut().zip(pixel).for_each(|(sum, &x)| *sum += u64::from(x));
        }
    }
    let mean = |(sum, count): ([u64; 3], u64)| sum.map(|sum| (sum as f64 / (count * 255) as f64).sqrt() as f32);
    sums.into_iter().zip(counts).flat_map(mean)
}

/// The pixels under a filter, line by line.
#[inline]
fn patch(pixels: &[i16; SIDE * SIDE * 3], side: usize, row: usize, column: usize) -> [[i16; 2]; PAIRS] {
    let mut patch = [0; PATCH];
    for (line, target) in patch.chunks_exact_mut(ROW).enumerate() {
        let start = ((row + line) * side + column) * 3;
        target.copy_from_slice(&pixels[start..start + ROW]);
    }
    pairs(&patch)
}

fn pairs(values: &[i16; PATCH]) -> [[i16; 2]; PAIRS] {
    std::array::from_fn(|i| [values[2 * i], values[2 * i + 1]])
}

/// A Gaussian filter of mean zero and unit norm in fixed point, its rounded coefficients summing to exactly zero.
fn draw_filter(number: u64) -> [i16; PATCH] {
    let mut random = FILTER_SEED.random("segment-filter", number);
    let mut filter = [0f64; PATCH];
    filter.iter_mut().for_each(|weight| *weight = random.normal());
    let mean = filter.iter().sum::<f64>() / PATCH as f64;
    filter.iter_mut().for_each(|weight| *weight -= mean);
    let norm = filter.iter().map(|weight| weight * weight).sum::<f64>().sqrt();
    let mut fixed = filter.map(|weight| (weight / norm * SCALE).round() as i16);
    let excess: i32 = fixed.iter().map(|&weight| i32::from(weight)).sum();
    for weight in fixed.iter_mut().take(excess.unsigned_abs() as usize) {
        *weight -= excess.signum() as i16;
    }
    fixed
}

/// Box average of a larger square image down to 32x32: every source pixel counts by the area it shares with the target's.
fn average(image: &[u8], side: usize) -> Vec<u8> {
    let mut rows = vec![0u64; side * SIDE * 3];
    for (source, target) in image.chunks_exact(side * 3).zip(rows.chunks_exact_mut(SIDE * 3)) {
        for (to, from, weight) in overlaps(side) {
            for channel in 0..3 {
                target[to * 3 + channel] += weight * u64::from(source[from * 3 + channel]);
            }
        }
    }
    let mut sums = vec![0u64; SIDE * SIDE * 3];
    for (to, from, weight) in overlaps(side) {
        let source = &rows[from * SIDE * 3..(from + 1) * SIDE * 3];
        let target = &mut sums[to * SIDE * 3..(to + 1) * SIDE * 3];
        target.iter_mut().zip(source).for_each(|(sum, value)| *sum += weight * value);
    }
    let area = (side * side) as u64;
    sums.iter().map(|sum| ((sum + area / 2) / area) as u8).collect()
}

/// Which source pixel lies on which target pixel along one axis, and how much of it: lengths in 1/32 of a source pixel.
fn overlaps(side: usize) -> impl Iterator<Item = (usize, usize, u64)> {
    (0..SIDE).flat_map(move |to| {
        let (start, end) = (to * side, (to + 1) * side);
        (start / SIDE..end.div_ceil(SIDE)).map(move |from| {
            let shared = end.min((from + 1) * SIDE) - start.max(from * SIDE);
            (to, from, shared as u64)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(side: usize, seed: u64) -> Vec<u8> {
        let mut random = Seed(seed).random("picture", 0);
        (0..side * side * 3).map(|_| random.below(256) as u8).collect()
    }

    fn filters() -> Vec<[i16; PATCH]> {
        (0..FILTERS as u64).map(draw_filter).collect()
    }

    /// The definition in floating point, with the same filters.
    fn reference(image: &[u8], side: usize) -> Vec<f64> {
        let filters = filters();
        let positions = (side - FILTER_SIDE) / STRIDE + 1;
        let mut sums = vec![0.0; FeatureMap::TEXTURE];
        let mut counts = [0.0; 4];
        for (row, column) in (0..positions * positions).map(|p| (p / positions, p % positions)) {
            let quadrant = usize::from(row >= positions / 2) * 2 + usize::from(column >= positions / 2);
            counts[quadrant] += 1.0;
            for (f, filter) in filters.iter().enumerate() {
                let response: f64 = (0..PATCH)
                    .map(|i| {
                        let (y, x) = (row * STRIDE + i / ROW, column * 3 * STRIDE + i % ROW);
                        (f64::from(image[y * side * 3 + x]) / 255.0 - 0.5) * f64::from(filter[i]) / SCALE
                    })
                    .sum();
                sums[quadrant * 128 + f] += (response - 0.05).max(0.0);
                sums[quadrant * 128 + 64 + f] += (-response - 0.05).max(0.0);
            }
        }
        let mut expected: Vec<f64> = sums.iter().enumerate().map(|(i, sum)| (sum / counts[i / 128]).sqrt()).collect();
        for (cell, channel) in (0..16).flat_map(|cell| (0..3).map(move |channel| (cell, channel))) {
            let inside = |i: &usize| (i / side * 4 / side) * 4 + i % side * 4 / side == cell;
            let values: Vec<f64> = (0..side * side).filter(inside).map(|i| f64::from(image[i * 3 + channel])).collect();
            expected.push((values.iter().sum::<f64>() / values.len() as f64 / 255.0).sqrt());
        }
        expected
    }

    #[test]
    fn features_are_those_of_the_definition() {
        let map = FeatureMap::new();
        for side in [32, 19] {
            let image = picture(side, 1);
            let features = map.extract(&image, side).unwrap();
            let expected = reference(&image, side);
            assert_eq!(features.len(), FeatureMap::DIMENSIONS);
            for (got, want) in features.iter().zip(&expected) {
                assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }

    #[test]
    fn the_filters_stay_what_the_thresholds_were_calibrated_on() {
        let mut hash = blake3::Hasher::new();
        for filter in filters() {
            hash.update(&filter.map(i16::to_le_bytes).concat());
            // The four zeros that once padded a filter: the hash is of that time.
            hash.update(&[0; 8]);
        }
        assert_eq!(&hash.finalize().to_hex()[..16], "4ba3bb1c91a1249e");
    }

    #[test]
    fn filters_have_unit_norm_and_ignore_brightness() {
        let map = FeatureMap::new();
        for filter in filters() {
            let norm: f64 = filter.iter().map(|&w| (f64::from(w) / SCALE).powi(2)).sum();
            assert!((norm - 1.0).abs() < 0.01, "{norm}");
            assert_eq!(filter.iter().map(|&w| i32::from(w)).sum::<i32>(), 0);
        }
        assert!(map.extract(&[200; 32 * 32 * 3], 32).unwrap()[..FeatureMap::TEXTURE].iter().all(|&x| x == 0.0));
    }

    #[test]
    fn brightness_is_the_logarithm_of_the_mean() {
        for level in [0u8, 51, 255] {
            let features = FeatureMap::new().extract(&[level; 32 * 32 * 3], 32).unwrap();
            let expected = (f64::from(level) / 255.0 + 0.05).ln();
            assert!((FeatureMap::brightness(&features).unwrap() - expected).abs() < 1e-6);
        }
        assert_eq!(FeatureMap::brightness(&[0.5; 48]), None);
    }

    #[test]
    fn a_larger_image_has_the_features_of_its_box_average() {
        let map = FeatureMap::new();
        let small = picture(32, 2);
        let large: Vec<u8> =
            (0..96 * 96 * 3).map(|i| small[((i / 3 / 96) / 3 * 32 + (i / 3 % 96) / 3) * 3 + i % 3]).collect();
        assert_eq!(map.extract(&large, 96).unwrap(), map.extract(&small, 32).unwrap());
        assert_eq!(average(&vec![77; 45 * 45 * 3], 45), vec![77; 32 * 32 * 3]);
    }

    #[test]
    fn an_image_of_the_wrong_size_is_refused() {
        let map = FeatureMap::new();
        assert_eq!(map.extract(&[0; 10], 32).unwrap_err().code(), "segment-image-size");
        assert_eq!(map.extract(&[0; 8 * 8 * 3], 8).unwrap_err().code(), "segment-image-size");
    }
}
