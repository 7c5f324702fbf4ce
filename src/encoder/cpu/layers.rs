//! The network as a list of layers: where each one's parameters lie in the flat vectors, and the shape of its maps.

use std::ops::Range;

use crate::device::kernels::Shape;
use crate::encoder::{Block, Parameter};

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

/// Layers in the order of the layout (the stem, then those of each block), and which ones make up each block.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    pub all: Vec<Layer>,
    pub blocks: Vec<BlockLayers>,
}

impl Layers {
    /// The layers for images of `height` by `width` pixels. `layout` has three parameters for each layer and `statistics`
    /// two, in this order.
    pub(super) fn new(
        blocks: &[Block],
        layout: &[Parameter],
        statistics: &[Parameter],
        (height, width): (usize, usize),
    ) -> Self {
        let mut builder =
            Builder { parameters: layout.chunks_exact(3), statistics: statistics.chunks_exact(2), all: Vec::new() };
        let mut input = builder.push(height, width, 1, true);
        let (mut height, mut width) = (height, width);
        let mut places = Vec::with_capacity(blocks.len());
        for block in blocks {
            let first = builder.push(height, width, block.stride, false);
            let shape = builder.all.last().map(|layer| (layer.shape.output_height(), layer.shape.output_width()));
            let (inner_height, inner_width) = shape.unwrap_or((height, width));
            let second = builder.push(inner_height, inner_width, 1, false);
            let shortcut = block.has_downsample().then(|| builder.push(height, width, block.stride, false));
            places.push(BlockLayers { input, first, second, shortcut });
            input = second;
            (height, width) = (inner_height, inner_width);
        }
        Self { all: builder.all, blocks: places }
    }

    /// Pixels of the last map, over which features are averaged.
    pub(super) fn last_pixels(&self) -> usize {
        let last = self.blocks.last().map_or(0, |block| block.second);
        let shape = &self.all[last].shape;
        shape.output_height() * shape.output_width()
    }

    /// Length of the features.
    pub(super) fn features(&self) -> usize {
        self.blocks.last().map_or(0, |block| self.all[block.second].shape.outputs)
    }
}

struct Builder<'a> {
    parameters: std::slice::ChunksExact<'a, Parameter>,
    statistics: std::slice::ChunksExact<'a, Parameter>,
    all: Vec<Layer>,
}

impl Builder<'_> {
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
            });
        }
        self.all.len() - 1
    }
}
