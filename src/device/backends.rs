//! The accelerators of this build, behind one pair of functions; the features of the build are looked at nowhere else.

use candle_core::Device;

use super::{Backend, DeviceError, DeviceInfo};

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;

    use super::*;

    fn unusable(reason: impl std::fmt::Display) -> DeviceError {
        DeviceError::Unusable { kind: Backend::Cuda, reason: reason.to_string() }
    }

    pub fn list() -> Result<Vec<DeviceInfo>, DeviceError> {
        let count = CudaContext::device_count().map_err(unusable)?;
        (0..usize::try_from(count).unwrap_or(0)).map(info).collect()
    }

    fn info(ordinal: usize) -> Result<DeviceInfo, DeviceError> {
        let context = CudaContext::new(ordinal).map_err(unusable)?;
        Ok(DeviceInfo {
            backend: Backend::Cuda,
            ordinal,
            name: context.name().map_err(unusable)?,
            cores: None,
            memory_bytes: context.total_mem().ok().map(|bytes| bytes as u64),
            features: Vec::new(),
        })
    }

    pub fn open(ordinal: usize) -> Result<Device, DeviceError> {
        // A stream of its own: the per-thread default stream would serialise with others and cannot be captured.
        Device::new_cuda_with_stream(ordinal).map_err(unusable)
    }
}

#[cfg(feature = "metal")]
mod metal {
    use super::*;

    fn unusable(reason: impl std::fmt::Display) -> DeviceError {
        DeviceError::Unusable { kind: Backend::Metal, reason: reason.to_string() }
    }

    pub fn list() -> Result<Vec<DeviceInfo>, DeviceError> {
        // candle takes the system's default device whatever the ordinal, so there is one to choose from.
        open(0)?;
        Ok(vec![DeviceInfo {
            backend: Backend::Metal,
            ordinal: 0,
            name: "Apple GPU".into(),
            cores: None,
            memory_bytes: None,
            features: Vec::new(),
        }])
    }

    pub fn open(ordinal: usize) -> Result<Device, DeviceError> {
        Device::new_metal(ordinal).map_err(unusable)
    }
}

/// The devices of an accelerator's kind, by ordinal.
pub fn list(kind: Backend) -> Result<Vec<DeviceInfo>, DeviceError> {
    match kind {
        #[cfg(feature = "cuda")]
        Backend::Cuda => cuda::list(),
        #[cfg(feature = "metal")]
        Backend::Metal => metal::list(),
        _ => Err(DeviceError::NotBuilt { kind }),
    }
}

/// Makes such a device ready for use.
pub fn open(kind: Backend, ordinal: usize) -> Result<Device, DeviceError> {
    match kind {
        #[cfg(feature = "cuda")]
        Backend::Cuda => cuda::open(ordinal),
        #[cfg(feature = "metal")]
        Backend::Metal => metal::open(ordinal),
        _ => {
            let _ = ordinal; // Without accelerators nobody reads it.
            Err(DeviceError::NotBuilt { kind })
        }
    }
}
