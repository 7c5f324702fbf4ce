//! The contract between the daemon and those who ask it something: every question as a plain method, every answer as a
//! plain type.
//!
//! There is no HTTP in here and no device. `serve` turns requests into calls of [`Answers`] and answers into JSON; the command
//! line reads the same types back. The daemon implements the trait on its published state: a version of the encoder with its
//! bank, swapped whole, and counters. So an answer never waits for a training step and never mixes two encoders.
//!
//! Units: times are UTC ([`Timestamp`], RFC 3339 on the wire), durations are seconds, sizes are bytes, rates are per second.
//! What is not defined (yet) is `null`, never 0.

mod control;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod learning;
mod memory;
mod status;
mod survey;

use bytes::Bytes;
pub use control::{Controls, Forgotten, TrainingState};
pub use error::{AnswerError, Label};
pub use learning::*;
pub use memory::*;
pub use status::*;
pub use survey::{EmbeddingMap, EmbeddingRow, EmbeddingRows, ExportedFile, History, MapPoint, Sample, Surveys};

/// A moment in UTC; RFC 3339 on the wire.
pub use jiff::Timestamp;

/// The moment that lies this many nanoseconds after the Unix epoch, as the other rooms count wall time.
///
/// ```
/// let noon = lumpd::daemon::answers::timestamp(43_200_000_000_000);
/// assert_eq!(noon.to_string(), "1970-01-01T12:00:00Z");
/// ```
pub fn timestamp(unix_nanoseconds: i64) -> Timestamp {
    // Every i64 of nanoseconds lies within the years 1677 to 2262; `Timestamp` reaches from -9999 to 9999.
    Timestamp::from_nanosecond(i128::from(unix_nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Everything that may be asked of a running daemon.
///
/// Methods are synchronous. Those that take an image decode and embed it, and [`Answers::ingest`] waits for the commit that
/// holds the frame: callers run them off the threads that serve sockets and bound how many run at once. No method waits
/// without bound: where something is full, the answer is [`AnswerError::Overloaded`].
pub trait Answers: Controls + Surveys {
    /// Whether a query would be answered now: the buffer is open and an encoder has been published. Training and
    /// checkpointing do not make a daemon unready.
    fn readiness(&self) -> Readiness;

    /// The daemon as a whole, on one page.
    fn status(&self) -> Status;

    /// Every inlet, in the order of the configuration, HTTP last.
    fn sources(&self) -> Vec<SourceStatus>;

    /// Every task of the register, by id.
    fn tasks(&self) -> Vec<TaskStatus>;

    /// # Errors
    /// [`AnswerError::UnknownTask`].
    fn task(&self, id: u32) -> Result<TaskStatus, AnswerError>;

    /// What the replay buffer holds.
    fn buffer(&self) -> BufferStatus;

    /// What is known of one stored image.
    ///
    /// # Errors
    /// [`AnswerError::UnknownImage`] where the buffer does not hold it (any more).
    fn image(&self, id: u64) -> Result<StoredImage, AnswerError>;

    /// The stored pixels of one image as a PNG file.
    ///
    /// # Errors
    /// [`AnswerError::UnknownImage`] where the buffer does not hold it (any more).
    fn thumbnail(&self, id: u64) -> Result<Vec<u8>, AnswerError>;

    /// The stored images nearest to one image, best first. A stored image is not its own neighbour.
    ///
    /// # Errors
    /// [`AnswerError::NoEncoderYet`], [`AnswerError::UnknownImage`], [`AnswerError::UnknownTask`] and
    /// [`AnswerError::UnknownSource`] of the filter, why the image cannot be decoded, or why the vector cannot be compared.
    fn query(&self, subject: &Subject, page: &Page, filter: &Filter) -> Result<Neighbours, AnswerError>;

    /// The `k` nearest of each of several subjects, by one version of the encoder.
    ///
    /// # Errors
    /// As [`Answers::query`]; one subject in error fails the batch, and [`AnswerError::InBatch`] names it.
    fn query_batch(
        &self,
        subjects: &[Subject],
        k: Option<usize>,
        filter: &Filter,
    ) -> Result<NeighbourBatch, AnswerError>;

    /// The embedding of one image by the published encoder.
    ///
    /// # Errors
    /// [`AnswerError::NoEncoderYet`], [`AnswerError::UnknownImage`], or why the image cannot be decoded.
    fn embed(&self, subject: &Subject) -> Result<Embedding, AnswerError>;

    /// The embeddings of several subjects by one version of the encoder.
    ///
    /// # Errors
    /// As [`Answers::embed`]; one subject in error fails the batch, and [`AnswerError::InBatch`] names it.
    fn embed_batch(&self, subjects: &[Subject]) -> Result<EmbeddingBatch, AnswerError>;

    /// The vote of the labelled neighbours of one image, each with the weight exp(similarity / temperature).
    ///
    /// `k`, `temperature`: the configured ones where `None`.
    ///
    /// # Errors
    /// [`AnswerError::NoEncoderYet`], [`AnswerError::UnknownImage`], or why the image cannot be decoded. That nothing carries a label
    /// yet is no error: the answer's label is `null`.
    fn classify(
        &self,
        subject: &Subject,
        k: Option<usize>,
        temperature: Option<f64>,
    ) -> Result<Classification, AnswerError>;

    /// Every label in use, in the order of the alphabet, with how many images carry it.
    fn labels(&self) -> Vec<LabelCount>;

    /// The stored images that carry a label, ids ascending; empty where none does.
    fn labelled(&self, label: &Label) -> Vec<u64>;

    /// Gives a label to stored images, in place of one they may carry: to all of them or, on an error, to none.
    ///
    /// # Errors
    /// [`AnswerError::UnknownImage`] names the first id that is not stored; [`AnswerError::Storage`].
    fn set_label(&self, label: &Label, ids: &[u64]) -> Result<LabelChange, AnswerError>;

    /// Takes the labels of stored images away: of all of them or, on an error, of none.
    ///
    /// # Errors
    /// As [`Answers::set_label`].
    fn remove_labels(&self, ids: &[u64]) -> Result<LabelChange, AnswerError>;

    /// What each task has lost since it ended: the report of the evaluation, as it writes it.
    fn forgetting(&self) -> serde_json::Value;

    /// The accuracy matrix of the labelled tasks, as the evaluation writes it.
    fn accuracy(&self) -> serde_json::Value;

    /// What has happened after event number `after` (0: from the oldest kept), oldest first, at most `limit`.
    fn events(&self, after: u64, limit: usize) -> Events;

    /// Takes one frame in, as any other source would, and returns once it is as durable as `[replay] durability` promises.
    ///
    /// # Errors
    /// Why the frame is refused, [`AnswerError::Overloaded`] where the queue is full, [`AnswerError::Draining`] at the end.
    fn ingest(&self, frame: PostedFrame) -> Result<Ingested, AnswerError>;
}

/// The image a question is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// A stored image, by id.
    Stored(u64),
    /// An encoded image: JPEG, PNG, WebP, BMP or PNM.
    Encoded(Bytes),
    /// An embedding. Where it names the encoder that made it, that must be the published one.
    Vector { vector: Vec<f32>, encoder: Option<String> },
}

/// Which neighbours of an ordered list are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Page {
    /// How many; the configured number where `None`.
    pub k: Option<usize>,
    /// How many better ones are left out.
    pub offset: usize,
}

/// Which stored images may be neighbours; every condition that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub task: Option<u32>,
    /// A source's name.
    pub source: Option<String>,
    pub label: Option<String>,
    /// Captured then or later.
    pub since: Option<Timestamp>,
    /// Captured before then.
    pub until: Option<Timestamp>,
}

/// An image handed in over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostedFrame {
    /// The encoded image.
    pub image: Bytes,
    /// The source it is counted under; `http` where none is named.
    pub source: Option<String>,
    /// Given to the image if the buffer keeps it.
    pub label: Option<Label>,
}
