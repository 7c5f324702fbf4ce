//! What the daemon says about itself: metrics by name, and the log.
//!
//! The only room that touches the metrics recorder: every metric is a variant of [`Metric`], so that a name, a unit and a help text
//! stand in one place. Rooms keep counts of their own; the daemon hands them over here.

mod log;
mod names;
// The one place that may: names, units and labels are checked there.
#[allow(clippy::disallowed_macros)]
mod record;

pub use log::{LogError, change_log, start_log};
pub use names::{Kind, Label, Metric};
pub use record::{InstallError, Renderer, count, gauge, install, observe, total};
