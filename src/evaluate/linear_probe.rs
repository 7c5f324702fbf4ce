//! The linear probe: what a linear classifier makes of features that do not change.

use crate::config::Seed;

use super::LabelledFeatures;

const EPOCHS: usize = 30;
const BATCH: usize = 128;
const LEARNING_RATE: f32 = 0.1;
const MOMENTUM: f32 = 0.9;
const WEIGHT_DECAY: f32 = 1e-4;

/// Accuracy on `test`, 0 to 1, of softmax regression on `train`: features standardised by the mean and standard deviation of
/// `train`, 30 epochs of gradient descent in batches of 128, momentum 0.9, learning rate 0.1 falling to 0 by a cosine. None where
/// either is empty or not finite, or the widths differ. The same seed gives the same bits.
///
/// Source of the measure: Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".
pub fn linear_probe(train: &LabelledFeatures, test: &LabelledFeatures, seed: Seed) -> Option<f64> {
    let usable = |part: &LabelledFeatures| !part.features.is_empty() && part.features.is_finite();
    if !usable(train) || !usable(test) || train.features.width() != test.features.width() {
        return None;
    }
    let classes = train.classes.iter().chain(&test.classes).max().map_or(0, |class| *class as usize + 1);
    let scaling = Scaling::of(train);
    let mut classifier = Classifier::new(train.features.width(), classes);
    let rows = scaling.apply(train);
    let batches = rows.len().div_ceil(BATCH);
    for epoch in 0..EPOCHS {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        seed.random("linear probe", epoch as u64).shuffle(&mut order);
        for (number, batch) in order.chunks(BATCH).enumerate() {
            let passed = (epoch * batches + number) as f32 / (EPOCHS * batches) as f32;
            let rate = 0.5 * LEARNING_RATE * (1.0 + (std::f32::consts::PI * passed).cos());
            classifier.step(batch.iter().map(|row| (&*rows[*row], train.classes[*row] as usize)), batch.len(), rate);
        }
    }
    let rows = scaling.apply(test);
    let hits =
        rows.iter().zip(&test.classes).filter(|(row, class)| classifier.predict(row) == **class as usize).count();
    Some(hits as f64 / test.features.len() as f64)
}

struct Scaling {
    mean: Vec<f32>,
    scale: Vec<f32>,
}

impl Scaling {
    fn of(part: &LabelledFeatures) -> Self {
        let (width, count) = (part.features.width(), part.features.len() as f64);
        let (mut sum, mut square) = (vec![0f64; width], vec![0f64; width]);
        for row in part.features.rows() {
            for (column, value) in row.iter().enumerate() {
                sum[column] += f64::from(*value);
                square[column] += f64::from(*value).powi(2);
            }
        }
        let variance = |(sum, square): (&f64, &f64)| (square / count - (sum / count).powi(2)).max(0.0);
        let scale = sum.iter().zip(&square).map(variance);
        // A column that does not vary tells nothing, and is not blown up.
        let scale = scale.map(|variance| if variance > 1e-12 { (1.0 / variance.sqrt()) as f32 } else { 0.0 }).collect();
        Self { mean: sum.iter().map(|sum| (sum / count) as f32).collect(), scale }
    }

    fn apply(&self, part: &LabelledFeatures) -> Vec<Vec<f32>> {
        let row = |row: &[f32]| {
            row.iter().zip(self.mean.iter().zip(&self.scale)).map(|(x, (mean, scale))| (x - mean) * scale).collect()
        };
        part.features.rows().map(row).collect()
    }
}

/// Weights (classes, width + 1), the bias last.
struct Classifier {
    width: usize,
    weights: Vec<f32>,
    momentum: Vec<f32>,
}

impl Classifier {
    fn new(width: usize, classes: usize) -> Self {
        let values = classes * (width + 1);
        Self { width, weights: vec![0.0; values], momentum: vec![0.0; values] }
    }

    fn scores(&self, row: &[f32]) -> Vec<f32> {
        let score = |weights: &[f32]| weights[self.width] + dot(&weights[..self.width], row);
        self.weights.chunks_exact(self.width + 1).map(score).collect()
    }

    fn predict(&self, row: &[f32]) -> usize {
        let scores = self.scores(row);
        (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a))).unwrap_or(0)
    }

    fn step<'a>(&mut self, rows: impl Iterator<Item = (&'a [f32], usize)>, count: usize, rate: f32) {
        let mut gradient = vec![0f32; self.weights.len()];
        for (row, class) in rows {
            let mut shares = self.scores(row);
            let most = shares.iter().copied().fold(f32::MIN, f32::max);
            shares.iter_mut().for_each(|share| *share = (*share - most).exp());
            let total: f32 = shares.iter().sum();
            for (number, (share, gradient)) in shares.iter().zip(gradient.chunks_exact_mut(self.width + 1)).enumerate()
            {
                let error = (share / total - f32::from(u8::from(number == class))) / count as f32;
                gradient[..self.width].iter_mut().zip(row).for_each(|(to, x)| *to += error * x);
                gradient[self.width] += error;
            }
        }
        for ((weight, momentum), gradient) in self.weights.iter_mut().zip(&mut self.momentum).zip(gradient) {
            *momentum = MOMENTUM * *momentum + gradient + WEIGHT_DECAY * *weight;
            *weight -= rate * *momentum;
        }
    }
}

/// In sixteen partial sums.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        sums = std::array::from_fn(|lane| sums[lane] + a[lane] * b[lane]);
    }
    sums.iter().sum::<f32>() + a_tail.iter().zip(b_tail).map(|(x, y)| x * y).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::super::Features;
    use super::*;

    /// Three clouds in the plane, the distance of whose centres is given in standard deviations.
    fn clouds(seed: u64, distance: f64) -> LabelledFeatures {
        let mut random = Seed(seed).random("clouds", 0);
        let (mut values, mut classes) = (Vec::new(), Vec::new());
        for index in 0..300u32 {
            let angle = f64::from(index % 3) * std::f64::consts::TAU / 3.0;
            values.extend([distance * angle.cos() + random.normal(), distance * angle.sin() + random.normal(), 7.0]);
            classes.push(index % 3);
        }
        let values = values.into_iter().map(|value| value as f32).collect();
        LabelledFeatures { features: Features::new(3, values).unwrap(), classes }
    }

    #[test]
    fn what_a_line_separates_is_told_apart_and_what_is_alike_is_not() {
        let apart = linear_probe(&clouds(1, 6.0), &clouds(2, 6.0), Seed(0)).unwrap();
        assert!(apart > 0.99, "{apart}");
        let alike = linear_probe(&clouds(1, 0.0), &clouds(2, 0.0), Seed(0)).unwrap();
        assert!((0.2..0.47).contains(&alike), "{alike}");
        assert_eq!(
            linear_probe(&clouds(1, 1.0), &clouds(2, 1.0), Seed(0)),
            linear_probe(&clouds(1, 1.0), &clouds(2, 1.0), Seed(0))
        );
    }

    #[test]
    fn without_images_there_is_no_accuracy() {
        let none = LabelledFeatures { features: Features::new(3, vec![]).unwrap(), classes: vec![] };
        assert_eq!(linear_probe(&clouds(1, 1.0), &none, Seed(0)), None);
        assert_eq!(linear_probe(&none, &clouds(1, 1.0), Seed(0)), None);
    }
}
