//! What one step did and why it did not, and the rate it goes at.

use std::time::Instant;

/// Why a step changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skip {
    /// Neither the stream nor the memory had an image that the strategy trains on.
    NoImages,
    /// Too few images for the objective.
    TooFewImages { images: usize, needed: usize },
    /// The loss was infinite or not a number.
    LossNotFinite,
    /// A gradient was infinite or not a number.
    GradientNotFinite,
    /// The loss was far above what was usual, on rehearsed images as well.
    LossOutOfBounds,
    /// The step, the learning rate times the gradient, was far longer than was usual.
    StepOutOfBounds,
}

impl Skip {
    /// Stable name for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoImages => "no-images",
            Self::TooFewImages { .. } => "too-few-images",
            Self::LossNotFinite => "loss-not-finite",
            Self::GradientNotFinite => "gradient-not-finite",
            Self::LossOutOfBounds => "loss-out-of-bounds",
            Self::StepOutOfBounds => "step-out-of-bounds",
        }
    }
}

/// Where the time of a step went, in seconds; what a device does on its own counts where it is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepSeconds {
    /// Views drawn, made, mixed and brought to the device.
    pub views: f64,
    /// Forward pass of the encoder.
    pub forward: f64,
    /// Heads and loss, both ways.
    pub loss: f64,
    /// Backward pass of the encoder.
    pub backward: f64,
    /// Penalties and optimiser.
    pub update: f64,
}

impl StepSeconds {
    pub fn total(&self) -> f64 {
        self.views + self.forward + self.loss + self.backward + self.update
    }
}

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Number of the step, from 0.
    pub step: u64,
    /// Images in the batch as composed: two views each.
    pub images: usize,
    /// `None` where the step was skipped before there was one.
    pub loss: Option<f64>,
    /// Why nothing was learned; `None` where something was.
    pub skipped: Option<Skip>,
    pub seconds: StepSeconds,
}

/// What is left of the learning rate after roll-backs: halved at each, doubled again after a while.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    pub(in crate::learn) halvings: u32,
    /// Steps taken since the last halving or doubling.
    pub(in crate::learn) since: u64,
}

impl Rate {
    /// Beyond it a step would do nothing.
    pub(in crate::learn) const MOST_HALVINGS: u32 = 16;

    /// Good steps after which a halving is taken back.
    const RECOVERY: u64 = 500;

    pub(super) fn factor(self) -> f64 {
        0.5_f64.powi(self.halvings.min(Self::MOST_HALVINGS) as i32)
    }

    pub(super) fn halved(self) -> Self {
        Self { halvings: (self.halvings + 1).min(Self::MOST_HALVINGS), since: 0 }
    }

    pub(super) fn after_a_step(self) -> Self {
        match self {
            Self { halvings: 0, .. } => self,
            Self { halvings, since } if since + 1 == Self::RECOVERY => Self { halvings: halvings - 1, since: 0 },
            Self { halvings, since } => Self { halvings, since: since + 1 },
        }
    }
}

/// Seconds between one moment and the next.
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn lap(&mut self) -> f64 {
        let seconds = self.0.elapsed().as_secs_f64();
        self.0 = Instant::now();
        seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_halved_at_each_roll_back_and_comes_back_step_by_step() {
        let mut rate = Rate::default().halved().halved();
        assert_eq!(rate.factor(), 0.25);
        for _ in 1..Rate::RECOVERY {
            rate = rate.after_a_step();
        }
        assert_eq!(rate.factor(), 0.25);
        rate = rate.after_a_step();
        assert_eq!(rate.factor(), 0.5);
        for _ in 0..2 * Rate::RECOVERY {
            rate = rate.after_a_step();
        }
        assert_eq!(rate, Rate::default());
        let least = (0..100).fold(rate, |rate, _| rate.halved());
        assert!(least.factor() > 0.0);
    }
}
