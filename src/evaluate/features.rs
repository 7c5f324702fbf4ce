//! A table of embeddings, and the few products of rows that the measures share.

use super::EvaluateError;

/// Embeddings of n images, (n, width), row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    width: usize,
    values: Vec<f32>,
}

impl Features {
    /// # Errors
    /// [`EvaluateError::Shape`] if `values` is not whole rows of `width`, or `width` is 0.
    pub fn new(width: usize, values: Vec<f32>) -> Result<Self, EvaluateError> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(EvaluateError::Shape { values: values.len(), width });
        }
        Ok(Self { width, values })
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `at`.
    ///
    /// # Panics
    /// If `at` is not below [`Features::len`].
    pub fn row(&self, at: usize) -> &[f32] {
        &self.values[at * self.width..][..self.width]
    }

    /// All rows in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// All numbers, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The rows at `indices`, in that order.
    ///
    /// # Panics
    /// If an index is not below [`Features::len`].
    pub fn select(&self, indices: &[usize]) -> Self {
        Self { width: self.width, values: indices.iter().flat_map(|&at| self.row(at)).copied().collect() }
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }

    /// Every row at length one, in f64; a row of zeros stays zeros.
    pub(super) fn unit_rows(&self) -> Vec<Vec<f64>> {
        self.rows()
            .map(|row| {
                let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
                let length = dot(&row, &row).sqrt();
                if length > 0.0 { row.iter().map(|x| x / length).collect() } else { row }
            })
            .collect()
    }

    /// Every row less the mean row, in f64. Needs a row.
    pub(super) fn centred_rows(&self) -> Vec<Vec<f64>> {
        let mut mean = vec![0.0; self.width];
        for row in self.rows() {
            mean.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        mean.iter_mut().for_each(|sum| *sum /= self.len() as f64);
        self.rows().map(|row| row.iter().zip(&mean).map(|(&x, mean)| f64::from(x) - mean).collect()).collect()
    }

    /// Whether the rows differ by more than rounding: without that they tell nothing apart.
    pub(super) fn has_spread(&self) -> bool {
        let size: f64 = self.values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let spread: f64 = self.centred_rows().iter().map(|row| dot(row, row)).sum();
        // 1e-6 of the length, the rounding of f32 embeddings, squared.
        spread > 1e-12 * size
    }
}

/// Dot product of two vectors of one length, in eight partial sums.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0f64; 8];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        sums = std::array::from_fn(|lane| sums[lane] + a[lane] * b[lane]);
    }
    sums.iter().sum::<f64>() + a_tail.iter().zip(b_tail).map(|(x, y)| x * y).sum::<f64>()
}

/// Dot products of all pairs of rows, (n, n).
pub(super) fn gram(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let n = rows.len();
    let mut gram = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..=i {
            let product = dot(&rows[i], &rows[j]);
            gram[i][j] = product;
            gram[j][i] = product;
        }
    }
    gram
}

#[cfg(test)]
pub(super) mod testing {
    use super::Features;
    use crate::config::Seed;

    /// Independent normal numbers.
    pub fn normal(seed: u64, n: usize, width: usize) -> Features {
        let mut random = Seed(seed).random("features", 0);
        Features::new(width, (0..n * width).map(|_| random.normal() as f32).collect()).unwrap()
    }

    /// `features` turned by a product of random Householder reflections: an orthogonal map.
    pub fn rotated(features: &Features, seed: u64) -> Features {
        let width = features.width();
        let mut values: Vec<f64> = features.values().iter().map(|&x| f64::from(x)).collect();
        for reflection in 0..5 {
            let mut random = Seed(seed).random("reflection", reflection);
            let axis: Vec<f64> = (0..width).map(|_| random.normal()).collect();
            let square: f64 = axis.iter().map(|x| x * x).sum();
            for row in values.chunks_exact_mut(width) {
                let along = 2.0 * row.iter().zip(&axis).map(|(x, a)| x * a).sum::<f64>() / square;
                row.iter_mut().zip(&axis).for_each(|(x, a)| *x -= along * a);
            }
        }
        Features::new(width, values.into_iter().map(|x| x as f32).collect()).unwrap()
    }

    /// `features` with independent normal noise of standard deviation `amount` added.
    pub fn noisy(features: &Features, amount: f32, seed: u64) -> Features {
        let noise = normal(seed, features.len(), features.width());
        let values = features.values().iter().zip(noise.values()).map(|(x, e)| x + amount * e).collect();
        Features::new(features.width(), values).unwrap()
    }
}
