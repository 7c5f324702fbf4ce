//! Training on an NVIDIA GPU: kernels of our own, cuDNN's convolutions, steps recorded as CUDA graphs.
//!
//! Maps are NHWC, in bf16 (or f32, for parity); sums and statistics are f32. What a network needs is here as functions on
//! memory: [`norm`], [`pool`], [`filters`], [`optimiser`], [`views`] and the convolutions of a [`Queue`]. Their sizes are
//! checked before a kernel sees them, so callers need no `unsafe`; the network itself is the encoder's.
//!
//! All of it is written against [`Machine`]. A GPU is one machine (`gpu`, only in builds with CUDA). The tests have another:
//! kernels/*.cu keep to the part of CUDA C that a C compiler understands, and run on the CPU, where every barrier and
//! every order of threads is under control. [`checks()`] holds each kernel against its plain twin on either.
//!
//! Kernels are compiled when lumpd is built (build.rs): what was compiled is what was checked, starting does not wait for a
//! compiler, and a box without the CUDA tool kit can run it. They are machine code for the compute capability of the
//! build and PTX for newer ones, as candle's own kernels are.

pub mod checks;
mod faults;
pub mod filters;
#[cfg(feature = "cuda")]
pub(super) mod gpu;
mod machine;
pub mod norm;
pub mod optimiser;
mod parameters;
pub mod pool;
pub mod tensors;
pub mod twins;
pub mod views;

#[cfg(all(test, unix))]
mod emulator;
#[cfg(all(test, unix))]
mod tests;

use std::sync::Arc;

use candle_core::{Device, Result};

use crate::config;

pub use checks::{Check, checks};
pub use faults::{Fault, fault};
pub use machine::{
    ConvolutionShape, Launch, Machine, Operands, Pass, Plan, Precision, Queue, Recording, Region, bytes_of, values_of,
};
pub use parameters::{NormPlace, RateRange};

#[cfg(all(test, unix))]
pub use emulator::Emulator;

/// The machine of a device; `None` where it is no GPU, or none of this build's.
///
/// # Errors
/// Where the kernels cannot be loaded, or cuDNN does not start.
pub fn machine(device: &Device) -> Option<Result<Arc<dyn Machine>>> {
    #[cfg(feature = "cuda")]
    return gpu::machine(device);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        None
    }
}

/// In which numbers a network on the machine computes, as `learn.precision` asks; none where the machine has no such
/// multipliers.
pub fn precision(machine: &dyn Machine, asked: config::Precision) -> Option<Precision> {
    let fastest = machine.fastest();
    match asked {
        config::Precision::Auto => Some(fastest),
        config::Precision::F32 => Some(Precision::F32),
        config::Precision::Tf32 => (fastest != Precision::F32).then_some(Precision::Tf32),
        config::Precision::Bf16 => (fastest == Precision::Bf16).then_some(Precision::Bf16),
    }
}
