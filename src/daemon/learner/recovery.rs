//! Back to weights that are of use, where training diverged.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Learner, LearnerError};
use crate::daemon::resume::ResumeError;
use crate::learn::LearnError;

/// Roll-backs within an hour after which training is given up.
const MOST_ROLLBACKS: usize = 3;

/// Stored images whose embeddings must be finite before a version is published or a checkpoint written.
const SOUND_IMAGES: usize = 8;

impl Learner {
    /// Back to the last good checkpoint, from which different batches follow; too often, or without one, and training is given
    /// up.
    pub(super) fn roll_back(&mut self, reason: &str) -> Result<(), LearnerError> {
        let (now, step) = (Instant::now(), self.trainer.steps());
        self.clock.rollbacks.retain(|at| now.duration_since(*at) < Duration::from_secs(3600));
        self.clock.rollbacks.push(now);
        let taken = self.go_back();
        self.shared.learning().nonfinite_steps = self.trainer.non_finite_steps();
        let given_up = match taken {
            Ok(true) if self.clock.rollbacks.len() <= MOST_ROLLBACKS => None,
            Ok(true) => Some(format!("{reason}, more than {MOST_ROLLBACKS} times within an hour")),
            Ok(false) => Some(format!("{reason}, and there is no checkpoint to go back to")),
            Err(error) => Some(format!("{reason}, and the last checkpoint cannot be taken up: {error}")),
        };
        if let Some(reason) = given_up {
            let message = format!("training is frozen: {reason}; queries go on");
            tracing::error!("{message}");
            self.shared.learning().frozen = Some(message.clone());
            self.shared.events.tell("training-frozen", message, json!({ "step": step }));
            return Ok(());
        }
        self.shared.learning().rollbacks += 1;
        let (to, rate) = (self.checkpoints.last_step(), self.trainer.learning_rate());
        let message =
            format!("{reason}: weights are back at those of step {}, the learning rate is {rate:.3e}", to.unwrap_or(0));
        tracing::warn!("{message}");
        self.shared.events.tell("training-rolled-back", message, json!({ "step": step, "to_step": to }));
        Ok(())
    }

    /// Goes on after training was given up: from the last good checkpoint where there is one.
    pub(super) fn thaw(&mut self) -> Result<(), LearnerError> {
        self.clock.rollbacks.clear();
        self.go_back()?;
        Ok(())
    }

    /// Whether the network is of use: every number finite, and so the embeddings of stored images. Where it is not, the last
    /// good weights are taken up first: what is broken is neither published nor kept.
    pub(super) fn sound(&mut self) -> Result<bool, LearnerError> {
        if self.is_finite()? {
            return Ok(true);
        }
        if self.shared.learning().frozen.is_some() {
            return Ok(false);
        }
        self.roll_back("the weights or the embeddings are not finite")?;
        self.is_finite()
    }

    fn is_finite(&self) -> Result<bool, LearnerError> {
        if !self.trainer.is_finite()? {
            return Ok(false);
        }
        // Weights may be finite and yet too large to compute with.
        let mut random = self.seed.random("sound", self.trainer.steps());
        let images = self.buffer.sample(SOUND_IMAGES, &mut random).pixels;
        let embedder = self.trainer.backbone().freeze().map_err(LearnError::from)?;
        let embeddings = self.monitor.input.embed(&*embedder, &images)?;
        Ok(embeddings.iter().all(|value| value.is_finite()))
    }

    /// To the weights of the last good checkpoint. The counter of steps goes on: it draws the batches, and the same ones
    /// would diverge again. False where there is none.
    fn go_back(&mut self) -> Result<bool, ResumeError> {
        let (step, rate) = (self.trainer.steps(), self.trainer.rate());
        let taken = self.checkpoints.roll_back(&mut self.trainer);
        self.trainer.change_course(step + 1, rate);
        taken
    }
}
