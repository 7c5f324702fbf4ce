//! Views of everything at once: the stored images in order, the last hour in samples, the embedding as a map, and files that
//! other programs read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::{AnswerError, Filter, StoredImage};

/// Everything that may be looked at as a whole.
pub trait Surveys: Send + Sync + 'static {
    /// Stored images that fit the filter, by id, after (or with `newest_first` before) the id `after`; at most `limit`.
    ///
    /// # Errors
    /// [`AnswerError::UnknownTask`] and [`AnswerError::UnknownSource`] of the filter.
    fn images(
        &self,
        filter: &Filter,
        newest_first: bool,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredImage>, AnswerError>;

    /// Samples of the daemon's numbers since `since`, oldest first.
    fn history(&self, since: Option<Timestamp>) -> History;

    /// How the forgetting index of every task went, as the evaluation writes it.
    fn forgetting_history(&self) -> serde_json::Value;

    /// The bank on its first two principal components, at most `limit` points.
    ///
    /// # Errors
    /// [`AnswerError::NoEncoderYet`].
    fn map(&self, limit: usize) -> Result<EmbeddingMap, AnswerError>;

    /// Rows of the bank that fit the filter, by id, after the id `after`; at most `limit`.
    ///
    /// # Errors
    /// [`AnswerError::NoEncoderYet`], and those of the filter.
    fn embeddings(&self, filter: &Filter, after: u64, limit: usize) -> Result<EmbeddingRows, AnswerError>;

    /// The whole bank as a safetensors file: `embeddings` (n, width) f32, `ids` (n) i64, `tasks` (n) i64 (0: none), `sources` (n)
    /// i64 and `captured_at_ns` (n) i64, with the encoder and the names of sources and tasks in the metadata.
    ///
    /// # Errors
    /// [`AnswerError::NoEncoderYet`].
    fn bank_file(&self) -> Result<ExportedFile, AnswerError>;

    /// The published encoder as a safetensors file under torchvision's names.
    ///
    /// # Errors
    /// [`AnswerError::NoEncoderYet`].
    fn encoder_file(&self) -> Result<ExportedFile, AnswerError>;

    /// Follows the number of the latest event.
    fn follow_events(&self) -> watch::Receiver<u64>;
}

/// A file made for another program.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedFile {
    /// Hash of the encoder's weights.
    pub encoder: String,
    /// The published version's number.
    pub encoder_version: u64,
    pub bytes: Vec<u8>,
}

/// The daemon's numbers over time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Seconds between two samples, about.
    pub interval_seconds: f64,
    /// Oldest first.
    pub samples: Vec<Sample>,
}

/// The daemon's numbers at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    pub at: Timestamp,
    /// Frames taken in since the start.
    pub accepted: u64,
    /// Mean over the last seconds.
    pub accepted_per_second: f64,
    /// Frames turned away or skipped for training since the start.
    pub dropped: u64,
    pub skipped_for_training: u64,
    /// Mean loss of the latest steps; null before the first.
    pub loss: Option<f64>,
    pub steps: u64,
    /// Images through training a second, replayed ones included.
    pub images_per_second: f64,
    /// The drift statistic; null before there is one.
    pub statistic: Option<f64>,
    /// Beyond it a task ends; null before it is calibrated.
    pub threshold: Option<f64>,
    /// The open task, the highest where there are several; null before the first frame.
    pub task: Option<u32>,
    /// Images in the replay buffer.
    pub stored: u64,
}

/// The bank in two dimensions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingMap {
    /// Hash of the encoder's weights.
    pub encoder: String,
    /// The published version's number.
    pub encoder_version: u64,
    /// Share of the variance that each of the two axes shows, 0 to 1; null where there is no variance.
    pub explained: Vec<Option<f64>>,
    /// Rows of the bank; the map may show fewer.
    pub rows: u64,
    pub points: Vec<MapPoint>,
}

/// An image's place on the map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MapPoint {
    pub id: u64,
    pub task: Option<u32>,
    pub label: Option<String>,
    pub x: f32,
    pub y: f32,
}

/// A page of the bank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingRows {
    /// Hash of the encoder's weights.
    pub encoder: String,
    /// The published version's number.
    pub encoder_version: u64,
    /// Numbers of one vector.
    pub width: usize,
    pub rows: Vec<EmbeddingRow>,
    /// Ask for the next page with `after` this id; null on the last.
    pub next: Option<u64>,
}

/// One stored image's embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingRow {
    pub id: u64,
    /// Of length 1 (L2).
    pub vector: Vec<f32>,
}
