//! AVX-512 and AVX2 with fused multiply-add.

use std::arch::x86_64::*;

use super::{Kernel, PairKernel, Pairs, Simd};

#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// AVX-512 with its products of bf16.
#[derive(Clone, Copy)]
pub(super) struct Avx512Bf16(());

#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// # Safety
/// The processor has AVX-512F, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// # Safety
/// The processor has AVX-512F, AVX512_BF16, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bf16,avx2,fma")]
pub(super) unsafe fn run_avx512_bf16<K: PairKernel>(kernel: K) -> K::Output {
    kernel.run(Avx512Bf16(()))
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

/// The same instructions for both kinds of AVX-512.
macro_rules! avx512 {
    ($type:ty) => {
        impl Simd for $type {
            type Vector = __m512;
            const LANES: usize = 16;
            const ROWS: usize = 8;

            #[inline(always)]
            fn splat(self, value: f32) -> __m512 {
                // SAFETY: a value of `Self` exists only within the function that enables it.
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
    };
}

avx512!(Avx512);
avx512!(Avx512Bf16);

/// Each value rounded to bf16, in the low half of its lane.
///
/// # Safety
/// The processor has AVX-512F and AVX512_BF16.
#[inline(always)]
unsafe fn halves(vector: __m512) -> __m512i {
    // SAFETY: the caller vouches for the instruction set; both types are 256 bits.
    unsafe { _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(vector))) }
}

impl Pairs for Avx512Bf16 {
    #[inline(always)]
    fn dot(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: a value of `Self` exists only within `run_avx512_bf16`; all these types are 512 bits.
        unsafe {
            _mm512_dpbf16_ps(c, std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b))
        }
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: *mut u16, vector: __m512) {
        // SAFETY: the caller vouches for the pointer, `self` for the instruction set; both types are 256 bits.
        unsafe {
            let halves = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(vector));
            _mm256_storeu_si256(to.cast::<__m256i>(), halves);
        }
    }

    #[inline(always)]
    fn low_half(self, vector: __m512) -> __m512 {
        // SAFETY: as in `dot`.
        unsafe { _mm512_castsi512_ps(halves(vector)) }
    }

    #[inline(always)]
    fn with_high_half(self, low: __m512, vector: __m512) -> __m512 {
        // SAFETY: as in `dot`.
        unsafe {
            let high = _mm512_slli_epi32::<16>(halves(vector));
            _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(low), high))
        }
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
