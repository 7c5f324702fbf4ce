//! The trainer: one gradient step after the other, each a function of weights, seed, step number and images.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};

use super::LearnError;
use super::batch::{Batch, Gradient, Samples};
use super::guard::Guard;
use super::objectives::{Objective, objective_of};
use super::sgd::{Sgd, is_finite, overwrite};
use super::step::{Skip, StepReport, StepSeconds};
use super::strategies::{Dimensions, Loss, Network, Strategy, strategy};
use super::views::{ViewMaker, Views};
use crate::config::{LearnSettings, ObjectiveKind, Seed, StrategyKind};
use crate::encoder::{self, Backbone, Embedder, EncoderId, Head, Parameter, Preset};

/// The learner. Owned by one thread; readers get what [`Trainer::embedder`] froze.
pub struct Trainer {
    pub(super) preset: Preset,
    pub(super) backbone: Box<dyn Backbone>,
    pub(super) head: Head,
    pub(super) objective: Box<dyn Objective>,
    pub(super) strategy: Box<dyn Strategy>,
    sgd: Sgd,
    /// Momentum of the flat parameters, and of each variable of the head and of the strategy.
    pub(super) momentum: Tensor,
    pub(super) head_momentum: Vec<Tensor>,
    pub(super) strategy_momentum: Vec<Tensor>,
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
    ///
    /// # Errors
    /// Where the device fails.
    pub fn with_strategy(mut self, strategy: Box<dyn Strategy>) -> Result<Self, LearnError> {
        self.strategy_momentum = zeros_like(strategy.as_ref())?;
        self.strategy = strategy;
        Ok(self)
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

    /// One gradient step on images of the stream and of the memory: packed RGB8, each image side x side x 3 bytes; either may be
    /// empty. Where the stream is empty the step is a rehearsal: give it as many images as stream and memory have together.
    ///
    /// # Errors
    /// [`LearnError::Diverged`] where too many of the last steps were not finite: then go back to a checkpoint. Otherwise
    /// where the bytes are no whole number of images or the device fails. A skipped step is no error.
    pub fn step(&mut self, stream: &[u8], replay: &[u8]) -> Result<StepReport, LearnError> {
        self.step_samples(&Samples::unlabelled(stream), &Samples::unlabelled(replay))
    }

    /// The same of images of which more is known.
    ///
    /// # Errors
    /// As [`Trainer::step`]; where the objective needs labels that are missing.
    pub fn step_samples(&mut self, stream: &Samples<'_>, replay: &Samples<'_>) -> Result<StepReport, LearnError> {
        let start = Instant::now();
        let composed = self.compose(stream, replay)?;
        let views_seconds = start.elapsed().as_secs_f64();
        let mut report = match composed.is_empty() {
            false => self.step_passes(&composed)?,
            true => self.skip(0, None, Skip::NoImages),
        };
        report.seconds.views = views_seconds;
        Ok(report)
    }

    /// One gradient step on views that are made already.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_on(&mut self, views: &Views) -> Result<StepReport, LearnError> {
        self.step_passes(&[Batch::of(views.clone())])
    }

    fn step_passes(&mut self, passes: &[Batch]) -> Result<StepReport, LearnError> {
        let images = passes.iter().map(Batch::count).sum();
        let (fewest, needed) = (passes.iter().map(Batch::count).min().unwrap_or(0), self.objective.minimum_images());
        if fewest < needed {
            return Ok(self.skip(images, None, Skip::TooFewImages { images: fewest, needed }));
        }
        let before = self.backbone.statistics().force_contiguous()?;
        let mut clock = Clock::start();
        let mut seconds = StepSeconds::default();
        let (backbone, head, objective) = (self.backbone.as_mut(), &self.head, self.objective.as_ref());
        self.strategy.prepare(passes, &mut Network { backbone, head, objective })?;

        let (mut value, mut taken) = (0.0, Vec::with_capacity(passes.len()));
        for (index, batch) in passes.iter().enumerate() {
            let (loss, gradient) = self.pass(index, batch, &mut clock, &mut seconds)?;
            value += loss;
            match gradient {
                Some(gradient) => taken.push(gradient),
                None => return self.reject(images, value, Skip::LossNotFinite, &before),
            }
        }
        let Gradient { backbone, others } = self.strategy.combine(taken)?;
        let gradient = self.strategy.regularise(self.backbone.parameters(), backbone)?.detach();
        if !is_finite(&gradient)? || !all_finite(&others)? {
            return self.reject(images, value, Skip::GradientNotFinite, &before);
        }
        self.descend(&gradient, &others)?;
        seconds.update = clock.lap();

        let step = self.step;
        self.step += 1;
        Ok(StepReport { step, images, loss: Some(value), skipped: None, seconds })
    }

    /// One pass of the network, forward and backward: its loss, and the gradient where the loss is finite.
    fn pass(
        &mut self,
        index: usize,
        batch: &Batch,
        clock: &mut Clock,
        seconds: &mut StepSeconds,
    ) -> Result<(f64, Option<Gradient>), LearnError> {
        let views = &batch.views;
        let (images, groups) = match self.objective.views() {
            1 => (views.first.clone(), 1),
            _ => (Tensor::cat(&[&views.first, &views.second], 0)?, 2),
        };
        let features = self.backbone.forward(&images, groups)?;
        seconds.forward += clock.lap();
        let leaf = Var::from_tensor(&features.detach())?;
        let loss = self.loss(index, batch, &leaf)?;
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !value.is_finite() {
            return Ok((value, None));
        }
        let gradients = loss.backward()?;
        let of = |var: &Var| gradients.get(var).map_or_else(|| var.zeros_like(), |gradient| Ok(gradient.detach()));
        let features_gradient = of(&leaf)?;
        let trained = self.head.variables().iter().chain(self.strategy.variables());
        let others = trained.map(|(_, var)| of(var)).collect::<Result<Vec<_>, _>>()?;
        seconds.loss += clock.lap();
        let backbone = self.backbone.backward(&features_gradient)?;
        seconds.backward += clock.lap();
        Ok((value, Some(Gradient { backbone, others })))
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

    fn compose(&mut self, stream: &Samples<'_>, replay: &Samples<'_>) -> Result<Vec<Batch>, LearnError> {
        let own = self.strategy.own_replay(&mut self.seed.random("own replay", self.step));
        let replay = match &own {
            Some((pixels, labels)) => Samples { pixels, ids: &[], labels },
            None if self.strategy.rehearses() => *replay,
            None => Samples::default(),
        };
        let stream = self.batch_of(stream, "stream views")?;
        let replay = self.batch_of(&replay, "replay views")?;
        Ok(self.strategy.compose(stream, replay, &mut self.seed.random("mix", self.step))?)
    }

    fn batch_of(&self, samples: &Samples<'_>, purpose: &str) -> Result<Option<Batch>, LearnError> {
        let Some(views) = self.views_of(samples.pixels, purpose, self.step)? else { return Ok(None) };
        let (pixels, ids, labels) = (samples.pixels.to_vec(), samples.ids.to_vec(), samples.labels.to_vec());
        Ok(Some(Batch { views, pixels, ids, labels, replayed: 0 }))
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

    fn loss(&mut self, index: usize, batch: &Batch, features: &Tensor) -> Result<Tensor, LearnError> {
        let both = match self.objective.views() {
            1 => [features.clone(), features.clone()],
            _ => halves(features)?.into(),
        };
        let [first, second] = self.strategy.transform(index, both)?;
        let (head, objective) = (&self.head, self.objective.as_ref());
        let extra = self.strategy.extra_loss(index, batch, [&first, &second], Loss { head, objective })?;
        let own = match self.strategy.takes_objective(index) {
            true => Some(objective.labelled_loss(head, &first, &second, &batch.labels)?),
            false => None,
        };
        match (own, extra) {
            (Some(own), Some(extra)) => Ok((own + extra)?),
            (Some(loss), None) | (None, Some(loss)) => Ok(loss),
            (None, None) => Ok(first.sum_all()?.affine(0.0, 0.0)?),
        }
    }

    fn descend(&mut self, gradient: &Tensor, others: &[Tensor]) -> Result<(), LearnError> {
        self.sgd.step(self.backbone.parameters(), &self.momentum, gradient)?;
        let trained = self.head.variables().iter().chain(self.strategy.variables());
        let momentum = self.head_momentum.iter().chain(&self.strategy_momentum);
        for (((_, var), buffer), gradient) in trained.zip(momentum).zip(others) {
            self.sgd.step(var, buffer, gradient)?;
        }
        let (backbone, head, objective) = (self.backbone.as_mut(), &self.head, self.objective.as_ref());
        Ok(self.strategy.after_step(&mut Network { backbone, head, objective }, gradient)?)
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
mod tests;
