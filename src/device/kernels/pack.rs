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
    let bits = |source: usize, target: usize, tap: usize| match source < sources && target < targets {
        true => {
            u32::from(half::bf16::from_f32(weights[source * source_stride + target * target_stride + tap]).to_bits())
        }
        false => 0,
    };
    let panel_width = 2 * isa.lanes();
    threads.for_each_chunk(packed, taps * depth / 2 * panel_width, |index, panel| {
        let first = index * panel_width;
        let width = panel_width.min(stored - first);
        for (row, units) in panel.chunks_exact_mut(width).enumerate() {
            let (tap, source) = (row / (depth / 2), row % (depth / 2) * 2);
            for (target, unit) in (first..).zip(units) {
                *unit = f32::from_bits(bits(source, target, tap) | bits(source + 1, target, tap) << 16);
            }
        }
    });
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
