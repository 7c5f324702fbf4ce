//! The accelerators of this build, behind one pair of functions; the features of the build are looked at nowhere else.

use candle_core::Device;

use super::{Backend, DeviceError, DeviceInfo, DeviceMemory};

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;

    use super::*;
    use crate::device::cuda::gpu;

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
            features: features(&context)?,
        })
    }

    fn capability(context: &CudaContext) -> Result<u32, DeviceError> {
        let (major, minor) = context.compute_capability().map_err(unusable)?;
        Ok((10 * major + minor) as u32)
    }

    /// What it is, and what this build's kernels need: `sm_90 (built for sm_80 and newer)`.
    fn features(context: &CudaContext) -> Result<Vec<String>, DeviceError> {
        let found = capability(context)?;
        Ok(vec![match gpu::built_for() {
            Some(built) => format!("sm_{found} (built for sm_{built} and newer)"),
            None => format!("sm_{found}"),
        }])
    }

    /// Kernels run on the capability they were built for and on newer ones: better said at start than by the first launch.
    fn check(context: &CudaContext) -> Result<(), DeviceError> {
        let found = capability(context)?;
        match gpu::built_for() {
            Some(built) if found < built => Err(unusable(format!(
                "this build is for compute capability {} and newer, the device has {}; build with CUDA_COMPUTE_CAP={found}",
                f64::from(built) / 10.0,
                f64::from(found) / 10.0
            ))),
            _ => Ok(()),
        }
    }

    pub fn memory(device: &Device) -> Option<DeviceMemory> {
        let Device::Cuda(device) = device else { return None };
        let (free, total) = device.cuda_stream().context().mem_get_info().ok()?;
        Some(DeviceMemory { free_bytes: free as u64, total_bytes: total as u64 })
    }

    pub fn open(ordinal: usize) -> Result<Device, DeviceError> {
        let context = CudaContext::new(ordinal).map_err(unusable)?;
        check(&context)?;
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

/// See [`super::in_pool`].
#[cfg(all(feature = "metal", target_vendor = "apple"))]
pub fn in_pool<T>(work: impl FnOnce() -> T) -> T {
    objc2::rc::autoreleasepool(|_| work())
}

/// See [`super::in_pool`].
#[cfg(not(all(feature = "metal", target_vendor = "apple")))]
pub fn in_pool<T>(work: impl FnOnce() -> T) -> T {
    work()
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

/// Memory of an accelerator; `None` where it has none of its own or does not tell.
pub fn memory(device: &Device) -> Option<DeviceMemory> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return cuda::memory(device);
    }
    let _ = device; // Without accelerators nobody reads it.
    None
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
