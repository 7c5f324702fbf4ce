//! The shape of a convolution, and the panels in which its output channels are worked off.

use std::ops::Range;

use super::simd::Isa;

/// A convolution's shape. Maps are NHWC; channels in memory are rounded up to whole vectors (see [`Isa::stored`]), the
/// ones added being zero, except for the input of the network's first layer (`packed_input`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of an input map.
    pub height: usize,
    /// Columns of an input map.
    pub width: usize,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Rows and columns of a kernel.
    pub size: usize,
    pub stride: usize,
    /// Zeros around the input map.
    pub padding: usize,
    /// The input's channels lie next to each other without rounding; such a convolution has no input gradient.
    pub packed_input: bool,
}

impl Shape {
    /// Rows of an output map: `floor((height + 2 padding - size) / stride) + 1`.
    pub fn output_height(&self) -> usize {
        (self.height + 2 * self.padding - self.size) / self.stride + 1
    }

    /// Columns of an output map.
    pub fn output_width(&self) -> usize {
        (self.width + 2 * self.padding - self.size) / self.stride + 1
    }

    /// Weights, in PyTorch's shape (outputs, inputs, size, size).
    pub fn weights(&self) -> usize {
        self.outputs * self.inputs * self.taps()
    }

    pub(super) fn taps(&self) -> usize {
        self.size * self.size
    }

    pub(super) fn stored_inputs(&self, isa: Isa) -> usize {
        if self.packed_input { self.inputs } else { isa.stored(self.inputs) }
    }

    /// Values of one input map in memory.
    pub fn input_values(&self, isa: Isa) -> usize {
        self.height * self.width * self.stored_inputs(isa)
    }

    /// Values of one output map in memory.
    pub fn output_values(&self, isa: Isa) -> usize {
        self.output_height() * self.output_width() * isa.stored(self.outputs)
    }
}

/// Stored channels split into panels of two vectors; the last one may have a single vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panels {
    channels: usize,
    lanes: usize,
}

impl Panels {
    pub(super) fn new(channels: usize, lanes: usize) -> Self {
        debug_assert!(channels.is_multiple_of(lanes));
        Self { channels, lanes }
    }

    /// Channels of all panels but the last.
    pub(super) fn width(&self) -> usize {
        2 * self.lanes
    }

    /// The channels of the panel that channel `channel` is in.
    pub(super) fn of(&self, channel: usize) -> Range<usize> {
        let first = channel / self.width() * self.width();
        first..self.channels.min(first + self.width())
    }

    /// The channels of each panel, in order.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (channels, width) = (self.channels, self.width());
        (0..channels).step_by(width).map(move |first| first..channels.min(first + width))
    }
}
