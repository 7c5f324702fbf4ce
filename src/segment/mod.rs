//! Tasks from images alone: when the world changed, and when an earlier one came back.
//!
//! A frame becomes frozen [features](FeatureMap); near-duplicates are skipped; a [`Detector`] says when the rest has
//! changed; the [`TaskRegister`] keeps which frames were of which task. The [`Segmenter`] is the front door. What to do
//! about a new task (publish an encoder, keep probes) is left to others, and so are files, metrics and threads.
//!
//! A change becomes known some frames after it happened: it is then placed where it happened, and frames before the alarm
//! are of the new task ([`TaskRegister::task_of`]). A new task is provisional: after 256 distinct frames it may turn out to be
//! an earlier one, or the one just left.
//!
//! ```
//! use lumpd::config::SegmentSettings;
//! use lumpd::segment::{SegmentEvent, Segmenter, TaskId, TaskRegister};
//! use lumpd::stream::{FrameId, SourceId};
//!
//! let settings = SegmentSettings::default();
//! let register = TaskRegister::in_memory(settings.max_tasks);
//! let mut segmenter = Segmenter::new(settings, register);
//! let seen = segmenter.observe(SourceId(1), FrameId(1), &[128; 32 * 32 * 3], 32).unwrap();
//! assert_eq!(seen.task, TaskId(1));
//! assert!(matches!(seen.events[0], SegmentEvent::TaskOpened { task: TaskId(1), .. }));
//! assert!(segmenter.observe(SourceId(1), FrameId(2), &[128; 32 * 32 * 3], 32).unwrap().duplicate);
//! ```

mod adwin;
mod bytes;
mod comparison;
mod correlation;
mod detector;
mod duplicates;
mod dyadic;
mod eigen;
mod error;
mod event;
mod features;
mod kernel;
mod light;
mod mmd;
mod newma;
mod pace;
mod page_hinkley;
mod place;
mod referenced;
mod register;
mod scenes;
mod scope;
pub mod score;
mod segmenter;
mod sketch;
mod tasks;
#[cfg(test)]
mod tests;
mod thresholds;
mod triangle;
mod whitening;

pub use detector::{Change, Detector, Phase, Verdict, detector, uncalibrated};
pub use dyadic::DyadicT2;
pub use error::SegmentError;
pub use event::SegmentEvent;
pub use features::FeatureMap;
pub use register::{Merged, TaskRegister};
pub use segmenter::{Boundaries, Observation, ScopeReport, Segmenter};
pub use tasks::{Scope, Span, Task, TaskId};
