//! What may be changed: training, tasks, checkpoints; and the removal of images.

use std::sync::PoisonError;

use serde_json::json;

use super::Live;
use crate::config::SegmentScope;
use crate::daemon::answers::{
    AnswerError, CheckpointStatus, Controls, DaemonState, Forgotten, TaskStatus, Timestamp, TrainingState,
};
use crate::daemon::learner::Command;
use crate::daemon::pipeline::announce;
use crate::daemon::requests::{Request, await_reply, reply};
use crate::segment::{SegmentError, SegmentEvent, TaskId, TaskRegister};
use crate::stream::{FrameId, SourceId};

const MEMORY: &str = "the memory thread";
const LEARNER: &str = "the learner";

impl Controls for Live {
    fn pause_training(&self) -> TrainingState {
        let paused = {
            let mut learning = self.shared.learning();
            let new = learning.paused_since.is_none();
            learning.paused_since.get_or_insert_with(Timestamp::now);
            new
        };
        if paused {
            self.shared.events.tell("training-paused", "training rests until it is resumed".into(), json!({}));
        }
        self.training_state()
    }

    fn resume_training(&self) -> TrainingState {
        let (rested, frozen) = {
            let mut learning = self.shared.learning();
            (learning.paused_since.take().is_some(), learning.frozen.take().is_some())
        };
        if frozen {
            self.mailbox.send(Command::Thaw);
        }
        if rested || frozen {
            self.shared.events.tell("training-resumed", "training goes on".into(), json!({}));
        }
        self.training_state()
    }

    fn checkpoint_now(&self) -> Result<CheckpointStatus, AnswerError> {
        self.refuse_while_draining()?;
        let (reply, answer) = reply();
        self.mailbox.send(Command::Checkpoint(reply));
        await_reply(&answer, LEARNER)?;
        self.checkpoint_status().ok_or(AnswerError::Busy { what: LEARNER })
    }

    fn mark_boundary(&self, source: Option<&str>, name: Option<&str>) -> Result<TaskStatus, AnswerError> {
        self.refuse_while_draining()?;
        let source = self.stream_meant(source)?;
        let (events, opened, renamed) = {
            let mut segmenter = self.segmenter.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(name) = name {
                check_name(name)?;
            }
            // The number after the last one observed: the segmenter knows it.
            let events = segmenter.mark_boundary(source, FrameId(1));
            let opened = events.iter().rev().find_map(|event| match event {
                SegmentEvent::TaskOpened { task, first, .. } => Some((*task, *first)),
                _ => None,
            });
            let renamed = match (opened, name) {
                (Some((task, _)), Some(name)) => segmenter.register_mut().rename(task, name),
                _ => Ok(()),
            };
            (events, opened, renamed)
        };
        let Some((task, first)) = opened else {
            return Err(AnswerError::Internal { detail: "a boundary set by hand opened no task".into() });
        };
        self.moments.begin(first, Timestamp::now().as_nanosecond() as i64);
        announce(&events, &self.shared, &self.moments, &self.mailbox);
        renamed.map_err(refusal)?;
        self.save_tasks()?;
        self.task_row(task)
    }

    fn rename_task(&self, id: u32, name: &str) -> Result<TaskStatus, AnswerError> {
        check_name(name)?;
        self.change_tasks(|register| register.rename(TaskId(id), name))?;
        self.task_row(TaskId(id))
    }

    fn merge_tasks(&self, a: u32, b: u32) -> Result<TaskStatus, AnswerError> {
        let merged = self.change_tasks(|register| register.merge(TaskId(a), TaskId(b)))?;
        let (kept, gone) = (merged.kept, merged.gone);
        let message = format!("task {gone} is part of task {kept} now, as somebody asked");
        let event = SegmentEvent::TasksMerged { kept, gone, distance: merged.distance };
        self.shared.events.tell("tasks-merged", message, json!(event));
        self.mailbox.send(Command::TaskGone(gone));
        self.task_row(kept)
    }

    fn forget_images(&self, ids: &[u64]) -> Result<Forgotten, AnswerError> {
        self.refuse_while_draining()?;
        let (reply_memory, answer) = reply();
        let frames = ids.iter().copied().map(FrameId).collect();
        self.requests.push(Request::Forget { frames, reply: reply_memory })?;
        let gone = await_reply(&answer, MEMORY)?;
        let storage = |error: crate::knn::KnnError| AnswerError::Storage { detail: error.to_string() };
        self.labels.remove(&gone).map_err(storage)?;
        let (reply_learner, answer) = reply();
        self.mailbox.send(Command::Refresh(reply_learner));
        await_reply(&answer, LEARNER)?;
        let unknown = ids.iter().copied().filter(|id| !gone.contains(&FrameId(*id))).collect();
        let forgotten = gone.len() as u64;
        if forgotten > 0 {
            let message = format!("{forgotten} images were removed for good, as somebody asked");
            self.shared.events.tell("images-forgotten", message, json!({ "images": forgotten }));
        }
        Ok(Forgotten { forgotten, unknown })
    }
}

impl Live {
    fn training_state(&self) -> TrainingState {
        let learning = self.shared.learning();
        TrainingState { paused_since: learning.paused_since, frozen: learning.frozen.clone(), steps: learning.steps }
    }

    fn refuse_while_draining(&self) -> Result<(), AnswerError> {
        if self.shared.state() == DaemonState::Draining { Err(AnswerError::Draining) } else { Ok(()) }
    }

    /// The source whose stream of tasks is meant.
    fn stream_meant(&self, name: Option<&str>) -> Result<SourceId, AnswerError> {
        match name {
            Some(name) => self.source_id(name),
            None if self.config().segment.scope == SegmentScope::Shared => Ok(SourceId(0)),
            None => Err(AnswerError::Invalid {
                field: "source",
                detail: "every source has tasks of its own, and `source` names none".into(),
                remedy: "name the source whose task ends",
            }),
        }
    }

    fn change_tasks<T>(
        &self,
        change: impl FnOnce(&mut TaskRegister) -> Result<T, SegmentError>,
    ) -> Result<T, AnswerError> {
        let changed = {
            let mut segmenter = self.segmenter.write().unwrap_or_else(PoisonError::into_inner);
            change(segmenter.register_mut()).map_err(refusal)?
        };
        self.save_tasks()?;
        Ok(changed)
    }

    fn save_tasks(&self) -> Result<(), AnswerError> {
        let mut segmenter = self.segmenter.write().unwrap_or_else(PoisonError::into_inner);
        segmenter.register_mut().save().map_err(refusal)
    }

    fn task_row(&self, id: TaskId) -> Result<TaskStatus, AnswerError> {
        let current = self.segmenter().register().current(id);
        self.task_table().into_iter().find(|task| task.id == current.0).ok_or(AnswerError::UnknownTask { id: id.0 })
    }
}

/// Before anything is changed: a boundary cannot be taken back for its name.
fn check_name(name: &str) -> Result<(), AnswerError> {
    let mut probe = TaskRegister::in_memory(2);
    match probe.rename(TaskId(0), name) {
        Err(error @ SegmentError::TaskName { .. }) => Err(refusal(error)),
        _ => Ok(()),
    }
}

fn refusal(error: SegmentError) -> AnswerError {
    match error {
        SegmentError::UnknownTask(id) => AnswerError::UnknownTask { id: id.0 },
        SegmentError::CannotMerge(a, b) => AnswerError::Invalid {
            field: "tasks",
            detail: format!("tasks {a} and {b} cannot be merged"),
            remedy: "name two different tasks of the same stream",
        },
        SegmentError::TaskName { max } => AnswerError::Invalid {
            field: "name",
            detail: format!("a task's name has 1 to {max} characters and no control characters"),
            remedy: "choose another name",
        },
        other => AnswerError::Storage { detail: other.to_string() },
    }
}
