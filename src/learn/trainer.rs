//! The trainer: one gradient step after the other, each a function of weights, seed, step number and images.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};

use super::LearnError;
use super::guard::Guard;
use super::objectives::{Objective, objective};
use super::sgd::{Sgd, is_finite};
use super::strategies::{Strategy, strategy};
use super::views::{ViewMaker, Views};
use crate::config::{LearnSettings, ObjectiveKind, Seed, StrategyKind};
use crate::encoder::{self, Backbone, Embedder, EncoderId, Head, Parameter, Preset};

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

/// The learner. Owned by one thread; readers get what [`Trainer::embedder`] froze.
pub struct Trainer {
    pub(super) preset: Preset,
    pub(super) backbone: Box<dyn Backbone>,
    pub(super) head: Head,
    objective: Box<dyn Objective>,
    pub(super) strategy: Box<dyn Strategy>,
    sgd: Sgd,
    /// Momentum of the flat parameters, and of each variable of the head.
    pub(super) momentum: Tensor,
    pub(super) head_momentum: Vec<Tensor>,
    views: ViewMaker,
    pub(super) seed: Seed,
    /// Steps attempted so far: the counter of every draw.
    pub(super) step: u64,
    pub(super) guard: Guard,
}

impl Trainer {
    /// A fresh learner of the preset's network.
    ///
    /// # Errors
    /// Where the device cannot hold it.
    pub fn new(preset: Preset, settings: &LearnSettings, device: &Device, seed: Seed) -> Result<Self, LearnError> {
        let backbone = encoder::build(&preset, device, settings.precision, seed)?;
        Self::with_backbone(preset, backbone, settings, seed)
    }

    /// A fresh learner on a given network, whose dtype and device the heads take over.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn with_backbone(
        preset: Preset,
        backbone: Box<dyn Backbone>,
        settings: &LearnSettings,
        seed: Seed,
    ) -> Result<Self, LearnError> {
        let objective = objective(settings.objective);
        let (dtype, device) = (backbone.parameters().dtype(), backbone.parameters().device().clone());
        let features = preset.features();
        let head = Head::new(&objective.head_shape(features), features, dtype, &device, seed)?;
        let zeros = |tensor: &Tensor| Tensor::zeros(tensor.dims(), dtype, &device);
        Ok(Self {
            momentum: zeros(backbone.parameters())?,
            head_momentum: head.variables().iter().map(|(_, var)| zeros(var)).collect::<Result<_, _>>()?,
            views: ViewMaker::new(&preset),
            strategy: strategy(settings),
            sgd: Sgd {
                learning_rate: settings.learning_rate,
                momentum: settings.momentum,
                weight_decay: settings.weight_decay,
            },
            guard: Guard::default(),
            step: 0,
            preset,
            backbone,
            head,
            objective,
            seed,
        })
    }

    /// The same learner with another strategy: the way to one that the settings do not name.
    pub fn with_strategy(mut self, strategy: Box<dyn Strategy>) -> Self {
        self.strategy = strategy;
        self
    }

    pub fn preset(&self) -> &Preset {
        &self.preset
    }

    pub fn objective(&self) -> ObjectiveKind {
        self.objective.kind()
    }

    pub fn strategy(&self) -> StrategyKind {
        self.strategy.kind()
    }

    pub fn backbone(&self) -> &dyn Backbone {
        self.backbone.as_ref()
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Steps attempted so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Leaves out the numbers up to `step`: the step after a roll-back draws other batches than the ones that diverged.
    pub fn advance_to(&mut self, step: u64) {
        self.step = self.step.max(step);
    }

    /// Steps skipped since the program started because a loss or gradient was not finite.
    pub fn non_finite_steps(&self) -> u64 {
        self.guard.total()
    }

    /// Whether replayed images are of use: where not, an idle stream has nothing to rehearse.
    pub fn rehearses(&self) -> bool {
        self.strategy.rehearses()
    }

    /// Bytes held between steps: parameters, their momentum, what the strategy keeps. Activations come on top while a step runs.
    pub fn resident_bytes(&self) -> u64 {
        let encoder: usize = self.backbone.layout().iter().map(Parameter::elements).sum();
        let head: usize = self.head.variables().iter().map(|(_, var)| var.elem_count()).sum();
        let values = 2 * (encoder + head) + self.strategy.cost().parameter_copies * encoder;
        (values * self.momentum.dtype().size_in_bytes()) as u64
    }

    /// An immutable copy of the encoder as it is now, and the name of its weights.
    ///
    /// # Errors
    /// Where the device cannot hold it.
    pub fn embedder(&self) -> Result<(EncoderId, Arc<dyn Embedder>), LearnError> {
        Ok((EncoderId::of(self.backbone())?, self.backbone.freeze()?))
    }

    /// A task has ended; the strategy may want to remember what it was like.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn at_boundary(&mut self) -> Result<(), LearnError> {
        Ok(self.strategy.at_boundary(self.backbone.as_ref())?)
    }

    /// One gradient step on images of the stream and of the memory: packed RGB8, each image side x side x 3 bytes; either may be
    /// empty. Where the stream is empty the step is a rehearsal: give it as many images as stream and memory have together.
    ///
    /// # Errors
    /// [`LearnError::Diverged`] where too many of the last steps were not finite: then go back to a checkpoint. Otherwise
    /// where the bytes are no whole number of images or the device fails. A skipped step is no error.
    pub fn step(&mut self, stream: &[u8], replay: &[u8]) -> Result<StepReport, LearnError> {
        let start = Instant::now();
        let composed = self.compose(stream, replay)?;
        let views_seconds = start.elapsed().as_secs_f64();
        let mut report = match composed {
            Some(views) => self.step_on(&views)?,
            None => self.skip(0, None, Skip::NoImages),
        };
        report.seconds.views = views_seconds;
        Ok(report)
    }

    /// One gradient step on views that are made already.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_on(&mut self, views: &Views) -> Result<StepReport, LearnError> {
        let (images, needed) = (views.count(), self.objective.minimum_images());
        if images < needed {
            return Ok(self.skip(images, None, Skip::TooFewImages { images, needed }));
        }
        let before = self.backbone.statistics().force_contiguous()?;
        let mut clock = Clock::start();
        let mut seconds = StepSeconds::default();

        let features = self.backbone.forward(&Tensor::cat(&[&views.first, &views.second], 0)?, 2)?;
        seconds.forward = clock.lap();
        let leaf = Var::from_tensor(&features.detach())?;
        let loss = self.loss(views, &leaf)?;
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !value.is_finite() {
            return self.reject(images, value, Skip::LossNotFinite, &before);
        }
        let gradients = loss.backward()?;
        let of = |var: &Var| gradients.get(var).map_or_else(|| var.zeros_like(), |gradient| Ok(gradient.detach()));
        let features_gradient = of(&leaf)?;
        let of_head = self.head.variables().iter().map(|(_, var)| of(var)).collect::<Result<Vec<_>, _>>()?;
        seconds.loss = clock.lap();
        let gradient = self.backbone.backward(&features_gradient)?;
        seconds.backward = clock.lap();
        let gradient = self.strategy.regularise(self.backbone.parameters(), gradient)?.detach();
        if !is_finite(&gradient)? || !all_finite(&of_head)? {
            return self.reject(images, value, Skip::GradientNotFinite, &before);
        }
        self.descend(&gradient, &of_head)?;
        seconds.update = clock.lap();

        let step = self.step;
        self.step += 1;
        Ok(StepReport { step, images, loss: Some(value), skipped: None, seconds })
    }

    /// The objective's loss of images without learning from them: packed RGB8, at least [`Objective::minimum_images`] of them.
    /// The views are the same at every call, so that the values of two moments can be compared. `None` for too few images.
    ///
    /// # Errors
    /// Where the bytes are no whole number of images or the device fails.
    pub fn probe_loss(&mut self, images: &[u8]) -> Result<Option<f64>, LearnError> {
        let Some(views) = self.views_of(images, "probe views", 0)? else { return Ok(None) };
        if views.count() < self.objective.minimum_images() {
            return Ok(None);
        }
        let before = self.backbone.statistics().force_contiguous()?;
        let features = self.backbone.forward(&Tensor::cat(&[&views.first, &views.second], 0)?, 2)?;
        let (first, second) = halves(&features)?;
        let loss = self.objective.loss(&self.head, &first, &second)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        self.put_back(&before)?;
        Ok(Some(loss))
    }

    fn compose(&self, stream: &[u8], replay: &[u8]) -> Result<Option<Views>, LearnError> {
        let replay = if self.strategy.rehearses() { replay } else { &[] };
        let stream = self.views_of(stream, "stream views", self.step)?;
        let replay = self.views_of(replay, "replay views", self.step)?;
        Ok(self.strategy.compose(stream, replay, &mut self.seed.random("mix", self.step))?)
    }

    fn views_of(&self, images: &[u8], purpose: &str, counter: u64) -> Result<Option<Views>, LearnError> {
        if !images.len().is_multiple_of(self.preset.image_bytes()) {
            return Err(LearnError::BatchBytes { bytes: images.len(), side: self.preset.side });
        }
        if images.is_empty() {
            return Ok(None);
        }
        let device = self.backbone.parameters().device();
        Ok(Some(self.views.pair(images, &mut self.seed.random(purpose, counter), device)?))
    }

    fn loss(&self, views: &Views, features: &Tensor) -> Result<Tensor, LearnError> {
        let (first, second) = halves(features)?;
        let loss = self.objective.loss(&self.head, &first, &second)?;
        match self.strategy.extra_loss(views, [&first, &second], &self.head)? {
            Some(extra) => Ok((loss + extra)?),
            None => Ok(loss),
        }
    }

    fn descend(&mut self, gradient: &Tensor, of_head: &[Tensor]) -> Result<(), LearnError> {
        self.sgd.step(self.backbone.parameters(), &self.momentum, gradient)?;
        for (((_, var), buffer), gradient) in self.head.variables().iter().zip(&self.head_momentum).zip(of_head) {
            self.sgd.step(var, buffer, gradient)?;
        }
        Ok(self.strategy.after_step(self.backbone.parameters(), gradient)?)
    }

    fn skip(&self, images: usize, loss: Option<f64>, reason: Skip) -> StepReport {
        StepReport { step: self.step, images, loss, skipped: Some(reason), seconds: StepSeconds::default() }
    }

    /// Skips a step whose forward pass is done: as if it had not been, but that its number is used up.
    fn reject(
        &mut self,
        images: usize,
        loss: f64,
        reason: Skip,
        statistics: &Tensor,
    ) -> Result<StepReport, LearnError> {
        self.put_back(statistics)?;
        let report = self.skip(images, Some(loss), reason);
        self.step += 1;
        self.guard.record(report.step)?;
        Ok(report)
    }

    /// Undoes what a forward pass did to the running statistics, and drops what it kept.
    fn put_back(&mut self, statistics: &Tensor) -> Result<(), LearnError> {
        let parameters = self.backbone.parameters().clone();
        Ok(self.backbone.load(&parameters, statistics)?)
    }
}

fn halves(both: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let count = both.dim(0)? / 2;
    Ok((both.narrow(0, 0, count)?, both.narrow(0, count, count)?))
}

fn all_finite(tensors: &[Tensor]) -> candle_core::Result<bool> {
    for tensor in tensors {
        if !is_finite(tensor)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Seconds between one moment and the next.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> f64 {
        let seconds = self.0.elapsed().as_secs_f64();
        self.0 = Instant::now();
        seconds
    }
}

#[cfg(test)]
mod tests;
