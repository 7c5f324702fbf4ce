//! Plain arrays of four: what every processor can do, and what the compiler turns into its vectors of 128 bits.

use super::Simd;

#[derive(Clone, Copy)]
pub(super) struct Portable;

const LANES: usize = 4;
type Vector = [f32; LANES];

#[inline(always)]
fn zip(a: Vector, b: Vector, f: impl Fn(f32, f32) -> f32) -> Vector {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Portable {
    type Vector = Vector;
    const LANES: usize = LANES;
    const ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, value: f32) -> Vector {
        [value; LANES]
    }

    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a * b)
    }

    /// Two roundings: `f32::mul_add` is a slow library call where the processor has no such instruction.
    #[inline(always)]
    fn mul_add(self, a: Vector, b: Vector, c: Vector) -> Vector {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn max(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn where_positive(self, condition: Vector, value: Vector) -> Vector {
        zip(condition, value, |condition, value| if condition > 0.0 { value } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Vector {
        // SAFETY: the caller vouches for four values; an array of f32 asks f32's alignment, which every f32 has.
        unsafe { from.cast::<Vector>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: Vector) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<Vector>().write(vector) }
    }
}
