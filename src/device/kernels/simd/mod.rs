//! One vector type behind which the instruction sets hide: kernels are written once, generic over [`Simd`], and
//! [`Isa::run`] instantiates them for the instruction set found at run time.
//!
//! A value of a `Simd` type is a proof that its instructions may be executed: it is made only by [`Isa::run`], and an
//! [`Isa`] only by detection. Arithmetic is therefore safe; only access through pointers is not.
//!
//! Everything between [`Isa::run`] and the last instruction must be `#[inline(always)]`: code that is not inlined into
//! the function that enables the instruction set would be compiled without it.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Arithmetic on vectors of `LANES` f32.
pub(super) trait Simd: Copy + Send + Sync {
    type Vector: Copy;
    /// Values in one vector.
    const LANES: usize;
    /// Rows of a register tile two vectors wide: `2 * ROWS` sums, two weights and a broadcast fit the register file.
    const ROWS: usize;

    fn splat(self, value: f32) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, in one rounding where the instruction set has it.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger one; NaN where `b` is NaN, so that `max(0, x)` keeps the NaN of `x`.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `value` where `condition > 0`, else 0.
    fn where_positive(self, condition: Self::Vector, value: Self::Vector) -> Self::Vector;

    /// # Safety
    /// `from` is valid for reading `LANES` values; no alignment is asked.
    unsafe fn load(self, from: *const f32) -> Self::Vector;

    /// # Safety
    /// `to` is valid for writing `LANES` values; no alignment is asked.
    unsafe fn store(self, to: *mut f32, vector: Self::Vector);

    #[inline(always)]
    fn zero(self) -> Self::Vector {
        self.splat(0.0)
    }
}

/// Products of bf16, two to a lane: the lane of a vector holds a pair, its first value in the low half.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has such multipliers"))]
pub(super) trait Pairs: Simd {
    /// `a.low * b.low + a.high * b.high + c` in each lane, summed in f32; values below the smallest normal one count as 0.
    fn dot(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// Writes the values rounded to bf16.
    ///
    /// # Safety
    /// `to` is valid for writing `LANES` values; no alignment is asked.
    unsafe fn store_halves(self, to: *mut u16, vector: Self::Vector);

    /// Each value rounded to bf16 as the first of a pair whose second is 0.
    fn low_half(self, vector: Self::Vector) -> Self::Vector;

    /// Each value rounded to bf16 as the second of the pairs of `low`, which has none yet.
    fn with_high_half(self, low: Self::Vector, vector: Self::Vector) -> Self::Vector;
}

/// A kernel that multiplies bf16; as [`Kernel`] otherwise.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has such multipliers"))]
pub(super) trait PairKernel {
    type Output;
    /// Must be `#[inline(always)]`, and so must all that it calls with `simd`.
    fn run<S: Pairs>(self, simd: S) -> Self::Output;
}

/// A kernel: its arguments, and a body generic over the instruction set.
pub(super) trait Kernel {
    type Output;
    /// Must be `#[inline(always)]`, and so must all that it calls with `simd`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl Isa {
    /// Every instruction set that this processor has, the fastest first; the last one is always `portable`.
    pub fn available() -> Vec<Isa> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
                found.push(Isa(Level::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Isa(Level::Avx2));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Isa(Level::Neon));
        }
        found.push(Isa(Level::Portable));
        found
    }

    /// The fastest instruction set for a network whose narrowest layer has `channels` channels: the first one whose
    /// vectors that layer fills. (Where no vector is filled, the shortest ones waste least.)
    pub fn for_channels(channels: usize) -> Isa {
        let available = Self::available();
        let filled = available.iter().find(|isa| channels.is_multiple_of(isa.lanes()) && **isa != Isa(Level::Portable));
        let fast = available.iter().rev().find(|isa| **isa != Isa(Level::Portable));
        *filled.or(fast).unwrap_or(&Isa(Level::Portable))
    }

    /// `avx512`, `avx2`, `neon` or `portable`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            Level::Portable => "portable",
        }
    }

    /// Values in one vector.
    pub fn lanes(self) -> usize {
        struct Lanes;
        impl Kernel for Lanes {
            type Output = usize;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> usize {
                S::LANES
            }
        }
        self.run(Lanes)
    }

    /// `channels` rounded up to whole vectors: how many are stored. The ones added are zero everywhere.
    pub fn stored(self, channels: usize) -> usize {
        channels.next_multiple_of(self.lanes())
    }

    /// Whether this instruction set multiplies bf16, on this processor.
    pub fn has_bf16(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// Runs a kernel that multiplies bf16.
    ///
    /// # Panics
    /// Where this instruction set does not; ask [`Isa::has_bf16`] first.
    pub(super) fn run_pairs<K: PairKernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has it, as was just found; an `Isa` of this level only where it has AVX-512F and FMA.
            Level::Avx512 if self.has_bf16() => unsafe { x86::run_avx512_bf16(kernel) },
            _ => {
                drop(kernel);
                panic!("{} does not multiply bf16 here", self.name())
            }
        }
    }

    /// Runs a kernel compiled for this instruction set.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level is made only in `available`, after the processor was found to have it.
            Level::Avx512 => unsafe { x86::run_avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe { x86::run_avx2(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Level::Neon => unsafe { neon::run_neon(kernel) },
            Level::Portable => kernel.run(portable::Portable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Everything<'a> {
        a: &'a [f32; 16],
        b: &'a [f32; 16],
    }

    impl Kernel for Everything<'_> {
        type Output = Vec<Vec<f32>>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let mut results = vec![vec![0.0; S::LANES]; 6];
            // SAFETY: no vector has more than the 16 values of `a` and `b`; each result has `LANES`.
            unsafe {
                let (a, b) = (simd.load(self.a.as_ptr()), simd.load(self.b.as_ptr()));
                let values = [
                    simd.add(a, b),
                    simd.sub(a, b),
                    simd.mul(a, b),
                    simd.mul_add(a, b, simd.splat(0.5)),
                    simd.max(a, b),
                    simd.where_positive(a, b),
                ];
                for (result, value) in results.iter_mut().zip(values) {
                    simd.store(result.as_mut_ptr(), value);
                }
            }
            results
        }
    }

    #[test]
    fn every_instruction_set_computes_what_its_operations_say() {
        let a = std::array::from_fn(|i| i as f32 - 2.0);
        let b = std::array::from_fn(|i| 3.0 - 2.0 * i as f32);
        for isa in Isa::available() {
            let results = isa.run(Everything { a: &a, b: &b });
            for lane in 0..isa.lanes() {
                let (a, b) = (a[lane], b[lane]);
                let expected = [a + b, a - b, a * b, a * b + 0.5, a.max(b), if a > 0.0 { b } else { 0.0 }];
                let found: Vec<f32> = results.iter().map(|r| r[lane]).collect();
                assert_eq!(found, expected, "{} lane {lane}", isa.name());
            }
        }
    }

    #[test]
    fn the_larger_of_a_number_and_nan_is_nan() {
        for isa in Isa::available() {
            let results = isa.run(Everything { a: &[0.0; 16], b: &[f32::NAN; 16] });
            assert!(results[4].iter().all(|value| value.is_nan()), "{}", isa.name());
        }
    }

    /// bf16 of the first three columns in pairs, dotted, and stored as halves.
    struct Bf16<'a> {
        values: &'a [[f32; 16]; 4],
    }

    impl PairKernel for Bf16<'_> {
        type Output = ([f32; 16], [u16; 16]);

        #[inline(always)]
        fn run<S: Pairs>(self, simd: S) -> Self::Output {
            let (mut dots, mut halves) = ([0.0; 16], [0; 16]);
            // SAFETY: bf16 exists in vectors of 16 values only.
            unsafe {
                let [a, b, c, d] = [0, 1, 2, 3].map(|row: usize| simd.load(self.values[row].as_ptr()));
                let left = simd.with_high_half(simd.low_half(a), b);
                let right = simd.with_high_half(simd.low_half(c), d);
                simd.store(dots.as_mut_ptr(), simd.dot(left, right, simd.splat(0.25)));
                simd.store_halves(halves.as_mut_ptr(), a);
            }
            (dots, halves)
        }
    }

    #[test]
    fn pairs_of_bf16_are_rounded_to_nearest_and_summed_in_f32() {
        let Some(isa) = Isa::available().into_iter().find(|isa| isa.has_bf16()) else { return };
        let values: [[f32; 16]; 4] =
            std::array::from_fn(|row| std::array::from_fn(|lane| (1.1 + row as f32).powi(lane as i32 - 8)));
        let (dots, halves) = isa.run_pairs(Bf16 { values: &values });
        // Ties do not occur among these values: adding half of the last place and cutting off is rounding to nearest.
        let bits = |value: f32| (value.to_bits() + 0x8000) >> 16;
        let rounded = |value: f32| f64::from(f32::from_bits(bits(value) << 16));
        for lane in 0..16 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|row: usize| rounded(values[row][lane]));
            let expected = a * c + b * d + 0.25;
            assert!((f64::from(dots[lane]) - expected).abs() < 1e-6 * expected, "{lane}: {}, {expected}", dots[lane]);
            assert_eq!(u32::from(halves[lane]), bits(values[0][lane]));
        }
    }

    #[test]
    fn narrow_networks_get_vectors_that_they_fill() {
        for channels in [4, 8, 16, 32, 64] {
            let isa = Isa::for_channels(channels);
            let shortest = Isa::available().iter().map(|isa| isa.lanes()).min().unwrap_or(1);
            assert!(isa.stored(channels) <= channels.max(2 * shortest), "{channels}: {}", isa.name());
        }
    }
}
