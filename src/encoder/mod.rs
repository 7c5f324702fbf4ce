//! The encoder: from pixels to features.
//!
//! A [`Preset`] says what the network looks like and how pixels are normalised; [`build`] makes the trainable network of a
//! preset on a device, behind [`Backbone`]; [`Backbone::freeze`] makes the immutable [`Embedder`] that answers. The heads of
//! the objectives live here, too; the losses and the optimiser are the learner's.
//!
//! ```
//! use lumpd::{config::Seed, encoder};
//! let preset = encoder::Preset::load("resnet18-w16").unwrap();
//! let precision = lumpd::config::Precision::F32;
//! let backbone = encoder::build(&preset, &candle_core::Device::Cpu, precision, Seed(0)).unwrap();
//! let image = vec![128u8; preset.image_bytes()];
//! let pixels = preset.normalise(&image, &candle_core::Device::Cpu).unwrap();
//! let embedding = backbone.freeze().unwrap().embed(&pixels).unwrap();
//! assert_eq!(embedding.dims(), [1, preset.features()]);
//! ```

mod architecture;
mod backbone;
mod cpu;
mod cuda;
mod error;
mod exported;
mod frozen;
mod fused;
mod heads;
mod id;
mod norm;
mod pool;
mod preset;
mod resnet;
mod weights;

use candle_core::{DType, Device};

pub use architecture::{Block, blocks, initial_parameters, initial_statistics, parameter_layout, statistics_layout};
pub use backbone::{Backbone, Embedder, Parameter};
pub use cpu::CpuResNet18;
pub use cuda::CudaResNet18;
pub use error::EncoderError;
pub use exported::Weights;
pub use frozen::Frozen;
pub use heads::{Head, HeadShape, LayerShape};
pub use id::EncoderId;
pub use norm::{EPSILON, MOMENTUM};
pub use preset::{Architecture, Preset, Stem};
pub use resnet::PlainResNet18;
pub use weights::{GivenWeights, to_safetensors};

use crate::config::{Precision, Seed};
use crate::device::cuda as accelerator;

/// The trainable network of a preset, freshly initialised: the one place that picks how it is computed. On the CPU by kernels
/// of its own, on CUDA by cuDNN and kernels of its own, elsewhere by plain tensors.
///
/// # Errors
/// Where the device cannot hold the parameters, or does not multiply in that precision.
pub fn build(
    preset: &Preset,
    device: &Device,
    precision: Precision,
    seed: Seed,
) -> Result<Box<dyn Backbone>, EncoderError> {
    if device.is_cpu() {
        return Ok(Box::new(CpuResNet18::new(preset, seed)?.with_precision(precision)?));
    }
    if let Some(machine) = accelerator::machine(device) {
        let machine = machine?;
        let precision = accelerator::precision(machine.as_ref(), precision)
            .ok_or_else(|| EncoderError::no_precision(precision, "this GPU has no tensor cores for it"))?;
        return Ok(Box::new(CudaResNet18::new(preset, machine, precision, seed)?));
    }
    if !matches!(precision, Precision::Auto | Precision::F32) {
        return Err(EncoderError::no_precision(precision, "this device's network multiplies in f32 only"));
    }
    Ok(Box::new(PlainResNet18::new(preset, device, DType::F32, seed)?))
}
