//! What a failed computation on an accelerator means for whoever asked for it.
//!
//! Drivers and libraries name their errors; tensors pass the names on within their own errors, wrapped in several ways. The
//! names are stable, so they are looked for in the words of the whole chain.

/// Two kinds of failure after which a computation cannot simply go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The device has no memory left for it: less work at a time may succeed.
    OutOfMemory,
    /// The device has failed, and with it everything that this process has on it: only another process can use it again.
    Lost { name: &'static str },
}

/// Names of the driver, cuBLAS and cuDNN for a lack of memory.
const OUT_OF_MEMORY: [&str; 5] = [
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CURAND_STATUS_ALLOCATION_FAILED",
];

/// Errors after which the driver refuses everything else: the 700s, and a device that is gone.
const LOST: [&str; 13] = [
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
];

/// The fault behind an error; `None` for every other one.
pub fn fault(error: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let words = error.to_string();
        if let Some(name) = LOST.into_iter().find(|name| words.contains(name)) {
            return Some(Fault::Lost { name });
        }
        if OUT_OF_MEMORY.iter().any(|name| words.contains(name)) {
            return Some(Fault::OutOfMemory);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_behind_any_wrapping_and_other_errors_are_none() {
        let error = candle_core::Error::msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert_eq!(fault(&error), Some(Fault::OutOfMemory));
        assert_eq!(fault(&error.context("forward").bt()), Some(Fault::OutOfMemory));
        let error =
            candle_core::Error::Cuda("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\")".into());
        assert_eq!(fault(&error), Some(Fault::Lost { name: "CUDA_ERROR_ILLEGAL_ADDRESS" }));
        assert_eq!(fault(&candle_core::Error::msg("shapes differ")), None);
    }
}
