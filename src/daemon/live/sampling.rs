//! A look at the daemon's numbers every few seconds: for the history, and for events that only show over time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Live;
use crate::daemon::answers::{Sample, Timestamp};

/// Between two events that frames were dropped.
const DROPS_TOLD_EVERY: Duration = Duration::from_secs(10);

/// What the sampler remembers between two looks.
#[derive(Debug, Default)]
pub struct Watch {
    dropped: BTreeMap<String, u64>,
    told: Option<Instant>,
}

impl Live {
    /// Takes a sample, and tells of frames that were dropped since the last time.
    pub fn sample(&self, watch: &mut Watch) {
        let status = self.status_page();
        let dropped: BTreeMap<String, u64> =
            self.intake.reports().into_iter().map(|report| (report.name, report.dropped_frames)).collect();
        self.shared.history.note(Sample {
            at: Timestamp::now(),
            accepted: status.stream.accepted,
            accepted_per_second: status.stream.accepted_per_second,
            dropped: dropped.values().sum(),
            skipped_for_training: status.learn.skipped_for_training,
            loss: status.learn.loss,
            steps: status.learn.steps,
            images_per_second: status.learn.images_per_second,
            statistic: status.segment.statistic,
            threshold: status.segment.threshold,
            task: status.segment.current_tasks.iter().copied().max(),
            stored: status.buffer.used,
        });
        self.tell_drops(watch, dropped);
    }

    fn tell_drops(&self, watch: &mut Watch, now: BTreeMap<String, u64>) {
        if watch.told.is_some_and(|at| at.elapsed() < DROPS_TOLD_EVERY) {
            return;
        }
        let new: BTreeMap<&str, u64> = now
            .iter()
            .map(|(source, frames)| {
                (source.as_str(), frames - watch.dropped.get(source).copied().unwrap_or(0).min(*frames))
            })
            .filter(|(_, frames)| *frames > 0)
            .collect();
        if !new.is_empty() {
            let words: Vec<String> = new.iter().map(|(source, frames)| format!("{frames} of {source}")).collect();
            let message = format!("frames were turned away, as the queue was full: {}", words.join(", "));
            self.shared.events.tell("frames-dropped", message, json!({ "frames": new }));
            watch.told = Some(Instant::now());
        }
        watch.dropped = now;
    }
}
