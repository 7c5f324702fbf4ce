//! The network as a list of layers: where each one's parameters lie in the flat vectors, and the shape of its maps.

use std::ops::Range;

use crate::device::kernels::{Isa, MaxPool, Shape};
use crate::encoder::{Block, EPSILON, Frozen, Parameter, Stem};

/// A convolution and the batch norm behind it.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub shape: Shape,
    /// In the flat parameters: the convolution's weights, and weight and bias of the batch norm.
    pub kernel: Range<usize>,
    pub weight: Range<usize>,
    pub bias: Range<usize>,
    /// In the flat statistics: running mean and running variance.
    pub mean: Range<usize>,
    pub variance: Range<usize>,
    /// Its parameters and statistics stay as they are.
    pub frozen: bool,
}

/// The layers of a block, by their number in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockLayers {
    /// The layer whose output enters the block.
    pub input: usize,
    pub first: usize,
    pub second: usize,
    pub shortcut: Option<usize>,
}

/// What a network is made of, whatever the size of its images.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub stem: Stem,
    pub blocks: Vec<Block>,
    /// Three parameters for each layer.
    pub layout: Vec<Parameter>,
    /// Two statistics for each layer, in the same order.
    pub statistics_layout: Vec<Parameter>,
    pub frozen: Frozen,
}

/// Layers in the order of the layout (the stem, then those of each block), and which ones make up each block. The stem is
/// layer 0; where a max-pool follows it, what enters the first block is the pooled map.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    pub all: Vec<Layer>,
    pub blocks: Vec<BlockLayers>,
    pub pool: Option<MaxPool>,
}

impl Layers {
    /// The layers for images of `height` by `width` pixels.
    pub(super) fn new(isa: Isa, network: &Network, (height, width): (usize, usize)) -> Self {
        let Network { stem, blocks, layout, statistics_layout, frozen } = network;
        let mut builder = Builder {
            parameters: layout.chunks_exact(3),
            statistics: statistics_layout.chunks_exact(2),
            frozen: *frozen,
            all: Vec::new(),
        };
        let mut input = builder.push(height, width, stem.kernel().1, true);
        let (mut height, mut width) = builder.last_size((height, width));
        let pool = stem.pool().zip(builder.all.last()).map(|(window, layer)| MaxPool {
            isa,
            channels: isa.stored(layer.shape.outputs),
            height,
            width,
            window,
        });
        if let Some(pool) = pool {
            (height, width) = (pool.output_height(), pool.output_width());
        }
        let mut places = Vec::with_capacity(blocks.len());
        for block in blocks {
            let first = builder.push(height, width, block.stride, false);
            let (inner_height, inner_width) = builder.last_size((height, width));
            let second = builder.push(inner_height, inner_width, 1, false);
            let shortcut = block.has_downsample().then(|| builder.push(height, width, block.stride, false));
            places.push(BlockLayers { input, first, second, shortcut });
            input = second;
            (height, width) = (inner_height, inner_width);
        }
        Self { all: builder.all, blocks: places, pool }
    }

    /// Pixels of the last map, over which features are averaged.
    pub(super) fn last_pixels(&self) -> usize {
        let last = self.blocks.last().map_or(0, |block| block.second);
        let shape = &self.all[last].shape;
        shape.output_height() * shape.output_width()
    }

    /// Number of the first layer that learns; all of them where none does.
    pub(super) fn first_trainable(&self) -> usize {
        self.all.iter().position(|layer| !layer.frozen).unwrap_or(self.all.len())
    }

    /// Length of the features.
    pub(super) fn features(&self) -> usize {
        self.blocks.last().map_or(0, |block| self.all[block.second].shape.outputs)
    }
}

struct Builder<'a> {
    parameters: std::slice::ChunksExact<'a, Parameter>,
    statistics: std::slice::ChunksExact<'a, Parameter>,
    frozen: Frozen,
    all: Vec<Layer>,
}

impl Builder<'_> {
    /// Size of the maps that the last layer gives.
    fn last_size(&self, otherwise: (usize, usize)) -> (usize, usize) {
        self.all.last().map_or(otherwise, |layer| (layer.shape.output_height(), layer.shape.output_width()))
    }

    /// Appends the layer of the next parameters and returns its number.
    fn push(&mut self, height: usize, width: usize, stride: usize, packed_input: bool) -> usize {
        let range = |parameter: &Parameter| parameter.offset..parameter.offset + parameter.elements();
        if let (Some([kernel, weight, bias]), Some([mean, variance])) = (self.parameters.next(), self.statistics.next())
        {
            let (outputs, inputs, size) = (kernel.shape[0], kernel.shape[1], kernel.shape[2]);
            let shape = Shape { height, width, inputs, outputs, size, stride, padding: size / 2, packed_input };
            self.all.push(Layer {
                shape,
                kernel: range(kernel),
                weight: range(weight),
                bias: range(bias),
                mean: range(mean),
                variance: range(variance),
                frozen: self.frozen.holds(&kernel.name),
            });
        }
        self.all.len() - 1
    }
}

/// A convolution with its batch norm folded in: `weight * (conv(x) - mean) / sqrt(variance + epsilon) + bias` is a
/// convolution with a bias, `scale = weight / sqrt(variance + epsilon)`, kernel `scale * kernel`, bias `bias - mean * scale`.
#[derive(Debug, Clone, Default)]
pub(super) struct Folded {
    pub kernel: Vec<f32>,
    /// Of each stored channel.
    pub bias: Vec<f32>,
}

impl Folded {
    pub(super) fn new(isa: Isa, layer: &Layer, parameters: &[f32], statistics: &[f32]) -> Self {
        let (weights, biases) = (&parameters[layer.weight.clone()], &parameters[layer.bias.clone()]);
        let (means, variances) = (&statistics[layer.mean.clone()], &statistics[layer.variance.clone()]);
        let per_output = layer.shape.inputs * layer.shape.size * layer.shape.size;
        let mut kernel = parameters[layer.kernel.clone()].to_vec();
        let mut bias = Vec::with_capacity(isa.stored(layer.shape.outputs));
        for (output, kernel) in kernel.chunks_exact_mut(per_output).enumerate() {
            let scale = weights[output] / (variances[output] + EPSILON as f32).sqrt();
            kernel.iter_mut().for_each(|weight| *weight *= scale);
            bias.push(biases[output] - means[output] * scale);
        }
        bias.resize(isa.stored(layer.shape.outputs), 0.0);
        Self { kernel, bias }
    }
}
