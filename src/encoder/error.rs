use std::path::PathBuf;

use crate::config::Precision;

/// Why there is no such encoder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    #[error(
        "there is no encoder preset \"{name}\"; built in are {known}; a file of your own is named by its path, ending in .toml"
    )]
    UnknownPreset { name: String, known: String },
    #[error("cannot read the encoder preset {}: {source}; check that it exists and is readable", path.display())]
    ReadPreset { path: PathBuf, source: std::io::Error },
    #[error("the encoder preset {name} cannot be understood: {message}; compare it with one of models/")]
    ParsePreset { name: String, message: String },
    #[error("the encoder preset {name}: {key} is {value}, but must be {allowed}")]
    PresetValue { name: String, key: &'static str, value: String, allowed: &'static str },
    #[error("cannot read the weights {}: {source}; check the path", path.display())]
    ReadWeights { path: PathBuf, source: std::io::Error },
    #[error(
        "the weights {} cannot be taken: {message}; wanted is a safetensors file with torchvision's names",
        path.display()
    )]
    ParseWeights { path: PathBuf, message: String },
    #[error("the weights {} cannot be taken: {tensor} {what}; {remedy}", path.display())]
    WeightsTensor { path: PathBuf, tensor: String, what: String, remedy: String },
    #[error(
        "the images hold {bytes} bytes, which is no whole number of {side}x{side} RGB images: resize them to the preset's side first"
    )]
    ImageBytes { bytes: usize, side: usize },
    #[error("learn.precision is \"{asked}\", but {reason}: set learn.precision = \"auto\"")]
    NoPrecision { asked: &'static str, reason: String },
    #[error(
        "the encoder failed on its device: {0}; if it ran out of memory, take a smaller batch or a narrower preset"
    )]
    Tensor(#[from] candle_core::Error),
}

impl EncoderError {
    /// The device does not multiply as asked.
    pub(super) fn no_precision(asked: Precision, reason: &str) -> Self {
        Self::NoPrecision { asked: asked.name(), reason: reason.into() }
    }

    /// Stable name for logs, metrics and exit codes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownPreset { .. } => "unknown-preset",
            Self::ReadPreset { .. } => "unreadable-preset",
            Self::ParsePreset { .. } | Self::PresetValue { .. } => "bad-preset",
            Self::ReadWeights { .. } => "unreadable-weights",
            Self::ParseWeights { .. } | Self::WeightsTensor { .. } => "bad-weights",
            Self::ImageBytes { .. } => "bad-image-bytes",
            Self::NoPrecision { .. } => "no-precision",
            Self::Tensor(_) => "encoder-failed",
        }
    }
}
