//! What the encoder knows, and what it is losing.
//!
//! Label-free: a bounded set of probes of each task ([`ProbeSets`]) is embedded when the task ends and again by every
//! published version; [`ForgettingMonitor`] compares the two and reports how much is still there of what whichever view of a
//! probe told ([`Faces`], [`similarity`]), beside measures of the level ([`spectrum`]), since what does not move may also have
//! collapsed. With labels: the accuracy matrix and its averages ([`AccuracyMatrix`]), and the [`linear_probe()`]. For eyes:
//! [`pictures`].
//!
//! Whatever is not defined (an open task, too few probes, no labels) is `None` with a reason, never 0.
//!
//! Left to others: embedding probes and taking the loss ([`ProbeMeter`], implemented by the daemon), storing their images
//! ([`ProbeStorage`], implemented over the replay room's store), deciding where a task ends (segment).

mod accuracy;
mod eigen;
mod error;
mod faces;
mod features;
mod forgetting;
mod history;
mod jackknife;
mod kept;
mod linear_probe;
mod measurement;
#[cfg(test)]
mod monitor_tests;
pub mod pictures;
mod plane;
mod probes;
mod report;
pub mod similarity;
pub mod spectrum;
mod state;
mod view_loss;

pub use accuracy::{AccuracyMatrix, AccuracyRow, AccuracySummary, KnnEvaluator, KnnMode, LabelledFeatures, Steady};
pub use error::EvaluateError;
pub use faces::{Faces, Similarities};
pub use features::Features;
pub use forgetting::ForgettingMonitor;
pub use jackknife::{Interval, jackknife_interval};
pub use kept::{Kept, cka_kept, neighbours_kept};
pub use linear_probe::linear_probe;
pub use measurement::{Measurement, MeterError, Observation, ProbeMeter, Representation, Version, Views};
pub use plane::principal_plane;
pub use probes::{MemoryStorage, Placement, ProbeSets, ProbeStorage, StorageError};
pub use report::{ForgettingReport, Reason, RetainedAt, TaskForgetting, TaskHistory};
pub use view_loss::view_loss;
