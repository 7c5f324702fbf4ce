use crate::device::{Fault, fault};
use crate::encoder::EncoderError;

/// Why the learner cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    #[error(
        "the training step failed on its device: {0}; if it ran out of memory, set a smaller learn.batch or a narrower encoder.preset"
    )]
    Tensor(#[from] candle_core::Error),
    #[error(
        "the batch holds {bytes} bytes, which is no whole number of {side}x{side} RGB images: resize images to the encoder's side first"
    )]
    BatchBytes { bytes: usize, side: usize },
    #[error(
        "{count} of the last {window} steps gave a loss or gradient that is not finite or far out of what was usual (last at step {step}): go back to the last checkpoint; if it happens again, lower learn.learning_rate"
    )]
    Diverged { step: u64, count: usize, window: u64 },
    #[error(
        "the device ran out of memory with a batch halved already: {0}; start again, with a smaller learn.batch, learn.replay_batch or a narrower encoder.preset"
    )]
    OutOfMemory(candle_core::Error),
    #[error("the checkpoint has no {file}: it is incomplete; go back to an earlier one")]
    MissingFile { file: &'static str },
    #[error("{file} of the checkpoint cannot be understood: {message}; go back to an earlier one")]
    BadFile { file: &'static str, message: String },
    #[error(
        "{file} of the checkpoint: {message}; it was not made by this network, or is damaged: go back to an earlier one"
    )]
    BadTensor { file: &'static str, message: String },
    #[error(
        "the checkpoint was made with {setting} = {saved}, but {wanted} is set now: set it back, or start in a new state folder"
    )]
    Mismatch { setting: &'static str, saved: String, wanted: String },
}

impl LearnError {
    /// Whether the device had no memory left. Drivers say so in words only: CUDA's `CUDA_ERROR_OUT_OF_MEMORY`, cuDNN's and
    /// cuBLAS's `ALLOC_FAILED`, and "out of memory" elsewhere.
    pub fn is_out_of_memory(&self) -> bool {
        let words = match self {
            Self::Tensor(error) | Self::OutOfMemory(error) | Self::Encoder(EncoderError::Tensor(error)) => {
                error.to_string().to_lowercase()
            }
            _ => return false,
        };
        ["out_of_memory", "out of memory", "alloc_failed", "allocation_failed"].iter().any(|sign| words.contains(sign))
    }

    /// Whether the device itself has failed, so that only another process can use it again.
    pub fn is_device_lost(&self) -> bool {
        matches!(fault(self), Some(Fault::Lost { .. }))
    }

    /// Whether a checkpoint's files are damaged, so that an earlier one may do; not where it was made with other settings.
    pub fn is_damaged_checkpoint(&self) -> bool {
        matches!(self, Self::MissingFile { .. } | Self::BadFile { .. } | Self::BadTensor { .. })
    }

    /// Stable name for logs, metrics and exit codes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Encoder(error) => error.code(),
            _ if self.is_device_lost() => "device-lost",
            Self::Tensor(_) => "training-failed",
            Self::BatchBytes { .. } => "bad-batch-bytes",
            Self::Diverged { .. } => "training-diverged",
            Self::OutOfMemory(_) => "out-of-device-memory",
            Self::MissingFile { .. } => "checkpoint-incomplete",
            Self::BadFile { .. } | Self::BadTensor { .. } => "checkpoint-damaged",
            Self::Mismatch { .. } => "checkpoint-mismatch",
        }
    }
}
