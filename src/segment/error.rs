use super::TaskId;

/// What segmentation refuses, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The pixels do not fit the side that was stated.
    #[error(
        "segmentation got {bytes} bytes for a square RGB image of side {side} (wanted side * side * 3, side 16 to 4096): \
         resize the image to the encoder's input first"
    )]
    ImageSize { side: usize, bytes: usize },
    /// The detector's state was written by another version, or is damaged.
    #[error("the stored state of the drift detector cannot be used ({0}): start it anew, its warm-up takes 256 frames")]
    State(&'static str),
    /// No such task, or it was merged away.
    #[error("there is no task {0}: list the tasks for those that exist")]
    UnknownTask(TaskId),
    /// A task cannot be merged with itself, nor with a task of another scope.
    #[error("tasks {0} and {1} cannot be merged: they must be two tasks of the same scope")]
    CannotMerge(TaskId, TaskId),
    /// A name that would not be fit to print.
    #[error("a task's name has 1 to {max} characters and no control characters: choose another")]
    TaskName { max: usize },
    /// The database refused.
    #[error(
        "the task register cannot be read or written in the state folder's database: check the disk's space and health"
    )]
    Store(#[source] Box<redb::Error>),
    /// A stored task cannot be understood.
    #[error(
        "task {task} in the state folder's database is damaged ({reason}): restore the state folder, or start a new one"
    )]
    Damaged { task: u32, reason: String },
}

impl SegmentError {
    /// Stable name for logs, metrics and API problems.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ImageSize { .. } => "segment-image-size",
            Self::State(_) => "segment-state",
            Self::UnknownTask(_) => "unknown-task",
            Self::CannotMerge(..) => "cannot-merge-tasks",
            Self::TaskName { .. } => "invalid-task-name",
            Self::Store(_) => "task-store",
            Self::Damaged { .. } => "damaged-task",
        }
    }
}
