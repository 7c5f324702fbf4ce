//! The two innermost kernels, on which nearly all arithmetic of a network is spent: blocks of sums held in registers.
//!
//! [`multiply`] computes a few rows (pixels) of one panel (two vectors of output channels) of a matrix product whose rows
//! lie anywhere in memory; [`Outer`] sums outer products over pixels, as weight gradients need.

use super::simd::{Pairs, Simd};

/// How factors are multiplied: the values of a unit of 32 bits with those of another.
pub(super) trait Arithmetic<S: Simd>: Copy {
    /// Values in a unit.
    const PER_UNIT: usize;
    fn multiply_add(simd: S, a: S::Vector, b: S::Vector, c: S::Vector) -> S::Vector;
}

/// f32: a unit is a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Single;

/// bf16: a unit is a pair of values, and the product of two units the sum of two products.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has such multipliers"))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Paired;

impl<S: Simd> Arithmetic<S> for Single {
    const PER_UNIT: usize = 1;

    #[inline(always)]
    fn multiply_add(simd: S, a: S::Vector, b: S::Vector, c: S::Vector) -> S::Vector {
        simd.mul_add(a, b, c)
    }
}

impl<S: Pairs> Arithmetic<S> for Paired {
    const PER_UNIT: usize = 2;

    #[inline(always)]
    fn multiply_add(simd: S, a: S::Vector, b: S::Vector, c: S::Vector) -> S::Vector {
        simd.dot(a, b, c)
    }
}

/// What happens to a convolution's sums on their way to memory, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added to each output channel (stored channels many).
    pub bias: Option<&'a [f32]>,
    /// Adds what the target holds already (a residual, or another gradient) instead of overwriting it.
    pub accumulate: bool,
    /// Negative results become 0.
    pub relu: bool,
}

/// Consecutive units of a source row that meet consecutive rows of a weight panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// From the row's base to the first unit.
    pub source: isize,
    /// Row of the weight panel that the first unit meets.
    pub weights: usize,
    pub length: usize,
}

/// Calls `$tile::<S, ROWS, $columns>` with the number of rows as a constant.
macro_rules! with_rows {
    ($count:expr, $rows:ident => $call:expr) => {
        match $count {
            8 => {
                const $rows: usize = 8;
                $call
            }
            7 => {
                const $rows: usize = 7;
                $call
            }
            6 => {
                const $rows: usize = 6;
                $call
            }
            5 => {
                const $rows: usize = 5;
                $call
            }
            4 => {
                const $rows: usize = 4;
                $call
            }
            3 => {
                const $rows: usize = 3;
                $call
            }
            2 => {
                const $rows: usize = 2;
                $call
            }
            _ => {
                const $rows: usize = 1;
                $call
            }
        }
    };
}

/// The most rows that [`multiply`] takes at once, and the most that an outer product has.
pub(super) const MAX_ROWS: usize = 8;

/// `target[r][0..width] = epilogue(sum over runs and k of source[r][run.source + k] * panel[run.weights + k][0..width])`
/// for `rows <= min(S::ROWS, 8)` rows; `width` is `columns * LANES`, `columns` 1 or 2; `channel` is the panel's first channel.
/// Sources and panel are units of the arithmetic `A`, targets f32.
///
/// # Safety
/// For every row, all values that the runs name and the `width` values at its target are valid, and so are the
/// panel's rows that the runs name. Targets are distinct.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, A: Arithmetic<S>>(
    simd: S,
    (rows, columns): (usize, usize),
    source: &[*const f32; MAX_ROWS],
    (runs, panel): (&[Run], *const f32),
    target: &[*mut f32; MAX_ROWS],
    (epilogue, channel): (Epilogue, usize),
) {
    debug_assert!((1..=S::ROWS.min(MAX_ROWS)).contains(&rows) && (1..=2).contains(&columns));
    // SAFETY: the caller's promise is handed on.
    unsafe {
        if columns == 2 {
            with_rows!(rows, R => tile::<S, A, R, 2>(simd, source, runs, panel, target, epilogue, channel))
        } else {
            with_rows!(rows, R => tile::<S, A, R, 1>(simd, source, runs, panel, target, epilogue, channel))
        }
    }
}

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn tile<S: Simd, A: Arithmetic<S>, const R: usize, const C: usize>(
    simd: S,
    source: &[*const f32; MAX_ROWS],
    runs: &[Run],
    panel: *const f32,
    target: &[*mut f32; MAX_ROWS],
    epilogue: Epilogue,
    channel: usize,
) {
    let mut sums = [[simd.zero(); C]; R];
    // SAFETY: the caller vouches for every address formed here; addresses that are only formed wrap.
    unsafe {
        for run in runs {
            let mut from = [std::ptr::null::<f32>(); R];
            for r in 0..R {
                from[r] = source[r].wrapping_offset(run.source);
            }
            let mut weights = panel.wrapping_add(run.weights.wrapping_mul(C * S::LANES));
            for k in 0..run.length {
                let mut row = [simd.zero(); C];
                for (c, value) in row.iter_mut().enumerate() {
                    *value = simd.load(weights.wrapping_add(c * S::LANES));
                }
                weights = weights.wrapping_add(C * S::LANES);
                for r in 0..R {
                    let value = simd.splat(*from[r].wrapping_add(k));
                    for (sum, weight) in sums[r].iter_mut().zip(row) {
                        *sum = A::multiply_add(simd, value, weight, *sum);
                    }
                }
            }
        }
        for (sums, target) in sums.iter().zip(target) {
            for (c, sum) in sums.iter().enumerate() {
                let to = target.wrapping_add(c * S::LANES);
                simd.store(to, finish(simd, *sum, to, epilogue, channel + c * S::LANES));
            }
        }
    }
}

/// Applies the epilogue to the sums of the channels from `channel` on, whose target is `to`.
///
/// # Safety
/// `to` is valid for a vector if the epilogue accumulates.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd>(
    simd: S,
    mut sum: S::Vector,
    to: *const f32,
    epilogue: Epilogue,
    channel: usize,
) -> S::Vector {
    // SAFETY: the slice of the bias proves its range; the caller vouches for `to`.
    unsafe {
        if let Some(bias) = epilogue.bias {
            sum = simd.add(sum, simd.load(bias[channel..channel + S::LANES].as_ptr()));
        }
        if epilogue.accumulate {
            sum = simd.add(sum, simd.load(to));
        }
    }
    if epilogue.relu { simd.max(simd.zero(), sum) } else { sum }
}

/// Pixels (or pairs of them, as the arithmetic has it) over which outer products are summed: `images` times `rows` times `columns`, each with its distances in
/// values within the left source, and within the right one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pixels {
    pub images: usize,
    pub rows: usize,
    pub columns: usize,
    /// Distance of neighbouring images, rows and columns of the left source.
    pub left: [usize; 3],
    /// The same of the right source.
    pub right: [usize; 3],
}

/// A block of sums of outer products: `target[r][c] (+)= sum over pixels of left[pixel][r] * right[pixel][c]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outer {
    pub pixels: Pixels,
    /// Values between neighbouring rows of the target.
    pub stride: usize,
    /// Adds to the target instead of overwriting it.
    pub accumulate: bool,
}

impl Outer {
    /// Sums a block of `rows <= 8` by `columns` (1 or 2) vectors.
    ///
    /// # Safety
    /// For every pixel, `rows` values at its place from `left` and `columns` vectors from `right` are valid, and so are
    /// `rows` rows of `columns` vectors of the target.
    #[inline(always)]
    pub(super) unsafe fn sum<S: Simd, A: Arithmetic<S>>(
        &self,
        simd: S,
        (rows, columns): (usize, usize),
        left: *const f32,
        right: *const f32,
        target: *mut f32,
    ) {
        debug_assert!((1..=MAX_ROWS).contains(&rows) && (1..=2).contains(&columns));
        // SAFETY: the caller's promise is handed on.
        unsafe {
            if columns == 2 {
                with_rows!(rows, R => self.block::<S, A, R, 2>(simd, left, right, target))
            } else {
                with_rows!(rows, R => self.block::<S, A, R, 1>(simd, left, right, target))
            }
        }
    }

    /// # Safety
    /// As [`Outer::sum`].
    #[inline(always)]
    unsafe fn block<S: Simd, A: Arithmetic<S>, const R: usize, const C: usize>(
        &self,
        simd: S,
        left: *const f32,
        right: *const f32,
        target: *mut f32,
    ) {
        let mut sums = [[simd.zero(); C]; R];
        let Pixels { images, rows, columns, left: by, right: with } = self.pixels;
        // SAFETY: the caller vouches for every address read or written; addresses that are only formed wrap.
        unsafe {
            if self.accumulate {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.load(target.wrapping_add(r.wrapping_mul(self.stride)).wrapping_add(c * S::LANES));
                    }
                }
            }
            let (mut left_image, mut right_image) = (left, right);
            for _ in 0..images {
                let (mut left_row, mut right_row) = (left_image, right_image);
                for _ in 0..rows {
                    let (mut l, mut r) = (left_row, right_row);
                    for _ in 0..columns {
                        add_product::<S, A, R, C>(simd, l, r, &mut sums);
                        l = l.wrapping_add(by[2]);
                        r = r.wrapping_add(with[2]);
                    }
                    left_row = left_row.wrapping_add(by[1]);
                    right_row = right_row.wrapping_add(with[1]);
                }
                left_image = left_image.wrapping_add(by[0]);
                right_image = right_image.wrapping_add(with[0]);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (c, sum) in sums.iter().enumerate() {
                    simd.store(target.wrapping_add(r.wrapping_mul(self.stride)).wrapping_add(c * S::LANES), *sum);
                }
            }
        }
    }
}

/// `sums[r][c] += left[r] * right[c]`.
///
/// # Safety
/// `R` values of `left` and `C` vectors of `right` are valid.
#[inline(always)]
unsafe fn add_product<S: Simd, A: Arithmetic<S>, const R: usize, const C: usize>(
    simd: S,
    left: *const f32,
    right: *const f32,
    sums: &mut [[S::Vector; C]; R],
) {
    // SAFETY: the caller vouches for these addresses.
    unsafe {
        let mut row = [simd.zero(); C];
        for (c, value) in row.iter_mut().enumerate() {
            *value = simd.load(right.wrapping_add(c * S::LANES));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let value = simd.splat(*left.wrapping_add(r));
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum = A::multiply_add(simd, value, weight, *sum);
            }
        }
    }
}
