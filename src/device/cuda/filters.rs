//! Weights and images in the layouts that convolutions take; see kernels/filters.cu.

use candle_core::{Result, bail};

use super::machine::{Machine, Precision, Queue, Region};
use super::parameters::*;

/// The weights of all convolutions of a network, side by side.
pub struct FilterTable {
    filters: Vec<Filter>,
    table: Region,
    precision: Precision,
    total: usize,
    /// Elements of the flat vector that the filters reach to.
    flat: usize,
}

/// The weights of one convolution: (outputs, inputs, size, size) from element `offset` of the flat vector on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterShape {
    pub offset: usize,
    pub outputs: usize,
    pub inputs: usize,
    pub size: usize,
    /// Input channels in memory; those added are zero.
    pub stored: usize,
}

impl FilterTable {
    /// # Errors
    /// Where the machine has no memory for the table.
    pub fn new(machine: &dyn Machine, precision: Precision, shapes: &[FilterShape]) -> Result<Self> {
        let (mut total, mut flat) = (0, 0);
        let mut filters = Vec::with_capacity(shapes.len());
        for shape in shapes {
            let FilterShape { offset, outputs, inputs, size, stored } = *shape;
            let values = outputs * size * size * stored;
            number(values)?;
            if values == 0 || inputs > stored {
                bail!("no such weights: {shape:?}");
            }
            filters.push(Filter {
                source: offset as i64,
                target: total as i64,
                outputs: number(outputs)?,
                inputs: number(inputs)?,
                size: number(size)?,
                stored: number(stored)?,
            });
            // Each begins on a border of 16 bytes.
            total += values.next_multiple_of(8);
            flat = flat.max(offset + outputs * inputs * size * size);
        }
        let table = machine.upload(&table(&filters))?;
        Ok(Self { filters, table, precision, total, flat })
    }

    /// Bytes of all packed weights.
    pub fn bytes(&self) -> usize {
        self.total * self.precision.bytes()
    }

    /// The weights of convolution `index` within the packed ones.
    ///
    /// # Errors
    /// Where the region is not of [`FilterTable::bytes`].
    pub fn part(&self, packed: &Region, index: usize) -> Result<Region> {
        let Filter { target, outputs, size, stored, .. } = self.filters[index];
        let values = (outputs * size * size * stored) as usize;
        packed.slice(target as usize * self.precision.bytes(), values * self.precision.bytes())
    }

    /// Packs the weights within the flat f32 vector `flat`.
    ///
    /// # Errors
    /// Where a region is too small, or the machine fails.
    pub fn pack(&self, queue: &dyn Queue, flat: &Region, packed: &Region) -> Result<()> {
        self.run(queue, "filters_pack", flat, packed)
    }

    /// The way back, of gradients; elements of `flat` that are no convolution's weights stay as they are.
    ///
    /// # Errors
    /// Where a region is too small, or the machine fails.
    pub fn unpack(&self, queue: &dyn Queue, packed: &Region, flat: &Region) -> Result<()> {
        self.run(queue, "filters_unpack", flat, packed)
    }

    fn run(&self, queue: &dyn Queue, name: &str, flat: &Region, packed: &Region) -> Result<()> {
        let argument = Filters {
            flat: flat.at("the flat vector", 4 * self.flat)?,
            packed: packed.at("the packed weights", self.bytes())?,
            filters: self.table.at("the table of filters", 0)?,
            total: self.total as i64,
            count: number(self.filters.len())?,
            unused: 0,
        };
        // One value a thread: any number of channels.
        let (kernel, _) = self.precision.kernel(name, 1);
        // SAFETY: the table reaches to `flat` elements of the flat vector and `total` of the packed one.
        unsafe { launch(queue, &kernel, grid_of(self.total), 0, &argument, &[flat, packed, &self.table]) }
    }
}

/// Images (pixels, 3) in f32 as maps of [`Precision::image_channels`] channels, those added zero.
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn pack_images(
    queue: &dyn Queue,
    precision: Precision,
    pixels: usize,
    images: &Region,
    packed: &Region,
) -> Result<()> {
    let stored = precision.image_channels();
    let argument = Images {
        images: images.at("images", 12 * pixels)?,
        packed: packed.at("packed images", pixels * stored * precision.bytes())?,
        pixels: pixels as i64,
        stored: number(stored)?,
        unused: 0,
    };
    let (kernel, _) = precision.kernel("images_pack", 1);
    // SAFETY: the kernel stays within the pixels, for which the regions were checked.
    unsafe { launch(queue, &kernel, grid_of(pixels), 0, &argument, &[images, packed]) }
}
