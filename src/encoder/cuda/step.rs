//! Forward and backward pass of a training step, on fixed memory, for batches of one shape.
//!
//! The forward pass keeps, of every layer, what the convolution gave and what came out of the batch norm. The first step of
//! a shape is done piece by piece, the second one is recorded, and from then on each pass is one replay.

use std::sync::Arc;

use candle_core::Result;

use super::layers::{Batch, BlockLayers, Layers, Network};
use super::weights::Weights;
use crate::device::cuda::norm::{self, Affine, Fitted, NormShape, Relu, Running};
use crate::device::cuda::pool::{self, AverageShape};
use crate::device::cuda::{Machine, Operands, Pass, Plan, Precision, Queue, Recording, Region};
use crate::encoder::{EPSILON, MOMENTUM};

/// The flat vectors, which live longer than an engine and stay where they are.
#[derive(Clone)]
pub(super) struct Vectors {
    /// f32, (P).
    pub parameters: Region,
    /// Running statistics, f32, (S).
    pub statistics: Region,
}

/// What the forward pass keeps of a layer.
struct LayerMaps {
    raw: Region,
    /// Normalised, with the residual, after the ReLU. Of a shortcut: lent, and overwritten later in the pass.
    output: Region,
    fitted: Fitted,
}

/// How a layer's convolution is computed; passes that no one needs have no plan.
struct LayerPlans {
    forward: Plan,
    input: Option<Plan>,
    weight: Option<Plan>,
}

/// One pass: done how often, and its recording.
#[derive(Default)]
struct Track {
    runs: u32,
    recording: Option<Box<dyn Recording>>,
}

/// The network for batches of one shape, with its memory.
pub(super) struct Engine {
    machine: Arc<dyn Machine>,
    precision: Precision,
    pub batch: Batch,
    pub groups: usize,
    layers: Layers,
    forward: Track,
    backward: Track,
    memory: Memory,
}

/// What the passes work on.
struct Memory {
    vectors: Vectors,
    weights: Weights,
    packed_gradient: Region,
    images: Region,
    maps: Vec<LayerMaps>,
    plans: Vec<LayerPlans>,
    /// The pooled map and where its maxima lay.
    pooled: Option<[Region; 2]>,
    features: Region,
    features_gradient: Region,
    gradient: Region,
    /// Gradients of maps on their way.
    travelling: [Region; 3],
    scratch: Region,
    workspace: Region,
}

impl Engine {
    /// # Errors
    /// Where memory is lacking, or a convolution cannot be computed.
    pub(super) fn new(
        machine: &Arc<dyn Machine>,
        network: &Network,
        precision: Precision,
        (batch, groups): (Batch, usize),
        vectors: Vectors,
    ) -> Result<Self> {
        let layers = Layers::new(network, precision, batch);
        let memory = Memory::new(machine, precision, &layers, groups, vectors)?;
        let [forward, backward] = [Track::default(), Track::default()];
        Ok(Self { machine: machine.clone(), precision, batch, groups, layers, forward, backward, memory })
    }

    /// Where the images go: packed, see [`crate::device::cuda::filters::pack_images`].
    pub(super) fn images(&self) -> &Region {
        &self.memory.images
    }

    /// Where the features' gradient goes, f32 (n, features).
    pub(super) fn features_gradient(&self) -> &Region {
        &self.memory.features_gradient
    }

    /// Enqueues the forward pass on the images that are there; the features, f32 (n, features).
    pub(super) fn forward(&mut self) -> Result<&Region> {
        let work = Work { layers: &self.layers, precision: self.precision, groups: self.groups, memory: &self.memory };
        self.forward.run(self.machine.as_ref(), &|queue| work.forward(queue))?;
        Ok(&self.memory.features)
    }

    /// Enqueues the backward pass of the last forward pass; the flat gradient, f32 (P).
    pub(super) fn backward(&mut self) -> Result<&Region> {
        let work = Work { layers: &self.layers, precision: self.precision, groups: self.groups, memory: &self.memory };
        self.backward.run(self.machine.as_ref(), &|queue| work.backward(queue))?;
        Ok(&self.memory.gradient)
    }
}

impl Track {
    fn run(&mut self, machine: &dyn Machine, work: &dyn Fn(&dyn Queue) -> Result<()>) -> Result<()> {
        if let Some(recording) = &self.recording {
            return recording.replay();
        }
        self.runs = self.runs.saturating_add(1);
        // The first run loads what is loaded late; a shape that does not come again needs no recording.
        if self.runs == 1 || !machine.records() {
            return work(machine.queue());
        }
        self.recording.insert(machine.record(&mut |queue| work(queue))?).replay()
    }
}

impl Memory {
    fn new(
        machine: &Arc<dyn Machine>,
        precision: Precision,
        layers: &Layers,
        groups: usize,
        vectors: Vectors,
    ) -> Result<Self> {
        let map = |values: usize| machine.allocate(values * precision.bytes());
        let outputs = |index: usize| layers.all[index].shape.output_values();
        let largest = (0..layers.all.len()).map(outputs).max().unwrap_or(0);
        let in_blocks = (1..layers.all.len()).map(outputs).max().unwrap_or(0);
        let travelling = [map(largest)?, map(largest)?, map(in_blocks)?];
        let (mut maps, mut scratch) = (Vec::with_capacity(layers.all.len()), 0);
        for (index, layer) in layers.all.iter().enumerate() {
            let shape = norm_shape(layers, index, groups);
            scratch = scratch.max(shape.scratch_bytes(precision)?);
            // The output of a shortcut is of no use once it was added.
            let lent = layers.blocks.iter().any(|block| block.shortcut == Some(index));
            maps.push(LayerMaps {
                raw: map(layer.shape.output_values())?,
                output: if lent { travelling[0].clone() } else { map(layer.shape.output_values())? },
                fitted: Fitted::within(&machine.allocate(shape.fitted_bytes())?, shape)?,
            });
        }
        let plans = plans(machine.as_ref(), precision, layers)?;
        let passes = plans.iter().flat_map(|plans| [Some(&plans.forward), plans.input.as_ref(), plans.weight.as_ref()]);
        let workspace = passes.flatten().map(|plan| plan.workspace_bytes).max().unwrap_or(0);
        let pooled = match layers.pool {
            Some(pool) => Some([map(pool.output_values())?, machine.allocate(pool.output_values())?]),
            None => None,
        };
        let weights = Weights::new(machine, precision, layers)?;
        let (stem, last) = (layers.all[0].shape, layers.last());
        let memory = Self {
            packed_gradient: machine.allocate(weights.filters().bytes())?,
            images: map(stem.input_values())?,
            maps,
            plans,
            pooled,
            features: machine.allocate(4 * last.images * last.outputs)?,
            features_gradient: machine.allocate(4 * last.images * last.outputs)?,
            gradient: machine.allocate(vectors.parameters.bytes())?,
            travelling,
            scratch: machine.allocate(scratch)?,
            workspace: machine.allocate(workspace.max(1))?,
            weights,
            vectors,
        };
        // What frozen layers never write stays 0.
        machine.queue().clear(&memory.packed_gradient)?;
        machine.queue().clear(&memory.gradient)?;
        Ok(memory)
    }
}

fn plans(machine: &dyn Machine, precision: Precision, layers: &Layers) -> Result<Vec<LayerPlans>> {
    let first_trainable = layers.first_trainable();
    let mut plans = Vec::with_capacity(layers.all.len());
    for (index, layer) in layers.all.iter().enumerate() {
        let plan = |pass| machine.plan(layer.shape, precision, pass);
        // The second convolution of a block feeds the first; first ones add to what the shortcut brought.
        let opens = layers.blocks.iter().any(|block| block.first == index);
        let input = (first_trainable < index).then(|| plan(Pass::InputGradient { add: opens })).transpose()?;
        let weight = (!layer.frozen).then(|| plan(Pass::WeightGradient)).transpose()?;
        plans.push(LayerPlans { forward: plan(Pass::Forward)?, input, weight });
    }
    Ok(plans)
}

fn norm_shape(layers: &Layers, index: usize, groups: usize) -> NormShape {
    let layer = &layers.all[index];
    // With running statistics there is nothing that sets groups apart.
    let groups = if layer.frozen { 1 } else { groups };
    let rows = layer.shape.images / groups * layer.shape.output_height() * layer.shape.output_width();
    NormShape { groups, rows, channels: layer.shape.outputs }
}

/// The passes themselves.
struct Work<'a> {
    layers: &'a Layers,
    precision: Precision,
    groups: usize,
    memory: &'a Memory,
}

impl<'a> Work<'a> {
    fn forward(&self, queue: &dyn Queue) -> Result<()> {
        let Memory { vectors, weights, images, maps, .. } = self.memory;
        weights.pack(queue, &vectors.parameters)?;
        if self.layers.all.iter().any(|layer| layer.frozen) {
            weights.fit(queue, &vectors.parameters, &vectors.statistics)?;
        }
        self.layer_forward(queue, 0, images, None, true)?;
        if let (Some(shape), Some([pooled, taps])) = (self.layers.pool, &self.memory.pooled) {
            pool::max(queue, self.precision, shape, &maps[0].output, pooled, taps)?;
        }
        for block in &self.layers.blocks {
            let input = self.input(block);
            self.layer_forward(queue, block.first, input, None, true)?;
            if let Some(shortcut) = block.shortcut {
                self.layer_forward(queue, shortcut, input, None, false)?;
            }
            let residual = block.shortcut.map_or(input, |shortcut| &maps[shortcut].output);
            self.layer_forward(queue, block.second, &maps[block.first].output, Some(residual), true)?;
        }
        pool::average(queue, self.precision, self.average(), self.last(), &self.memory.features)
    }

    /// What enters a block.
    fn input(&self, block: &BlockLayers) -> &'a Region {
        match &self.memory.pooled {
            Some([pooled, _]) if block.input == 0 => pooled,
            _ => &self.memory.maps[block.input].output,
        }
    }

    fn last(&self) -> &'a Region {
        &self.memory.maps[self.layers.blocks.last().map_or(0, |block| block.second)].output
    }

    fn average(&self) -> AverageShape {
        let last = self.layers.last();
        AverageShape { images: last.images, pixels: last.output_height() * last.output_width(), channels: last.outputs }
    }

    fn convolve(&self, queue: &dyn Queue, plan: &Plan, [input, filter, output]: [&Region; 3]) -> Result<()> {
        queue.convolve(plan, Operands { input, filter, output, workspace: &self.memory.workspace })
    }

    fn layer_forward(
        &self,
        queue: &dyn Queue,
        index: usize,
        input: &Region,
        residual: Option<&Region>,
        relu: bool,
    ) -> Result<()> {
        let (layer, maps) = (&self.layers.all[index], &self.memory.maps[index]);
        let filter = self.memory.weights.filter(index)?;
        self.convolve(queue, &self.memory.plans[index].forward, [input, &filter, &maps.raw])?;
        let shape = norm_shape(self.layers, index, self.groups);
        let (x, y) = (&maps.raw, &maps.output);
        if layer.frozen {
            let [scale, shift] = &self.memory.weights.inference(self.layers, index)?;
            let pass = norm::Apply { x, residual, y, scale, shift, relu, shared: true };
            return norm::apply(queue, self.precision, shape, pass);
        }
        let Vectors { parameters, statistics } = &self.memory.vectors;
        let channels = shape.channels;
        let pass = norm::Forward {
            x,
            residual,
            y,
            affine: Affine {
                weight: &parameters.values(layer.weight, channels)?,
                bias: &parameters.values(layer.bias, channels)?,
            },
            running: Running {
                mean: &statistics.values(layer.mean, channels)?,
                variance: &statistics.values(layer.variance, channels)?,
            },
            fitted: &maps.fitted,
            scratch: &self.memory.scratch,
            relu,
            epsilon: EPSILON as f32,
            momentum: MOMENTUM as f32,
        };
        norm::forward(queue, self.precision, shape, &pass)
    }

    fn backward(&self, queue: &dyn Queue) -> Result<()> {
        let Memory { features_gradient, maps, travelling, images, .. } = self.memory;
        let first_trainable = self.layers.first_trainable();
        // `gradient` is that of a block's output, `through` that of its second convolution's, `inner` that of its first.
        let [mut gradient, mut through, inner] = travelling.each_ref();
        pool::average_backward(queue, self.precision, self.average(), features_gradient, gradient)?;
        for block in self.layers.blocks.iter().rev() {
            if block.range().end <= first_trainable {
                return self.unpack(queue);
            }
            let &BlockLayers { first, second, shortcut, .. } = block;
            let input = self.input(block);
            self.norm_backward(queue, second, Relu::AfterResidual, [gradient, through], Some(gradient))?;
            self.weight_backward(queue, second, &maps[first].output, through)?;
            self.input_backward(queue, second, through, inner)?;
            self.norm_backward(queue, first, Relu::Plain, [inner, inner], None)?;
            self.weight_backward(queue, first, input, inner)?;
            if let Some(shortcut) = shortcut {
                self.norm_backward(queue, shortcut, Relu::None, [gradient, gradient], None)?;
                self.weight_backward(queue, shortcut, input, gradient)?;
                self.input_backward(queue, shortcut, gradient, through)?;
                (gradient, through) = (through, gradient);
            }
            self.input_backward(queue, first, inner, gradient)?;
        }
        if first_trainable == 0 {
            if let (Some(shape), Some([_, taps])) = (self.layers.pool, &self.memory.pooled) {
                pool::max_backward(queue, self.precision, shape, gradient, taps, through)?;
                gradient = through;
            }
            self.norm_backward(queue, 0, Relu::Plain, [gradient, gradient], None)?;
            self.weight_backward(queue, 0, images, gradient)?;
        }
        self.unpack(queue)
    }

    fn unpack(&self, queue: &dyn Queue) -> Result<()> {
        self.memory.weights.filters().unpack(queue, &self.memory.packed_gradient, &self.memory.gradient)
    }

    /// Through ReLU and batch norm: from the output's gradient to the input's.
    fn norm_backward(
        &self,
        queue: &dyn Queue,
        index: usize,
        relu: Relu,
        [dy, dx]: [&Region; 2],
        residual_gradient: Option<&Region>,
    ) -> Result<()> {
        let (layer, LayerMaps { raw, output, fitted }) = (&self.layers.all[index], &self.memory.maps[index]);
        let shape = norm_shape(self.layers, index, self.groups);
        let scratch = &self.memory.scratch;
        let flow = norm::Flow { x: raw, y: output, dy, dx, residual_gradient, relu, scratch };
        if layer.frozen {
            let [scale, shift] = &self.memory.weights.inference(self.layers, index)?;
            return norm::frozen_backward(queue, self.precision, shape, &flow, scale, shift);
        }
        let gradient = Affine {
            weight: &self.memory.gradient.values(layer.weight, shape.channels)?,
            bias: &self.memory.gradient.values(layer.bias, shape.channels)?,
        };
        norm::backward(queue, self.precision, shape, &flow, fitted, gradient)
    }

    fn weight_backward(&self, queue: &dyn Queue, index: usize, input: &Region, gradient: &Region) -> Result<()> {
        let Some(plan) = &self.memory.plans[index].weight else { return Ok(()) };
        let filter = self.memory.weights.filters().part(&self.memory.packed_gradient, index)?;
        self.convolve(queue, plan, [input, &filter, gradient])
    }

    /// The gradient of a convolution's input, if anything below it learns.
    fn input_backward(&self, queue: &dyn Queue, index: usize, gradient: &Region, to: &Region) -> Result<()> {
        let Some(plan) = &self.memory.plans[index].input else { return Ok(()) };
        self.convolve(queue, plan, [to, &self.memory.weights.filter(index)?, gradient])
    }
}
