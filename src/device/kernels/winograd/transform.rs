//! The transforms of F(4x4, 3x3), a vector of channels at a time.

use super::super::simd::{Pairs, Simd};
use super::{ELEMENTS, REACH, TILE};

/// A transform of one column of `N` values to six. (A trait, not a closure: a function passed as a value is compiled apart,
/// without the instruction set.)
trait Column<const N: usize> {
    fn apply<S: Simd>(simd: S, column: [S::Vector; N]) -> [S::Vector; REACH];
}

/// `B^T`, of inputs.
struct Source;

impl Column<REACH> for Source {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, column: [S::Vector; REACH]) -> [S::Vector; REACH] {
        source_column(simd, column)
    }
}

/// `A`, of gradients of outputs.
struct Gradient;

impl Column<TILE> for Gradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, column: [S::Vector; TILE]) -> [S::Vector; REACH] {
        gradient_column(simd, column)
    }
}

/// The interpolation points are 0, the two of `NEAR`, the two of `FAR`, and infinity.
const NEAR: f32 = std::f32::consts::FRAC_1_SQRT_2;
const NEAR_SQUARE: f32 = 0.5;
const FAR: f32 = std::f32::consts::SQRT_2;
const FAR_SQUARE: f32 = 2.0;

/// `B^T d`, for one column `d` of six. Row p holds the coefficients of `M(x) / (x - p)`, where M is the product of
/// `x - p` over the finite points; the last row those of M.
#[inline(always)]
fn source_column<S: Simd>(simd: S, d: [S::Vector; 6]) -> [S::Vector; 6] {
    let (near_square, far_square) = (simd.splat(-NEAR_SQUARE), simd.splat(-FAR_SQUARE));
    let squares = simd.splat(-(NEAR_SQUARE + FAR_SQUARE));
    let a = simd.mul_add(far_square, d[2], d[4]);
    let b = simd.mul(simd.splat(NEAR), simd.mul_add(far_square, d[1], d[3]));
    let c = simd.mul_add(near_square, d[2], d[4]);
    let e = simd.mul(simd.splat(FAR), simd.mul_add(near_square, d[1], d[3]));
    [
        simd.add(d[0], simd.mul_add(squares, d[2], d[4])),
        simd.add(a, b),
        simd.sub(a, b),
        simd.add(c, e),
        simd.sub(c, e),
        simd.add(d[1], simd.mul_add(squares, d[3], d[5])),
    ]
}

/// `A^T m`, for one column `m` of six: row k holds the points to the power of k.
#[inline(always)]
fn target_column<S: Simd>(simd: S, m: [S::Vector; 6]) -> [S::Vector; 4] {
    let (a, b) = (simd.add(m[1], m[2]), simd.mul(simd.splat(NEAR), simd.sub(m[1], m[2])));
    let (c, d) = (simd.add(m[3], m[4]), simd.mul(simd.splat(FAR), simd.sub(m[3], m[4])));
    let (near_square, far_square) = (simd.splat(NEAR_SQUARE), simd.splat(FAR_SQUARE));
    [
        simd.add(m[0], simd.add(a, c)),
        simd.add(b, d),
        simd.mul_add(near_square, a, simd.mul(far_square, c)),
        simd.mul_add(near_square, b, simd.mul_add(far_square, d, m[5])),
    ]
}

/// `A y`, for one column `y` of four.
#[inline(always)]
fn gradient_column<S: Simd>(simd: S, y: [S::Vector; 4]) -> [S::Vector; 6] {
    let (near_square, far_square) = (simd.splat(NEAR_SQUARE), simd.splat(FAR_SQUARE));
    let a = simd.mul_add(near_square, y[2], y[0]);
    let b = simd.mul(simd.splat(NEAR), simd.mul_add(near_square, y[3], y[1]));
    let c = simd.mul_add(far_square, y[2], y[0]);
    let d = simd.mul(simd.splat(FAR), simd.mul_add(far_square, y[3], y[1]));
    [y[0], simd.add(a, b), simd.sub(a, b), simd.add(c, d), simd.sub(c, d), y[3]]
}

/// `M'(p)` of the points of `NEAR` and of `FAR`; that of 0 is 1. Row p of G is `(1, p, p^2) / M'(p)`.
const NEAR_SLOPE: f32 = 2.0 * NEAR_SQUARE * (NEAR_SQUARE - FAR_SQUARE);
const FAR_SLOPE: f32 = 2.0 * FAR_SQUARE * (FAR_SQUARE - NEAR_SQUARE);

/// `G g`, for one column `g` of three.
#[inline(always)]
pub(super) fn kernel_column<S: Simd>(simd: S, g: [S::Vector; 3]) -> [S::Vector; 6] {
    let near_ends = simd.mul(simd.splat(NEAR_SQUARE / NEAR_SLOPE), g[2]);
    let far_ends = simd.mul(simd.splat(FAR_SQUARE / FAR_SLOPE), g[2]);
    let a = simd.mul_add(simd.splat(1.0 / NEAR_SLOPE), g[0], near_ends);
    let b = simd.mul(simd.splat(NEAR / NEAR_SLOPE), g[1]);
    let c = simd.mul_add(simd.splat(1.0 / FAR_SLOPE), g[0], far_ends);
    let d = simd.mul(simd.splat(FAR / FAR_SLOPE), g[1]);
    [g[0], simd.add(a, b), simd.sub(a, b), simd.add(c, d), simd.sub(c, d), g[2]]
}

/// `G^T u`, for one column `u` of six.
#[inline(always)]
pub(super) fn kernel_gradient_column<S: Simd>(simd: S, u: [S::Vector; 6]) -> [S::Vector; 3] {
    let (a, b) = (simd.add(u[1], u[2]), simd.sub(u[1], u[2]));
    let (c, d) = (simd.add(u[3], u[4]), simd.sub(u[3], u[4]));
    let first = simd.mul_add(simd.splat(1.0 / FAR_SLOPE), c, u[0]);
    let second = simd.mul(simd.splat(FAR / FAR_SLOPE), d);
    let third = simd.mul_add(simd.splat(FAR_SQUARE / FAR_SLOPE), c, u[5]);
    [
        simd.mul_add(simd.splat(1.0 / NEAR_SLOPE), a, first),
        simd.mul_add(simd.splat(NEAR / NEAR_SLOPE), b, second),
        simd.mul_add(simd.splat(NEAR_SQUARE / NEAR_SLOPE), a, third),
    ]
}

/// How the values of a transform lie in memory.
pub(super) trait Element<S: Simd> {
    type Item;
    /// # Safety
    /// A vector at `to` is valid for writing, and holds the first values of its pairs where this writes the second.
    unsafe fn store(simd: S, to: *mut Self::Item, vector: S::Vector);
}

/// f32.
pub(super) struct Whole;

/// bf16, next to each other.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has such multipliers"))]
pub(super) struct Halves;

/// bf16, the first value of each pair; the second is made 0.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has such multipliers"))]
pub(super) struct FirstHalves;

/// bf16, the second value of each pair, the first being there.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has such multipliers"))]
pub(super) struct SecondHalves;

impl<S: Simd> Element<S> for Whole {
    type Item = f32;
    #[inline(always)]
    unsafe fn store(simd: S, to: *mut f32, vector: S::Vector) {
        // SAFETY: the caller's promise is handed on.
        unsafe { simd.store(to, vector) };
    }
}

impl<S: Pairs> Element<S> for Halves {
    type Item = u16;
    #[inline(always)]
    unsafe fn store(simd: S, to: *mut u16, vector: S::Vector) {
        // SAFETY: the caller's promise is handed on.
        unsafe { simd.store_halves(to, vector) };
    }
}

impl<S: Pairs> Element<S> for FirstHalves {
    type Item = f32;
    #[inline(always)]
    unsafe fn store(simd: S, to: *mut f32, vector: S::Vector) {
        // SAFETY: the caller's promise is handed on.
        unsafe { simd.store(to, simd.low_half(vector)) };
    }
}

impl<S: Pairs> Element<S> for SecondHalves {
    type Item = f32;
    #[inline(always)]
    unsafe fn store(simd: S, to: *mut f32, vector: S::Vector) {
        // SAFETY: the caller's promise is handed on.
        unsafe { simd.store(to, simd.with_high_half(simd.load(to), vector)) };
    }
}

/// A square of pixels in memory: the values of one channel vector lie at `row * rows + column * columns`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spacing {
    pub row: usize,
    pub column: usize,
}

/// Transforms a 6x6 tile of `channels` channels, `B^T d B`, element `e` to `to + e * plane` (in items).
///
/// # Safety
/// The tile's pixels and `channels` values at each of the 36 targets are valid; `channels` is whole vectors.
#[inline(always)]
pub(super) unsafe fn source<S: Simd, E: Element<S>>(
    simd: S,
    tile: *const f32,
    spacing: Spacing,
    channels: usize,
    to: *mut E::Item,
    plane: usize,
) {
    for channel in (0..channels).step_by(S::LANES) {
        let mut half = [[simd.zero(); REACH]; REACH];
        let mut row = tile.wrapping_add(channel);
        for half in &mut half {
            // SAFETY: the caller vouches for the pixels of the tile.
            let pixels = unsafe { load::<S, REACH>(simd, row, spacing.column) };
            *half = source_column(simd, pixels);
            row = row.wrapping_add(spacing.row);
        }
        // SAFETY: the caller vouches for the targets.
        unsafe { store_columns::<S, Source, E, REACH>(simd, &half, to.wrapping_add(channel), plane) };
    }
}

/// Transforms a 4x4 tile of output gradients, `A dY A^T`, element `e` to `to + e * plane`.
///
/// # Safety
/// As [`source`], of 16 pixels.
#[inline(always)]
pub(super) unsafe fn gradient<S: Simd, E: Element<S>>(
    simd: S,
    tile: *const f32,
    spacing: Spacing,
    channels: usize,
    to: *mut E::Item,
    plane: usize,
) {
    for channel in (0..channels).step_by(S::LANES) {
        let mut half = [[simd.zero(); REACH]; TILE];
        let mut row = tile.wrapping_add(channel);
        for half in &mut half {
            // SAFETY: the caller vouches for the pixels of the tile.
            let pixels = unsafe { load::<S, TILE>(simd, row, spacing.column) };
            *half = gradient_column(simd, pixels);
            row = row.wrapping_add(spacing.row);
        }
        // SAFETY: the caller vouches for the targets.
        unsafe { store_columns::<S, Gradient, E, TILE>(simd, &half, to.wrapping_add(channel), plane) };
    }
}

/// The 4x4 outputs of one vector of channels, `A^T m A`, from the elements `m[e]` at `from + e * plane`.
///
/// # Safety
/// A vector at each of the 36 places is valid.
#[inline(always)]
pub(super) unsafe fn target<S: Simd>(simd: S, from: *const f32, plane: usize) -> [[S::Vector; TILE]; TILE] {
    let mut half = [[simd.zero(); TILE]; REACH];
    let mut row = from;
    for half in &mut half {
        // SAFETY: the caller vouches for the elements.
        *half = target_column(simd, unsafe { load::<S, REACH>(simd, row, plane) });
        row = row.wrapping_add(REACH.wrapping_mul(plane));
    }
    let mut outputs = [[simd.zero(); TILE]; TILE];
    for column in 0..TILE {
        let mut m = [simd.zero(); REACH];
        for row in 0..REACH {
            m[row] = half[row][column];
        }
        let y = target_column(simd, m);
        for row in 0..TILE {
            outputs[row][column] = y[row];
        }
    }
    outputs
}

/// # Safety
/// A vector at each of the `N` places `stride` apart is valid.
#[inline(always)]
unsafe fn load<S: Simd, const N: usize>(simd: S, mut from: *const f32, stride: usize) -> [S::Vector; N] {
    let mut values = [simd.zero(); N];
    for value in &mut values {
        // SAFETY: the caller vouches for it.
        *value = unsafe { simd.load(from) };
        from = from.wrapping_add(stride);
    }
    values
}

/// Transforms the columns of `half` and stores element (row, column) at `to + (6 row + column) * plane`.
///
/// # Safety
/// A vector at each of the 36 places is valid for writing.
#[inline(always)]
unsafe fn store_columns<S: Simd, T: Column<ROWS>, E: Element<S>, const ROWS: usize>(
    simd: S,
    half: &[[S::Vector; REACH]; ROWS],
    to: *mut E::Item,
    plane: usize,
) {
    let mut column_start = to;
    for column in 0..REACH {
        let mut values = [simd.zero(); ROWS];
        for (value, row) in values.iter_mut().zip(half) {
            *value = row[column];
        }
        let mut place = column_start;
        for value in T::apply(simd, values) {
            // SAFETY: the caller vouches for the 36 places.
            unsafe { E::store(simd, place, value) };
            place = place.wrapping_add(REACH.wrapping_mul(plane));
        }
        column_start = column_start.wrapping_add(plane);
    }
}

/// `G g G^T`, for the nine vectors of a 3x3 kernel in rows.
#[inline(always)]
pub(super) fn kernel<S: Simd>(simd: S, g: [S::Vector; 9]) -> [S::Vector; ELEMENTS] {
    let mut half = [[simd.zero(); 6]; 3];
    for column in 0..3 {
        half[column] = kernel_column(simd, [g[column], g[column + 3], g[column + 6]]);
    }
    let mut elements = [simd.zero(); ELEMENTS];
    for row in 0..REACH {
        let u = kernel_column(simd, [half[0][row], half[1][row], half[2][row]]);
        elements[row * REACH..(row + 1) * REACH].copy_from_slice(&u);
    }
    elements
}

/// `G^T u G`, for the 36 vectors of a transformed kernel's gradient in rows.
#[inline(always)]
pub(super) fn kernel_gradient<S: Simd>(simd: S, u: [S::Vector; ELEMENTS]) -> [S::Vector; 9] {
    let mut half = [[simd.zero(); 3]; REACH];
    for (column, half) in half.iter_mut().enumerate() {
        let mut values = [simd.zero(); REACH];
        for row in 0..REACH {
            values[row] = u[row * REACH + column];
        }
        *half = kernel_gradient_column(simd, values);
    }
    let mut g = [simd.zero(); 9];
    for row in 0..3 {
        let mut values = [simd.zero(); REACH];
        for column in 0..REACH {
            values[column] = half[column][row];
        }
        g[row * 3..(row + 1) * 3].copy_from_slice(&kernel_gradient_column(simd, values));
    }
    g
}
