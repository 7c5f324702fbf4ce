use std::path::{Path, PathBuf};

use crate::encoder::EncoderError;
use crate::evaluate::EvaluateError;
use crate::knn::KnnError;
use crate::learn::LearnError;
use crate::learn::checkpoint::CheckpointError;
use crate::replay::ReplayError;
use crate::segment::SegmentError;

/// Why an experiment cannot be run or told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    #[error("there is no dataset \"{name}\"; known are {known}")]
    UnknownDataset { name: String, known: String },
    #[error(
        "{} is missing: {dataset} is expected as its authors publish it, {layout}; published in {published}",
        path.display()
    )]
    Missing { dataset: &'static str, path: PathBuf, layout: &'static str, published: &'static str },
    #[error("{}: {what}; {dataset} is expected as its authors publish it, {layout}; published in {published}", path.display())]
    Damaged { dataset: &'static str, path: PathBuf, what: String, layout: &'static str, published: &'static str },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{key} = {value}: {message}")]
    Setting { key: String, value: String, message: String },
    #[error("{} cannot be understood: {message}", path.display())]
    File { path: PathBuf, message: String },
    #[error(
        "{} holds a run with other settings ({key} was {saved}, is {wanted}): give another --out, or remove the folder",
        path.display()
    )]
    OtherRun { path: PathBuf, key: String, saved: String, wanted: String },
    #[error("{} is being run by another process: wait for it, or give another --out", path.display())]
    Busy { path: PathBuf },
    #[error("no result was found in {}: a run that has ended leaves a result.json there", path.display())]
    NoResult { path: PathBuf },
    #[error("what is forgotten of task {task} could not be measured: {message}")]
    Measure { task: u32, message: String },
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    #[error(transparent)]
    Learn(#[from] LearnError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(transparent)]
    Knn(#[from] KnnError),
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    #[error("the device failed: {0}; if it ran out of memory, take a smaller batch or a narrower preset")]
    Tensor(#[from] candle_core::Error),
}

impl ExperimentError {
    /// Stable name for logs and exit codes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownDataset { .. } => "unknown-dataset",
            Self::Missing { .. } => "dataset-missing",
            Self::Damaged { .. } => "dataset-damaged",
            Self::Io { .. } => "experiment-io",
            Self::Setting { .. } => "bad-setting",
            Self::File { .. } => "bad-experiment-file",
            Self::OtherRun { .. } => "other-run",
            Self::Busy { .. } => "run-busy",
            Self::NoResult { .. } => "no-result",
            Self::Measure { .. } => "not-measured",
            Self::Encoder(error) => error.code(),
            Self::Learn(error) => error.code(),
            Self::Checkpoint(error) => error.code(),
            Self::Replay(error) => error.code(),
            Self::Segment(error) => error.code(),
            Self::Knn(error) => error.code(),
            Self::Evaluate(error) => error.code(),
            Self::Tensor(_) => "device-failed",
        }
    }

    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }

    pub(super) fn setting(key: &str, value: impl ToString, message: impl ToString) -> Self {
        Self::Setting { key: key.into(), value: value.to_string(), message: message.to_string() }
    }
}
