//! What one step of the learner did, and where its time went.

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
}

impl Skip {
    /// Stable name for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoImages => "no-images",
            Self::TooFewImages { .. } => "too-few-images",
            Self::LossNotFinite => "loss-not-finite",
            Self::GradientNotFinite => "gradient-not-finite",
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
