//! The weight gradient of a network's first layer, whose few input channels lie packed.
//!
//! The taps of a row of the kernel and their channels are neighbours in memory there (7 taps of 3 channels: 21 values), so
//! that one block of sums serves several taps. Row by row of the output map, so that a gradient is fetched from memory
//! once and not once a tap. The map is copied with its padding, so that there are no edges to treat.

use std::ops::Range;

use super::super::{
    Isa, Shape, Threads,
    shape::Panels,
    simd::{Kernel, Simd},
    tile::{MAX_ROWS, Outer, Pixels, Single},
};

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
    assert!(shape.packed_input, "packed input");
    assert_eq!(input.len(), images * shape.input_values(isa), "input maps");
    assert_eq!(output_gradient.len(), images * shape.output_values(isa), "gradient of the output maps");
    assert_eq!(weights_gradient.len(), shape.weights(), "gradient of the weights");
    let sums = Sums { shape, panels: Panels::new(isa.stored(shape.outputs), isa.lanes()) };
    let rows = images * shape.output_height();
    let parts = threads.count().clamp(1, rows.max(1));
    let total = parts * sums.values(isa);
    if workspace.len() < total {
        workspace.resize(total, 0.0);
    }
    let pieces = workspace[..total].chunks_exact_mut(sums.values(isa)).enumerate().collect();
    threads.for_each(pieces, |(part, target)| {
        let rows = rows * part / parts..rows * (part + 1) / parts;
        isa.run(Part { isa, shape, sums: &sums, input, output_gradient, rows, target });
    });
    sums.collect(isa, &workspace[..total], weights_gradient);
}

/// Where the sums of a part lie: `[panel][row of the kernel][tap of the row, input][output of the panel]`.
struct Sums<'a> {
    shape: &'a Shape,
    panels: Panels,
}

impl Sums<'_> {
    /// Values along a row of the kernel.
    fn run(&self) -> usize {
        self.shape.size * self.shape.inputs
    }

    fn values(&self, isa: Isa) -> usize {
        self.shape.size * self.run() * isa.stored(self.shape.outputs)
    }

    /// Adds the parts up, in their order, into PyTorch's layout.
    fn collect(&self, isa: Isa, parts: &[f32], weights_gradient: &mut [f32]) {
        let Shape { inputs, size, .. } = *self.shape;
        for (place, to) in weights_gradient.iter_mut().enumerate() {
            let (output, input, tap) =
                (place / (inputs * size * size), place / (size * size) % inputs, place % (size * size));
            let panel = self.panels.of(output);
            let row = tap / size * self.run() + tap % size * inputs + input;
            let at = panel.start * size * self.run() + row * panel.len() + output - panel.start;
            *to = parts.chunks_exact(self.values(isa)).map(|sums| sums[at]).sum();
        }
    }
}

struct Part<'a> {
    isa: Isa,
    shape: &'a Shape,
    sums: &'a Sums<'a>,
    input: &'a [f32],
    output_gradient: &'a [f32],
    /// Rows of the output maps of all images.
    rows: Range<usize>,
    target: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.target.fill(0.0);
        let height = self.shape.output_height();
        let mut of_image = vec![0.0; self.target.len()];
        let mut padded = vec![0.0; self.padded_row() * (self.shape.height + 2 * self.shape.padding)];
        let mut row = self.rows.start;
        while row < self.rows.end {
            // Sums of an image, then sums of those: a long sum in f32 would lose digits.
            let (image, end) = (row / height, self.rows.end.min((row / height + 1) * height));
            self.pad(image, &mut padded);
            of_image.fill(0.0);
            for row in row..end {
                self.add_row(simd, &padded, row, &mut of_image);
            }
            for (total, sum) in self.target.iter_mut().zip(&of_image) {
                *total += sum;
            }
            row = end;
        }
    }
}

impl Part<'_> {
    fn padded_row(&self) -> usize {
        (self.shape.width + 2 * self.shape.padding) * self.shape.inputs
    }

    /// Copies an image into the middle of `padded`, whose margins stay zero.
    fn pad(&self, image: usize, padded: &mut [f32]) {
        let Shape { width, inputs, padding, .. } = *self.shape;
        let image = &self.input[image * self.shape.input_values(self.isa)..][..self.shape.input_values(self.isa)];
        let rows = padded.chunks_exact_mut(self.padded_row()).skip(padding);
        for (from, to) in image.chunks_exact(width * inputs).zip(rows) {
            to[padding * inputs..][..width * inputs].copy_from_slice(from);
        }
    }

    /// Adds the products of one row of the output map.
    #[inline(always)]
    fn add_row<S: Simd>(&self, simd: S, padded: &[f32], row: usize, sums: &mut [f32]) {
        let Shape { size, stride, inputs, .. } = *self.shape;
        let (run, width) = (self.sums.run(), self.isa.stored(self.shape.outputs));
        let columns = self.shape.output_width();
        let gradient = &self.output_gradient[row * columns * width..][..columns * width];
        let above = row % self.shape.output_height() * stride;
        let pixels = Pixels { images: 1, rows: 1, columns, left: [0, 0, stride * inputs], right: [0, 0, width] };
        // Blocks of about the same height, so that none is left with a row or two.
        let most = S::ROWS.min(MAX_ROWS);
        let block = run.div_ceil(run.div_ceil(most));
        for channels in self.sums.panels.ranges() {
            let outer = Outer { pixels, stride: channels.len(), accumulate: true };
            for tap_row in 0..size {
                let source = &padded[(above + tap_row) * self.padded_row()..][..self.padded_row()];
                let panel = channels.start * size * run + tap_row * run * channels.len();
                for first in (0..run).step_by(block) {
                    let count = block.min(run - first);
                    let target = &mut sums[panel + first * channels.len()..][..count * channels.len()];
                    // SAFETY: the last column's window ends within the padded row, because a window fits the padded map
                    // at every output column; the gradient has a row of `width` for each column; the target has `count`
                    // rows of the panel's channels, which are one or two vectors.
                    unsafe {
                        outer.sum::<S, Single>(
                            simd,
                            (count, channels.len() / S::LANES),
                            source[first..].as_ptr(),
                            gradient[channels.start..].as_ptr(),
                            target.as_mut_ptr(),
                        );
                    }
                }
            }
        }
    }
}
