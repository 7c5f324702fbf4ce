//! What the learner leaves behind as it goes: versions of the encoder, measurements of what was forgotten, checkpoints.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Learner, LearnerError};
use crate::daemon::published::Published;
use crate::daemon::resume::State;
use crate::telemetry::{Metric, observe};

/// A publication may take at most one part in this many of the learner's time: slow devices publish less often.
const PUBLISH_SHARE: u32 = 4;

impl Learner {
    pub(super) fn checkpoint_interval(&self) -> Duration {
        Duration::from_secs_f64(self.settings.checkpoint.interval_seconds)
    }

    /// What is due by the clock: a version, a checkpoint, images that the bank lacks.
    pub(super) fn keep_up(&mut self) -> Result<(), LearnerError> {
        let now = Instant::now();
        // Nothing is shown or kept of weights that may be about to be given up.
        let calm = self.trainer.is_calm();
        if calm && now >= self.clock.next_publish && self.trainer.steps() > self.clock.published_step {
            self.publish("interval")?;
            self.measure();
        } else {
            self.publisher.refresh()?;
        }
        if calm && now >= self.clock.next_checkpoint {
            self.checkpoint()?;
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, why: &str) -> Result<(), LearnerError> {
        let started = Instant::now();
        let interval = Duration::from_secs_f64(self.settings.publish.interval_seconds);
        if !self.sound()? {
            self.clock.next_publish = started + interval;
            return Ok(());
        }
        let step = self.trainer.steps();
        let published = self.publisher.publish(self.trainer.backbone(), step)?;
        let took = started.elapsed();
        observe(Metric::PublishDuration, &[], took);
        self.clock.next_publish = Instant::now() + interval.max(took * PUBLISH_SHARE);
        self.clock.published_step = step;
        let Published { version, encoder, .. } = &*published;
        let message = format!(
            "version {version} of the encoder ({encoder}, step {step}, {why}): {} images embedded in {:.1} s",
            published.bank.len(),
            took.as_secs_f64()
        );
        let data =
            json!({ "version": version, "encoder": encoder.to_string(), "step": step, "images": published.bank.len() });
        self.shared.events.tell("version-published", message, data);
        Ok(())
    }

    /// Forgetting of every past task at the published version.
    pub(super) fn measure(&mut self) {
        let Some(published) = self.shared.window.load_full() else { return };
        match self.monitor.measure(&published, &self.shared, &mut self.trainer, &self.probes, &self.segmenter) {
            Ok(evaluation) => {
                self.shared.learning().representation_std = evaluation.representation_std;
                self.shared.forgetting.store(Arc::new(evaluation.reports));
            }
            Err(error) => tracing::error!("forgetting could not be measured: {error}"),
        }
    }

    /// Whether one was written. A checkpoint that cannot be costs progress at the next restart, and is told; it stops nothing.
    pub(super) fn checkpoint(&mut self) -> Result<bool, LearnerError> {
        self.clock.next_checkpoint = Instant::now() + self.checkpoint_interval();
        if !self.sound()? {
            return Ok(false);
        }
        let started = Instant::now();
        let segment = {
            let mut segmenter = self.segmenter.write().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = segmenter.register_mut().save() {
                tracing::error!(code = error.code(), "the task register could not be written: {error}");
            }
            segmenter.state()
        };
        self.drop_labels();
        let buffer = self.buffer.statistics();
        let state = State {
            version: self.publisher.version(),
            offered: buffer.seen,
            newest: buffer.newest.map(|frame| frame.0),
            covered: self.lock.as_ref().map(|lock| lock.covered().0),
            segment,
            monitor: self.monitor.state(),
        };
        match self.checkpoints.write(&self.trainer, state) {
            Ok(written) => {
                let (step, took) = (written.step, started.elapsed());
                observe(Metric::CheckpointDuration, &[], took);
                self.shared.learning().checkpoint = Some(written);
                let message = format!("checkpoint of step {step} written in {:.1} s", took.as_secs_f64());
                self.shared.events.tell("checkpoint", message, json!({ "step": step }));
                Ok(true)
            }
            Err(error) => {
                self.shared.learning().checkpoint_errors += 1;
                let message = format!("no checkpoint was written: {error}");
                tracing::error!("{message}");
                self.shared.events.tell("checkpoint-failed", message, json!({ "code": error.code() }));
                Ok(false)
            }
        }
    }

    /// Labels of images that are neither stored nor probes are of no more use, and would add up.
    fn drop_labels(&self) {
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |frame| self.buffer.slot(frame).is_some() || probes.contains(frame);
        if let Err(error) = self.labels.retain(held) {
            tracing::error!(code = error.code(), "labels could not be written: {error}");
        }
    }
}
