//! What is asked about the daemon itself: status, sources, tasks, the buffer.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::{Live, name_of};
use crate::config::durable::DatabaseHealth;
use crate::daemon::answers::{
    BufferStatus, BufferSummary, CalibrationStatus, CheckpointStatus, DatabaseStatus, EncoderStatus, LearnStatus,
    SegmentStatus, SourceState, SourceStatus, Status, StreamStatus, TaskShare, TaskSpan, TaskStatus, Timestamp,
    timestamp,
};
use crate::segment::{Phase, ScopeReport, Segmenter, Span, Task};
use crate::stream::FrameId;

impl Live {
    pub(super) fn status_page(&self) -> Status {
        let reports = self.intake.reports();
        let sum = |of: fn(&crate::stream::SourceReport) -> u64| reports.iter().map(of).sum();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            state: self.shared.state(),
            uptime_seconds: self.shared.started.elapsed().as_secs_f64(),
            device: self.shared.device.clone(),
            preset: self.input.preset.name.clone(),
            encoder: self.shared.window.load().as_ref().map(|published| EncoderStatus {
                version: published.version,
                id: published.encoder.to_string(),
                published_at: published.at,
                step: published.step,
            }),
            stream: StreamStatus {
                received: sum(|report| report.received_frames),
                accepted: sum(|report| report.accepted_frames),
                accepted_per_second: self.shared.images_per_second(),
            },
            learn: self.learn_status(),
            segment: segment_status(&self.segmenter()),
            buffer: self.buffer_summary(),
            checkpoint: self.checkpoint_status(),
            database: self.database_status(),
            resident_bytes: crate::device::resident_bytes(),
            device_memory: crate::device::memory(&self.input.device),
        }
    }

    fn database_status(&self) -> DatabaseStatus {
        let DatabaseHealth { trouble, failures, recoveries } = self.database.health();
        DatabaseStatus { writable: trouble.is_none(), error: trouble, failures, recoveries }
    }

    fn learn_status(&self) -> LearnStatus {
        let config = self.config();
        let settings = &config.learn;
        let mut learning = self.shared.learning();
        LearnStatus {
            objective: name_of(settings.objective),
            strategy: name_of(settings.strategy),
            steps: learning.steps,
            loss: learning.loss,
            images_trained: learning.images_trained,
            skipped_for_training: self.mailbox.skipped(),
            nonfinite_steps: learning.nonfinite_steps,
            out_of_bounds_steps: learning.out_of_bounds_steps,
            rollbacks: learning.rollbacks,
            halved: learning.halved,
            images_per_second: learning.rate.per_second(),
            idle: learning.idle,
            frozen: learning.frozen.clone(),
            paused_since: learning.paused_since,
        }
    }

    pub(super) fn checkpoint_status(&self) -> Option<CheckpointStatus> {
        let written = self.shared.learning().checkpoint.clone()?;
        let age = Timestamp::now().duration_since(written.at).as_secs_f64();
        Some(CheckpointStatus { written_at: written.at, age_seconds: age.max(0.0), step: written.step })
    }

    pub(super) fn source_table(&self) -> Vec<SourceStatus> {
        let reports: BTreeMap<String, _> =
            self.intake.reports().into_iter().map(|report| (report.name.clone(), report)).collect();
        let rows = self.opened.iter().filter_map(|opened| {
            let report = reports.get(&opened.name)?;
            let failure = opened.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let state = match (&failure, &report.condition) {
                (Some(_), _) => SourceState::Stopped,
                (None, Some(_)) => SourceState::Failed,
                (None, None) => SourceState::Running,
            };
            Some(SourceStatus {
                name: opened.name.clone(),
                kind: opened.kind.clone(),
                address: opened.address.clone(),
                state,
                error: failure.or_else(|| report.condition.clone()),
                received: report.received_frames,
                accepted: report.accepted_frames,
                duplicates: report.duplicate_frames,
                refused: report.refused_frames.clone(),
                dropped: report.dropped_frames,
                queued_bytes: report.queued_bytes,
                last_frame_at: report.last_frame_at_ns.map(timestamp),
            })
        });
        rows.collect()
    }

    pub(super) fn task_table(&self) -> Vec<TaskStatus> {
        let probes: BTreeMap<_, _> = {
            let sets = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
            sets.by_task().into_iter().map(|(task, frames)| (task, frames.len() as u64)).collect()
        };
        let segmenter = self.segmenter();
        let register = segmenter.register();
        let current = current_tasks(&segmenter);
        let row = |task: &Task| {
            let spans = register.spans(task.id);
            TaskStatus {
                id: task.id.0,
                name: task.name.clone(),
                first_frame: spans.first().map_or(0, |span| span.first.0),
                last_frame: spans
                    .last()
                    .and_then(|span| span.last)
                    .or(self.newest_frame(&segmenter, task))
                    .map_or(0, |f| f.0),
                frames: task.frames,
                current: current.contains(&task.id.0),
                returns: task.returns,
                probes: probes.get(&task.id).copied().unwrap_or(0),
                exemplars: self.stored(&task.exemplars()),
                varied_exemplars: self.stored(&task.varied_exemplars()),
                duplicates: task.duplicates,
                parent: task.parent.map(|parent| parent.0),
                spans: spans.into_iter().map(|span| self.span(span)).collect(),
            }
        };
        register.tasks().map(row).collect()
    }

    /// Ids of those frames whose images are in the buffer.
    fn stored(&self, frames: &[FrameId]) -> Vec<u64> {
        frames.iter().filter(|frame| self.buffer.slot(**frame).is_some()).map(|frame| frame.0).collect()
    }

    /// The last frame of an open span: the last that its scope has seen.
    fn newest_frame(&self, segmenter: &Segmenter, task: &Task) -> Option<FrameId> {
        segmenter.report().into_iter().find(|report| report.scope == task.scope)?.last_frame
    }

    fn span(&self, span: Span) -> TaskSpan {
        let time = |frame: FrameId| self.moments.of(frame).map(timestamp);
        TaskSpan {
            first_frame: span.first.0,
            last_frame: span.last.map(|frame| frame.0),
            started_at: time(span.first),
            // A span ends where the next one begins.
            ended_at: span.last.and_then(|last| time(FrameId(last.0 + 1))),
            uncertainty_frames: span.uncertainty,
        }
    }

    pub(super) fn buffer_summary(&self) -> BufferSummary {
        let statistics = self.buffer.statistics();
        BufferSummary {
            slots: statistics.slots as u64,
            used: statistics.used as u64,
            seen: statistics.seen,
            evicted: statistics.evicted,
            damaged: statistics.damaged,
            bytes: statistics.file_bytes,
        }
    }

    pub(super) fn buffer_table(&self) -> BufferStatus {
        let mut shares: BTreeMap<Option<u32>, u64> = BTreeMap::new();
        let metas = self.buffer.metas();
        let segmenter = self.segmenter();
        for meta in &metas {
            let task = segmenter.register().task_of(meta.source, meta.id).map(|task| task.0);
            *shares.entry(task).or_default() += 1;
        }
        let labelled = metas.iter().filter(|meta| self.labels.get(meta.id).is_some()).count();
        BufferStatus {
            summary: self.buffer_summary(),
            policy: name_of(self.config().replay.policy),
            durability: name_of(self.config().replay.durability),
            side_pixels: self.input.preset.side as u32,
            labelled: labelled as u64,
            composition: shares.into_iter().map(|(task, images)| TaskShare { task, images }).collect(),
        }
    }
}

fn segment_status(segmenter: &Segmenter) -> SegmentStatus {
    let reports = segmenter.report();
    // With a detector for each source: the one nearest to an alarm.
    let urgency = |r: &ScopeReport| r.statistic.map_or(f64::NEG_INFINITY, |s| s - r.threshold);
    let nearest = reports.iter().max_by(|a, b| urgency(a).total_cmp(&urgency(b)));
    SegmentStatus {
        phase: nearest.map_or("waiting".into(), |report| name_of(report.phase)),
        statistic: nearest.and_then(|report| report.statistic),
        threshold: nearest.filter(|report| report.phase != Phase::WarmingUp).map(|report| report.threshold),
        warning: nearest.is_some_and(|r| r.statistic.is_some_and(|statistic| statistic > r.warning_threshold)),
        current_tasks: current_tasks(segmenter),
        duplicates_skipped: reports.iter().map(|report| report.duplicates_skipped).sum(),
        calibration: nearest.map(calibration_status),
    }
}

fn calibration_status(report: &ScopeReport) -> CalibrationStatus {
    CalibrationStatus {
        frames_between_false_alarms: report.target_frames_between_false_alarms,
        hours_between_false_alarms: report.target_hours_between_false_alarms,
        distinct_frames_per_hour: report.distinct_frames_an_hour,
        warning_threshold: report.warning_threshold,
        reference_frames: report.reference_frames as u64,
        reference_wanted: report.reference_wanted as u64,
        variance_ratio: report.variance_ratio,
    }
}

fn current_tasks(segmenter: &Segmenter) -> Vec<u32> {
    segmenter.report().into_iter().filter_map(|report| report.task).map(|task| task.0).collect()
}
