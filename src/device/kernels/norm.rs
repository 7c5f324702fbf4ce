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

use super::{
    Isa, Threads,
    simd::{Kernel, Simd},
};

/// Values of a chunk, the unit of parallel work and of partial sums.
const CHUNK_VALUES: usize = 1 << 15;

/// Vectors of channels whose sums are held in registers.
const BLOCK: usize = 4;

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

    fn affine(&self, moments: &Moments, weight: &[f32], bias: &[f32]) -> Affine {
        let deviations = moments.variance.iter().map(|variance| 1.0 / (variance + self.epsilon).sqrt());
        let scale: Vec<f32> = weight.iter().zip(deviations).map(|(weight, inverse)| weight * inverse).collect();
        let shifts = bias.iter().zip(&moments.mean).zip(&scale);
        let shift = shifts.map(|((bias, mean), scale)| bias - mean * scale).collect();
        Affine { scale, shift }
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

    /// Normalises `x` (rows, channels) into `y` by the given moments.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn forward(
        &self,
        threads: Threads,
        x: &[f32],
        moments: &Moments,
        (weight, bias): (&[f32], &[f32]),
        residual: Option<&[f32]>,
        relu: bool,
        y: &mut [f32],
    ) {
        assert_eq!(x.len(), y.len(), "outputs");
        assert!(residual.is_none_or(|residual| residual.len() == x.len()), "residual");
        let affine = self.affine(moments, weight, bias);
        self.check(x, &[&affine.scale, &affine.shift]);
        let chunk = self.rows_of_chunk() * self.channels;
        threads.for_each_chunk(y, chunk, |index, y| {
            let rows = index * chunk..index * chunk + y.len();
            let residual = residual.map(|residual| &residual[rows.clone()]);
            self.isa.run(Normalize { affine: &affine, x: &x[rows], residual, relu, y });
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
        moments: &Moments,
        (weight, bias): (&[f32], &[f32]),
        mask: Mask,
        gradient: &mut [f32],
        input_gradient: Option<&mut [f32]>,
        (weight_gradient, bias_gradient): (&mut [f32], &mut [f32]),
    ) {
        let channels = self.channels;
        let affine = self.affine(moments, weight, bias);
        self.check(x, &[&affine.scale, &affine.shift, weight_gradient, bias_gradient]);
        assert_eq!(gradient.len(), x.len(), "gradient");
        assert!(!matches!(mask, Mask::Output(y) if y.len() != x.len()), "outputs");
        let chunk = self.rows_of_chunk() * channels;
        let view = View { affine: &affine, x, mask };
        let mut partials = vec![0.0; x.len().div_ceil(chunk) * 2 * channels];
        let given = &*gradient;
        threads.for_each_chunk(&mut partials, 2 * channels, |index, sums| {
            let rows = index * chunk..x.len().min((index + 1) * chunk);
            let gradient = &given[rows.clone()];
            self.isa.run(ChunkSums { view: view.part(rows), mean: &moments.mean, gradient, sums });
        });
        let (sum, product) = add_partials(&partials, channels);
        let rows = (x.len() / channels) as f64;
        let mut factors = Factors { of_x: vec![0.0; channels], constant: vec![0.0; channels] };
        for c in 0..channels {
            let inverse = 1.0 / (f64::from(moments.variance[c]) + f64::from(self.epsilon)).sqrt();
            let d_weight = product[c] * inverse;
            weight_gradient[c] += d_weight as f32;
            bias_gradient[c] += sum[c] as f32;
            let scale = f64::from(affine.scale[c]);
            let of_x = -scale * inverse * d_weight / rows;
            factors.of_x[c] = of_x as f32;
            factors.constant[c] = (-scale * sum[c] / rows - of_x * f64::from(moments.mean[c])) as f32;
        }
        let factors = &factors;
        match input_gradient {
            None => threads.for_each_chunk(gradient, chunk, |index, gradient| {
                let view = view.part(index * chunk..index * chunk + gradient.len());
                self.isa.run(InputGradient { view, factors, gradient, to: None });
            }),
            Some(to) => {
                assert_eq!(to.len(), x.len(), "gradient of the input");
                threads.for_each_pair((gradient, chunk), (to, chunk), |index, gradient, to| {
                    let view = view.part(index * chunk..index * chunk + gradient.len());
                    self.isa.run(InputGradient { view, factors, gradient, to: Some(to) });
                });
            }
        }
    }

    fn check(&self, x: &[f32], vectors: &[&[f32]]) {
        assert!(self.channels.is_multiple_of(self.isa.lanes()), "channels are whole vectors");
        assert!(x.len().is_multiple_of(self.channels), "rows");
        assert!(vectors.iter().all(|vector| vector.len() == self.channels), "a value for each channel");
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

/// Two sums for each channel over the rows of a chunk, a block of channels at a time: `add(accumulators, place)` adds
/// the vector at `place` of the chunk.
#[inline(always)]
fn sum_rows<S: Simd>(
    simd: S,
    channels: usize,
    values: usize,
    sums: &mut [f32],
    add: impl Fn([S::Vector; 2], usize, usize) -> [S::Vector; 2],
) {
    let (first, second) = sums.split_at_mut(channels);
    let block = BLOCK * S::LANES;
    for start in (0..channels).step_by(block) {
        let vectors = (channels - start).min(block) / S::LANES;
        let mut totals = [[simd.zero(); 2]; BLOCK];
        if vectors == BLOCK {
            for row in (start..values).step_by(channels) {
                for (vector, total) in totals.iter_mut().enumerate() {
                    *total = add(*total, row + vector * S::LANES, start + vector * S::LANES);
                }
            }
        } else {
            for row in (start..values).step_by(channels) {
                for (vector, total) in totals.iter_mut().take(vectors).enumerate() {
                    *total = add(*total, row + vector * S::LANES, start + vector * S::LANES);
                }
            }
        }
        for (vector, total) in totals.iter().take(vectors).enumerate() {
            let channel = start + vector * S::LANES;
            // SAFETY: whole vectors of the channels, which both slices have.
            unsafe {
                simd.store(first[channel..channel + S::LANES].as_mut_ptr(), total[0]);
                simd.store(second[channel..channel + S::LANES].as_mut_ptr(), total[1]);
            }
        }
    }
}

/// Sum and sum of squares of the distances from the chunk's first row.
struct ChunkMoments<'a> {
    channels: usize,
    rows: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for ChunkMoments<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.rows;
        sum_rows(
            simd,
            self.channels,
            rows.len(),
            self.sums,
            #[inline(always)]
            |[sum, squares], place, channel| {
                debug_assert!(place + S::LANES <= rows.len());
                // SAFETY: whole vectors within the chunk's rows.
                let distance = unsafe {
                    let from = rows.as_ptr();
                    simd.sub(simd.load(from.wrapping_add(place)), simd.load(from.wrapping_add(channel)))
                };
                [simd.add(sum, distance), simd.mul_add(distance, distance, squares)]
            },
        );
    }
}

/// Calls `$body` with the place of every vector of `$values` values, and its channel.
macro_rules! for_each_vector {
    ($values:expr, $channels:expr, $lanes:expr, |$place:ident, $channel:ident| $body:block) => {
        for row in (0..$values).step_by($channels) {
            for $channel in (0..$channels).step_by($lanes) {
                let $place = row.wrapping_add($channel);
                $body
            }
        }
    };
}

struct Normalize<'a> {
    affine: &'a Affine,
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    relu: bool,
    y: &'a mut [f32],
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let floor = simd.splat(if self.relu { 0.0 } else { f32::NEG_INFINITY });
        let (scale, shift) = (self.affine.scale.as_ptr(), self.affine.shift.as_ptr());
        let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
        let (values, channels) = (self.x.len(), self.affine.scale.len());
        // SAFETY: `x`, `y` and the residual have the same number of whole rows, a row whole vectors (checked by the caller).
        unsafe {
            match self.residual.map(<[f32]>::as_ptr) {
                None => for_each_vector!(values, channels, S::LANES, |place, channel| {
                    let scale = simd.load(scale.wrapping_add(channel));
                    let shift = simd.load(shift.wrapping_add(channel));
                    let value = simd.mul_add(simd.load(x.wrapping_add(place)), scale, shift);
                    simd.store(y.wrapping_add(place), simd.max(floor, value));
                }),
                Some(residual) => for_each_vector!(values, channels, S::LANES, |place, channel| {
                    let scale = simd.load(scale.wrapping_add(channel));
                    let shift = simd.load(shift.wrapping_add(channel));
                    let value = simd.mul_add(simd.load(x.wrapping_add(place)), scale, shift);
                    let value = simd.add(value, simd.load(residual.wrapping_add(place)));
                    simd.store(y.wrapping_add(place), simd.max(floor, value));
                }),
            }
        }
    }
}

/// What the backward pass reads of the forward pass.
#[derive(Clone, Copy)]
struct View<'a> {
    affine: &'a Affine,
    x: &'a [f32],
    mask: Mask<'a>,
}

impl<'a> View<'a> {
    fn part(&self, rows: std::ops::Range<usize>) -> View<'a> {
        let mask = match self.mask {
            Mask::Output(y) => Mask::Output(&y[rows.clone()]),
            other => other,
        };
        View { affine: self.affine, x: &self.x[rows], mask }
    }

    /// The gradient behind the ReLU: `gradient` where the output at `place` was above 0.
    ///
    /// # Safety
    /// A vector at `place` lies within the rows, one at `channel` within the channels.
    #[inline(always)]
    unsafe fn masked<S: Simd>(
        &self,
        simd: S,
        (place, channel): (usize, usize),
        x: S::Vector,
        gradient: S::Vector,
    ) -> S::Vector {
        // SAFETY: the caller vouches for the places; outputs are as long as `x`.
        unsafe {
            match self.mask {
                Mask::None => gradient,
                Mask::Output(y) => simd.where_positive(simd.load(y.as_ptr().wrapping_add(place)), gradient),
                Mask::Recompute => {
                    let scale = simd.load(self.affine.scale.as_ptr().wrapping_add(channel));
                    let shift = simd.load(self.affine.shift.as_ptr().wrapping_add(channel));
                    simd.where_positive(simd.mul_add(x, scale, shift), gradient)
                }
            }
        }
    }
}

/// Sum of the gradients, and of their products with the distance from the mean.
struct ChunkSums<'a> {
    view: View<'a>,
    mean: &'a [f32],
    gradient: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for ChunkSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { view, mean, gradient, sums } = self;
        sum_rows(
            simd,
            mean.len(),
            gradient.len(),
            sums,
            #[inline(always)]
            |[sum, product], place, channel| {
                debug_assert!(place + S::LANES <= gradient.len());
                // SAFETY: whole vectors within the chunk's rows; `x` and the outputs are as long as the gradient.
                unsafe {
                    let x = simd.load(view.x.as_ptr().wrapping_add(place));
                    let given = simd.load(gradient.as_ptr().wrapping_add(place));
                    let d = view.masked(simd, (place, channel), x, given);
                    let distance = simd.sub(x, simd.load(mean.as_ptr().wrapping_add(channel)));
                    [simd.add(sum, d), simd.mul_add(d, distance, product)]
                }
            },
        );
    }
}

/// `dx = scale * d + of_x * x + constant`.
struct Factors {
    of_x: Vec<f32>,
    constant: Vec<f32>,
}

struct InputGradient<'a> {
    view: View<'a>,
    factors: &'a Factors,
    gradient: &'a mut [f32],
    to: Option<&'a mut [f32]>,
}

impl Kernel for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let view = self.view;
        let (values, channels) = (self.gradient.len(), self.factors.of_x.len());
        let gradient = self.gradient.as_mut_ptr();
        let to = self.to.map(<[f32]>::as_mut_ptr);
        for_each_vector!(values, channels, S::LANES, |place, channel| {
            // SAFETY: whole vectors within the chunk's rows, and within the channels; all slices of rows are equally long.
            unsafe {
                let x = simd.load(view.x.as_ptr().wrapping_add(place));
                let d = view.masked(simd, (place, channel), x, simd.load(gradient.wrapping_add(place)));
                let scale = simd.load(view.affine.scale.as_ptr().wrapping_add(channel));
                let of_x = simd.load(self.factors.of_x.as_ptr().wrapping_add(channel));
                let constant = simd.load(self.factors.constant.as_ptr().wrapping_add(channel));
                let dx = simd.mul_add(scale, d, simd.mul_add(of_x, x, constant));
                match to {
                    None => simd.store(gradient.wrapping_add(place), dx),
                    Some(to) => {
                        simd.store(gradient.wrapping_add(place), d);
                        simd.store(to.wrapping_add(place), dx);
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::kernels::reference;

    const EPSILON: f32 = 1e-5;

    /// A layer with its inputs; channels fill whole vectors.
    struct Case {
        norm: BatchNorm,
        x: Vec<f64>,
        weight: Vec<f64>,
        bias: Vec<f64>,
        residual: Option<Vec<f64>>,
        gradient: Vec<f64>,
    }

    fn f32s(values: &[f64]) -> Vec<f32> {
        values.iter().map(|value| *value as f32).collect()
    }

    fn f64s(values: &[f32]) -> Vec<f64> {
        values.iter().map(|value| f64::from(*value)).collect()
    }

    impl Case {
        fn new(isa: Isa, vectors: usize, rows: usize, centre: f64, residual: bool) -> Self {
            let channels = vectors * isa.lanes();
            let count = rows * channels;
            let x = reference::noise(1, count).iter().map(|x| f64::from((x + centre) as f32)).collect();
            Self {
                norm: BatchNorm { isa, channels, epsilon: EPSILON },
                x,
                weight: reference::noise(2, channels),
                bias: reference::noise(3, channels),
                residual: residual.then(|| reference::noise(4, count)),
                gradient: reference::noise(5, count),
            }
        }

        fn loss(&self, x: &[f64], weight: &[f64], bias: &[f64], relu: bool) -> f64 {
            let affine = (weight, bias);
            let epsilon = f64::from(EPSILON);
            let (y, ..) = reference::batch_norm(self.norm.channels, epsilon, x, affine, self.residual.as_deref(), relu);
            y.iter().zip(&self.gradient).map(|(y, dy)| y * dy).sum()
        }

        /// Output, and gradients of residual, input, weight and bias.
        fn run(&self, threads: Threads, relu: bool, recompute: bool, in_place: bool) -> [Vec<f32>; 5] {
            let (x, weight, bias) = (f32s(&self.x), f32s(&self.weight), f32s(&self.bias));
            let residual = self.residual.as_deref().map(f32s);
            let moments = self.norm.moments(threads, &x);
            let mut y = vec![f32::NAN; x.len()];
            self.norm.forward(threads, &x, &moments, (&weight, &bias), residual.as_deref(), relu, &mut y);
            let mask = match (relu, recompute) {
                (false, _) => Mask::None,
                (true, false) => Mask::Output(&y),
                (true, true) => Mask::Recompute,
            };
            let mut gradient = f32s(&self.gradient);
            let mut dx = vec![f32::NAN; x.len()];
            let (mut d_weight, mut d_bias) = (vec![0.0; weight.len()], vec![0.0; bias.len()]);
            let to = (!in_place).then_some(dx.as_mut_slice());
            let parameters = (d_weight.as_mut_slice(), d_bias.as_mut_slice());
            self.norm.backward(threads, &x, &moments, (&weight, &bias), mask, &mut gradient, to, parameters);
            if in_place {
                dx.copy_from_slice(&gradient);
            }
            [y, gradient, dx, d_weight, d_bias]
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn forward_agrees_with_the_definition(
            vectors in 1..7_usize, rows in 1..3000_usize, far in any::<bool>(), residual in any::<bool>(), relu in any::<bool>()
        ) {
            for isa in Isa::available() {
                let centre = if far { 100.0 } else { 0.0 };
                let case = Case::new(isa, vectors, rows, centre, residual);
                let affine = (case.weight.as_slice(), case.bias.as_slice());
                let (y, mean, variance) = reference::batch_norm(
                    case.norm.channels, f64::from(EPSILON), &case.x, affine, case.residual.as_deref(), relu);
                let moments = case.norm.moments(Threads::Pool, &f32s(&case.x));
                let tolerance = if far { 3e-4 } else { 1e-5 };
                for (found, expected) in moments.mean.iter().zip(&mean) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < 1e-6 * (3.0 + centre), "mean {found}, not {expected}: a deviation is one");
                }
                reference::assert_close("variance", &f64s(&moments.variance), &variance, 1e-5);
                if rows > 1 {
                    let [found, ..] = case.run(Threads::Pool, relu, false, false);
                    reference::assert_close("outputs", &f64s(&found), &y, tolerance);
                }
            }
        }
    }

    #[test]
    fn the_gradients_are_those_of_finite_differences() {
        for (isa, rows) in Isa::available().into_iter().zip([40, 2, 1500, 7]) {
            for (relu, residual) in [(true, true), (true, false), (false, false)] {
                let case = Case::new(isa, 3, rows, 0.5, residual);
                let [_, masked, dx, d_weight, d_bias] = case.run(Threads::Pool, relu, !residual, false);
                let [_, in_place, _, _, _] = case.run(Threads::Caller, relu, false, true);
                assert_eq!(in_place, dx, "in place as beside");
                let step = 1e-6;
                let check = |what: &str, found: f32, change: &dyn Fn(f64) -> f64| {
                    let quotient = (change(step) - change(-step)) / (2.0 * step);
                    let error = (quotient - f64::from(found)).abs();
                    assert!(error < 2e-3 * (1.0 + quotient.abs()), "{what}: {found}, by differences {quotient}");
                };
                let moved = |values: &[f64], place: usize, by: f64| {
                    let mut moved = values.to_vec();
                    moved[place] += by;
                    moved
                };
                for place in (0..case.x.len()).step_by(case.x.len() / 5) {
                    let change = |by| case.loss(&moved(&case.x, place, by), &case.weight, &case.bias, relu);
                    check("input", dx[place], &change);
                }
                for channel in (0..case.norm.channels).step_by(5) {
                    let change = |by| case.loss(&case.x, &moved(&case.weight, channel, by), &case.bias, relu);
                    check("weight", d_weight[channel], &change);
                    let change = |by| case.loss(&case.x, &case.weight, &moved(&case.bias, channel, by), relu);
                    check("bias", d_bias[channel], &change);
                }
                if residual {
                    let [y, ..] = case.run(Threads::Pool, relu, false, false);
                    for ((masked, y), given) in masked.iter().zip(&y).zip(&case.gradient) {
                        assert_eq!(*masked, if *y > 0.0 { *given as f32 } else { 0.0 });
                    }
                }
            }
        }
    }

    #[test]
    fn a_single_row_becomes_the_bias_and_has_no_gradient() {
        let case = Case::new(Isa::for_channels(16), 1, 1, 3.0, false);
        let [y, _, dx, d_weight, _] = case.run(Threads::Caller, false, false, false);
        reference::assert_close("outputs", &f64s(&y), &case.bias, 1e-4);
        assert!(dx.iter().chain(&d_weight).all(|gradient| gradient.abs() < 1e-3), "{dx:?} {d_weight:?}");
    }
}
