//! What can go wrong in this room.

use crate::stream::FrameId;

use super::labels::MAX_LABEL_BYTES;

/// What can go wrong between a query and its neighbours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnnError {
    #[error(
        "an embedding has {found} numbers and the bank of this encoder version has {expected}: embed it with the version of the bank"
    )]
    Width { expected: usize, found: usize },
    #[error(
        "query {query} has no direction (all zeros, or a number that is not finite): check the image, or wait for the next encoder version"
    )]
    NoDirection { query: usize },
    #[error("temperature {0} does not weigh neighbours: set knn.temperature to a number above 0, such as 0.1")]
    Temperature(f64),
    #[error("the label of frame {} is {found} bytes long: use 1 to {MAX_LABEL_BYTES} bytes", frame.0)]
    LabelLength { frame: FrameId, found: usize },
    #[error("the label of frame {} has a control character, or white space at an end: remove it", frame.0)]
    LabelCharacter { frame: FrameId },
    #[error("{doing} failed: check that the disk of the state folder is writable and not full")]
    Store { doing: &'static str, source: Box<redb::Error> },
}

impl KnnError {
    /// Stable name for logs, metrics and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Width { .. } => "embedding-width",
            Self::NoDirection { .. } => "embedding-without-direction",
            Self::Temperature(_) => "invalid-temperature",
            Self::LabelLength { .. } => "label-length",
            Self::LabelCharacter { .. } => "label-character",
            Self::Store { .. } => "label-store",
        }
    }
}
