//! Features as rows of small integers, and all similarities of one row in one pass.

use rayon::prelude::*;

/// Length of a quantised vector. The sum of products of two of them is below 2^28 and some rounding, so that an i32
/// holds it, and its sum is the same in any order.
const UNIT: f64 = 16_384.0;

/// Cosine times 2^28.
pub(super) type Similarity = i32;

/// Of a slot without features: below every cosine.
pub(super) const NONE: Similarity = i32::MIN;

/// Multiplications from which a pass is spread over the thread pool, and slots of one piece.
const PARALLEL_WORK: usize = 1 << 22;
const PIECE: usize = 4096;

/// One row a slot.
#[derive(Debug, Default)]
pub(super) struct Rows {
    width: usize,
    values: Vec<i16>,
    there: Vec<bool>,
}

impl Rows {
    pub(super) fn new(slots: usize, width: usize) -> Self {
        Self { width, values: vec![0; slots * width], there: vec![false; slots] }
    }

    /// Shape (width); zeros where the slot has none.
    pub(super) fn row(&self, slot: u32) -> &[i16] {
        let start = slot as usize * self.width;
        &self.values[start..start + self.width]
    }

    pub(super) fn has(&self, slot: u32) -> bool {
        self.there[slot as usize]
    }

    pub(super) fn set(&mut self, slot: u32, row: &[i16]) {
        let start = slot as usize * self.width;
        self.values[start..start + self.width].copy_from_slice(row);
        self.there[slot as usize] = true;
    }

    pub(super) fn clear(&mut self, slot: u32) {
        self.there[slot as usize] = false;
    }

    /// Cosine of `row` (width) with every slot: (slots), [`NONE`] where a slot has no row.
    pub(super) fn similarities(&self, row: &[i16]) -> Vec<Similarity> {
        let mut out = vec![NONE; self.there.len()];
        if self.width == 0 {
            return out;
        }
        let piece = |(out, (there, rows)): (&mut [Similarity], (&[bool], &[i16]))| {
            for ((out, there), other) in out.iter_mut().zip(there).zip(rows.chunks_exact(self.width)) {
                if *there {
                    *out = dot(row, other);
                }
            }
        };
        if self.values.len() < PARALLEL_WORK {
            piece((out.as_mut_slice(), (self.there.as_slice(), self.values.as_slice())));
        } else {
            let rows = self.there.par_chunks(PIECE).zip(self.values.par_chunks(PIECE * self.width));
            out.par_chunks_mut(PIECE).zip(rows).for_each(piece);
        }
        out
    }
}

fn dot(a: &[i16], b: &[i16]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

/// The direction of `vector`, rounded; none for zeros and for numbers that are not finite.
pub(super) fn quantised(vector: &[f32]) -> Option<Vec<i16>> {
    let norm = vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    // Truncated, not rounded, so that no vector gets longer than `UNIT`.
    let shrunk = |value: &f32| (f64::from(*value) / norm * UNIT) as i16;
    (norm > 0.0 && norm.is_finite()).then(|| vector.iter().map(shrunk).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    #[test]
    fn similarities_are_cosines_and_the_same_on_one_thread_and_on_several() {
        let mut random = Seed(3).random("rows", 0);
        let mut vector = |width: usize| (0..width).map(|_| random.normal() as f32).collect::<Vec<f32>>();
        let (width, slots) = (128, 2 * PARALLEL_WORK / 128);
        let some: Vec<Vec<f32>> = (0..64).map(|_| vector(width)).collect();
        let mut rows = Rows::new(slots, width);
        (0..slots as u32 - 1).for_each(|slot| rows.set(slot, &quantised(&some[slot as usize % 64]).unwrap()));
        let query = vector(width);
        let row = quantised(&query).unwrap();
        let found = rows.similarities(&row);
        assert_eq!(found[slots - 1], NONE);
        for (slot, &similarity) in found[..slots - 1].iter().enumerate() {
            let other = &some[slot % 64];
            let product: f64 = query.iter().zip(other).map(|(a, b)| f64::from(a * b)).sum();
            let norm = |v: &[f32]| v.iter().map(|a| f64::from(a * a)).sum::<f64>().sqrt();
            let cosine = product / norm(&query) / norm(other);
            assert!((f64::from(similarity) / (UNIT * UNIT) - cosine).abs() < 2e-3, "{similarity} of {cosine}");
            assert_eq!(similarity, dot(&row, rows.row(slot as u32)));
        }
    }

    #[test]
    fn what_has_no_direction_has_no_row() {
        assert_eq!(quantised(&[0.0, 0.0]), None);
        assert_eq!(quantised(&[f32::NAN, 1.0]), None);
        assert_eq!(quantised(&[f32::INFINITY, 1.0]), None);
        assert_eq!(quantised(&[3e-30, 4e-30]), Some(vec![9830, 13107]));
    }

    #[test]
    fn the_largest_sum_fits() {
        for width in [1, 2, 128, 2048] {
            let row = quantised(&vec![1.0; width]).unwrap();
            assert!(i64::from(dot(&row, &row)) <= 1 << 28);
        }
    }
}
