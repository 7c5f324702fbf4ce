//! Weight gradient: transform blocks of tiles of the input and of the output's gradient, sum 36 outer products over the
//! tiles, transform the sums back to 3x3.

use std::ops::Range;

use crate::device::turns::give_turn;

use super::super::{
    Isa, Products, Shape, Threads,
    partition::{Partition, Task, scatter},
    shape::Panels,
    simd::{Kernel, PairKernel, Pairs, Simd},
    threads::with_scratch,
    tile::{Arithmetic, MAX_ROWS, Outer, Paired, Pixels, Single},
};
use super::{
    ELEMENTS, Place, TILE, Tiling,
    forward::transform_source,
    transform::{self, Element, FirstHalves, SecondHalves, Whole},
};

/// # Panics
/// If a slice's length does not fit the shape.
pub(super) fn run(
    (isa, products): (Isa, Products),
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
    let partition = Partition::new(isa, threads, shape, ELEMENTS, images);
    let tiling = Tiling::for_weights(shape, shape.stored_inputs(isa), isa.stored(shape.outputs), products);
    partition.sum(threads, workspace, |task, sums| {
        with_scratch(tiling.scratch_values(), |scratch| {
            let plane = partition.plane(task.inputs.len());
            let part = Part { tiling, input, output_gradient, plane, task, sums, scratch };
            match products {
                Products::F32 => isa.run(part),
                Products::Bf16 => isa.run_pairs(part),
            }
        });
    });
    let row = shape.inputs * shape.taps();
    let workspace = workspace.as_slice();
    threads.for_each_chunk(weights_gradient, isa.lanes() * row, |block, target| {
        isa.run(Collect { partition: &partition, shape, workspace, output: block * isa.lanes(), target });
    });
}

struct Part<'a> {
    tiling: Tiling,
    input: &'a [f32],
    output_gradient: &'a [f32],
    task: Task,
    /// Distance of neighbouring elements' sums.
    plane: usize,
    /// `[element][panel][input of the task][output of the panel]`.
    sums: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.compute::<S, Single, Whole, Whole>(simd);
    }
}

impl PairKernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Pairs>(self, simd: S) {
        self.compute::<S, Paired, FirstHalves, SecondHalves>(simd);
    }
}

impl Part<'_> {
    /// In bf16, `Even` and `Odd` tiles make up pairs; an odd one out is a pair with zero.
    #[inline(always)]
    fn compute<S: Simd, A: Arithmetic<S>, Even: Element<S, Item = f32>, Odd: Element<S, Item = f32>>(self, simd: S) {
        let Self { tiling, input, output_gradient, task, plane, sums, scratch } = self;
        let (sources, rest) = scratch.split_at_mut(ELEMENTS * tiling.source_plane());
        let (gradients, edge) = rest.split_at_mut(ELEMENTS * tiling.gradient_plane());
        let (first_tile, end) = (task.images.start * tiling.tiles, task.images.end * tiling.tiles);
        if first_tile == end {
            sums.fill(0.0);
        }
        let mut transforms = Transforms { tiling: &tiling, input, output_gradient, inputs: &task.inputs, edge };
        for first in (first_tile..end).step_by(tiling.block) {
            give_turn();
            let count = tiling.block.min(end - first);
            for tile in 0..count {
                let place = tiling.place(first + tile);
                let source = sources[tile / A::PER_UNIT * task.inputs.len()..].as_mut_ptr();
                let gradient = gradients[tile / A::PER_UNIT * tiling.width..].as_mut_ptr();
                // SAFETY: element 35 of the block's last tile lies within the last of the 36 planes; with pairs, a tile of an
                // even number is written before its partner.
                unsafe {
                    if tile % A::PER_UNIT == 0 {
                        transforms.run::<S, Even>(simd, place, source, gradient);
                    } else {
                        transforms.run::<S, Odd>(simd, place, source, gradient);
                    }
                }
            }
            let accumulate = first > first_tile;
            let count = count.div_ceil(A::PER_UNIT);
            let sum = Sum { tiling: &tiling, inputs: task.inputs.len(), plane, count, accumulate };
            sum.run::<S, A>(simd, sources, gradients, sums);
        }
    }
}

/// What the tiles of a part are transformed from.
struct Transforms<'a> {
    tiling: &'a Tiling,
    input: &'a [f32],
    output_gradient: &'a [f32],
    inputs: &'a Range<usize>,
    edge: &'a mut [f32],
}

impl Transforms<'_> {
    /// Both transforms of the tile at `place`.
    ///
    /// # Safety
    /// At each of the 36 planes from `source` the inputs of the task are valid, and from `gradient` all outputs, as
    /// [`Element::store`] needs them.
    #[inline(always)]
    unsafe fn run<S: Simd, E: Element<S, Item = f32>>(
        &mut self,
        simd: S,
        place: Place,
        source: *mut f32,
        gradient: *mut f32,
    ) {
        let (tiling, inputs) = (self.tiling, self.inputs.clone());
        let source = (source, tiling.source_plane());
        // SAFETY: the caller's promise is handed on.
        unsafe {
            transform_source::<S, E>(simd, tiling, place, self.input, inputs, self.edge, source);
            transform_gradient::<S, E>(simd, tiling, place, self.output_gradient, self.edge, gradient);
        }
    }
}

/// Transforms the tile of gradients at `place`; what lies outside the map is zero.
///
/// # Safety
/// The channels at each of the 36 planes from `to` are valid, as [`Element::store`] needs them.
#[inline(always)]
unsafe fn transform_gradient<S: Simd, E: Element<S, Item = f32>>(
    simd: S,
    tiling: &Tiling,
    place: Place,
    gradient: &[f32],
    edge: &mut [f32],
    to: *mut f32,
) {
    let (width, columns) = (tiling.width, tiling.columns);
    let map = &gradient[place.image * tiling.target_values()..][..tiling.target_values()];
    let (rows_kept, columns_kept) = (TILE.min(tiling.rows - place.row), TILE.min(columns - place.column));
    let first = (place.row * columns + place.column) * width;
    let (tile, spacing) = if rows_kept == TILE && columns_kept == TILE {
        (&map[first..], transform::Spacing { row: columns * width, column: width })
    } else {
        let edge = &mut edge[..TILE * TILE * width];
        edge.fill(0.0);
        for (y, edge) in edge.chunks_exact_mut(TILE * width).take(rows_kept).enumerate() {
            let from = first + y * columns * width;
            edge[..columns_kept * width].copy_from_slice(&map[from..from + columns_kept * width]);
        }
        (&*edge, transform::Spacing { row: TILE * width, column: width })
    };
    debug_assert!(tile.len() >= (TILE - 1) * (spacing.row + spacing.column) + width);
    // SAFETY: a whole tile lies within the map, another within its copy; the caller vouches for the targets.
    unsafe { transform::gradient::<S, E>(simd, tile.as_ptr(), spacing, width, to, tiling.gradient_plane()) };
}

/// `sums[e] (+)= sources[e]^T * gradients[e]` for each element `e`, over `count` tiles, or pairs of tiles.
struct Sum<'a> {
    tiling: &'a Tiling,
    inputs: usize,
    plane: usize,
    count: usize,
    accumulate: bool,
}

impl Sum<'_> {
    #[inline(always)]
    fn run<S: Simd, A: Arithmetic<S>>(&self, simd: S, sources: &[f32], gradients: &[f32], sums: &mut [f32]) {
        let (inputs, width) = (self.inputs, self.tiling.width);
        let pixels = Pixels { images: 1, rows: 1, columns: self.count, left: [0, 0, inputs], right: [0, 0, width] };
        for (element, sums) in sums.chunks_exact_mut(self.plane).enumerate() {
            let left = &sources[element * self.tiling.source_plane()..];
            let right = &gradients[element * self.tiling.gradient_plane()..];
            for channels in Panels::new(width, S::LANES).ranges() {
                let outer = Outer { pixels, stride: channels.len(), accumulate: self.accumulate };
                let panel = &mut sums[channels.start * inputs..channels.end * inputs];
                let blocks = panel.chunks_mut(MAX_ROWS * channels.len());
                for (first, target) in (0..inputs).step_by(MAX_ROWS).zip(blocks) {
                    // SAFETY: the planes hold `count` rows of `inputs` and `width` values each, and the panel a row for
                    // each input of the task.
                    unsafe {
                        outer.sum::<S, A>(
                            simd,
                            (MAX_ROWS.min(inputs - first), channels.len() / S::LANES),
                            left[first..].as_ptr(),
                            right[channels.start..].as_ptr(),
                            target.as_mut_ptr(),
                        );
                    }
                }
            }
        }
    }
}

/// Adds the parts up, transforms them back, and writes them in PyTorch's layout: a vector of outputs.
struct Collect<'a> {
    partition: &'a Partition,
    shape: &'a Shape,
    workspace: &'a [f32],
    output: usize,
    target: &'a mut [f32],
}

impl Kernel for Collect<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let taps = self.shape.taps();
        for input in 0..self.shape.inputs {
            // SAFETY: the channels are within the shape's, and the workspace was filled by the same partition.
            let elements = unsafe { self.partition.gather(simd, self.workspace, (input, self.output), 0) };
            for (tap, gradient) in transform::kernel_gradient(simd, elements).into_iter().enumerate() {
                scatter(simd, gradient, self.target, input * taps + tap, self.shape.inputs * taps);
            }
        }
    }
}
