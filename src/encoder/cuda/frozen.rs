//! The frozen network: convolutions with the weights as they were, batch norm as one multiply-add, no memory of a step.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor};

use super::layers::{Batch, Layers, Network};
use super::step::Vectors;
use super::weights::Weights;
use crate::device::cuda::filters::pack_images;
use crate::device::cuda::norm::{self, NormShape};
use crate::device::cuda::pool::{self, AverageShape};
use crate::device::cuda::{Machine, Operands, Pass, Plan, Precision, Region};
use crate::encoder::Embedder;

/// Images that pass through the network together, at most: what bounds its memory.
const TOGETHER: usize = 256;

/// Shapes of batches whose plans and memory are kept.
const SHAPES: usize = 4;

/// An immutable copy of the network.
pub(super) struct CudaEmbedder {
    machine: Arc<dyn Machine>,
    network: Network,
    precision: Precision,
    weights: Weights,
    features: usize,
    /// Held while a batch is enqueued: what is enqueued is done in order, so its memory can be lent again at once.
    shapes: Mutex<Vec<Shape>>,
}

/// What batches of one shape need.
struct Shape {
    batch: Batch,
    layers: Layers,
    plans: Vec<Plan>,
    images: Region,
    maps: [Region; 3],
    taps: Option<Region>,
    pooled: Region,
    workspace: Region,
}

impl CudaEmbedder {
    pub(super) fn new(
        machine: &Arc<dyn Machine>,
        network: &Network,
        precision: Precision,
        vectors: &Vectors,
    ) -> Result<Self> {
        // Where values lie does not depend on the batch.
        let layers = Layers::new(network, precision, Batch { images: 1, height: 64, width: 64 });
        let weights = Weights::new(machine, precision, &layers)?;
        weights.pack(machine.queue(), &vectors.parameters)?;
        weights.fit(machine.queue(), &vectors.parameters, &vectors.statistics)?;
        Ok(Self {
            machine: machine.clone(),
            network: network.clone(),
            precision,
            weights,
            features: layers.last().outputs,
            shapes: Mutex::default(),
        })
    }

    fn shape(&self, batch: Batch) -> Result<Shape> {
        let layers = Layers::new(&self.network, self.precision, batch);
        let plan = |layer: &super::layers::Layer| self.machine.plan(layer.shape, self.precision, Pass::Forward);
        let plans = layers.all.iter().map(plan).collect::<Result<Vec<_>>>()?;
        let map = |values: usize| self.machine.allocate(values * self.precision.bytes());
        let largest = layers.all.iter().map(|layer| layer.shape.output_values()).max().unwrap_or(0);
        let workspace = plans.iter().map(|plan| plan.workspace_bytes).max().unwrap_or(0);
        Ok(Shape {
            batch,
            images: map(layers.all[0].shape.input_values())?,
            maps: [map(largest)?, map(largest)?, map(largest)?],
            taps: layers.pool.map(|pool| self.machine.allocate(pool.output_values())).transpose()?,
            pooled: self.machine.allocate(4 * batch.images * self.features)?,
            workspace: self.machine.allocate(workspace.max(1))?,
            plans,
            layers,
        })
    }

    /// Features of as many images as the shape holds, f32 (n, features).
    fn run(&self, shape: &Shape) -> Result<()> {
        let queue = self.machine.queue();
        let layer = |index: usize, input: &Region, residual: Option<&Region>, relu: bool, output: &Region| {
            let plan = &shape.plans[index];
            let filter = &self.weights.filter(index)?;
            queue.convolve(plan, Operands { input, filter, output, workspace: &shape.workspace })?;
            let [scale, shift] = &self.weights.inference(&shape.layers, index)?;
            let (rows, channels) = (plan.shape.output_values() / plan.shape.outputs, plan.shape.outputs);
            let pass = norm::Apply { x: output, residual, y: output, scale, shift, relu, shared: true };
            norm::apply(queue, self.precision, NormShape { groups: 1, rows, channels }, pass)
        };
        let [mut map, mut inner, mut side] = shape.maps.each_ref();
        layer(0, &shape.images, None, true, map)?;
        if let (Some(pool), Some(taps)) = (shape.layers.pool, &shape.taps) {
            pool::max(queue, self.precision, pool, map, inner, taps)?;
            (map, inner) = (inner, map);
        }
        for block in &shape.layers.blocks {
            layer(block.first, map, None, true, inner)?;
            if let Some(shortcut) = block.shortcut {
                layer(shortcut, map, None, false, side)?;
                (map, side) = (side, map);
            }
            layer(block.second, inner, Some(map), true, side)?;
            (map, side) = (side, map);
        }
        let last = shape.layers.last();
        let pixels = last.output_height() * last.output_width();
        let average = AverageShape { images: last.images, pixels, channels: last.outputs };
        pool::average(queue, self.precision, average, map, &shape.pooled)
    }

    /// At most [`TOGETHER`] images. Their number is rounded up to a power of two, so that there are few shapes.
    fn embed_few(&self, images: &Tensor, Batch { images: count, height, width }: Batch) -> Result<Tensor> {
        let batch = Batch { images: count.next_power_of_two(), height, width };
        let images = self.machine.lend(&images.contiguous()?)?;
        let mut shapes = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        let shape = match shapes.iter().position(|shape| shape.batch == batch) {
            Some(place) => shapes.remove(place),
            None => {
                if shapes.len() == SHAPES {
                    shapes.remove(0);
                }
                self.shape(batch)?
            }
        };
        pack_images(self.machine.queue(), self.precision, count * height * width, &images, &shape.images)?;
        self.run(&shape)?;
        let features = self.machine.tensor(&shape.pooled, &[count, self.features]);
        shapes.push(shape);
        features
    }
}

impl Embedder for CudaEmbedder {
    fn features(&self) -> usize {
        self.features
    }

    fn embed(&self, images: &Tensor) -> Result<Tensor> {
        let batch = super::batch_of(images)?;
        if batch.images <= TOGETHER {
            return self.embed_few(images, batch);
        }
        let parts = (0..batch.images).step_by(TOGETHER).map(|start| {
            let count = TOGETHER.min(batch.images - start);
            self.embed_few(&images.narrow(0, start, count)?, Batch { images: count, ..batch })
        });
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }
}
