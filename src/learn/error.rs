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
        "the device has no memory for {images} images a step, nor had it for twice as many: {reason}; set a smaller learn.batch and learn.replay_batch, or a narrower encoder.preset"
    )]
    OutOfMemory { images: usize, reason: String },
    #[error("the device has failed with {name}, and takes no more work of this process: start lumpd again")]
    DeviceLost { name: &'static str },
    #[error(
        "the batch holds {bytes} bytes, which is no whole number of {side}x{side} RGB images: resize images to the encoder's side first"
    )]
    BatchBytes { bytes: usize, side: usize },
    #[error(
        "{count} of the last {window} steps gave a loss or gradient that is not finite (last at step {step}): go back to the last checkpoint; if it happens again, lower learn.learning_rate"
    )]
    Diverged { step: u64, count: usize, window: u64 },
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
    /// What the error means for whoever wants to go on; `None` where nothing is wrong with the device.
    pub(super) fn fault(&self) -> Option<Fault> {
        fault(self)
    }

    /// Stable name for logs, metrics and exit codes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Encoder(error) => error.code(),
            Self::Tensor(_) => "training-failed",
            Self::OutOfMemory { .. } => "out-of-device-memory",
            Self::DeviceLost { .. } => "device-lost",
            Self::BatchBytes { .. } => "bad-batch-bytes",
            Self::Diverged { .. } => "training-diverged",
            Self::MissingFile { .. } => "checkpoint-incomplete",
            Self::BadFile { .. } | Self::BadTensor { .. } => "checkpoint-damaged",
            Self::Mismatch { .. } => "checkpoint-mismatch",
        }
    }
}
