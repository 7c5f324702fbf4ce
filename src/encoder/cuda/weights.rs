//! What all passes read: the weights of the convolutions as they take them, and batch norm's scale and shift in inference.

use std::sync::Arc;

use candle_core::Result;

use super::layers::Layers;
use crate::device::cuda::filters::{FilterShape, FilterTable};
use crate::device::cuda::{Machine, NormPlace, Precision, Queue, Region, norm};
use crate::encoder::EPSILON;

/// Both, made of the flat vectors.
pub(super) struct Weights {
    filters: FilterTable,
    packed: Region,
    places: Vec<NormPlace>,
    table: Region,
    scale: Region,
    shift: Region,
}

impl Weights {
    pub(super) fn new(machine: &Arc<dyn Machine>, precision: Precision, layers: &Layers) -> Result<Self> {
        let shapes: Vec<FilterShape> = layers
            .all
            .iter()
            .map(|layer| FilterShape {
                offset: layer.kernel,
                outputs: layer.shape.outputs,
                inputs: layer.inputs,
                size: layer.shape.size,
                stored: layer.shape.inputs,
            })
            .collect();
        let filters = FilterTable::new(machine.as_ref(), precision, &shapes)?;
        let (mut places, mut total) = (Vec::with_capacity(layers.all.len()), 0);
        for layer in &layers.all {
            let channels = layer.shape.outputs;
            places.push(NormPlace::new([layer.weight, layer.bias], [layer.mean, layer.variance], total, channels)?);
            total += channels;
        }
        Ok(Self {
            packed: machine.allocate(filters.bytes())?,
            filters,
            table: machine.upload(&NormPlace::table(&places))?,
            places,
            scale: machine.allocate(4 * total)?,
            shift: machine.allocate(4 * total)?,
        })
    }

    /// Packs the convolutions' weights.
    pub(super) fn pack(&self, queue: &dyn Queue, parameters: &Region) -> Result<()> {
        self.filters.pack(queue, parameters, &self.packed)
    }

    /// Scale and shift of every layer from its running statistics.
    pub(super) fn fit(&self, queue: &dyn Queue, parameters: &Region, statistics: &Region) -> Result<()> {
        let (scale, shift) = (&self.scale, &self.shift);
        let (places, table) = (self.places.as_slice(), &self.table);
        let epsilon = EPSILON as f32;
        norm::inference(queue, &norm::Inference { parameters, statistics, places, table, scale, shift, epsilon })
    }

    /// The packed weights of a layer.
    pub(super) fn filter(&self, index: usize) -> Result<Region> {
        self.filters.part(&self.packed, index)
    }

    /// Scale and shift of a layer, once [`Weights::fit`].
    pub(super) fn inference(&self, layers: &Layers, index: usize) -> Result<[Region; 2]> {
        let first = layers.all[..index].iter().map(|layer| layer.shape.outputs).sum();
        let channels = layers.all[index].shape.outputs;
        Ok([self.scale.values(first, channels)?, self.shift.values(first, channels)?])
    }

    /// The table, for the gradients of the same weights.
    pub(super) fn filters(&self) -> &FilterTable {
        &self.filters
    }
}
