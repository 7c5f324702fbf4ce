//! Forward and backward pass of a training step.
//!
//! The forward pass keeps, of every layer, what the convolution gave and, where a block ends, what came out of it; the maps
//! within a block are made again in the backward pass, which gives each back as soon as it has used it. Kernels are packed
//! when they are needed, into one buffer.

use super::arena::Arena;
use super::layers::{BlockLayers, Layer, Layers};
use crate::device::kernels::{
    BatchNorm, Convolution, Direction, Epilogue, Isa, Mask, Moments, Products, Threads, global_average,
    global_average_backward,
};
use crate::encoder::EPSILON;

/// The network for images of one size, with its memory.
pub(super) struct Engine {
    isa: Isa,
    pub layers: Layers,
    convolutions: Vec<Convolution>,
    arena: Arena,
    packed: Vec<f32>,
    sums: Vec<f32>,
}

/// What the forward pass keeps.
pub(super) struct Saved {
    images: usize,
    groups: usize,
    layers: Vec<SavedLayer>,
}

struct SavedLayer {
    /// What the convolution gave.
    raw: Vec<f32>,
    /// Of each group.
    moments: Vec<Moments>,
    /// Normalised, with the residual, after the ReLU; empty within a block.
    output: Vec<f32>,
}

/// Weight and bias of a batch norm, with zeros for the channels that exist only in memory.
struct Affine {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// What follows a batch norm.
#[derive(Debug, Clone, Copy)]
enum Relu {
    None,
    /// What it let pass is computed again, which spares reading the outputs.
    Plain,
    /// The residual came in between: the outputs tell.
    AfterResidual,
}

/// Parameters and the gradient that grows beside them, both flat.
struct Gradients<'a> {
    parameters: &'a [f32],
    flat: Vec<f32>,
}

/// Mean and unbiased variance of each channel of a group, if the group has more than one value per channel.
pub(super) struct Observed {
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
}

impl Engine {
    pub(super) fn new(isa: Isa, products: Products, layers: Layers) -> Self {
        let convolution = |layer: &Layer| Convolution::with_products(isa, layer.shape, products);
        let convolutions = layers.all.iter().map(convolution).collect();
        Self { isa, layers, convolutions, arena: Arena::default(), packed: Vec::new(), sums: Vec::new() }
    }

    /// Features (n, features) of `images` (n, height, width, 3) in `groups` equal runs, and what the backward pass needs.
    pub(super) fn forward(&mut self, parameters: &[f32], images: &[f32], groups: usize) -> (Vec<f32>, Saved) {
        let count = images.len() / self.layers.all[0].shape.input_values(self.isa);
        let mut saved = Saved { images: count, groups, layers: Vec::with_capacity(self.layers.all.len()) };
        let stem = self.layer_forward(0, parameters, images, groups, None, true);
        saved.layers.push(stem);
        for BlockLayers { input, first, second, shortcut } in self.layers.blocks.clone() {
            let mut inner = self.layer_forward(first, parameters, &saved.layers[input].output, groups, None, true);
            let side = shortcut.map(|shortcut| {
                self.layer_forward(shortcut, parameters, &saved.layers[input].output, groups, None, false)
            });
            let residual = side.as_ref().map_or(&saved.layers[input].output, |side| &side.output);
            let outer = self.layer_forward(second, parameters, &inner.output, groups, Some(residual), true);
            self.arena.give(std::mem::take(&mut inner.output));
            saved.layers.extend([inner, outer]);
            if let Some(mut side) = side {
                self.arena.give(std::mem::take(&mut side.output));
                saved.layers.push(side);
            }
        }
        let features = self.features(&saved);
        (features, saved)
    }

    fn layer_forward(
        &mut self,
        index: usize,
        parameters: &[f32],
        input: &[f32],
        groups: usize,
        residual: Option<&[f32]>,
        relu: bool,
    ) -> SavedLayer {
        let (layer, convolution) = (&self.layers.all[index], &self.convolutions[index]);
        let images = input.len() / layer.shape.input_values(self.isa);
        let values = images * layer.shape.output_values(self.isa);
        let (mut raw, mut output) = (self.arena.take(values), self.arena.take(values));
        let packed = pack(convolution, Direction::Forward, &parameters[layer.kernel.clone()], &mut self.packed);
        convolution.forward(Threads::Pool, input, packed, Epilogue::default(), &mut raw);
        let norm = batch_norm(self.isa, layer);
        let affine = affine(self.isa, layer, parameters);
        let mut moments = Vec::with_capacity(groups);
        let run = values / groups;
        for (group, (x, y)) in raw.chunks_exact(run).zip(output.chunks_exact_mut(run)).enumerate() {
            let of_group = norm.moments(Threads::Pool, x);
            let residual = residual.map(|residual| &residual[group * run..(group + 1) * run]);
            norm.fitted(&of_group, &affine.weight, &affine.bias).forward(Threads::Pool, x, residual, relu, y);
            moments.push(of_group);
        }
        SavedLayer { raw, moments, output }
    }

    fn features(&self, saved: &Saved) -> Vec<f32> {
        let Some(last) = self.layers.blocks.last() else { return Vec::new() };
        let features = self.layers.features();
        let stored = self.isa.stored(features);
        let mut pooled = vec![0.0; saved.images * stored];
        global_average(&saved.layers[last.second].output, self.layers.last_pixels(), stored, &mut pooled);
        pooled.chunks_exact(stored).flat_map(|image| &image[..features]).copied().collect()
    }

    /// What group `group` of the batch says about the channels of layer `index`; nothing where it has a single value.
    pub(super) fn observed(&self, saved: &Saved, index: usize, group: usize) -> Option<Observed> {
        let shape = &self.layers.all[index].shape;
        let values = saved.images / saved.groups * shape.output_height() * shape.output_width();
        if values < 2 {
            return None;
        }
        let unbiased = values as f32 / (values - 1) as f32;
        let moments = &saved.layers[index].moments[group];
        let mean = moments.mean[..shape.outputs].to_vec();
        let variance = moments.variance[..shape.outputs].iter().map(|variance| variance * unbiased).collect();
        Some(Observed { mean, variance })
    }

    /// Gradient of the parameters, given that of the features.
    pub(super) fn backward(
        &mut self,
        parameters: &[f32],
        images: &[f32],
        features_gradient: &[f32],
        mut saved: Saved,
    ) -> Vec<f32> {
        let step = &mut Gradients { parameters, flat: vec![0.0; parameters.len()] };
        let mut gradient = self.spread(features_gradient, &saved);
        for BlockLayers { input: before, first, second, shortcut } in self.layers.blocks.clone().into_iter().rev() {
            // The outer layer: `gradient` becomes that of the residual, `through` that of the convolution's result.
            let mut through = self.arena.take(gradient.len());
            let outer = self.release(&mut saved, second);
            self.norm_backward(second, &outer, Relu::AfterResidual, &mut gradient, Some(&mut through), step);
            let activation = self.activation(first, &saved.layers[first], parameters);
            self.kernel_backward(second, &activation, &through, step);
            // Of the same length, and not needed any more.
            let mut inner_gradient = activation;
            self.input_backward(second, &through, false, &mut inner_gradient, step);
            self.arena.give(through);
            self.recycle(outer);
            let inner = self.release(&mut saved, first);
            self.norm_backward(first, &inner, Relu::Plain, &mut inner_gradient, None, step);
            self.recycle(inner);
            let input = &saved.layers[before].output;
            self.kernel_backward(first, input, &inner_gradient, step);
            if let Some(shortcut) = shortcut {
                let side = self.release(&mut saved, shortcut);
                self.norm_backward(shortcut, &side, Relu::None, &mut gradient, None, step);
                self.recycle(side);
                let input = &saved.layers[before].output;
                self.kernel_backward(shortcut, input, &gradient, step);
                let mut joined = self.arena.take(input.len());
                self.input_backward(shortcut, &gradient, false, &mut joined, step);
                self.arena.give(std::mem::replace(&mut gradient, joined));
            }
            self.input_backward(first, &inner_gradient, true, &mut gradient, step);
            self.arena.give(inner_gradient);
        }
        let stem = self.release(&mut saved, 0);
        self.norm_backward(0, &stem, Relu::Plain, &mut gradient, None, step);
        self.recycle(stem);
        self.kernel_backward(0, images, &gradient, step);
        self.arena.give(gradient);
        std::mem::take(&mut step.flat)
    }

    /// The output of a layer without residual, from what its convolution gave.
    fn activation(&mut self, index: usize, saved: &SavedLayer, parameters: &[f32]) -> Vec<f32> {
        let layer = &self.layers.all[index];
        let (norm, affine) = (batch_norm(self.isa, layer), affine(self.isa, layer, parameters));
        let mut output = self.arena.take(saved.raw.len());
        let run = output.len() / saved.moments.len();
        for ((x, y), moments) in saved.raw.chunks_exact(run).zip(output.chunks_exact_mut(run)).zip(&saved.moments) {
            norm.fitted(moments, &affine.weight, &affine.bias).forward(Threads::Pool, x, None, true, y);
        }
        output
    }

    /// The gradient of the last map.
    fn spread(&mut self, features_gradient: &[f32], saved: &Saved) -> Vec<f32> {
        let features = self.layers.features();
        let stored = self.isa.stored(features);
        let mut pooled = vec![0.0; saved.images * stored];
        for (stored, gradient) in pooled.chunks_exact_mut(stored).zip(features_gradient.chunks_exact(features)) {
            stored[..features].copy_from_slice(gradient);
        }
        let pixels = self.layers.last_pixels();
        let mut gradient = self.arena.take(saved.images * pixels * stored);
        global_average_backward(&pooled, pixels, stored, &mut gradient);
        gradient
    }

    fn release(&self, saved: &mut Saved, index: usize) -> SavedLayer {
        let empty = SavedLayer { raw: Vec::new(), moments: Vec::new(), output: Vec::new() };
        std::mem::replace(&mut saved.layers[index], empty)
    }

    fn recycle(&mut self, layer: SavedLayer) {
        for buffer in [layer.raw, layer.output] {
            if !buffer.is_empty() {
                self.arena.give(buffer);
            }
        }
    }

    /// Gives back what a forward pass kept whose backward pass will not come.
    pub(super) fn discard(&mut self, saved: Saved) {
        saved.layers.into_iter().for_each(|layer| self.recycle(layer));
    }

    /// Frees the memory kept for batches of another size.
    pub(super) fn forget_memory(&mut self) {
        self.arena.clear();
    }

    /// Through ReLU and batch norm, group by group; see [`Fitted::backward`](crate::device::kernels::Fitted::backward).
    fn norm_backward(
        &self,
        index: usize,
        saved: &SavedLayer,
        relu: Relu,
        gradient: &mut [f32],
        mut input_gradient: Option<&mut [f32]>,
        step: &mut Gradients,
    ) {
        let layer = &self.layers.all[index];
        let norm = batch_norm(self.isa, layer);
        let affine = affine(self.isa, layer, step.parameters);
        let run = gradient.len() / saved.moments.len();
        let mut by_weight = vec![0.0; norm.channels];
        let mut by_bias = vec![0.0; norm.channels];
        for (group, (gradient, moments)) in gradient.chunks_exact_mut(run).zip(&saved.moments).enumerate() {
            let rows = group * run..(group + 1) * run;
            let mask = match relu {
                Relu::None => Mask::None,
                Relu::AfterResidual => Mask::Output(&saved.output[rows.clone()]),
                Relu::Plain => Mask::Recompute,
            };
            let to = input_gradient.as_deref_mut().map(|to| &mut to[rows.clone()]);
            let by_parameters = (by_weight.as_mut_slice(), by_bias.as_mut_slice());
            let fitted = norm.fitted(moments, &affine.weight, &affine.bias);
            fitted.backward(Threads::Pool, &saved.raw[rows], mask, gradient, to, by_parameters);
        }
        step.flat[layer.weight.clone()].copy_from_slice(&by_weight[..layer.shape.outputs]);
        step.flat[layer.bias.clone()].copy_from_slice(&by_bias[..layer.shape.outputs]);
    }

    fn kernel_backward(&mut self, index: usize, input: &[f32], gradient: &[f32], step: &mut Gradients) {
        let to = &mut step.flat[self.layers.all[index].kernel.clone()];
        self.convolutions[index].weight_gradient(Threads::Pool, input, gradient, &mut self.sums, to);
    }

    fn input_backward(&mut self, index: usize, gradient: &[f32], add: bool, to: &mut [f32], step: &Gradients) {
        let convolution = &self.convolutions[index];
        let kernel = &step.parameters[self.layers.all[index].kernel.clone()];
        let packed = pack(convolution, Direction::Backward, kernel, &mut self.packed);
        convolution.input_gradient(Threads::Pool, gradient, packed, add, to);
    }
}

/// Packs a kernel into the front of `packed`, which grows to the largest.
fn pack<'a>(convolution: &Convolution, direction: Direction, kernel: &[f32], packed: &'a mut Vec<f32>) -> &'a [f32] {
    let values = convolution.packed_values(direction);
    if packed.len() < values {
        packed.resize(values, 0.0);
    }
    let packed = &mut packed[..values];
    convolution.pack(Threads::Pool, direction, kernel, packed);
    packed
}

fn batch_norm(isa: Isa, layer: &Layer) -> BatchNorm {
    BatchNorm { isa, channels: isa.stored(layer.shape.outputs), epsilon: EPSILON as f32 }
}

fn affine(isa: Isa, layer: &Layer, parameters: &[f32]) -> Affine {
    let stored = |range: std::ops::Range<usize>| {
        let mut values = parameters[range].to_vec();
        values.resize(isa.stored(layer.shape.outputs), 0.0);
        values
    };
    Affine { weight: stored(layer.weight.clone()), bias: stored(layer.bias.clone()) }
}
