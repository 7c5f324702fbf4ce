//! One step: the passes that the strategy composes, the guard's verdict on them, the descent.

use std::time::Instant;

use candle_core::{DType, Tensor, Var};

use super::step::Clock;
use super::{Skip, StepReport, StepSeconds, Trainer, all_finite, halves};
use crate::device::{in_pool, on_compute_threads};
use crate::encoder::EncoderError;
use crate::learn::LearnError;
use crate::learn::batch::{Batch, Gradient, Samples};
use crate::learn::guard::Fault;
use crate::learn::sgd::{Sgd, length};
use crate::learn::strategies::{Loss, Network};
use crate::learn::views::Views;

impl Trainer {
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
        self.step_samples(&Samples::unlabelled(stream), &Samples::unlabelled(replay))
    }

    /// The same of images of which more is known.
    ///
    /// # Errors
    /// As [`Trainer::step`]; where the objective needs labels that are missing.
    pub fn step_samples(&mut self, stream: &Samples<'_>, replay: &Samples<'_>) -> Result<StepReport, LearnError> {
        let device = self.backbone.parameters().device().clone();
        let error = match on_compute_threads(&device, || in_pool(|| self.try_step(stream, replay))) {
            Err(error) if error.is_out_of_memory() => error,
            other => return other,
        };
        tracing::warn!("{error}");
        let again = (self.share == 1 && !self.changing).then(|| {
            self.share = 2;
            self.backbone.release();
            on_compute_threads(&device, || in_pool(|| self.try_step(stream, replay)))
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

    fn try_step(&mut self, stream: &Samples<'_>, replay: &Samples<'_>) -> Result<StepReport, LearnError> {
        let start = Instant::now();
        let (stream, replay) = (self.part(stream), self.part(replay));
        let passes = self.compose(&stream, &replay)?;
        let views_seconds = start.elapsed().as_secs_f64();
        let mut report = match passes.is_empty() {
            false => self.step_passes(&passes, replay.pixels)?,
            true => self.skip(0, None, Skip::NoImages),
        };
        report.seconds.views = views_seconds;
        Ok(report)
    }

    /// The images that are trained on; bytes that are no whole number of images are left for [`LearnError::BatchBytes`].
    fn part<'a>(&self, samples: &Samples<'a>) -> Samples<'a> {
        let bytes = self.preset.image_bytes();
        let images = samples.pixels.len() / bytes;
        if self.share == 1 || samples.pixels.len() != images * bytes {
            return *samples;
        }
        let kept = images.div_ceil(self.share);
        Samples {
            pixels: &samples.pixels[..kept * bytes],
            ids: &samples.ids[..kept.min(samples.ids.len())],
            labels: &samples.labels[..kept.min(samples.labels.len())],
        }
    }

    /// One gradient step on views that are made already.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_on(&mut self, views: &Views) -> Result<StepReport, LearnError> {
        in_pool(|| self.step_passes(&[Batch::of(views.clone())], &[]))
    }

    /// `replay`: packed images that tell news from divergence.
    fn step_passes(&mut self, passes: &[Batch], replay: &[u8]) -> Result<StepReport, LearnError> {
        let images = passes.iter().map(Batch::count).sum();
        let (fewest, needed) = (passes.iter().map(Batch::count).min().unwrap_or(0), self.objective.minimum_images());
        if fewest < needed {
            return Ok(self.skip(images, None, Skip::TooFewImages { images: fewest, needed }));
        }
        let before = self.backbone.statistics().force_contiguous()?;
        self.changing = false;
        let result = self.descend_on(passes, images, replay, &before);
        if result.is_err() && !self.changing {
            // A failed step leaves no trace; should this fail as well, the first error says more.
            let _ = self.put_back(&before);
        }
        result
    }

    fn descend_on(
        &mut self,
        passes: &[Batch],
        images: usize,
        replay: &[u8],
        before: &Tensor,
    ) -> Result<StepReport, LearnError> {
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
                None => return self.reject(images, value, Skip::LossNotFinite, before),
            }
        }
        let unusual = self.guard.loss_bound(images).is_some_and(|bound| value > bound);
        if unusual && !self.is_news(images, replay)? {
            return self.reject(images, value, Skip::LossOutOfBounds, before);
        }
        let Gradient { backbone, others } = self.strategy.combine(taken)?;
        let gradient = self.strategy.regularise(self.backbone.parameters(), backbone)?.detach();
        let long = self.learning_rate() * length(&gradient)?;
        if !long.is_finite() || !all_finite(&others)? {
            return self.reject(images, value, Skip::GradientNotFinite, before);
        }
        if self.guard.length_bound(images).is_some_and(|bound| long > bound) {
            return self.reject(images, value, Skip::StepOutOfBounds, before);
        }
        self.changing = true;
        self.descend(&gradient, &others)?;
        self.changing = false;
        seconds.update = clock.lap();

        self.guard.took(images, value, long);
        self.rate = self.rate.after_a_step();
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

    /// Whether a loss that is out of bounds comes from images of a new kind: as many old ones have a usual loss then. Where
    /// there is nothing to tell by (no replayed images, an objective that needs labels) it counts as news: the length of the
    /// step is looked at all the same.
    fn is_news(&mut self, images: usize, replay: &[u8]) -> Result<bool, LearnError> {
        let Some(old) = replay.get(..images * self.preset.image_bytes()) else { return Ok(true) };
        let bound = self.guard.loss_bound(images);
        let Some((loss, bound)) = self.probe_loss(old)?.zip(bound) else { return Ok(true) };
        Ok(loss <= bound)
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
        let sgd = Sgd { learning_rate: self.learning_rate(), ..self.sgd };
        let factor = if self.given.is_some() { self.given_rate_factor } else { 1.0 };
        let of_encoder = Sgd { learning_rate: factor * sgd.learning_rate, ..sgd };
        for range in self.frozen.trainable(self.backbone.layout()) {
            let part = |flat: &Tensor| flat.narrow(0, range.start, range.len());
            of_encoder.step(&part(self.backbone.parameters())?, &part(&self.momentum)?, &part(gradient)?)?;
        }
        let trained = self.head.variables().iter().chain(self.strategy.variables());
        let momentum = self.head_momentum.iter().chain(&self.strategy_momentum);
        for (((_, var), buffer), gradient) in trained.zip(momentum).zip(others) {
            sgd.step(var, buffer, gradient)?;
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
        let fault = match reason {
            Skip::LossOutOfBounds | Skip::StepOutOfBounds => Fault::OutOfBounds,
            _ => Fault::NotFinite,
        };
        self.guard.record(report.step, fault)?;
        Ok(report)
    }

    /// Undoes what a forward pass did to the running statistics, and drops what it kept.
    pub(super) fn put_back(&mut self, statistics: &Tensor) -> Result<(), LearnError> {
        let parameters = self.backbone.parameters().clone();
        Ok(self.backbone.load(&parameters, statistics)?)
    }
}
