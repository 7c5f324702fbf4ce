//! The trainer: one gradient step after the other, each a function of weights, seed, step number and images.

mod step;

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};

use super::LearnError;
use super::guard::{Fault, Guard};
use super::objectives::{Objective, objective};
use super::sgd::{Sgd, is_finite, length};
use super::strategies::{Strategy, strategy};
use super::views::{ViewMaker, Views};
use crate::config::{EncoderLayer, LearnSettings, ObjectiveKind, Seed, StrategyKind};
use crate::encoder::{
    self, Backbone, Embedder, EncoderError, EncoderId, Frozen, GivenWeights, Head, Parameter, Preset,
};

use step::Clock;
pub use step::{Rate, Skip, StepReport, StepSeconds};

/// The learner. Owned by one thread; readers get what [`Trainer::embedder`] froze.
pub struct Trainer {
    pub(super) preset: Preset,
    pub(super) backbone: Box<dyn Backbone>,
    pub(super) head: Head,
    objective: Box<dyn Objective>,
    pub(super) strategy: Box<dyn Strategy>,
    pub(super) sgd: Sgd,
    /// Layers that do not learn.
    pub(super) frozen: Frozen,
    /// The weights that the encoder started from, if they were given.
    pub(super) given: Option<EncoderId>,
    /// Times the learning rate: that of given weights.
    given_rate_factor: f64,
    /// Momentum of the flat parameters, and of each variable of the head.
    pub(super) momentum: Tensor,
    pub(super) head_momentum: Vec<Tensor>,
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
        let backbone = encoder::build(&preset, device, seed)?;
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
    pub fn with_strategy(mut self, strategy: Box<dyn Strategy>) -> Self {
        self.strategy = strategy;
        self
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
    /// A loss far out of what was usual is news, and learnt from, where that of the replayed images alone is as usual; else
    /// the step is skipped. Where the device runs out of memory the step is tried once more with half of the images, and
    /// so are all that follow.
    ///
    /// # Errors
    /// [`LearnError::Diverged`] where too many of the last steps were bad: then go back to a checkpoint.
    /// [`LearnError::OutOfMemory`] where half of the images are too many, too: then start the process again. Otherwise
    /// where the bytes are no whole number of images or the device fails. A skipped step is no error.
    pub fn step(&mut self, stream: &[u8], replay: &[u8]) -> Result<StepReport, LearnError> {
        let error = match self.try_step(stream, replay) {
            Err(error) if error.is_out_of_memory() => error,
            other => return other,
        };
        tracing::warn!("{error}");
        let again = (self.share == 1 && !self.changing).then(|| {
            self.share = 2;
            self.try_step(stream, replay)
        });
        match (again, error) {
            (Some(Err(LearnError::Tensor(error) | LearnError::Encoder(EncoderError::Tensor(error)))), _)
                if LearnError::Tensor(candle_core::Error::msg(&error)).is_out_of_memory() =>
            {
                Err(LearnError::OutOfMemory(error))
            }
            (Some(other), _) => other,
            (None, LearnError::Tensor(error) | LearnError::Encoder(EncoderError::Tensor(error))) => {
                Err(LearnError::OutOfMemory(error))
            }
            (None, error) => Err(error),
        }
    }

    fn try_step(&mut self, stream: &[u8], replay: &[u8]) -> Result<StepReport, LearnError> {
        let start = Instant::now();
        let (stream, replay) = (self.part(stream), self.part(replay));
        let composed = self.compose(stream, replay)?;
        let views_seconds = start.elapsed().as_secs_f64();
        let mut report = match composed {
            Some(views) => self.step_beside(&views, replay)?,
            None => self.skip(0, None, Skip::NoImages),
        };
        report.seconds.views = views_seconds;
        Ok(report)
    }

    /// The images that fit the device's memory. Bytes that are no whole number of images stay so, to be refused.
    fn part<'a>(&self, images: &'a [u8]) -> &'a [u8] {
        let bytes = self.preset.image_bytes();
        match images.len() / bytes {
            count if images.len() == count * bytes => &images[..count.div_ceil(self.share) * bytes],
            _ => images,
        }
    }

    /// One gradient step on views that are made already.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_on(&mut self, views: &Views) -> Result<StepReport, LearnError> {
        self.step_beside(views, &[])
    }

    /// `replay`: images that tell news from divergence.
    fn step_beside(&mut self, views: &Views, replay: &[u8]) -> Result<StepReport, LearnError> {
        let (images, needed) = (views.count(), self.objective.minimum_images());
        if images < needed {
            return Ok(self.skip(images, None, Skip::TooFewImages { images, needed }));
        }
        let before = self.backbone.statistics().force_contiguous()?;
        self.changing = false;
        let result = self.descend_on(views, replay, &before);
        if result.is_err() && !self.changing {
            // A failed step leaves no trace; should this fail as well, the first error says more.
            let _ = self.put_back(&before);
        }
        result
    }

    fn descend_on(&mut self, views: &Views, replay: &[u8], before: &Tensor) -> Result<StepReport, LearnError> {
        let images = views.count();
        let mut clock = Clock::start();
        let mut seconds = StepSeconds::default();
        let (mut leaf, mut loss) = self.forward(views, &mut clock, &mut seconds)?;
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !value.is_finite() {
            return self.reject(images, value, Skip::LossNotFinite, before);
        }
        if self.guard.loss_bound(images).is_some_and(|bound| value > bound) {
            self.put_back(before)?;
            if !self.is_news(images, replay)? {
                return self.reject(images, value, Skip::LossOutOfBounds, before);
            }
            // What the forward pass had kept for the backward pass is gone.
            (leaf, loss) = self.forward(views, &mut clock, &mut seconds)?;
        }
        let gradients = loss.backward()?;
        let of = |var: &Var| gradients.get(var).map_or_else(|| var.zeros_like(), |gradient| Ok(gradient.detach()));
        let features_gradient = of(&leaf)?;
        let of_head = self.head.variables().iter().map(|(_, var)| of(var)).collect::<Result<Vec<_>, _>>()?;
        seconds.loss += clock.lap();
        let gradient = self.backbone.backward(&features_gradient)?;
        seconds.backward = clock.lap();
        let gradient = self.strategy.regularise(self.backbone.parameters(), gradient)?.detach();
        let long = self.learning_rate() * length(&gradient)?;
        if !long.is_finite() || !all_finite(&of_head)? {
            return self.reject(images, value, Skip::GradientNotFinite, before);
        }
        if self.guard.length_bound(images).is_some_and(|bound| long > bound) {
            return self.reject(images, value, Skip::StepOutOfBounds, before);
        }
        self.changing = true;
        self.descend(&gradient, &of_head)?;
        self.changing = false;
        seconds.update = clock.lap();

        self.guard.took(images, value, long);
        self.rate = self.rate.after_a_step();
        let step = self.step;
        self.step += 1;
        Ok(StepReport { step, images, loss: Some(value), skipped: None, seconds })
    }

    /// The features as the leaf that the loss's gradient ends at, and the loss.
    fn forward(
        &mut self,
        views: &Views,
        clock: &mut Clock,
        seconds: &mut StepSeconds,
    ) -> Result<(Var, Tensor), LearnError> {
        let features = self.backbone.forward(&Tensor::cat(&[&views.first, &views.second], 0)?, 2)?;
        seconds.forward += clock.lap();
        let leaf = Var::from_tensor(&features.detach())?;
        let loss = self.loss(views, &leaf)?;
        seconds.loss += clock.lap();
        Ok((leaf, loss))
    }

    /// Whether a loss that is out of bounds comes from images of a new kind: as many old ones have a usual loss then.
    /// Without so many there is nothing to tell by, and it counts as divergence.
    fn is_news(&mut self, images: usize, replay: &[u8]) -> Result<bool, LearnError> {
        let Some(old) = replay.get(..images * self.preset.image_bytes()) else { return Ok(false) };
        let bound = self.guard.loss_bound(images);
        Ok(self.probe_loss(old)?.zip(bound).is_some_and(|(loss, bound)| loss <= bound))
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
        let sgd = Sgd { learning_rate: self.learning_rate(), ..self.sgd };
        let factor = if self.given.is_some() { self.given_rate_factor } else { 1.0 };
        let of_encoder = Sgd { learning_rate: factor * sgd.learning_rate, ..sgd };
        for range in self.frozen.trainable(self.backbone.layout()) {
            let part = |flat: &Tensor| flat.narrow(0, range.start, range.len());
            of_encoder.step(&part(self.backbone.parameters())?, &part(&self.momentum)?, &part(gradient)?)?;
        }
        for (((_, var), buffer), gradient) in self.head.variables().iter().zip(&self.head_momentum).zip(of_head) {
            sgd.step(var, buffer, gradient)?;
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
        let fault = match reason {
            Skip::LossOutOfBounds | Skip::StepOutOfBounds => Fault::OutOfBounds,
            _ => Fault::NotFinite,
        };
        self.guard.record(report.step, fault)?;
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

#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod tests;
