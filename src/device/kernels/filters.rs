//! Rectified responses of a bank of integer filters, summed over patches: what frozen features of an image are made of.
//!
//! Sixteen-bit products are summed in pairs, the widest integer multiplication that processors have (`pmaddwd`), with one
//! filter to a lane, so that no sum is ever gathered from the lanes of a vector. All arithmetic is exact: every instruction
//! set gives the same bits.

/// Filters worked on together.
const GROUP: usize = 8;

/// Two neighbouring values of a patch, or of a filter.
type Pair = [i16; 2];

/// One pair of coefficients of each filter of a group.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Lanes([Pair; GROUP]);

/// Rectified sums of each filter of a group: of its positive responses, and of its negative ones.
type Sums = [[i32; GROUP]; 2];

/// A bank of filters of `2 * PAIRS` coefficients each.
///
/// ```
/// use lumpd::device::kernels::FilterBank;
/// let filters = [[[1, -1], [2, 0]]; 16];
/// let bank = FilterBank::<2>::new(&filters);
/// let mut sums = [[0; 2]; 16];
/// bank.add_rectified(&[[[10, 4], [3, 9]]], 5, &mut sums);
/// assert_eq!(sums[0], [(10 - 4 + 2 * 3) - 5, 0]);
/// ```
pub struct FilterBank<const PAIRS: usize> {
    groups: Vec<[Lanes; PAIRS]>,
    level: Level,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Level {
    /// Those that this processor has, the fastest first.
    fn available() -> Vec<Level> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return vec![Level::Avx2, Level::Portable];
        }
        vec![Level::Portable]
    }
}

impl<const PAIRS: usize> FilterBank<PAIRS> {
    /// The bank of `filters`, whose number is a multiple of 8.
    ///
    /// # Panics
    /// If it is not.
    pub fn new(filters: &[[Pair; PAIRS]]) -> Self {
        Self::for_level(filters, Level::available()[0])
    }

    fn for_level(filters: &[[Pair; PAIRS]], level: Level) -> Self {
        let (groups, rest) = filters.as_chunks::<GROUP>();
        assert!(rest.is_empty(), "{} filters are not a multiple of {GROUP}", filters.len());
        let lanes = |group: &[[Pair; PAIRS]; GROUP], pair: usize| Lanes(std::array::from_fn(|lane| group[lane][pair]));
        let groups = groups.iter().map(|group| std::array::from_fn(|pair| lanes(group, pair))).collect();
        Self { groups, level }
    }

    /// For every filter f and patch p, with r = sum_i f_i p_i: `sums[f]` grows by `[max(r - offset, 0), max(-r - offset, 0)]`.
    ///
    /// Sums are of 32 bits and wrap: the caller sees to it that they cannot.
    ///
    /// # Panics
    /// If there are not as many sums as filters.
    pub fn add_rectified(&self, patches: &[[Pair; PAIRS]], offset: i32, sums: &mut [[i32; 2]]) {
        assert_eq!(sums.len(), self.groups.len() * GROUP, "one sum for each filter");
        for (group, sums) in self.groups.iter().zip(sums.as_chunks_mut::<GROUP>().0) {
            let mut by_sign: Sums = std::array::from_fn(|sign| std::array::from_fn(|lane| sums[lane][sign]));
            match self.level {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a bank of this level is made only after the processor was found to have it.
                Level::Avx2 => unsafe { avx2::add_group(group, patches, offset, &mut by_sign) },
                Level::Portable => add_group(group, patches, offset, &mut by_sign),
            }
            for (lane, sum) in sums.iter_mut().enumerate() {
                *sum = [by_sign[0][lane], by_sign[1][lane]];
            }
        }
    }
}

/// The definition; the compiler makes vectors of the lanes.
fn add_group<const PAIRS: usize>(group: &[Lanes; PAIRS], patches: &[[Pair; PAIRS]], offset: i32, sums: &mut Sums) {
    for patch in patches {
        let mut responses = [0i32; GROUP];
        for (weights, values) in group.iter().zip(patch) {
            for (response, weights) in responses.iter_mut().zip(&weights.0) {
                let product = |i: usize| i32::from(weights[i]).wrapping_mul(i32::from(values[i]));
                *response = response.wrapping_add(product(0).wrapping_add(product(1)));
            }
        }
        for (lane, response) in responses.into_iter().enumerate() {
            sums[0][lane] = sums[0][lane].wrapping_add(response.wrapping_sub(offset).max(0));
            sums[1][lane] = sums[1][lane].wrapping_add(response.wrapping_neg().wrapping_sub(offset).max(0));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Lanes, Pair, Sums};

    /// Patches worked on together: as many sums as hide the time of an addition behind the others.
    const ROWS: usize = 7;

    #[target_feature(enable = "avx2")]
    pub(super) fn add_group<const PAIRS: usize>(
        group: &[Lanes; PAIRS],
        patches: &[[Pair; PAIRS]],
        offset: i32,
        sums: &mut Sums,
    ) {
        let (blocks, rest) = patches.as_chunks::<ROWS>();
        blocks.iter().for_each(|block| add_block(group, block, offset, sums));
        rest.iter().for_each(|patch| add_block(group, std::array::from_ref(patch), offset, sums));
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn add_block<const PAIRS: usize, const R: usize>(
        group: &[Lanes; PAIRS],
        patches: &[[Pair; PAIRS]; R],
        offset: i32,
        sums: &mut Sums,
    ) {
        let mut responses = [_mm256_setzero_si256(); R];
        for (pair, weights) in group.iter().enumerate() {
            // SAFETY: `Lanes` is 32 bytes, aligned to 32.
            let weights = unsafe { _mm256_load_si256(std::ptr::from_ref(weights).cast()) };
            for (response, patch) in responses.iter_mut().zip(patches) {
                let [low, high] = patch[pair];
                let values = _mm256_set1_epi32(i32::from(high) << 16 | i32::from(low as u16));
                *response = _mm256_add_epi32(*response, _mm256_madd_epi16(weights, values));
            }
        }
        let (offset, zero) = (_mm256_set1_epi32(offset), _mm256_setzero_si256());
        let [mut positive, mut negative] = sums.map(|sums| {
            // SAFETY: eight numbers of 32 bits are 32 bytes; no alignment is asked.
            unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) }
        });
        for response in responses {
            let above = _mm256_sub_epi32(response, offset);
            let below = _mm256_sub_epi32(_mm256_sub_epi32(zero, response), offset);
            positive = _mm256_add_epi32(positive, _mm256_max_epi32(above, zero));
            negative = _mm256_add_epi32(negative, _mm256_max_epi32(below, zero));
        }
        for (sums, vector) in sums.iter_mut().zip([positive, negative]) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), vector) };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAIRS: usize = 5;

    fn rows(count: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<[Pair; PAIRS]>> {
        prop::collection::vec(any::<[Pair; PAIRS]>(), count)
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_bits_of_the_definition(
            filters in rows(16), patches in rows(0..20), offset in 0..1 << 20, before in any::<[i32; 2]>()
        ) {
            let mut expected = vec![before; 16];
            for (filter, sum) in filters.iter().zip(&mut expected) {
                for patch in &patches {
                    let products = filter.iter().flatten().zip(patch.iter().flatten());
                    let response = products.fold(0i32, |sum, (&a, &b)| sum.wrapping_add(i32::from(a) * i32::from(b)));
                    sum[0] = sum[0].wrapping_add(response.wrapping_sub(offset).max(0));
                    sum[1] = sum[1].wrapping_add(response.wrapping_neg().wrapping_sub(offset).max(0));
                }
            }
            for level in Level::available() {
                let mut sums = vec![before; 16];
                FilterBank::for_level(&filters, level).add_rectified(&patches, offset, &mut sums);
                prop_assert_eq!(&sums, &expected, "{:?}", level);
            }
        }
    }
}
