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
    Epilogue, Isa, Products, Shape, Threads,
    pack::{self, Direction},
};

/// A direct convolution: its shape and its plans.
#[derive(Debug, Clone)]
pub(super) struct Direct {
    isa: Isa,
    shape: Shape,
    /// Of the forward pass and the input gradient; the weight gradient is summed in f32.
    products: Products,
    forward: Plan,
    backward: Plan,
}

impl Direct {
    /// With a single tap, rounding all of the source would take as long as multiplying what is used of it: that stays f32, as
    /// does an input without whole vectors of channels.
    pub(super) fn new(isa: Isa, shape: Shape, products: Products) -> Self {
        let products = if shape.size == 1 || shape.packed_input { Products::F32 } else { products };
        let (forward, backward) = (Plan::forward(isa, &shape, products), Plan::backward(isa, &shape, products));
        Self { isa, shape, products, forward, backward }
    }

    pub(super) fn packed_values(&self, direction: Direction) -> usize {
        let (depth, width) = direction.stored(self.isa, &self.shape);
        self.shape.taps() * depth * width / self.products.per_unit()
    }

    pub(super) fn pack(&self, threads: Threads, direction: Direction, weights: &[f32], packed: &mut [f32]) {
        match self.products {
            Products::F32 => pack::taps(self.isa, threads, &self.shape, direction, weights, packed),
            Products::Bf16 => pack::paired_taps(self.isa, threads, &self.shape, direction, weights, packed),
        }
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
