//! Weights from PyTorch's layout (outputs, inputs, rows, columns) into panels, as the innermost kernels read them.
//!
//! A panel holds two vectors of target channels (the last one may hold one): `[panel][tap][source channel][channel of the
//! panel]`. Forward, sources are inputs and targets are outputs; for the input gradient it is the other way round.
//! Channels that exist only in memory get weights of zero.

use super::{Isa, Shape, Threads};

/// Which pass the weights are packed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From input maps to output maps.
    Forward,
    /// From gradients of output maps to gradients of input maps.
    Backward,
}

impl Direction {
    /// Stored source channels and stored target channels.
    pub(super) fn stored(self, isa: Isa, shape: &Shape) -> (usize, usize) {
        match self {
            Direction::Forward => (shape.stored_inputs(isa), isa.stored(shape.outputs)),
            Direction::Backward => (isa.stored(shape.outputs), isa.stored(shape.inputs)),
        }
    }

    /// Source channels and target channels.
    pub(super) fn used(self, shape: &Shape) -> (usize, usize) {
        match self {
            Direction::Forward => (shape.inputs, shape.outputs),
            Direction::Backward => (shape.outputs, shape.inputs),
        }
    }

    /// Distances of neighbouring sources and targets in PyTorch's layout.
    pub(super) fn strides(self, shape: &Shape) -> (usize, usize) {
        match self {
            Direction::Forward => (shape.taps(), shape.inputs * shape.taps()),
            Direction::Backward => (shape.inputs * shape.taps(), shape.taps()),
        }
    }
}

/// Packs weights tap by tap in bf16, a pair of source channels to a unit, for [`super::direct`].
///
/// # Panics
/// If a slice's length does not fit the shape, or the stored source channels are odd in number.
pub(super) fn paired_taps(
    isa: Isa,
    threads: Threads,
    shape: &Shape,
    direction: Direction,
    weights: &[f32],
    packed: &mut [f32],
) {
    let (depth, stored) = direction.stored(isa, shape);
    let (sources, targets) = direction.used(shape);
    let (source_stride, target_stride) = direction.strides(shape);
    let taps = shape.taps();
    assert!(depth.is_multiple_of(2), "source channels in pairs");
    assert_eq!(weights.len(), shape.weights(), "weights");
    assert_eq!(2 * packed.len(), taps * depth * stored, "packed weights");
    let panel_width = 2 * isa.lanes();
    threads.for_each_chunk(packed, taps * depth / 2 * panel_width, |index, panel| {
        let first = index * panel_width;
        let width = panel_width.min(stored - first);
        let used = width.min(targets.saturating_sub(first));
        for (row, units) in panel.chunks_exact_mut(width).enumerate() {
            let (tap, source) = (row / (depth / 2), row % (depth / 2) * 2);
            units.fill(0.0);
            for half in (0..2).filter(|half| source + half < sources) {
                let from = &weights[(source + half) * source_stride + first * target_stride + tap..];
                for (unit, weight) in units[..used].iter_mut().zip(from.iter().step_by(target_stride)) {
                    *unit = f32::from_bits(unit.to_bits() | bf16_bits(*weight) << (16 * half));
                }
            }
        }
    });
}

/// A value rounded to the nearest bf16, ties to even; NaN stays NaN.
fn bf16_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

/// Packs weights tap by tap, for [`super::direct`].
///
/// # Panics
/// If a slice's length does not fit the shape.
pub(super) fn taps(
    isa: Isa,
    threads: Threads,
    shape: &Shape,
    direction: Direction,
    weights: &[f32],
    packed: &mut [f32],
) {
    let (depth, stored) = direction.stored(isa, shape);
    let (sources, targets) = direction.used(shape);
    let (source_stride, target_stride) = direction.strides(shape);
    let taps = shape.taps();
    assert_eq!(weights.len(), shape.weights(), "weights");
    assert_eq!(packed.len(), taps * depth * stored, "packed weights");
    let panel_width = 2 * isa.lanes();
    threads.for_each_chunk(packed, taps * depth * panel_width, |index, panel| {
        let first = index * panel_width;
        let width = panel_width.min(stored - first);
        let used = width.min(targets.saturating_sub(first));
        for (row, values) in panel.chunks_exact_mut(width).enumerate() {
            let (tap, source) = (row / depth, row % depth);
            values.fill(0.0);
            if source < sources {
                let from = weights[source * source_stride + first * target_stride + tap..].iter();
                for (value, weight) in values[..used].iter_mut().zip(from.step_by(target_stride)) {
                    *value = *weight;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_rounded_to_nearest_even_and_nan_stays() {
        let round = |value: f32| f32::from_bits(bf16_bits(value) << 16);
        assert_eq!([round(1.0), round(-2.5), round(0.0)], [1.0, -2.5, 0.0]);
        // Between 1 and 1 + 2^-7: the tie goes down to even, what is above it up, and the next tie up to even.
        let step = 2f32.powi(-7);
        assert_eq!([round(1.0 + step / 2.0), round(1.0 + step * 0.51)], [1.0, 1.0 + step]);
        assert_eq!(round(1.0 + 1.5 * step), 1.0 + 2.0 * step);
        assert_eq!(round(f32::MAX), f32::INFINITY);
        assert!(round(f32::NAN).is_nan() && round(f32::from_bits(0x7f80_0001)).is_nan());
    }
}
