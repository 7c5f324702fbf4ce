use serde::Serialize;

use super::TaskId;
use crate::stream::FrameId;

/// Something that happened to the tasks, told once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SegmentEvent {
    /// The newest frames are unusual for the task; not yet a boundary.
    Warning { task: TaskId, frame: FrameId, statistic: f64 },
    /// The task ended; `last` is its last frame so far.
    TaskClosed { task: TaskId, last: FrameId },
    /// A task began at `first`, give or take `uncertainty` distinct frames; it was noticed at `detected_at`.
    TaskOpened { task: TaskId, first: FrameId, detected_at: FrameId, uncertainty: usize },
    /// The task opened as `provisional` at `first` is an earlier one, and has its identity from `first` on.
    TaskReturned { task: TaskId, provisional: TaskId, first: FrameId, distance: f64 },
    /// The task opened as `provisional` at `first` is the very task before it: there was no boundary.
    BoundaryWithdrawn { task: TaskId, provisional: TaskId, first: FrameId, distance: f64 },
    /// There were more tasks than the limit: `gone` is `kept` from now on, frames and all.
    TasksMerged { kept: TaskId, gone: TaskId, distance: Option<f64> },
}
