//! Batch normalisation with an optional residual and ReLU, fused, forward and backward (Ioffe & Szegedy, 2015).
//!
//! ```text
//! forward    y = relu(weight * (x - mean) / sqrt(variance + epsilon) + bias + residual)      mean, variance over the rows
//! backward   d = dy where y > 0, else 0
//!            d_bias = sum d,  d_weight = sum d * xhat,  dx = weight / sqrt(..) * (d - d_bias / n - xhat * d_weight / n)
//! ```
//!
//! A call treats one group: the rows (pixels of all images of a view) that share their statistics. Partial sums over a
//! few hundred rows are f32, sums of those f64; variances are merged by Chan, Golub and LeVeque's formula (1979), so that a
//! mean far from zero costs no accuracy.

mod rows;
#[cfg(test)]
mod tests;

use super::{Isa, Threads};
use rows::{ChunkMoments, ChunkSums, Factors, InputGradient, Normalize, View};

/// Values of a chunk, the unit of parallel work and of partial sums.
const CHUNK_VALUES: usize = 1 << 15;

/// Batch normalisation of `channels` stored channels.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm {
    pub isa: Isa,
    /// A multiple of the vector's length.
    pub channels: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Mean and biased variance of each channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
}

/// Where the backward pass finds out which outputs the ReLU let pass.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// There was no ReLU.
    None,
    /// From the outputs: those above 0.
    Output(&'a [f32]),
    /// Computed again from the input; there was no residual.
    Recompute,
}

/// `y = x * scale + shift`, per channel.
#[derive(Debug, Clone)]
struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl BatchNorm {
    fn rows_of_chunk(&self) -> usize {
        (CHUNK_VALUES / self.channels).max(1)
    }

    /// Mean and variance of each channel over the rows of `x` (rows, channels).
    ///
    /// # Panics
    /// If `x` is empty or no whole number of rows.
    pub fn moments(&self, threads: Threads, x: &[f32]) -> Moments {
        let channels = self.channels;
        assert!(!x.is_empty() && x.len().is_multiple_of(channels), "rows");
        let chunk = self.rows_of_chunk() * channels;
        let mut partials = vec![0.0; x.len().div_ceil(chunk) * 2 * channels];
        threads.for_each_chunk(&mut partials, 2 * channels, |index, sums| {
            let rows = &x[index * chunk..x.len().min((index + 1) * chunk)];
            self.isa.run(ChunkMoments { channels, rows, sums });
        });
        let (mut mean, mut spread, mut count) = (vec![0.0_f64; channels], vec![0.0_f64; channels], 0.0_f64);
        for (rows, sums) in x.chunks(chunk).zip(partials.chunks_exact(2 * channels)) {
            let added = (rows.len() / channels) as f64;
            let total = count + added;
            for c in 0..channels {
                let (sum, squares) = (f64::from(sums[c]), f64::from(sums[channels + c]));
                let offset = sum / added;
                let distance = f64::from(rows[c]) + offset - mean[c];
                spread[c] += (squares - sum * offset).max(0.0) + distance * distance * count * added / total;
                mean[c] += distance * added / total;
            }
            count = total;
        }
        Moments {
            mean: mean.into_iter().map(|mean| mean as f32).collect(),
            variance: spread.into_iter().map(|spread| (spread / count) as f32).collect(),
        }
    }

    /// The layer with the statistics of a group.
    ///
    /// # Panics
    /// If a slice does not have a value for each channel, or the channels are no whole vectors.
    pub fn fitted<'a>(&self, moments: &'a Moments, weight: &[f32], bias: &[f32]) -> Fitted<'a> {
        assert!(self.channels.is_multiple_of(self.isa.lanes()), "channels are whole vectors");
        for values in [&moments.mean, &moments.variance, weight, bias] {
            assert_eq!(values.len(), self.channels, "a value for each channel");
        }
        let deviations = moments.variance.iter().map(|variance| 1.0 / (variance + self.epsilon).sqrt());
        let scale: Vec<f32> = weight.iter().zip(deviations).map(|(weight, inverse)| weight * inverse).collect();
        let shifts = bias.iter().zip(&moments.mean).zip(&scale);
        let shift = shifts.map(|((bias, mean), scale)| bias - mean * scale).collect();
        Fitted { norm: *self, moments, affine: Affine { scale, shift } }
    }
}

/// A batch norm with the statistics of a group.
#[derive(Debug, Clone)]
pub struct Fitted<'a> {
    norm: BatchNorm,
    moments: &'a Moments,
    affine: Affine,
}

impl Fitted<'_> {
    /// `y = x * scale + shift`, per channel: what the layer is with these statistics.
    pub fn scale_shift(&self) -> (&[f32], &[f32]) {
        (&self.affine.scale, &self.affine.shift)
    }

    /// Normalises `x` (rows, channels) into `y`.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn forward(&self, threads: Threads, x: &[f32], residual: Option<&[f32]>, relu: bool, y: &mut [f32]) {
        assert!(x.len().is_multiple_of(self.norm.channels), "rows");
        assert_eq!(x.len(), y.len(), "outputs");
        assert!(residual.is_none_or(|residual| residual.len() == x.len()), "residual");
        let chunk = self.norm.rows_of_chunk() * self.norm.channels;
        threads.for_each_chunk(y, chunk, |index, y| {
            let rows = index * chunk..index * chunk + y.len();
            let residual = residual.map(|residual| &residual[rows.clone()]);
            self.norm.isa.run(Normalize { affine: &self.affine, x: &x[rows], residual, relu, y });
        });
    }

    /// The backward pass. `gradient` is that of the output. Without `input_gradient` it becomes the gradient of `x` in
    /// place; with it, `input_gradient` gets the gradient of `x`, and `gradient` becomes that of the residual (zero
    /// where the ReLU stopped). The gradients of weight and bias are added to `parameter_gradients`.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn backward(
        &self,
        threads: Threads,
        x: &[f32],
        mask: Mask,
        gradient: &mut [f32],
        input_gradient: Option<&mut [f32]>,
        parameter_gradients: (&mut [f32], &mut [f32]),
    ) {
        assert!(x.len().is_multiple_of(self.norm.channels), "rows");
        assert_eq!(gradient.len(), x.len(), "gradient");
        assert!(!matches!(mask, Mask::Output(y) if y.len() != x.len()), "outputs");
        let isa = self.norm.isa;
        let chunk = self.norm.rows_of_chunk() * self.norm.channels;
        let view = View { affine: &self.affine, x, mask };
        let factors = &self.factors(threads, view, gradient, parameter_gradients);
        match input_gradient {
            None => threads.for_each_chunk(gradient, chunk, |index, gradient| {
                let view = view.part(index * chunk..index * chunk + gradient.len());
                isa.run(InputGradient { view, factors, gradient, to: None });
            }),
            Some(to) => {
                assert_eq!(to.len(), x.len(), "gradient of the input");
                threads.for_each_pair((gradient, chunk), (to, chunk), |index, gradient, to| {
                    let view = view.part(index * chunk..index * chunk + gradient.len());
                    isa.run(InputGradient { view, factors, gradient, to: Some(to) });
                });
            }
        }
    }

    /// Sums over the rows, which are the gradients of weight and bias, and what they make of each row.
    fn factors(
        &self,
        threads: Threads,
        view: View,
        gradient: &[f32],
        (weight_gradient, bias_gradient): (&mut [f32], &mut [f32]),
    ) -> Factors {
        let BatchNorm { isa, channels, epsilon } = self.norm;
        assert!(weight_gradient.len() == channels && bias_gradient.len() == channels, "a value for each channel");
        let Moments { mean, variance } = self.moments;
        let chunk = self.norm.rows_of_chunk() * channels;
        let mut partials = vec![0.0; gradient.len().div_ceil(chunk) * 2 * channels];
        threads.for_each_chunk(&mut partials, 2 * channels, |index, sums| {
            let rows = index * chunk..gradient.len().min((index + 1) * chunk);
            isa.run(ChunkSums { view: view.part(rows.clone()), mean, gradient: &gradient[rows], sums });
        });
        let (sum, product) = add_partials(&partials, channels);
        let rows = (gradient.len() / channels) as f64;
        let mut factors = Factors { of_x: vec![0.0; channels], constant: vec![0.0; channels] };
        for c in 0..channels {
            let inverse = 1.0 / (f64::from(variance[c]) + f64::from(epsilon)).sqrt();
            let d_weight = product[c] * inverse;
            weight_gradient[c] += d_weight as f32;
            bias_gradient[c] += sum[c] as f32;
            let scale = f64::from(self.affine.scale[c]);
            let of_x = -scale * inverse * d_weight / rows;
            factors.of_x[c] = of_x as f32;
            factors.constant[c] = (-scale * sum[c] / rows - of_x * f64::from(mean[c])) as f32;
        }
        factors
    }
}

/// Sums of partial sums, in f64 and in order: of the first and the second `channels` values of each.
fn add_partials(partials: &[f32], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let mut totals = (vec![0.0; channels], vec![0.0; channels]);
    for sums in partials.chunks_exact(2 * channels) {
        let (first, second) = sums.split_at(channels);
        for (total, sum) in totals.0.iter_mut().zip(first).chain(totals.1.iter_mut().zip(second)) {
            *total += f64::from(*sum);
        }
    }
    totals
}
