//! The answer to "what is being forgotten?".

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::segment::TaskId;

use super::forgetting::TaskRecord;
use super::{AccuracySummary, ForgettingMonitor, Interval, Measurement, Representation, Version};

/// Why there is no forgetting index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// The task goes on: nothing of it can be forgotten yet.
    Open,
    /// The task ended, and no version has been published since.
    AwaitsVersion,
    /// Too few probes are held.
    TooFewProbes { found: usize, needed: usize },
    /// The encoder gave numbers that are not finite.
    NotFinite,
    /// At the task's end other views of the probes confirmed nothing of which are alike.
    NothingKnown,
    /// The probes could not be read or embedded; the log says why.
    MeasuringFailed,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open => write!(f, "not yet: the task is still going on"),
            Self::AwaitsVersion => write!(f, "not yet: no version of the encoder was measured since the task ended"),
            Self::TooFewProbes { found, needed } => write!(f, "{found} probes are held and {needed} are needed"),
            Self::NotFinite => write!(f, "the encoder's embeddings are not finite"),
            Self::NothingKnown => {
                write!(f, "at its end the encoder did not recognise this task's probes in other views of themselves")
            }
            Self::MeasuringFailed => write!(f, "its probes could not be measured: see the log"),
        }
    }
}

/// One task's part of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TaskForgetting {
    #[schema(value_type = u32)]
    pub task: TaskId,
    pub open: bool,
    /// How much of what was known at the task's end is still there, 0 to 1: 1 - forgetting index. Null where not defined.
    pub retained: Option<f64>,
    /// 95 % interval of `retained`, from leaving each probe out in turn.
    pub retained_interval: Option<Interval>,
    /// What `retained` was read from.
    pub measure: &'static str,
    /// Why `retained` is null.
    pub reason: Option<Reason>,
    /// The same in words.
    pub summary: String,
    /// The version at the task's end, which all others are compared with.
    pub reference: Option<Version>,
    /// Frames that the stream has brought since the last measurement's version, up to the latest one.
    pub staleness_frames: Option<u64>,
    /// The last measurement whole.
    pub latest: Option<Measurement>,
}

/// How one task's forgetting index went since it ended.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TaskHistory {
    #[schema(value_type = u32)]
    pub task: TaskId,
    /// The version at the task's end.
    pub reference: Option<Version>,
    /// Oldest first.
    pub measurements: Vec<RetainedAt>,
}

/// How much of a task was still there at one version.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RetainedAt {
    pub version: Version,
    /// 0 to 1; null where not defined.
    pub retained: Option<f64>,
}

/// What is being forgotten, as of the latest version measured.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ForgettingReport {
    /// Null before the first version was measured.
    pub version: Option<Version>,
    pub tasks: Vec<TaskForgetting>,
    /// Mean of `retained` over the tasks that have one.
    pub mean_retained: Option<f64>,
    /// Is the encoder collapsing? Stable neighbourhoods alone do not exclude it.
    pub representation: Option<Representation>,
    /// From labels; all null where nothing is labelled.
    pub accuracy: AccuracySummary,
}

impl ForgettingMonitor {
    /// How every task went, by number.
    pub fn histories(&self) -> Vec<TaskHistory> {
        let point = |measured: &Measurement| RetainedAt {
            version: measured.version.clone(),
            retained: measured.forgetting_index.map(|index| (1.0 - index).clamp(0.0, 1.0)),
        };
        let of = |(task, record): (&TaskId, &TaskRecord)| TaskHistory {
            task: *task,
            reference: record.reference.as_ref().map(|reference| reference.version.clone()),
            measurements: record.history.iter().map(point).collect(),
        };
        self.book.tasks.iter().map(of).collect()
    }

    /// The answer as of now.
    pub fn report(&self) -> ForgettingReport {
        let latest = self.book.latest.as_ref();
        let tasks: Vec<_> = self.book.tasks.iter().map(|(task, record)| answer(*task, record, latest)).collect();
        let retained: Vec<f64> = tasks.iter().filter_map(|task| task.retained).collect();
        let mean = (!retained.is_empty()).then(|| retained.iter().sum::<f64>() / retained.len() as f64);
        ForgettingReport {
            version: latest.cloned(),
            tasks,
            mean_retained: mean,
            representation: self.book.representation.clone(),
            accuracy: self.accuracy_matrix().summary(),
        }
    }
}

fn answer(task: TaskId, record: &TaskRecord, now: Option<&Version>) -> TaskForgetting {
    let latest = record.history.last();
    // A reason is newer than the last measurement: what could not be measured now is not what it was.
    let measured = latest.filter(|_| record.undefined.is_none());
    let keep = |index: f64| (1.0 - index).clamp(0.0, 1.0);
    let retained = measured.and_then(|latest| latest.forgetting_index).map(keep);
    let interval = measured.and_then(|latest| latest.forgetting_interval);
    let retained_interval = interval.map(|index| Interval { low: keep(index.high), high: keep(index.low) });
    let waiting = || if record.open { Reason::Open } else { Reason::AwaitsVersion };
    let reason = retained.is_none().then(|| record.undefined.clone().unwrap_or_else(waiting));
    TaskForgetting {
        task,
        open: record.open,
        retained,
        retained_interval,
        measure: "confirmed-neighbours@10-and-cka",
        summary: in_words(retained, retained_interval, reason.as_ref()),
        reason,
        reference: record.reference.as_ref().map(|reference| reference.version.clone()),
        staleness_frames: latest.zip(now).map(|(latest, now)| now.frames.saturating_sub(latest.version.frames)),
        latest: latest.cloned(),
    }
}

fn in_words(retained: Option<f64>, interval: Option<Interval>, reason: Option<&Reason>) -> String {
    let Some(retained) = retained else {
        return reason.map_or_else(String::new, |reason| format!("not defined: {reason}"));
    };
    let range = interval.map_or_else(String::new, |interval| {
        format!(" ({:.0} to {:.0} %)", 100.0 * interval.low, 100.0 * interval.high)
    });
    format!(
        "{:.0} %{range} of what was known at its end is still there, read from which images look alike whichever view they are \
         seen in",
        100.0 * retained
    )
}
