//! How the sum over images of a weight gradient is shared out, and how the parts come together again.
//!
//! A part sums over a run of images, for a run of input channels, into memory of its own. Parts of images are few where
//! the sums are large, so that this memory stays small; then threads share the input channels instead.

use std::ops::Range;

use super::{
    Isa, Shape, Threads,
    shape::Panels,
    simd::{Kernel, Simd},
};

/// Values that the sums of all parts of images may occupy beyond one set (8 MiB).
const PARTIAL_VALUES: usize = 1 << 21;

/// Input channels of a task are a multiple of this.
const CHANNEL_STEP: usize = 16;

/// What one task sums over.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub images: Range<usize>,
    pub inputs: Range<usize>,
}

/// The tasks of a weight gradient. Their sums lie one after the other, `[image part][input part][plane][panel][input]
/// [output of the panel]`, where a plane is a tap, or an element of a transformed kernel, and the panels are those of
/// [`Panels`]: the block of sums that the innermost kernel holds is one piece of memory.
#[derive(Debug, Clone)]
pub(super) struct Partition {
    image_parts: usize,
    images: usize,
    panels: Panels,
    /// Input channels of all tasks but the last.
    step: usize,
    inputs: usize,
    outputs: usize,
    planes: usize,
}

impl Partition {
    pub(super) fn new(isa: Isa, threads: Threads, shape: &Shape, planes: usize, images: usize) -> Self {
        let (inputs, outputs) = (shape.stored_inputs(isa), isa.stored(shape.outputs));
        let one = planes * inputs * outputs;
        let image_parts = (PARTIAL_VALUES / one).clamp(1, threads.count()).min(images.max(1));
        let splits = threads.count().div_ceil(image_parts);
        let step = inputs.div_ceil(splits).next_multiple_of(CHANNEL_STEP);
        Self { image_parts, images, panels: Panels::new(outputs, isa.lanes()), step, inputs, outputs, planes }
    }

    fn image_part(&self, part: usize) -> Range<usize> {
        self.images * part / self.image_parts..self.images * (part + 1) / self.image_parts
    }

    /// Distance of the planes of a task with that many inputs. One cache line more than the values, because distances of
    /// a large power of two would put all planes into the same few lines of a cache.
    pub(super) fn plane(&self, inputs: usize) -> usize {
        inputs * self.outputs + 16
    }

    /// Values of all sums of a part of the images.
    fn values_of_image_part(&self) -> usize {
        let whole = self.inputs / self.step * self.values_of_task(self.step);
        match self.inputs % self.step {
            0 => whole,
            rest => whole + self.values_of_task(rest),
        }
    }

    fn values_of_task(&self, inputs: usize) -> usize {
        self.planes * self.plane(inputs)
    }

    /// Runs all tasks; `work` overwrites the sums that it is given.
    pub(super) fn sum(&self, threads: Threads, workspace: &mut Vec<f32>, work: impl Fn(Task, &mut [f32]) + Sync) {
        let total = self.image_parts * self.values_of_image_part();
        if workspace.len() < total {
            workspace.resize(total, 0.0);
        }
        let splits = self.inputs.div_ceil(self.step);
        let mut rest = &mut workspace[..total];
        let mut tasks = Vec::with_capacity(self.image_parts * splits);
        for part in 0..self.image_parts {
            for split in 0..splits {
                let inputs = split * self.step..self.inputs.min((split + 1) * self.step);
                let (sums, after) = rest.split_at_mut(self.values_of_task(inputs.len()));
                rest = after;
                tasks.push((Task { images: self.image_part(part), inputs }, sums));
            }
        }
        threads.for_each(tasks, |(task, sums)| work(task, sums));
    }

    /// Adds the parts of `lanes` neighbouring outputs of one input, for every plane.
    ///
    /// # Safety
    /// `workspace` is what [`Partition::sum`] filled, `input` a stored input and `output..output + LANES` stored outputs.
    #[inline(always)]
    pub(super) unsafe fn gather<S: Simd, const PLANES: usize>(
        &self,
        simd: S,
        workspace: &[f32],
        (input, output): (usize, usize),
        first_plane: usize,
    ) -> [S::Vector; PLANES] {
        let split = input / self.step;
        let length = self.step.min(self.inputs - split * self.step);
        let panel = self.panels.of(output);
        let within = panel.start * length + (input % self.step) * panel.len() + output - panel.start;
        let start = split * self.values_of_task(self.step) + within;
        let plane_values = self.plane(length);
        let mut sums = [simd.zero(); PLANES];
        for part in 0..self.image_parts {
            let mut from =
                workspace[part * self.values_of_image_part() + start + first_plane * plane_values..].as_ptr();
            for sum in &mut sums {
                // SAFETY: by the layout of the parts this is a row of outputs of this plane and input.
                *sum = simd.add(*sum, unsafe { simd.load(from) });
                from = from.wrapping_add(plane_values);
            }
        }
        sums
    }

    /// Adds the parts up into PyTorch's layout (outputs, inputs, taps), planes being taps.
    pub(super) fn collect_taps(
        &self,
        isa: Isa,
        threads: Threads,
        shape: &Shape,
        workspace: &[f32],
        weights_gradient: &mut [f32],
    ) {
        let row = shape.inputs * shape.taps();
        threads.for_each_chunk(weights_gradient, isa.lanes() * row, |block, target| {
            isa.run(CollectTaps { partition: self, shape, workspace, output: block * isa.lanes(), target });
        });
    }
}

struct CollectTaps<'a> {
    partition: &'a Partition,
    shape: &'a Shape,
    workspace: &'a [f32],
    output: usize,
    target: &'a mut [f32],
}

impl Kernel for CollectTaps<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let taps = self.shape.taps();
        for input in 0..self.shape.inputs {
            for tap in 0..taps {
                // SAFETY: the channels are within the shape's, and the workspace was filled by the same partition.
                let [sum] = unsafe { self.partition.gather::<S, 1>(simd, self.workspace, (input, self.output), tap) };
                scatter(simd, sum, self.target, input * taps + tap, self.shape.inputs * taps);
            }
        }
    }
}

/// Writes the values of a vector to `target[first]`, `target[first + stride]`, ... as far as the target goes.
#[inline(always)]
pub(super) fn scatter<S: Simd>(simd: S, vector: S::Vector, target: &mut [f32], first: usize, stride: usize) {
    let mut values = [0.0; 16];
    // SAFETY: no vector has more than 16 values.
    unsafe { simd.store(values.as_mut_ptr(), vector) };
    for (value, to) in values[..S::LANES].iter().zip(target[first..].iter_mut().step_by(stride)) {
        *to = *value;
    }
}
