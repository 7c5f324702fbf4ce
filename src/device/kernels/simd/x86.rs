//! AVX-512 and AVX2 with fused multiply-add.

use std::arch::x86_64::*;

use super::{Kernel, Simd};

#[derive(Clone, Copy)]
pub(super) struct Avx512(());

#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// # Safety
/// The processor has AVX-512F, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// Implements one operation by one intrinsic without memory access.
macro_rules! operation {
    ($vector:ty, $name:ident($($argument:ident),*) = $body:expr) => {
        #[inline(always)]
        fn $name(self, $($argument: $vector),*) -> $vector {
            // SAFETY: a value of `Self` exists only within the function above that enables the instruction set.
            unsafe { $body }
        }
    };
}

impl Simd for Avx512 {
    type Vector = __m512;
    const LANES: usize = 16;
    const ROWS: usize = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: a value of `Self` exists only within `run_avx512`.
        unsafe { _mm512_set1_ps(value) }
    }

    operation!(__m512, add(a, b) = _mm512_add_ps(a, b));
    operation!(__m512, sub(a, b) = _mm512_sub_ps(a, b));
    operation!(__m512, mul(a, b) = _mm512_mul_ps(a, b));
    operation!(__m512, mul_add(a, b, c) = _mm512_fmadd_ps(a, b, c));
    operation!(__m512, max(a, b) = _mm512_max_ps(a, b));
    operation!(
        __m512,
        where_positive(condition, value) =
            _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(condition, _mm512_setzero_ps()), value)
    );

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the caller vouches for the pointer, `self` for the instruction set.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: __m512) {
        // SAFETY: as in `load`.
        unsafe { _mm512_storeu_ps(to, vector) }
    }
}

impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;
    const ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: a value of `Self` exists only within `run_avx2`.
        unsafe { _mm256_set1_ps(value) }
    }

    operation!(__m256, add(a, b) = _mm256_add_ps(a, b));
    operation!(__m256, sub(a, b) = _mm256_sub_ps(a, b));
    operation!(__m256, mul(a, b) = _mm256_mul_ps(a, b));
    operation!(__m256, mul_add(a, b, c) = _mm256_fmadd_ps(a, b, c));
    operation!(__m256, max(a, b) = _mm256_max_ps(a, b));
    operation!(
        __m256,
        where_positive(condition, value) =
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(condition, _mm256_setzero_ps()), value)
    );

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the caller vouches for the pointer, `self` for the instruction set.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: __m256) {
        // SAFETY: as in `load`.
        unsafe { _mm256_storeu_ps(to, vector) }
    }
}
