//! The weight gradient of a direct convolution:
//! `dw[o][i][tap] = sum over images and output pixels p of x[p * stride - padding + tap][i] * dy[p][o]`.

use std::ops::Range;

use crate::device::turns::give_turn;

use super::super::{
    Isa, Shape, Threads,
    partition::{Partition, Task},
    shape::Panels,
    simd::{Kernel, Simd},
    tile::{MAX_ROWS, Outer, Pixels, Single},
};

/// Values of a group of images, after which the sums go back to memory: maps that fit it stay in the cache.
const GROUP_VALUES: usize = 1 << 16;

/// Least pixels of a group: enough that bringing the sums from memory and back is a small part of the work.
const GROUP_PIXELS: usize = 128;

/// # Panics
/// If a slice's length does not fit the shape.
pub(super) fn run(
    isa: Isa,
    threads: Threads,
    shape: &Shape,
    input: &[f32],
    output_gradient: &[f32],
    workspace: &mut Vec<f32>,
    weights_gradient: &mut [f32],
) {
    let images = input.len() / shape.input_values(isa);
    assert_eq!(input.len(), images * shape.input_values(isa), "input maps");
    assert_eq!(output_gradient.len(), images * shape.output_values(isa), "gradient of the output maps");
    assert_eq!(weights_gradient.len(), shape.weights(), "gradient of the weights");
    let partition = Partition::new(isa, threads, shape, shape.taps(), images);
    partition.sum(threads, workspace, |task, sums| {
        isa.run(Part { isa, shape, input, output_gradient, plane: partition.plane(task.inputs.len()), task, sums });
    });
    partition.collect_taps(isa, threads, shape, workspace, weights_gradient);
}

struct Part<'a> {
    isa: Isa,
    shape: &'a Shape,
    input: &'a [f32],
    output_gradient: &'a [f32],
    task: Task,
    /// Distance of neighbouring taps' sums.
    plane: usize,
    /// `[tap][panel][input of the task][output of the panel]`.
    sums: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (shape, isa) = (self.shape, self.isa);
        let values = shape.input_values(isa) + shape.output_values(isa);
        let pixels = shape.output_height() * shape.output_width();
        let group = (GROUP_VALUES / values).max(GROUP_PIXELS.div_ceil(pixels));
        let mut first = self.task.images.start;
        let mut accumulate = false;
        if first == self.task.images.end {
            self.sums.fill(0.0);
        }
        while first < self.task.images.end {
            give_turn();
            let images = group.min(self.task.images.end - first);
            let input = &self.input[first * shape.input_values(isa)..][..images * shape.input_values(isa)];
            let gradient =
                &self.output_gradient[first * shape.output_values(isa)..][..images * shape.output_values(isa)];
            for (tap, sums) in self.sums.chunks_exact_mut(self.plane).enumerate() {
                let tap = Tap { isa, shape, row: tap / shape.size, column: tap % shape.size, images, accumulate };
                tap.sum(simd, input, gradient, &self.task.inputs, sums);
            }
            first += images;
            accumulate = true;
        }
    }
}

/// One tap of the kernel, over a group of images.
struct Tap<'a> {
    isa: Isa,
    shape: &'a Shape,
    row: usize,
    column: usize,
    images: usize,
    accumulate: bool,
}

impl Tap<'_> {
    #[inline(always)]
    fn sum<S: Simd>(&self, simd: S, input: &[f32], gradient: &[f32], inputs: &Range<usize>, sums: &mut [f32]) {
        let shape = self.shape;
        let (depth, width) = (shape.stored_inputs(self.isa), self.isa.stored(shape.outputs));
        let rows = inside(shape, self.row, shape.height, shape.output_height());
        let columns = inside(shape, self.column, shape.width, shape.output_width());
        if rows.is_empty() || columns.is_empty() {
            if !self.accumulate {
                sums.fill(0.0);
            }
            return;
        }
        let source_row = rows.start * shape.stride + self.row - shape.padding;
        let source_column = columns.start * shape.stride + self.column - shape.padding;
        let left_start = (source_row * shape.width + source_column) * depth;
        let right_start = (rows.start * shape.output_width() + columns.start) * width;
        let pixels = Pixels {
            images: self.images,
            rows: rows.len(),
            columns: columns.len(),
            left: [shape.input_values(self.isa), shape.stride * shape.width * depth, shape.stride * depth],
            right: [shape.output_values(self.isa), shape.output_width() * width, width],
        };
        for channels in Panels::new(width, S::LANES).ranges() {
            let outer = Outer { pixels, stride: channels.len(), accumulate: self.accumulate };
            let panel = &mut sums[channels.start * inputs.len()..channels.end * inputs.len()];
            let blocks = panel.chunks_mut(MAX_ROWS * channels.len());
            for (first, target) in (inputs.start..inputs.end).step_by(MAX_ROWS).zip(blocks) {
                let count = MAX_ROWS.min(inputs.end - first);
                // SAFETY: `rows` and `columns` are the output pixels whose tap lies within the input map, and the
                // lengths of both maps were checked; `sums` has a row of `width` for each input of the task.
                unsafe {
                    outer.sum::<S, Single>(
                        simd,
                        (count, channels.len() / S::LANES),
                        input[left_start + first..].as_ptr(),
                        gradient[right_start + channels.start..].as_ptr(),
                        target.as_mut_ptr(),
                    );
                }
            }
        }
    }
}

/// The output positions along an axis whose tap lies within the input.
fn inside(shape: &Shape, tap: usize, input: usize, output: usize) -> Range<usize> {
    let first = shape.padding.saturating_sub(tap).div_ceil(shape.stride);
    let end = (input + shape.padding).saturating_sub(tap).div_ceil(shape.stride).min(output);
    first..end.max(first)
}
