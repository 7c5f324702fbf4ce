//! A task in 64 numbers: mean and variance of a frozen projection of its features, to know it again when it returns.

use serde::{Deserialize, Serialize};

use super::features::FeatureMap;
use crate::config::Seed;

/// Dimensions of a sketch.
pub(super) const DIMENSIONS: usize = 64;
/// A sketch forgets as if it had seen at most so many frames: slow drift within a task must not split its identity.
const MEMORY: f64 = 2000.0;
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

/// Running mean and variance (Welford 1962), the memory capped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Sketch {
    /// Frames it stands for, at most [`MEMORY`].
    count: f64,
    #[serde(with = "packed")]
    mean: Vec<f64>,
    #[serde(with = "packed")]
    variance: Vec<f64>,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { count: 0.0, mean: vec![0.0; DIMENSIONS], variance: vec![0.0; DIMENSIONS] }
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
        self.mean.len() == DIMENSIONS && self.variance.len() == DIMENSIONS && self.count.is_finite()
    }

    pub fn add(&mut self, point: &Point) {
        self.count = (self.count + 1.0).min(MEMORY);
        for ((mean, variance), &x) in self.mean.iter_mut().zip(&mut self.variance).zip(point) {
            let before = f64::from(x) - *mean;
            *mean += before / self.count;
            *variance += (before * (f64::from(x) - *mean) - *variance) / self.count;
        }
    }

    /// Takes in all that `other` stands for (Chan, Golub and LeVeque 1979).
    pub fn merge(&mut self, other: &Self) {
        let total = self.count + other.count;
        if total == 0.0 {
            return;
        }
        let share = other.count / total;
        for i in 0..DIMENSIONS {
            let apart = other.mean[i] - self.mean[i];
            let within = self.variance[i] * (1.0 - share) + other.variance[i] * share;
            self.variance[i] = within + share * (1.0 - share) * apart * apart;
            self.mean[i] += share * apart;
        }
        self.count = total.min(MEMORY);
    }

    /// Unbiased squared distance of the means in units of the pooled variance, averaged over the dimensions: about 0 for
    /// the same task, however many frames; none where either has too few frames to tell.
    ///
    /// d2 = (sum_i (m_i - m'_i)^2 / v_i - D r (1/n + 1/n')) / D, with r the variance ratio of correlated frames.
    pub fn distance(&self, other: &Self, variance_ratio: f64) -> Option<f64> {
        if self.count < 16.0 || other.count < 16.0 {
            return None;
        }
        let share = other.count / (self.count + other.count);
        let squares: f64 = (0..DIMENSIONS)
            .map(|i| {
                let pooled = self.variance[i] * (1.0 - share) + other.variance[i] * share;
                (self.mean[i] - other.mean[i]).powi(2) / pooled.max(SMALLEST_VARIANCE)
            })
            .sum();
        Some(squares / DIMENSIONS as f64 - variance_ratio * (1.0 / self.count + 1.0 / other.count))
    }

    /// How far a frame lies from the middle, in units of the variance, averaged over the dimensions.
    pub fn remoteness(&self, point: &[f32]) -> f64 {
        let terms = point.iter().zip(&self.mean).zip(&self.variance);
        terms.map(|((&x, m), v)| (f64::from(x) - m).powi(2) / v.max(SMALLEST_VARIANCE)).sum::<f64>() / DIMENSIONS as f64
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
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        let (chunks, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(D::Error::custom("not a whole number of floats"));
        }
        Ok(chunks.iter().map(|chunk| f64::from_bits(u64::from_le_bytes(*chunk))).collect())
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
    fn merging_two_halves_is_the_whole() {
        let all = points(9, 600, 0.5);
        let mut merged = Sketch::of(&all[..250]);
        merged.merge(&Sketch::of(&all[250..]));
        let whole = Sketch::of(&all);
        for i in 0..DIMENSIONS {
            assert!((merged.mean[i] - whole.mean[i]).abs() < 1e-9);
            assert!((merged.variance[i] - whole.variance[i]).abs() < 1e-9);
        }
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), whole);
    }
}
