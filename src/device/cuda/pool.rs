//! Pooling; see kernels/pool.cu.

use candle_core::{Result, bail};

use super::machine::{Precision, Queue, Region};
use super::parameters::*;

/// A map that is averaged over its pixels: (images, pixels, channels).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AverageShape {
    pub images: usize,
    pub pixels: usize,
    pub channels: usize,
}

impl AverageShape {
    fn argument(&self, precision: Precision, map: &Region, means: &Region, map_first: bool) -> Result<AveragePool> {
        if self.images * self.pixels * self.channels == 0 {
            bail!("an average over nothing: {self:?}");
        }
        let map = map.at("a map", self.images * self.pixels * self.channels * precision.bytes())?;
        let means = means.at("the means of a map", 4 * self.images * self.channels)?;
        let (x, y) = if map_first { (map, means) } else { (means, map) };
        Ok(AveragePool {
            x,
            y,
            images: self.images as i64,
            pixels: number(self.pixels)?,
            channels: number(self.channels)?,
        })
    }
}

/// Mean over the pixels: `y` is f32 (images, channels).
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn average(queue: &dyn Queue, precision: Precision, shape: AverageShape, x: &Region, y: &Region) -> Result<()> {
    let argument = shape.argument(precision, x, y, true)?;
    let (kernel, lanes) = precision.kernel("average_pool", shape.channels);
    // SAFETY: the kernel stays within the shape, for which the regions were checked.
    unsafe { launch(queue, &kernel, grid_of(shape.images * shape.channels / lanes), 0, &argument, &[x, y]) }
}

/// The map's gradient of that of the means.
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn average_backward(
    queue: &dyn Queue,
    precision: Precision,
    shape: AverageShape,
    dy: &Region,
    dx: &Region,
) -> Result<()> {
    let argument = shape.argument(precision, dx, dy, false)?;
    let (kernel, lanes) = precision.kernel("average_pool_backward", shape.channels);
    let items = shape.images * shape.pixels * shape.channels / lanes;
    // SAFETY: the kernel stays within the shape, for which the regions were checked.
    unsafe { launch(queue, &kernel, grid_of(items), 0, &argument, &[dy, dx]) }
}

/// Max-pooling of (images, height, width, channels).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxShape {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Rows and columns of a window, at most 16: a tap is kept as a byte.
    pub size: usize,
    pub stride: usize,
    /// At most half a window, so that every window has a pixel.
    pub padding: usize,
}

impl MaxShape {
    pub fn output_height(&self) -> usize {
        (self.height + 2 * self.padding - self.size) / self.stride + 1
    }

    pub fn output_width(&self) -> usize {
        (self.width + 2 * self.padding - self.size) / self.stride + 1
    }

    pub fn input_values(&self) -> usize {
        self.images * self.height * self.width * self.channels
    }

    pub fn output_values(&self) -> usize {
        self.images * self.output_height() * self.output_width() * self.channels
    }

    fn argument(&self, precision: Precision, input: &Region, output: &Region, taps: &Region) -> Result<MaxPool> {
        let fits = |side: usize| side + 2 * self.padding >= self.size;
        let sound = (1..=16).contains(&self.size) && self.stride > 0 && 2 * self.padding <= self.size;
        if !sound || !fits(self.height) || !fits(self.width) || self.input_values() == 0 {
            bail!("no such max-pooling: {self:?}");
        }
        Ok(MaxPool {
            x: input.at("the input of max-pooling", self.input_values() * precision.bytes())?,
            y: output.at("the output of max-pooling", self.output_values() * precision.bytes())?,
            taps: taps.at("the taps of max-pooling", self.output_values())?,
            images: self.images as i64,
            height: number(self.height)?,
            width: number(self.width)?,
            output_height: number(self.output_height())?,
            output_width: number(self.output_width())?,
            channels: number(self.channels)?,
            size: number(self.size)?,
            stride: number(self.stride)?,
            padding: number(self.padding)?,
        })
    }
}

/// The greatest value of each window into `y`, and which it was into `taps` (a byte a value).
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn max(
    queue: &dyn Queue,
    precision: Precision,
    shape: MaxShape,
    x: &Region,
    y: &Region,
    taps: &Region,
) -> Result<()> {
    let argument = shape.argument(precision, x, y, taps)?;
    let (kernel, lanes) = precision.kernel("max_pool", shape.channels);
    // SAFETY: the kernel stays within the shape, for which the regions were checked.
    unsafe { launch(queue, &kernel, grid_of(shape.output_values() / lanes), 0, &argument, &[x, y, taps]) }
}

/// The input's gradient `dx` of the output's `dy`.
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn max_backward(
    queue: &dyn Queue,
    precision: Precision,
    shape: MaxShape,
    dy: &Region,
    taps: &Region,
    dx: &Region,
) -> Result<()> {
    let forward = shape.argument(precision, dx, dy, taps)?;
    let argument = MaxPool { x: forward.y, y: forward.x, ..forward };
    let (kernel, lanes) = precision.kernel("max_pool_backward", shape.channels);
    // SAFETY: the kernel stays within the shape, for which the regions were checked.
    unsafe { launch(queue, &kernel, grid_of(shape.input_values() / lanes), 0, &argument, &[dy, taps, dx]) }
}
