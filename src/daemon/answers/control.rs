//! What may be changed of a running daemon, beside its images and labels: training, tasks, checkpoints; and what may be taken
//! out of it for good.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AnswerError, CheckpointStatus, TaskStatus};

/// Everything that may be asked to change.
///
/// Methods wait for the thread that owns what is to be changed, but not without bound: [`AnswerError::Busy`] says that it has
/// not come to it in time. What was asked for then still happens.
pub trait Controls: Send + Sync + 'static {
    /// Lets training rest until [`Controls::resume_training`] or a restart. Frames go on reaching buffer and segmentation.
    fn pause_training(&self) -> TrainingState;

    /// Lets training go on. One that was given up starts again from the last good checkpoint.
    fn resume_training(&self) -> TrainingState;

    /// Writes a checkpoint now and returns when it is on the disk.
    ///
    /// # Errors
    /// [`AnswerError::Busy`], [`AnswerError::Storage`], [`AnswerError::Draining`].
    fn checkpoint_now(&self) -> Result<CheckpointStatus, AnswerError>;

    /// Ends the open task of a source's stream by hand: the next frame is the first of a new one, which is returned.
    /// `source`: needed where every source has tasks of its own.
    ///
    /// # Errors
    /// [`AnswerError::UnknownSource`]; [`AnswerError::Invalid`] for a name that cannot be one, and where no source is named and
    /// each has its own tasks.
    fn mark_boundary(&self, source: Option<&str>, name: Option<&str>) -> Result<TaskStatus, AnswerError>;

    /// Gives a task a name: 1 to 64 characters of printable text.
    ///
    /// # Errors
    /// [`AnswerError::UnknownTask`], [`AnswerError::Invalid`], [`AnswerError::Storage`].
    fn rename_task(&self, id: u32, name: &str) -> Result<TaskStatus, AnswerError>;

    /// Makes two tasks one; the older number stays, and the other goes on meaning it.
    ///
    /// # Errors
    /// [`AnswerError::UnknownTask`], [`AnswerError::Invalid`] where they are one already or of different streams.
    fn merge_tasks(&self, a: u32, b: u32) -> Result<TaskStatus, AnswerError>;

    /// Removes images for good, held-out ones included: their pixels are overwritten on the disk, their embeddings leave the
    /// bank, their labels go. Returns when all of that is done. What training has learnt from them stays learnt.
    ///
    /// # Errors
    /// [`AnswerError::Busy`], [`AnswerError::Storage`], [`AnswerError::Draining`].
    fn forget_images(&self, ids: &[u64]) -> Result<Forgotten, AnswerError>;
}

/// Whether training goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrainingState {
    /// Since when it rests because somebody asked for it; null where it goes on.
    pub paused_since: Option<Timestamp>,
    /// Why it was given up; null where it was not.
    pub frozen: Option<String>,
    /// Gradient steps so far.
    pub steps: u64,
}

/// What was removed for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forgotten {
    /// Images removed.
    pub forgotten: u64,
    /// Ids asked for that were not stored (any more).
    pub unknown: Vec<u64>,
}
