//! A task in few numbers: mean and covariance of a frozen projection of its features to 64 dimensions, to know it again when
//! it returns.

use serde::{Deserialize, Serialize};

use super::features::FeatureMap;
use super::triangle;
use crate::config::Seed;

/// Dimensions of a sketch.
pub(super) const DIMENSIONS: usize = 64;
/// A sketch forgets as if it had seen at most so many frames: slow drift within a task must not split its identity.
const MEMORY: f64 = 2000.0;
/// Fewest frames of a sketch that is compared.
const FEWEST: f64 = 16.0;
/// Fewest frames of two sketches together for which correlations are known well enough to be divided by.
const FEWEST_CORRELATED: f64 = 4.0 * DIMENSIONS as f64;
/// What is added to the correlations' diagonal: directions that hardly vary must not decide alone.
const RIDGE: f64 = 0.005;
/// Variances are taken to be at least this: noise of a picture that is rendered, not taken, is no measure of anything.
const SMALLEST_VARIANCE: f64 = 1e-6;
const PROJECTION_SEED: Seed = Seed(0x6c75_6d70_645f_736b);

/// One frame in the sketches' space.
pub(super) type Point = [f32; DIMENSIONS];

/// The frozen random projection of texture that all tasks share.
pub(super) struct Projection(Vec<Point>);

impl Projection {
    pub fn new() -> Self {
        let scale = 1.0 / (FeatureMap::TEXTURE as f64).sqrt();
        let row = |number: usize| {
            let mut random = PROJECTION_SEED.random("segment-sketch", number as u64);
            std::array::from_fn(|_| (random.normal() * scale) as f32)
        };
        Self((0..FeatureMap::TEXTURE).map(row).collect())
    }

    pub fn apply(&self, features: &[f32]) -> Point {
        let mut point = [0f32; DIMENSIONS];
        for (&x, row) in features.iter().zip(&self.0) {
            point.iter_mut().zip(row).for_each(|(sum, weight)| *sum += x * weight);
        }
        point
    }
}

/// Running mean and covariance (Welford 1962), the memory capped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub(super) struct Sketch {
    /// Frames it stands for, at most [`MEMORY`].
    count: f64,
    #[serde(with = "packed")]
    mean: Vec<f64>,
    #[serde(serialize_with = "packed::single::serialize")]
    covariance: Vec<f32>,
}

/// A sketch as it lies in the register.
#[derive(Deserialize)]
struct Stored {
    count: f64,
    #[serde(with = "packed")]
    mean: Vec<f64>,
    #[serde(default, deserialize_with = "packed::single::deserialize")]
    covariance: Vec<f32>,
    /// Of registers written before covariances were kept: their diagonal.
    #[serde(default, deserialize_with = "packed::deserialize")]
    variance: Vec<f64>,
}

impl From<Stored> for Sketch {
    fn from(stored: Stored) -> Self {
        let Stored { count, mean, mut covariance, variance } = stored;
        if covariance.is_empty() && variance.len() == DIMENSIONS {
            let diagonal = |(i, j): (usize, usize)| if i == j { variance[i] as f32 } else { 0.0 };
            covariance = triangle::places(DIMENSIONS).map(diagonal).collect();
        }
        Self { count, mean, covariance }
    }
}

impl Default for Sketch {
    fn default() -> Self {
        Self { count: 0.0, mean: vec![0.0; DIMENSIONS], covariance: vec![0.0; triangle::numbers(DIMENSIONS)] }
    }
}

impl Sketch {
    pub fn of<'a>(points: impl IntoIterator<Item = &'a Point>) -> Self {
        let mut sketch = Self::default();
        points.into_iter().for_each(|point| sketch.add(point));
        sketch
    }

    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    pub fn is_sound(&self) -> bool {
        self.mean.len() == DIMENSIONS
            && self.covariance.len() == triangle::numbers(DIMENSIONS)
            && self.count.is_finite()
    }

    pub fn add(&mut self, point: &Point) {
        self.count = (self.count + 1.0).min(MEMORY);
        let (share, before) = (1.0 / self.count, self.apart(|i| f64::from(point[i])));
        let keep = 1.0 - share;
        for ((i, j), ours) in triangle::places(DIMENSIONS).zip(&mut self.covariance) {
            *ours = (f64::from(*ours) * keep + before[i] * before[j] * share * keep) as f32;
        }
        self.mean.iter_mut().zip(&before).for_each(|(mean, before)| *mean += before * share);
    }

    /// Takes in all that `other` stands for (Chan, Golub and LeVeque 1979).
    pub fn merge(&mut self, other: &Self) {
        let total = self.count + other.count;
        if total == 0.0 {
            return;
        }
        let (share, apart) = (other.count / total, self.apart(|i| other.mean[i]));
        let pooled = self.pooled(other);
        for (((i, j), ours), pooled) in triangle::places(DIMENSIONS).zip(&mut self.covariance).zip(pooled) {
            *ours = (pooled + share * (1.0 - share) * apart[i] * apart[j]) as f32;
        }
        self.mean.iter_mut().zip(&apart).for_each(|(mean, apart)| *mean += share * apart);
        self.count = total.min(MEMORY);
    }

    /// Unbiased squared distance of the means in units of the pooled covariance (Mahalanobis), averaged over the dimensions:
    /// about 0 for the same task, however many frames; none where either has too few frames to tell.
    ///
    /// d2 = (m - m')' S^-1 (m - m') / D - r (1/n + 1/n'), with r the variance ratio of correlated frames. The inverse of an
    /// estimate is too large by N / (N - D - 1), N = n + n' - 2 (Anderson, An Introduction to Multivariate Statistical
    /// Analysis, 7.7): it is divided by that. Of fewer frames than tell how dimensions are correlated,
    /// [`Sketch::diagonal_distance`].
    pub fn distance(&self, other: &Self, variance_ratio: f64) -> Option<f64> {
        let freedom = self.count + other.count - 2.0;
        if freedom < FEWEST_CORRELATED {
            return self.diagonal_distance(other, variance_ratio);
        }
        let pooled = self.pooled(other);
        let apart = self.standardised(other, &pooled);
        let factor =
            triangle::cholesky(triangle::correlations(&pooled, DIMENSIONS, SMALLEST_VARIANCE, RIDGE), DIMENSIONS);
        let squares: f64 = triangle::forward(&factor, &apart).iter().map(|x| x * x).sum();
        let unbiased = squares * (freedom - DIMENSIONS as f64 - 1.0) / freedom;
        self.less_noise(unbiased, other, variance_ratio)
    }

    /// [`Sketch::distance`] as if the dimensions were not correlated: less sharp, and cheap enough for all pairs of many tasks.
    pub fn diagonal_distance(&self, other: &Self, variance_ratio: f64) -> Option<f64> {
        let squares = self.standardised(other, &self.pooled(other)).iter().map(|x| x * x).sum();
        self.less_noise(squares, other, variance_ratio)
    }

    /// How far a frame lies from the middle, in units of the variance, averaged over the dimensions.
    pub fn remoteness(&self, point: &[f32]) -> f64 {
        let variance = |i: usize| f64::from(self.covariance[triangle::place(i, i)]).max(SMALLEST_VARIANCE);
        let terms = point.iter().zip(&self.mean).enumerate();
        terms.map(|(i, (&x, m))| (f64::from(x) - m).powi(2) / variance(i)).sum::<f64>() / DIMENSIONS as f64
    }

    /// `to` less our mean.
    fn apart(&self, to: impl Fn(usize) -> f64) -> [f64; DIMENSIONS] {
        std::array::from_fn(|i| to(i) - self.mean[i])
    }

    /// Covariance within the two, by their frames.
    fn pooled(&self, other: &Self) -> Vec<f64> {
        let share = other.count / (self.count + other.count).max(1.0);
        let both = self.covariance.iter().zip(&other.covariance);
        both.map(|(ours, theirs)| f64::from(*ours) * (1.0 - share) + f64::from(*theirs) * share).collect()
    }

    /// Difference of the means in units of standard deviations.
    fn standardised(&self, other: &Self, pooled: &[f64]) -> [f64; DIMENSIONS] {
        let apart = self.apart(|i| other.mean[i]);
        std::array::from_fn(|i| apart[i] / pooled[triangle::place(i, i)].max(SMALLEST_VARIANCE).sqrt())
    }

    /// The mean square less what chance makes of it; none of too few frames.
    fn less_noise(&self, squares: f64, other: &Self, variance_ratio: f64) -> Option<f64> {
        let noise = variance_ratio * (1.0 / self.count + 1.0 / other.count);
        (self.count.min(other.count) >= FEWEST).then_some(squares / DIMENSIONS as f64 - noise)
    }
}

/// Floats as base64 of their bits: short, and exactly what they were.
pub(super) mod packed {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let chunks = chunks::<8, D>(deserializer)?;
        Ok(chunks.into_iter().map(|chunk| f64::from_bits(u64::from_le_bytes(chunk))).collect())
    }

    fn chunks<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<[u8; N]>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        let (chunks, rest) = bytes.as_chunks::<N>();
        if rest.is_empty() { Ok(chunks.to_vec()) } else { Err(D::Error::custom("not a whole number of floats")) }
    }

    /// The same in single precision.
    pub mod single {
        use super::{Deserializer, Engine, STANDARD, Serializer, chunks};

        pub fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect();
            serializer.serialize_str(&STANDARD.encode(bytes))
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
            let chunks = chunks::<4, D>(deserializer)?;
            Ok(chunks.into_iter().map(|chunk| f32::from_bits(u32::from_le_bytes(chunk))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(seed: u64, count: u64, shift: f64) -> Vec<Point> {
        (0..count)
            .map(|n| {
                let mut random = Seed(seed).random("point", n);
                std::array::from_fn(|_| (random.normal() + shift) as f32)
            })
            .collect()
    }

    #[test]
    fn the_distance_is_unbiased_and_tells_a_shift() {
        let same: Vec<f64> = (0..40)
            .map(|seed| {
                Sketch::of(&points(seed, 256, 0.0)).distance(&Sketch::of(&points(seed + 100, 1000, 0.0)), 1.0).unwrap()
            })
            .collect();
        let mean = same.iter().sum::<f64>() / same.len() as f64;
        assert!(mean.abs() < 4e-4, "{mean}");
        let other = Sketch::of(&points(7, 256, 0.2)).distance(&Sketch::of(&points(8, 1000, 0.0)), 1.0).unwrap();
        assert!((0.03..0.05).contains(&other), "{other}");
        assert_eq!(Sketch::default().distance(&Sketch::of(&points(7, 256, 0.2)), 1.0), None);
    }

    #[test]
    fn a_shift_counts_by_how_unlikely_it_is() {
        // All dimensions move together but for a little noise: a shift along them is slight, one across is not.
        let points = |seed: u64, across: f32| -> Vec<Point> {
            let one = |n: u64| {
                let mut random = Seed(seed).random("together", n);
                let common = random.normal();
                std::array::from_fn(|i| (common + 0.2 * random.normal()) as f32 + if i % 2 == 0 { across } else { 0.0 })
            };
            (0..600).map(one).collect()
        };
        let (here, there) = (Sketch::of(&points(1, 0.0)), Sketch::of(&points(2, 0.1)));
        let (sharp, blunt) = (here.distance(&there, 1.0).unwrap(), here.diagonal_distance(&there, 1.0).unwrap());
        assert!((0.05..0.08).contains(&sharp) && blunt < 0.02, "{sharp} {blunt}");
    }

    #[test]
    fn of_few_frames_correlations_are_left_out() {
        let (few, others) = (Sketch::of(&points(3, 60, 0.0)), Sketch::of(&points(4, 100, 0.1)));
        assert_eq!(few.distance(&others, 1.0), few.diagonal_distance(&others, 1.0));
    }

    #[test]
    fn a_register_that_knew_variances_only_is_read() {
        let sketch = Sketch::of(&points(5, 300, 0.1));
        let mut stored = serde_json::to_value(&sketch).unwrap();
        let variance: Vec<f64> = (0..DIMENSIONS).map(|i| f64::from(sketch.covariance[triangle::place(i, i)])).collect();
        stored.as_object_mut().unwrap().remove("covariance");
        assert!(!serde_json::from_value::<Sketch>(stored.clone()).unwrap().is_sound());
        stored["variance"] = packed::serialize(&variance, serde_json::value::Serializer).unwrap();
        let read: Sketch = serde_json::from_value(stored).unwrap();
        let near = Sketch::of(&points(6, 300, 0.1)).distance(&read, 1.0).unwrap();
        assert!(read.is_sound() && near.abs() < 3e-3, "{near}");
    }

    #[test]
    fn merging_two_halves_is_the_whole() {
        let all = points(9, 600, 0.5);
        let mut merged = Sketch::of(&all[..250]);
        merged.merge(&Sketch::of(&all[250..]));
        let whole = Sketch::of(&all);
        for i in 0..DIMENSIONS {
            assert!((merged.mean[i] - whole.mean[i]).abs() < 1e-9);
        }
        for (ours, theirs) in merged.covariance.iter().zip(&whole.covariance) {
            assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
        }
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), whole);
    }
}
