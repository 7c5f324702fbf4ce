//! The loops of batch normalisation over the rows of a chunk.

use super::super::simd::{Kernel, Simd};
use super::{Affine, Mask};

/// Vectors of channels whose sums are held in registers.
const BLOCK: usize = 4;

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
pub(super) struct ChunkMoments<'a> {
    pub channels: usize,
    pub rows: &'a [f32],
    pub sums: &'a mut [f32],
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

pub(super) struct Normalize<'a> {
    pub affine: &'a Affine,
    pub x: &'a [f32],
    pub residual: Option<&'a [f32]>,
    pub relu: bool,
    pub y: &'a mut [f32],
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
pub(super) struct View<'a> {
    pub affine: &'a Affine,
    pub x: &'a [f32],
    pub mask: Mask<'a>,
}

impl<'a> View<'a> {
    pub fn part(&self, rows: std::ops::Range<usize>) -> View<'a> {
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
pub(super) struct ChunkSums<'a> {
    pub view: View<'a>,
    pub mean: &'a [f32],
    pub gradient: &'a [f32],
    pub sums: &'a mut [f32],
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
pub(super) struct Factors {
    pub of_x: Vec<f32>,
    pub constant: Vec<f32>,
}

pub(super) struct InputGradient<'a> {
    pub view: View<'a>,
    pub factors: &'a Factors,
    pub gradient: &'a mut [f32],
    pub to: Option<&'a mut [f32]>,
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
