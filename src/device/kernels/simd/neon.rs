//! NEON, the vectors of 64-bit ARM.

use std::arch::aarch64::*;

use super::{Kernel, Simd};

#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run_neon<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

/// Implements one operation by one intrinsic without memory access.
macro_rules! operation {
    ($name:ident($($argument:ident),*) = $body:expr) => {
        #[inline(always)]
        fn $name(self, $($argument: float32x4_t),*) -> float32x4_t {
            // SAFETY: a value of `Self` exists only within `run_neon`.
            unsafe { $body }
        }
    };
}

impl Simd for Neon {
    type Vector = float32x4_t;
    const LANES: usize = 4;
    const ROWS: usize = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        // SAFETY: a value of `Self` exists only within `run_neon`.
        unsafe { vdupq_n_f32(value) }
    }

    operation!(add(a, b) = vaddq_f32(a, b));
    operation!(sub(a, b) = vsubq_f32(a, b));
    operation!(mul(a, b) = vmulq_f32(a, b));
    operation!(mul_add(a, b, c) = vfmaq_f32(c, a, b));
    operation!(max(a, b) = vmaxq_f32(a, b));
    operation!(
        where_positive(condition, value) =
            vreinterpretq_f32_u32(vandq_u32(vcgtzq_f32(condition), vreinterpretq_u32_f32(value)))
    );

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        // SAFETY: the caller vouches for the pointer, `self` for the instruction set.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: float32x4_t) {
        // SAFETY: as in `load`.
        unsafe { vst1q_f32(to, vector) }
    }
}
