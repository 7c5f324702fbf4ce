//! ResNet-18 on the CPU by kernels of its own: what the plain backend computes, several times as fast.
//!
//! Maps are NHWC f32; all views pass through the network together, with batch-norm statistics of their own. The passes are
//! explicit (no graph), kernels are packed once a pass, buffers are lent again from step to step. The instruction set is
//! chosen at run time (see [`crate::device::kernels`]), work is spread over rayon's pool.

mod arena;
mod frozen;
mod layers;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Storage, Tensor, bail};

use frozen::CpuEmbedder;
use layers::{Layers, Network};
use step::{Engine, Saved};

use super::{
    Backbone, Embedder, Frozen, MOMENTUM, Parameter, Preset, blocks, initial_parameters, initial_statistics,
    parameter_layout, statistics_layout,
};
use crate::config::{Precision, Seed};
use crate::device::kernels::{Isa, Products};
use crate::encoder::EncoderError;

/// The CPU backend of a ResNet-18, in its CIFAR form (3x3 stem) as in its ImageNet form (7x7 stem and max-pool).
pub struct CpuResNet18 {
    network: Network,
    isa: Isa,
    products: Products,
    parameters: Tensor,
    statistics: Tensor,
    engine: Option<SizedEngine>,
    pending: Option<Pending>,
}

/// The engine for images of one size.
struct SizedEngine {
    size: (usize, usize),
    count: usize,
    engine: Engine,
}

/// A forward pass that waits for its backward pass.
struct Pending {
    images: Tensor,
    saved: Saved,
}

impl CpuResNet18 {
    /// A freshly initialised network of the preset's stem and width. The size of the images is free.
    ///
    /// # Errors
    /// Where memory for the parameters is lacking.
    pub fn new(preset: &Preset, seed: Seed) -> Result<Self> {
        Self::with_isa(preset, seed, Isa::for_channels(preset.width))
    }

    /// As [`CpuResNet18::new`], on a given instruction set.
    ///
    /// # Errors
    /// Where memory for the parameters is lacking.
    pub fn with_isa(preset: &Preset, seed: Seed, isa: Isa) -> Result<Self> {
        let Preset { stem, width, .. } = *preset;
        let (layout, statistics_layout) = (parameter_layout(stem, width), statistics_layout(width));
        let parameters = Tensor::new(initial_parameters(&layout, seed), &Device::Cpu)?;
        let statistics = Tensor::new(initial_statistics(&statistics_layout), &Device::Cpu)?;
        let network = Network { stem, blocks: blocks(width), layout, statistics_layout, frozen: Frozen::default() };
        let products = Products::F32;
        Ok(Self { network, isa, products, parameters, statistics, engine: None, pending: None })
    }

    /// The same network, its convolutions multiplying in that precision.
    ///
    /// # Errors
    /// [`EncoderError::NoPrecision`] where the processor, or the instruction set that this width takes, does not.
    pub fn with_precision(mut self, precision: Precision) -> std::result::Result<Self, EncoderError> {
        self.products = match precision {
            Precision::Auto | Precision::F32 => Products::F32,
            Precision::Bf16 if self.isa.has_bf16() => Products::Bf16,
            Precision::Bf16 => return Err(no_bf16(self.isa)),
            Precision::Tf32 => return Err(EncoderError::no_precision(precision, "processors do not multiply in tf32")),
        };
        Ok(self)
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The engine for batches of `count` images of this size.
    fn engine(&mut self, size: (usize, usize), count: usize) -> &mut Engine {
        let mut sized = match self.engine.take() {
            Some(sized) if sized.size == size => sized,
            _ => {
                let layers = Layers::new(self.isa, &self.network, size);
                SizedEngine { size, count, engine: Engine::new(self.isa, self.products, layers) }
            }
        };
        if sized.count != count {
            sized.engine.forget_memory();
            sized.count = count;
        }
        &mut self.engine.insert(sized).engine
    }

    /// Moves the running statistics towards those of each group in turn.
    fn update_statistics(&mut self, saved: &Saved, groups: usize) -> Result<()> {
        let Some(SizedEngine { engine, .. }) = &self.engine else { return Ok(()) };
        let mut running = self.statistics.to_vec1::<f32>()?;
        let share = MOMENTUM as f32;
        for group in 0..groups {
            for (index, layer) in engine.layers.all.iter().enumerate() {
                let Some(observed) = engine.observed(saved, index, group) else { continue };
                let pairs = [(layer.mean.clone(), observed.mean), (layer.variance.clone(), observed.variance)];
                for (range, observed) in pairs {
                    for (running, observed) in running[range].iter_mut().zip(observed) {
                        *running += share * (observed - *running);
                    }
                }
            }
        }
        self.statistics = Tensor::new(running, &Device::Cpu)?;
        Ok(())
    }
}

impl Backbone for CpuResNet18 {
    fn layout(&self) -> &[Parameter] {
        &self.network.layout
    }

    fn statistics_layout(&self) -> &[Parameter] {
        &self.network.statistics_layout
    }

    fn parameters(&self) -> &Tensor {
        &self.parameters
    }

    fn statistics(&self) -> &Tensor {
        &self.statistics
    }

    fn forward(&mut self, images: &Tensor, groups: usize) -> Result<Tensor> {
        let (count, height, width) = image_shape(images)?;
        if groups == 0 || count == 0 || !count.is_multiple_of(groups) {
            bail!("a batch of {count} images cannot be {groups} equal groups");
        }
        let images = images.contiguous()?;
        if let (Some(pending), Some(sized)) = (self.pending.take(), &mut self.engine) {
            sized.engine.discard(pending.saved);
        }
        let (parameters, statistics) = (self.parameters.clone(), self.statistics.clone());
        let engine = self.engine((height, width), count);
        let (features, saved) = with_values(&images, |images| {
            with_values(&parameters, |parameters| {
                with_values(&statistics, |statistics| engine.forward((parameters, statistics), images, groups))
            })
        })???;
        self.update_statistics(&saved, groups)?;
        self.pending = Some(Pending { images, saved });
        let length = features.len() / count;
        Tensor::from_vec(features, (count, length), &Device::Cpu)
    }

    fn backward(&mut self, features_gradient: &Tensor) -> Result<Tensor> {
        let (Some(Pending { images, saved }), Some(sized)) = (self.pending.take(), &mut self.engine) else {
            bail!("backward without a forward pass before it");
        };
        let expected = [images.dim(0)?, sized.engine.layers.features()];
        if features_gradient.dims() != expected {
            sized.engine.discard(saved);
            bail!("a gradient of shape {:?} does not fit features of shape {expected:?}", features_gradient.dims());
        }
        let gradient = features_gradient.contiguous()?;
        let flat = with_values(&images, |images| {
            with_values(&gradient, |gradient| {
                with_values(&self.parameters, |parameters| sized.engine.backward(parameters, images, gradient, saved))
            })
        })???;
        let length = flat.len();
        Tensor::from_vec(flat, length, &Device::Cpu)
    }

    fn load(&mut self, parameters: &Tensor, statistics: &Tensor) -> Result<()> {
        let copy = |new: &Tensor, old: &Tensor| {
            if new.dims() != old.dims() {
                bail!("weights of {:?} values cannot become {:?}", new.dims(), old.dims());
            }
            Ok(new.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.force_contiguous()?.detach())
        };
        let (parameters, statistics) = (copy(parameters, &self.parameters)?, copy(statistics, &self.statistics)?);
        (self.parameters, self.statistics) = (parameters, statistics);
        if let (Some(pending), Some(sized)) = (self.pending.take(), &mut self.engine) {
            sized.engine.discard(pending.saved);
        }
        Ok(())
    }

    fn set_frozen(&mut self, frozen: Frozen) -> Result<()> {
        // The engine's layers know what is frozen.
        (self.network.frozen, self.engine, self.pending) = (frozen, None, None);
        Ok(())
    }

    fn freeze(&self) -> Result<Arc<dyn Embedder>> {
        let embedder = with_values(&self.parameters, |parameters| {
            with_values(&self.statistics, |statistics| {
                CpuEmbedder::new((self.isa, self.products), &self.network, parameters, statistics)
            })
        })??;
        Ok(Arc::new(embedder))
    }
}

fn no_bf16(isa: Isa) -> EncoderError {
    let reason = if Isa::available().iter().any(|isa| isa.has_bf16()) {
        let lanes = Isa::available().iter().find(|isa| isa.has_bf16()).map_or(0, |isa| isa.lanes());
        format!("the preset's width is no multiple of {lanes}, so that {} computes it", isa.name())
    } else {
        "this processor has no such multiplier (AVX512_BF16)".to_owned()
    };
    EncoderError::no_precision(Precision::Bf16, &reason)
}

/// Number, height and width of the images of a batch (n, height, width, 3).
fn image_shape(images: &Tensor) -> Result<(usize, usize, usize)> {
    match images.dims() {
        &[count, height, width, 3] if height > 0 && width > 0 => Ok((count, height, width)),
        other => bail!("images have the shape (n, height, width, 3), not {other:?}"),
    }
}

/// Lends the values of a contiguous f32 tensor on the CPU.
fn with_values<R>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(work(&storage.as_slice::<f32>()?[start..end])),
        _ => bail!("the CPU backend takes contiguous f32 tensors in main memory, not {tensor:?}"),
    }
}
