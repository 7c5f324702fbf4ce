//! ResNet-18 on an NVIDIA GPU: what the plain backend computes, by the kernels of [`crate::device::cuda`].
//!
//! Maps are NHWC in bf16 (or f32), parameters and statistics f32. Each shape of batch has an engine with fixed memory, whose
//! passes are recorded once and replayed. It knows no CUDA: it is written against a [`Machine`], so that the tests run the
//! whole of it on the CPU, with the kernels' own source.

mod frozen;
mod layers;
mod step;
mod weights;

#[cfg(all(test, unix))]
mod tests;

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use frozen::CudaEmbedder;
use layers::{Batch, Network};
use step::{Engine, Vectors};

use super::{
    Backbone, Embedder, Frozen, Parameter, Preset, blocks, initial_parameters, initial_statistics, parameter_layout,
    statistics_layout,
};
use crate::config::Seed;
use crate::device::cuda::filters::pack_images;
use crate::device::cuda::{Machine, Precision, Region};

/// Shapes of batches whose engines are kept: that of training, and one other.
const ENGINES: usize = 2;

/// The CUDA backend of a ResNet-18.
pub struct CudaResNet18 {
    machine: Arc<dyn Machine>,
    network: Network,
    precision: Precision,
    /// f32, (P): the optimiser changes it in place, and it stays where it is.
    parameters: Tensor,
    /// A copy of `running` for readers.
    statistics: Tensor,
    running: Region,
    /// The one used last is the last.
    engines: Vec<Engine>,
    /// A forward pass waits for its backward pass.
    pending: bool,
}

impl CudaResNet18 {
    /// A freshly initialised network of the preset's stem and width. The size of the images is free.
    ///
    /// # Errors
    /// Where the device cannot hold the parameters.
    pub fn new(preset: &Preset, machine: Arc<dyn Machine>, precision: Precision, seed: Seed) -> Result<Self> {
        let network = Network {
            stem: preset.stem,
            blocks: blocks(preset.width),
            layout: parameter_layout(preset.stem, preset.width),
            statistics_layout: statistics_layout(preset.width),
            frozen: Frozen::default(),
        };
        let parameters = Tensor::new(initial_parameters(&network.layout, seed), machine.device())?;
        let statistics = Tensor::new(initial_statistics(&network.statistics_layout), machine.device())?;
        let running = machine.allocate(4 * statistics.elem_count())?;
        machine.queue().copy(&machine.lend(&statistics)?, &running)?;
        Ok(Self { machine, network, precision, parameters, statistics, running, engines: Vec::new(), pending: false })
    }

    fn vectors(&self) -> Result<Vectors> {
        Ok(Vectors { parameters: self.machine.lend(&self.parameters)?, statistics: self.running.clone() })
    }

    /// Makes the engine for such batches the last one.
    fn engine(&mut self, batch: Batch, groups: usize) -> Result<()> {
        if let Some(place) = self.engines.iter().position(|engine| engine.batch == batch && engine.groups == groups) {
            let engine = self.engines.remove(place);
            self.engines.push(engine);
            return Ok(());
        }
        if self.engines.len() == ENGINES {
            self.engines.remove(0);
        }
        let vectors = self.vectors()?;
        let new = || Engine::new(&self.machine, &self.network, self.precision, (batch, groups), vectors.clone());
        let engine = match new() {
            Err(_) if !self.engines.is_empty() => {
                // Perhaps there is room without what is kept for other shapes.
                self.engines.clear();
                Engine::new(&self.machine, &self.network, self.precision, (batch, groups), vectors)?
            }
            outcome => outcome?,
        };
        self.engines.push(engine);
        Ok(())
    }

    fn refresh_statistics(&mut self) -> Result<()> {
        self.statistics = self.machine.tensor(&self.running, self.statistics.dims())?;
        Ok(())
    }
}

impl Backbone for CudaResNet18 {
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
        let batch = batch_of(images)?;
        if groups == 0 || batch.images == 0 || !batch.images.is_multiple_of(groups) {
            bail!("a batch of {} images cannot be {groups} equal groups", batch.images);
        }
        let images = self.machine.lend(&images.contiguous()?)?;
        self.pending = false;
        self.engine(batch, groups)?;
        let Some(engine) = self.engines.last_mut() else { bail!("no engine") };
        let pixels = batch.images * batch.height * batch.width;
        pack_images(self.machine.queue(), self.precision, pixels, &images, engine.images())?;
        let features = engine.forward()?;
        let length = features.bytes() / 4 / batch.images;
        let features = self.machine.tensor(features, &[batch.images, length])?;
        self.refresh_statistics()?;
        self.pending = true;
        Ok(features)
    }

    fn backward(&mut self, features_gradient: &Tensor) -> Result<Tensor> {
        let (true, Some(engine)) = (std::mem::take(&mut self.pending), self.engines.last_mut()) else {
            bail!("backward without a forward pass before it");
        };
        let count = engine.batch.images;
        let expected = [count, engine.features_gradient().bytes() / 4 / count];
        if features_gradient.dims() != expected {
            bail!("a gradient of shape {:?} does not fit features of shape {expected:?}", features_gradient.dims());
        }
        let gradient = self.machine.lend(&features_gradient.contiguous()?)?;
        self.machine.queue().copy(&gradient, engine.features_gradient())?;
        self.machine.tensor(engine.backward()?, self.parameters.dims())
    }

    fn load(&mut self, parameters: &Tensor, statistics: &Tensor) -> Result<()> {
        let copy = |new: &Tensor, old: &Tensor| {
            if new.dims() != old.dims() {
                bail!("weights of {:?} values cannot become {:?}", new.dims(), old.dims());
            }
            new.to_dtype(DType::F32)?.to_device(self.machine.device())?.force_contiguous().map(|copy| copy.detach())
        };
        let same = parameters.id() == self.parameters.id();
        let new = (!same).then(|| copy(parameters, &self.parameters)).transpose()?;
        let statistics = copy(statistics, &self.statistics)?;
        if let Some(new) = new {
            self.parameters.slice_set(&new, 0, 0)?;
        }
        self.machine.queue().copy(&self.machine.lend(&statistics)?, &self.running)?;
        (self.statistics, self.pending) = (statistics, false);
        Ok(())
    }

    fn set_frozen(&mut self, frozen: Frozen) -> Result<()> {
        self.network.frozen = frozen;
        self.release();
        Ok(())
    }

    fn release(&mut self) {
        self.pending = false;
        self.engines.clear();
    }

    fn freeze(&self) -> Result<Arc<dyn Embedder>> {
        let embedder = CudaEmbedder::new(&self.machine, &self.network, self.precision, &self.vectors()?)?;
        Ok(Arc::new(embedder))
    }
}

/// Number and size of the images of a batch (n, height, width, 3).
fn batch_of(images: &Tensor) -> Result<Batch> {
    match images.dims() {
        &[images, height, width, 3] if height > 0 && width > 0 => Ok(Batch { images, height, width }),
        other => bail!("images have the shape (n, height, width, 3), not {other:?}"),
    }
}
