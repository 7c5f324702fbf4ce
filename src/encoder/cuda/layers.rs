//! The network as a list of layers: where each one's values lie in the flat vectors, and the shape of its maps.

use std::ops::Range;

use crate::device::cuda::pool::MaxShape;
use crate::device::cuda::{ConvolutionShape, Precision};
use crate::encoder::{Block, Frozen, Parameter, Stem};

/// What a network is made of, whatever its batches.
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

/// What maps are of: images of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    pub images: usize,
    pub height: usize,
    pub width: usize,
}

/// A convolution and the batch norm behind it.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub shape: ConvolutionShape,
    /// Input channels without those that are only stored.
    pub inputs: usize,
    /// First values in the flat parameters: the convolution's weights, and weight and bias of the batch norm.
    pub kernel: usize,
    pub weight: usize,
    pub bias: usize,
    /// First values in the flat statistics: running mean and running variance.
    pub mean: usize,
    pub variance: usize,
    /// Its parameters and statistics stay as they are.
    pub frozen: bool,
}

/// The layers of a block, by their number in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockLayers {
    /// The layer whose output enters the block; for the first block the stem, or the pool behind it.
    pub input: usize,
    pub first: usize,
    pub second: usize,
    pub shortcut: Option<usize>,
}

impl BlockLayers {
    /// The numbers of its layers.
    pub(super) fn range(&self) -> Range<usize> {
        self.first..self.shortcut.unwrap_or(self.second) + 1
    }
}

/// Layers in the order of the layout: the stem, then those of each block.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    pub all: Vec<Layer>,
    pub blocks: Vec<BlockLayers>,
    pub pool: Option<MaxShape>,
}

impl Layers {
    /// The layers for a batch.
    pub(super) fn new(network: &Network, precision: Precision, batch: Batch) -> Self {
        let Batch { images, height, width } = batch;
        let mut builder = Builder { network, all: Vec::new(), images, stored: precision.image_channels() };
        let (mut height, mut width) = builder.push(height, width, network.stem.kernel().1);
        let pool = network.stem.pool().map(|window| MaxShape {
            images,
            height,
            width,
            channels: network.blocks.first().map_or(0, |block| block.inputs),
            size: window.size,
            stride: window.stride,
            padding: window.padding,
        });
        if let Some(pool) = pool {
            (height, width) = (pool.output_height(), pool.output_width());
        }
        let (mut input, mut blocks) = (0, Vec::with_capacity(network.blocks.len()));
        for block in &network.blocks {
            let first = builder.all.len();
            let inner = builder.push(height, width, block.stride);
            builder.push(inner.0, inner.1, 1);
            let shortcut = block.has_downsample().then(|| {
                builder.push(height, width, block.stride);
                first + 2
            });
            blocks.push(BlockLayers { input, first, second: first + 1, shortcut });
            (input, height, width) = (first + 1, inner.0, inner.1);
        }
        Self { all: builder.all, blocks, pool }
    }

    /// Shape of the last map, over which features are averaged.
    pub(super) fn last(&self) -> ConvolutionShape {
        self.all[self.blocks.last().map_or(0, |block| block.second)].shape
    }

    /// Number of the first layer that learns; all of them where none does.
    pub(super) fn first_trainable(&self) -> usize {
        self.all.iter().position(|layer| !layer.frozen).unwrap_or(self.all.len())
    }
}

struct Builder<'a> {
    network: &'a Network,
    all: Vec<Layer>,
    images: usize,
    /// Channels in which the next layer's input is stored.
    stored: usize,
}

impl Builder<'_> {
    /// Appends the layer of the next parameters and returns the size of its output.
    fn push(&mut self, height: usize, width: usize, stride: usize) -> (usize, usize) {
        let index = self.all.len();
        let [kernel, weight, bias] = [0, 1, 2].map(|part| &self.network.layout[3 * index + part]);
        let [mean, variance] = [0, 1].map(|part| &self.network.statistics_layout[2 * index + part]);
        let (outputs, inputs, size) = (kernel.shape[0], kernel.shape[1], kernel.shape[2]);
        let shape = ConvolutionShape {
            images: self.images,
            height,
            width,
            inputs: if index == 0 { self.stored } else { inputs },
            outputs,
            size,
            stride,
            padding: size / 2,
        };
        self.all.push(Layer {
            shape,
            inputs,
            kernel: kernel.offset,
            weight: weight.offset,
            bias: bias.offset,
            mean: mean.offset,
            variance: variance.offset,
            frozen: self.network.frozen.holds(&kernel.name),
        });
        (shape.output_height(), shape.output_width())
    }
}
