//! The trainer: one gradient step after the other, each a function of weights, seed, step number and images.

mod passes;
mod step;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::LearnError;
use super::guard::Guard;
use super::objectives::{Objective, objective_of};
use super::sgd::{Sgd, is_finite, overwrite};
#[cfg(test)]
use super::strategies::Loss;
use super::strategies::{Dimensions, Network, Strategy, strategy};
use super::views::{ViewMaker, Views};
use crate::config::{EncoderLayer, LearnSettings, ObjectiveKind, Seed, StrategyKind};
use crate::encoder::{self, Backbone, Embedder, EncoderId, Frozen, GivenWeights, Head, Parameter, Preset};

pub use step::{Rate, Skip, StepReport, StepSeconds};

/// The learner. Owned by one thread; readers get what [`Trainer::embedder`] froze.
pub struct Trainer {
    pub(super) preset: Preset,
    pub(super) backbone: Box<dyn Backbone>,
    pub(super) head: Head,
    pub(super) objective: Box<dyn Objective>,
    pub(super) strategy: Box<dyn Strategy>,
    pub(super) sgd: Sgd,
    /// Layers that do not learn.
    pub(super) frozen: Frozen,
    /// The weights that the encoder started from, if they were given.
    pub(super) given: Option<EncoderId>,
    /// Times the learning rate: that of given weights.
    given_rate_factor: f64,
    /// Momentum of the flat parameters, and of each variable of the head and of the strategy.
    pub(super) momentum: Tensor,
    pub(super) head_momentum: Vec<Tensor>,
    pub(super) strategy_momentum: Vec<Tensor>,
    views: ViewMaker,
    pub(super) seed: Seed,
    /// Steps attempted so far: the counter of every draw.
    pub(super) step: u64,
    pub(super) guard: Guard,
    pub(super) rate: Rate,
    /// One in so many images of a batch is trained on: 1, or 2 once the device has run out of memory.
    share: usize,
    /// Whether a step is changing the weights: one that fails here cannot be tried again.
    changing: bool,
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
        let objective = objective_of(settings);
        let (dtype, device) = (backbone.parameters().dtype(), backbone.parameters().device().clone());
        let features = preset.features();
        let shape = objective.head_shape(features);
        let head = Head::new(&shape, features, dtype, &device, seed)?;
        let zeros = |tensor: &Tensor| Tensor::zeros(tensor.dims(), dtype, &device);
        let projected = shape.projector.last().map_or(features, |layer| layer.outputs);
        let dimensions = Dimensions { features, projected, dtype, device: device.clone(), seed };
        let strategy = strategy(settings, &dimensions)?;
        Ok(Self {
            momentum: zeros(backbone.parameters())?,
            head_momentum: head.variables().iter().map(|(_, var)| zeros(var)).collect::<Result<_, _>>()?,
            strategy_momentum: zeros_like(strategy.as_ref())?,
            views: ViewMaker::new(&preset),
            strategy,
            sgd: Sgd {
                learning_rate: settings.learning_rate,
                momentum: settings.momentum,
                weight_decay: settings.weight_decay,
            },
            frozen: Frozen::default(),
            given: None,
            given_rate_factor: settings.given_rate_factor,
            guard: Guard::default(),
            rate: Rate::default(),
            share: 1,
            changing: false,
            step: 0,
            preset,
            backbone,
            head,
            objective,
            seed,
        })
    }

    /// The same learner with another strategy: the way to one that the settings do not name.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn with_strategy(mut self, strategy: Box<dyn Strategy>) -> Result<Self, LearnError> {
        self.strategy_momentum = zeros_like(strategy.as_ref())?;
        self.strategy = strategy;
        Ok(self)
    }

    /// Freezes these layers of the encoder, and no others, from the next step on: parameters and running statistics stay as
    /// they are to the bit.
    ///
    /// # Errors
    /// Where the backend cannot freeze layers.
    pub fn freeze(&mut self, layers: &[EncoderLayer]) -> Result<(), LearnError> {
        let frozen = Frozen::new(layers);
        self.backbone.set_frozen(frozen)?;
        self.frozen = frozen;
        self.still_frozen()
    }

    /// A layer that learns again one day shall not go on with the momentum of long ago.
    pub(super) fn still_frozen(&self) -> Result<(), LearnError> {
        for parameter in self.backbone.layout().iter().filter(|parameter| self.frozen.holds(&parameter.name)) {
            let part = self.momentum.narrow(0, parameter.offset, parameter.elements())?;
            part.slice_set(&part.zeros_like()?, 0, 0)?;
        }
        Ok(())
    }

    /// Starts from given weights; heads stay freshly initialised. A checkpoint taken up later goes before, and must have
    /// started from the same.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn give(&mut self, weights: &GivenWeights) -> Result<EncoderId, LearnError> {
        weights.load_into(self.backbone.as_mut())?;
        let id = EncoderId::of(self.backbone())?;
        self.given = Some(id);
        Ok(id)
    }

    /// Whether every number that is learnt or kept from step to step is finite.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn is_finite(&self) -> Result<bool, LearnError> {
        let encoder = [self.backbone.parameters(), self.backbone.statistics(), &self.momentum];
        let head = self.head.variables().iter().map(|(_, var)| var.as_tensor()).chain(&self.head_momentum);
        for tensor in encoder.into_iter().chain(head) {
            if !is_finite(tensor)? {
                return Ok(false);
            }
        }
        Ok(true)
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

    /// Share of the learning rate of the settings that is in force.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// The learning rate in force.
    pub fn learning_rate(&self) -> f64 {
        self.sgd.learning_rate * self.rate.factor()
    }

    /// After a roll-back: leaves out the numbers up to `step`, so that other batches follow than the ones that diverged;
    /// goes on at half of `rate`, the one that diverged; and forgets what was usual.
    pub fn change_course(&mut self, step: u64, rate: Rate) {
        self.step = self.step.max(step);
        self.rate = rate.halved();
        self.guard.reset();
    }

    /// Whether the latest steps were all good, so that the weights may be kept and shown.
    pub fn is_calm(&self) -> bool {
        self.guard.is_calm(self.step)
    }

    /// Whether batches are halved, since the device has run out of memory.
    pub fn is_halved(&self) -> bool {
        self.share > 1
    }

    /// Steps skipped since the program started because a loss or gradient was far out of what was usual.
    pub fn out_of_bounds_steps(&self) -> u64 {
        self.guard.out_of_bounds()
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
        let own: usize = self.strategy.variables().iter().map(|(_, var)| var.elem_count()).sum();
        let values = 2 * (encoder + head + own) + self.strategy.cost().parameter_copies * encoder;
        (values * self.momentum.dtype().size_in_bytes()) as u64
    }

    /// An immutable copy of the encoder as it is now, and the name of its weights.
    ///
    /// # Errors
    /// Where the device cannot hold it.
    pub fn embedder(&self) -> Result<(EncoderId, Arc<dyn Embedder>), LearnError> {
        Ok((EncoderId::of(self.backbone())?, self.strategy.freeze(self.backbone.as_ref())?))
    }

    /// The encoder that answers for an ended task, counted from 0, where the strategy has one for each; none where the
    /// encoder of today answers for all.
    pub fn column(&self, task: usize) -> Option<Arc<dyn Embedder>> {
        self.strategy.column(task)
    }

    /// A task has ended; the strategy may want to remember what it was like.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn at_boundary(&mut self) -> Result<(), LearnError> {
        let (backbone, head, objective) = (self.backbone.as_mut(), &self.head, self.objective.as_ref());
        if self.strategy.at_boundary(&mut Network { backbone, head, objective })? {
            overwrite(&self.momentum, &self.momentum.zeros_like()?)?;
        }
        let fits = |momentum: &[Tensor], strategy: &dyn Strategy| {
            let variables = strategy.variables();
            momentum.len() == variables.len()
                && momentum.iter().zip(variables).all(|(momentum, (_, var))| momentum.dims() == var.dims())
        };
        if !fits(&self.strategy_momentum, self.strategy.as_ref()) {
            self.strategy_momentum = zeros_like(self.strategy.as_ref())?;
        }
        Ok(())
    }

    /// The objective's loss of images without learning from them: packed RGB8, at least [`Objective::minimum_images`] of them.
    /// The views are the same at every call, so that the values of two moments can be compared. `None` for too few images, and where the
    /// objective needs labels.
    ///
    /// # Errors
    /// Where the bytes are no whole number of images or the device fails.
    pub fn probe_loss(&mut self, images: &[u8]) -> Result<Option<f64>, LearnError> {
        let Some(views) = self.views_of(images, "probe views", 0)? else { return Ok(None) };
        if views.count() < self.objective.minimum_images() || self.objective.views() == 1 {
            return Ok(None);
        }
        let before = self.backbone.statistics().force_contiguous()?;
        let features = self.backbone.forward(&Tensor::cat(&[&views.first, &views.second], 0)?, 2)?;
        let (first, second) = halves(&features)?;
        let loss = self.objective.loss(&self.head, &first, &second)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        self.put_back(&before)?;
        Ok(Some(loss))
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

    /// The same loss with other flat parameters of the encoder, after which the learner is as it was.
    ///
    /// # Errors
    /// As [`Trainer::probe_loss`].
    pub fn probe_loss_at(&mut self, parameters: &Tensor, images: &[u8]) -> Result<Option<f64>, LearnError> {
        let own = self.backbone.parameters().force_contiguous()?;
        let statistics = self.backbone.statistics().force_contiguous()?;
        self.backbone.load(parameters, &statistics)?;
        let loss = self.probe_loss(images);
        self.backbone.load(&own, &statistics)?;
        loss
    }
}

fn halves(both: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let count = both.dim(0)? / 2;
    Ok((both.narrow(0, 0, count)?, both.narrow(0, count, count)?))
}

/// Momentum of the strategy's own variables, before the first step.
pub(super) fn zeros_like(strategy: &dyn Strategy) -> candle_core::Result<Vec<Tensor>> {
    strategy.variables().iter().map(|(_, var)| Ok(var.zeros_like()?.detach())).collect()
}

fn all_finite(tensors: &[Tensor]) -> candle_core::Result<bool> {
    for tensor in tensors {
        if !is_finite(tensor)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Ways in for the strategies' tests.
#[cfg(test)]
impl Trainer {
    pub(super) fn strategy_state(&self) -> candle_core::Result<super::State> {
        self.strategy.state()
    }

    pub(super) fn with_network<R>(&mut self, work: impl FnOnce(&mut Network<'_>) -> R) -> R {
        let (backbone, head, objective) = (self.backbone.as_mut(), &self.head, self.objective.as_ref());
        work(&mut Network { backbone, head, objective })
    }

    pub(super) fn with_loss<R>(&self, work: impl FnOnce(Loss<'_>) -> R) -> R {
        work(Loss { head: &self.head, objective: self.objective.as_ref() })
    }
}

#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod tests;
