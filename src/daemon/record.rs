//! The metrics that are states and totals, brought up to date when someone asks. Durations are recorded where they happen.

use super::live::{Live, name_of};
use crate::decode::DecodeError;
use crate::device::DeviceMemory;
use crate::telemetry::{Metric, gauge, total};

impl Live {
    /// Sets every gauge and total.
    pub fn record(&self) {
        self.record_sources();
        self.record_segmentation();
        self.record_learning();
        self.record_memory();
    }

    fn record_sources(&self) {
        let mut undecodable = std::collections::BTreeMap::new();
        for report in self.intake.reports() {
            let source = report.name.as_str();
            total(Metric::StreamFrames, &[source], report.received_frames);
            total(Metric::StreamBytes, &[source], report.received_bytes);
            total(Metric::StreamAccepted, &[source], report.accepted_frames);
            total(Metric::StreamDuplicates, &[source], report.duplicate_frames);
            total(Metric::StreamDropped, &[source], report.dropped_frames);
            gauge(Metric::StreamQueueBytes, &[source], report.queued_bytes as f64);
            for (code, &frames) in &report.refused_frames {
                total(Metric::StreamRefused, &[source, code], frames);
                if DecodeError::CODES.contains(&code.as_str()) {
                    *undecodable.entry(code.clone()).or_insert(0) += frames;
                }
            }
        }
        for (code, images) in undecodable {
            total(Metric::DecodeErrors, &[&code], images);
        }
    }

    fn record_segmentation(&self) {
        let segmenter = self.segmenter();
        let detector = &*name_of(self.config().segment.detector);
        let reports = segmenter.report();
        let ratio = reports.iter().filter_map(|r| Some(r.statistic? / r.threshold)).reduce(f64::max);
        gauge(Metric::SegmentStatistic, &[detector], ratio.unwrap_or(f64::NAN));
        let found = reports.iter().map(|r| r.boundaries.new + r.boundaries.returned + r.boundaries.withdrawn).sum();
        total(Metric::SegmentDrifts, &[detector], found);
        total(Metric::SegmentDuplicates, &[detector], reports.iter().map(|r| r.duplicates_skipped).sum());
        gauge(Metric::Tasks, &[], segmenter.register().tasks().len() as f64);
        let current = reports.iter().filter_map(|r| r.task).map(|task| f64::from(task.0)).reduce(f64::max);
        gauge(Metric::TaskCurrent, &[], current.unwrap_or(f64::NAN));
    }

    fn record_learning(&self) {
        let learning = self.shared.learning().clone();
        total(Metric::LearnSteps, &[], learning.steps);
        total(Metric::LearnIdleSteps, &[], learning.idle_steps);
        total(Metric::LearnSkipped, &[], self.mailbox.skipped());
        total(Metric::LearnNonfinite, &[], learning.nonfinite_steps);
        total(Metric::LearnOutOfBounds, &[], learning.out_of_bounds_steps);
        gauge(Metric::LearnHalved, &[], f64::from(u8::from(learning.halved)));
        total(Metric::LearnRollbacks, &[], learning.rollbacks);
        gauge(Metric::LearnPaused, &[], f64::from(u8::from(learning.paused_since.is_some())));
        gauge(Metric::LearnFrozen, &[], f64::from(u8::from(learning.frozen.is_some())));
        gauge(Metric::LearnLoss, &[&name_of(self.config().learn.objective)], learning.loss.unwrap_or(f64::NAN));
        gauge(Metric::RepresentationStd, &[], learning.representation_std.unwrap_or(f64::NAN));
        let evaluation = self.shared.forgetting.load();
        let retained = evaluation.forgetting["mean_retained"].as_f64();
        gauge(Metric::ForgettingRatio, &[], retained.map_or(f64::NAN, |retained| 1.0 - retained));
        let accuracy = evaluation.accuracy["summary"]["average_accuracy"].as_f64();
        gauge(Metric::KnnAccuracy, &[], accuracy.unwrap_or(f64::NAN));
        if let Some(written) = &learning.checkpoint {
            gauge(Metric::CheckpointTimestamp, &[], written.at.as_millisecond() as f64 / 1000.0);
        }
        total(Metric::CheckpointErrors, &[], learning.checkpoint_errors);
    }

    fn record_memory(&self) {
        let buffer = self.buffer.statistics();
        gauge(Metric::ReplaySlots, &[], buffer.slots as f64);
        gauge(Metric::ReplaySlotsUsed, &[], buffer.used as f64);
        gauge(Metric::ReplayBytes, &[], buffer.file_bytes as f64);
        total(Metric::ReplayOffers, &[], buffer.seen);
        total(Metric::ReplayEvictions, &[], buffer.evicted);
        total(Metric::ReplayDamaged, &[], buffer.damaged);
        total(Metric::ReplayScrubbed, &[], self.shared.scrubbed_total());
        if let Some(published) = self.shared.window.load().as_ref() {
            total(Metric::PublishVersions, &[], published.version);
            gauge(Metric::PublishTimestamp, &[], published.at.as_millisecond() as f64 / 1000.0);
            gauge(Metric::BankEmbeddings, &[], published.bank.len() as f64);
        }
        let database = self.database.health();
        gauge(Metric::DatabaseWritable, &[], f64::from(u8::from(database.trouble.is_none())));
        total(Metric::DatabaseFailures, &[], database.failures);
        total(Metric::DatabaseRecoveries, &[], database.recoveries);
        if let Some(bytes) = crate::device::resident_bytes() {
            gauge(Metric::ResidentMemory, &[], bytes as f64);
        }
        if let Some(memory) = crate::device::memory(&self.input.device) {
            let DeviceMemory { free_bytes, total_bytes } = memory;
            gauge(Metric::DeviceMemoryUsed, &[], total_bytes.saturating_sub(free_bytes) as f64);
            gauge(Metric::DeviceMemoryTotal, &[], total_bytes as f64);
        }
    }
}
