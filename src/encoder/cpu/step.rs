//! Forward and backward pass of a training step.
//!
//! The forward pass keeps, of every layer, what the convolution gave and, where a block ends, what came out of it; the maps
//! within a block are made again in the backward pass, which gives each back as soon as it has used it. Kernels are packed
//! when they are needed, into one buffer.
//!
//! A frozen layer is a convolution with its batch norm folded in, both ways. The backward pass ends at the first layer that
//! learns; below it nothing is kept.

use super::arena::Arena;
use super::layers::{BlockLayers, Folded, Layer, Layers};
use crate::device::kernels::{
    BatchNorm, Convolution, Direction, Epilogue, Isa, Mask, Moments, Products, Threads, global_average,
    global_average_backward, relu_backward,
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

#[derive(Default)]
struct SavedLayer {
    /// What the convolution gave; empty where the layer is frozen.
    raw: Vec<f32>,
    /// Of each group; empty where the layer is frozen.
    moments: Vec<Moments>,
    /// Normalised, with the residual, after the ReLU; of a stem with a max-pool: what that gave. Empty within a block, but of
    /// a frozen layer.
    output: Vec<f32>,
    /// Where the maxima of the max-pool lay.
    taps: Vec<u8>,
    /// The kernel in force where the layer is frozen.
    folded: Option<Folded>,
}

/// A layer's part in a forward pass.
#[derive(Clone, Copy)]
struct Pass<'a> {
    index: usize,
    input: &'a [f32],
    groups: usize,
    residual: Option<&'a [f32]>,
    relu: bool,
}

/// Flat parameters and running statistics.
type Weights<'a> = (&'a [f32], &'a [f32]);

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
    pub(super) fn forward(&mut self, weights: Weights, images: &[f32], groups: usize) -> (Vec<f32>, Saved) {
        let count = images.len() / self.layers.all[0].shape.input_values(self.isa);
        let mut saved = Saved { images: count, groups, layers: Vec::with_capacity(self.layers.all.len()) };
        let stem = Pass { index: 0, input: images, groups, residual: None, relu: true };
        let stem = self.layer_forward(weights, stem);
        saved.layers.push(stem);
        let first_trainable = self.layers.first_trainable();
        for BlockLayers { input, first, second, shortcut } in self.layers.blocks.clone() {
            let entering =
                Pass { index: first, input: &saved.layers[input].output, groups, residual: None, relu: true };
            let mut inner = self.layer_forward(weights, entering);
            let side = shortcut.map(|index| self.layer_forward(weights, Pass { index, relu: false, ..entering }));
            let residual = side.as_ref().map_or(&saved.layers[input].output, |side| &side.output);
            let leaving = Pass { index: second, input: &inner.output, groups, residual: Some(residual), relu: true };
            let outer = self.layer_forward(weights, leaving);
            if inner.folded.is_none() {
                self.arena.give(std::mem::take(&mut inner.output));
            }
            saved.layers.extend([inner, outer]);
            if let Some(mut side) = side {
                self.arena.give(std::mem::take(&mut side.output));
                saved.layers.push(side);
            }
            if second < first_trainable {
                // No gradient comes down to here.
                for place in [input, first] {
                    self.arena.give(std::mem::take(&mut saved.layers[place].output));
                }
            }
        }
        let features = self.features(&saved);
        (features, saved)
    }

    fn layer_forward(&mut self, (parameters, statistics): Weights, pass: Pass) -> SavedLayer {
        if self.layers.all[pass.index].frozen {
            return self.frozen_forward((parameters, statistics), pass);
        }
        let Pass { index, input, groups, residual, relu } = pass;
        let (layer, convolution) = (&self.layers.all[index], &self.convolutions[index]);
        let images = input.len() / layer.shape.input_values(self.isa);
        let values = images * layer.shape.output_values(self.isa);
        let pool = self.layers.pool.filter(|_| index == 0);
        let outputs = pool.map_or(values, |pool| images * pool.output_values());
        let (mut raw, mut output) = (self.arena.take(values), self.arena.take(outputs));
        let mut taps = if pool.is_some() { self.arena.take_bytes(outputs) } else { Vec::new() };
        let packed = pack(convolution, Direction::Forward, &parameters[layer.kernel.clone()], &mut self.packed);
        convolution.forward(Threads::Pool, input, packed, Epilogue::default(), &mut raw);
        let norm = batch_norm(self.isa, layer);
        let affine = affine(self.isa, layer, parameters);
        let mut moments = Vec::with_capacity(groups);
        let (run, output_run) = (values / groups, outputs / groups);
        for (group, (x, y)) in raw.chunks_exact(run).zip(output.chunks_exact_mut(output_run)).enumerate() {
            let of_group = norm.moments(Threads::Pool, x);
            let fitted = norm.fitted(&of_group, &affine.weight, &affine.bias);
            let rows = group * output_run..(group + 1) * output_run;
            match &pool {
                Some(pool) => {
                    pool.forward(Threads::Pool, x, Some(fitted.scale_shift()), y, Some(&mut taps[rows]));
                }
                None => fitted.forward(Threads::Pool, x, residual.map(|residual| &residual[rows]), relu, y),
            }
            moments.push(of_group);
        }
        SavedLayer { raw, moments, output, taps, folded: None }
    }

    /// Of a frozen layer: batch norm with the running statistics, which is part of the convolution then.
    fn frozen_forward(&mut self, (parameters, statistics): Weights, pass: Pass) -> SavedLayer {
        let Pass { index, input, residual, relu, .. } = pass;
        let (layer, convolution) = (&self.layers.all[index], &self.convolutions[index]);
        let folded = Folded::new(self.isa, layer, parameters, statistics);
        let images = input.len() / layer.shape.input_values(self.isa);
        let mut output = self.arena.take(images * layer.shape.output_values(self.isa));
        if let Some(residual) = residual {
            output.copy_from_slice(residual);
        }
        let packed = pack(convolution, Direction::Forward, &folded.kernel, &mut self.packed);
        let epilogue = Epilogue { bias: Some(&folded.bias), accumulate: residual.is_some(), relu };
        convolution.forward(Threads::Pool, input, packed, epilogue, &mut output);
        if let Some(pool) = self.layers.pool.filter(|_| index == 0) {
            // A frozen stem has nothing below it that learns: where the maxima lay is of no use.
            let mut pooled = self.arena.take(images * pool.output_values());
            pool.forward(Threads::Pool, &output, None, &mut pooled, None);
            self.arena.give(std::mem::replace(&mut output, pooled));
        }
        SavedLayer { output, folded: Some(folded), ..SavedLayer::default() }
    }

    fn features(&self, saved: &Saved) -> Vec<f32> {
        let Some(last) = self.layers.blocks.last() else { return Vec::new() };
        let features = self.layers.features();
        let stored = self.isa.stored(features);
        let mut pooled = vec![0.0; saved.images * stored];
        global_average(&saved.layers[last.second].output, self.layers.last_pixels(), stored, &mut pooled);
        pooled.chunks_exact(stored).flat_map(|image| &image[..features]).copied().collect()
    }

    /// What group `group` of the batch says about the channels of layer `index`; nothing where it has a single value, or the
    /// layer is frozen.
    pub(super) fn observed(&self, saved: &Saved, index: usize, group: usize) -> Option<Observed> {
        let shape = &self.layers.all[index].shape;
        let values = saved.images / saved.groups * shape.output_height() * shape.output_width();
        if values < 2 {
            return None;
        }
        let unbiased = values as f32 / (values - 1) as f32;
        let moments = saved.layers[index].moments.get(group)?;
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
        let first_trainable = self.layers.first_trainable();
        let mut gradient = self.spread(features_gradient, &saved);
        for block in self.layers.blocks.clone().into_iter().rev().filter(|block| block.second >= first_trainable) {
            // The outer layer: `gradient` becomes that of the residual, `through` that of the convolution's result.
            let BlockLayers { input: before, first, second, shortcut } = block;
            let mut through = self.arena.take(gradient.len());
            let outer = self.release(&mut saved, second);
            self.norm_backward(second, &outer, Relu::AfterResidual, &mut gradient, Some(&mut through), step);
            let activation = self.activation(first, &saved.layers[first], parameters);
            self.kernel_backward(second, &activation, &through, step);
            // Of the same length, and not needed any more.
            let mut inner_gradient = activation;
            self.input_backward(second, &outer, (&through, false), &mut inner_gradient, step);
            self.arena.give(through);
            self.recycle(outer);
            let inner = self.release(&mut saved, first);
            self.norm_backward(first, &inner, Relu::Plain, &mut inner_gradient, None, step);
            self.kernel_backward(first, &saved.layers[before].output, &inner_gradient, step);
            let goes_on = first_trainable < first;
            if let Some(shortcut) = shortcut {
                let side = self.release(&mut saved, shortcut);
                self.norm_backward(shortcut, &side, Relu::None, &mut gradient, None, step);
                let input = &saved.layers[before].output;
                self.kernel_backward(shortcut, input, &gradient, step);
                let mut joined = self.arena.take(input.len());
                if goes_on {
                    self.input_backward(shortcut, &side, (&gradient, false), &mut joined, step);
                }
                self.recycle(side);
                self.arena.give(std::mem::replace(&mut gradient, joined));
            }
            if goes_on {
                self.input_backward(first, &inner, (&inner_gradient, true), &mut gradient, step);
            }
            self.recycle(inner);
            self.arena.give(inner_gradient);
        }
        let stem = self.release(&mut saved, 0);
        if first_trainable == 0 {
            gradient = self.stem_backward(&stem, images, gradient, step);
        }
        self.recycle(stem);
        self.arena.give(gradient);
        self.discard(saved);
        std::mem::take(&mut step.flat)
    }

    /// Through the max-pool, if there is one, batch norm and the first convolution; gives back the memory of the gradient.
    fn stem_backward(
        &mut self,
        stem: &SavedLayer,
        images: &[f32],
        mut gradient: Vec<f32>,
        step: &mut Gradients,
    ) -> Vec<f32> {
        if let Some(pool) = self.layers.pool {
            let mut of_map = self.arena.take(stem.raw.len());
            pool.backward(Threads::Pool, &gradient, &stem.taps, &mut of_map);
            self.arena.give(std::mem::replace(&mut gradient, of_map));
        }
        self.norm_backward(0, stem, Relu::Plain, &mut gradient, None, step);
        self.kernel_backward(0, images, &gradient, step);
        gradient
    }

    /// The output of a layer without residual: made again from what its convolution gave, or a copy where it is frozen.
    fn activation(&mut self, index: usize, saved: &SavedLayer, parameters: &[f32]) -> Vec<f32> {
        if saved.folded.is_some() {
            let mut output = self.arena.take(saved.output.len());
            output.copy_from_slice(&saved.output);
            return output;
        }
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
        std::mem::take(&mut saved.layers[index])
    }

    fn recycle(&mut self, layer: SavedLayer) {
        for buffer in [layer.raw, layer.output] {
            if !buffer.is_empty() {
                self.arena.give(buffer);
            }
        }
        if !layer.taps.is_empty() {
            self.arena.give_bytes(layer.taps);
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

    /// Through ReLU and batch norm, group by group; see [`Fitted::backward`](crate::device::kernels::Fitted::backward). Of a
    /// frozen layer: through the ReLU alone, because the norm is part of the convolution.
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
        if layer.frozen {
            if !matches!(relu, Relu::None) {
                relu_backward(Threads::Pool, &saved.output, gradient);
            }
            if let Some(to) = input_gradient {
                to.copy_from_slice(gradient);
            }
            return;
        }
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
        let layer = &self.layers.all[index];
        if layer.frozen {
            return;
        }
        let to = &mut step.flat[layer.kernel.clone()];
        self.convolutions[index].weight_gradient(Threads::Pool, input, gradient, &mut self.sums, to);
    }

    /// Gradient of a convolution's input, given that of its result, written to `to` or added to it.
    fn input_backward(
        &mut self,
        index: usize,
        saved: &SavedLayer,
        (gradient, add): (&[f32], bool),
        to: &mut [f32],
        step: &Gradients,
    ) {
        let convolution = &self.convolutions[index];
        let kernel = match &saved.folded {
            Some(folded) => &folded.kernel,
            None => &step.parameters[self.layers.all[index].kernel.clone()],
        };
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
