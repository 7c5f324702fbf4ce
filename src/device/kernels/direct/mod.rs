//! Convolution of any shape by its definition, without padding the map and without multiplying by padding.
//!
//! The pixels of the target map are sorted into classes that see the same taps (see [`plan`]): with a 3x3 kernel at
//! stride 1 the interior, four edges and four corners. All pixels of a class, over several images, are the rows of one
//! matrix product. The same scheme computes the forward pass and the input gradient.

mod forward;
mod packed;
mod plan;
mod wgrad;

use plan::Plan;

use super::{
    Epilogue, Isa, Shape, Threads,
    pack::{self, Direction},
};

/// A direct convolution: its shape and its plans.
#[derive(Debug, Clone)]
pub(super) struct Direct {
    isa: Isa,
    shape: Shape,
    forward: Plan,
    backward: Plan,
}

impl Direct {
    pub(super) fn new(isa: Isa, shape: Shape) -> Self {
        Self { isa, shape, forward: Plan::forward(isa, &shape), backward: Plan::backward(isa, &shape) }
    }

    pub(super) fn packed_values(&self, direction: Direction) -> usize {
        let (depth, width) = direction.stored(self.isa, &self.shape);
        self.shape.taps() * depth * width
    }

    pub(super) fn pack(&self, threads: Threads, direction: Direction, weights: &[f32], packed: &mut [f32]) {
        pack::taps(self.isa, threads, &self.shape, direction, weights, packed);
    }

    pub(super) fn forward(
        &self,
        threads: Threads,
        input: &[f32],
        packed: &[f32],
        epilogue: Epilogue,
        output: &mut [f32],
    ) {
        self.forward.run(self.isa, threads, input, packed, epilogue, output);
    }

    pub(super) fn input_gradient(
        &self,
        threads: Threads,
        output_gradient: &[f32],
        packed: &[f32],
        accumulate: bool,
        input_gradient: &mut [f32],
    ) {
        let epilogue = Epilogue { accumulate, ..Epilogue::default() };
        self.backward.run(self.isa, threads, output_gradient, packed, epilogue, input_gradient);
    }

    pub(super) fn weight_gradient(
        &self,
        threads: Threads,
        input: &[f32],
        output_gradient: &[f32],
        workspace: &mut Vec<f32>,
        weights_gradient: &mut [f32],
    ) {
        if self.shape.packed_input {
            packed::run(self.isa, threads, &self.shape, input, output_gradient, workspace, weights_gradient);
            return;
        }
        wgrad::run(self.isa, threads, &self.shape, input, output_gradient, workspace, weights_gradient);
    }
}
