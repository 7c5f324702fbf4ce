//! EMA alignment (CLA-E): replay, and the replayed images aligned with a moving average of the network.
//!
//! The objective on the stream and the replayed images together. Beside it, w * mean -cos(g(z), z'), z the projections of the
//! replayed images, z' those of a copy of encoder and head that follows the network by tau * copy + (1 - tau) * network, and g a
//! small multilayer perceptron that is trained along.
//! Source: Cignoni et al. 2025, "CLA: Latent Alignment for Online Continual Self-Supervised Learning", the variant with a moving
//! average: the copy remembers what the network was like some 1 / (1 - tau) steps ago. Costs two copies of the parameters and a forward pass
//! of the replayed images. Needs no task boundary.

use candle_core::{Result, Tensor, Var};

use super::frozen::Frozen;
use super::{Batch, Cost, Dimensions, Loss, Network, State, Strategy, apart, together};
use crate::config::{LearnSettings, Random, StrategyKind};
use crate::encoder::{Head, HeadShape, LayerShape};
use crate::learn::objectives::negative_cosine;

/// The strategy, its perceptron and the network's moving average.
pub struct Ema {
    weight: f64,
    decay: f64,
    aligner: Head,
    teacher: Option<Frozen>,
    /// Of each pass, where it has replayed images: the teacher's projections of them, both views one after the other.
    targets: Vec<Option<Tensor>>,
}

impl Ema {
    /// # Errors
    /// Where the device fails.
    pub fn new(settings: &LearnSettings, dimensions: &Dimensions) -> Result<Self> {
        let width = dimensions.projected;
        let shape =
            HeadShape { projector: vec![LayerShape::hidden(width), LayerShape::linear(width)], predictor: vec![] };
        let Dimensions { dtype, device, seed, .. } = dimensions;
        Ok(Self {
            weight: settings.align_weight,
            decay: settings.ema_decay,
            aligner: Head::new(&shape, width, *dtype, device, apart(*seed))?,
            teacher: None,
            targets: Vec::new(),
        })
    }
}

impl Strategy for Ema {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Ema
    }

    fn cost(&self) -> Cost {
        Cost { parameter_copies: 2, forward_passes: 1 }
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn compose(&mut self, stream: Option<Batch>, replay: Option<Batch>, _: &mut Random) -> Result<Vec<Batch>> {
        together(stream, replay)
    }

    fn prepare(&mut self, passes: &[Batch], network: &mut Network<'_>) -> Result<()> {
        if self.teacher.is_none() {
            self.teacher = Some(Frozen::of(network)?);
        }
        let Some(teacher) = &mut self.teacher else { return Ok(()) };
        let target = |batch: &Batch| match batch.replayed {
            // Batch norm of the head tells a lone image from nothing.
            0 | 1 => Ok(None),
            replayed => teacher.project(&batch.narrow(batch.count() - replayed, replayed)?.views, network).map(Some),
        };
        self.targets = passes.iter().map(target).collect::<Result<_>>()?;
        Ok(())
    }

    fn extra_loss(
        &mut self,
        pass: usize,
        batch: &Batch,
        [first, second]: [&Tensor; 2],
        loss: Loss<'_>,
    ) -> Result<Option<Tensor>> {
        let Some(Some(targets)) = self.targets.get(pass) else { return Ok(None) };
        let replayed = |features: &Tensor| features.narrow(0, batch.count() - batch.replayed, batch.replayed);
        let both = Tensor::cat(&[replayed(first)?, replayed(second)?], 0)?;
        let predicted = self.aligner.project(&loss.head.project(&both, 2)?, 2)?;
        Ok(Some(negative_cosine(&predicted, targets)?.affine(self.weight, 0.0)?))
    }

    fn variables(&self) -> &[(String, Var)] {
        self.aligner.variables()
    }

    fn after_step(&mut self, network: &mut Network<'_>, _gradient: &Tensor) -> Result<()> {
        match &mut self.teacher {
            Some(teacher) => teacher.follow(network, self.decay),
            None => Ok(()),
        }
    }

    fn state(&self) -> Result<State> {
        Ok(self.teacher.as_ref().map(|teacher| teacher.state("teacher")).unwrap_or_default())
    }

    fn restore(&mut self, state: &State, network: &mut Network<'_>) -> Result<()> {
        self.teacher = Frozen::restore("teacher", state, network)?;
        self.targets.clear();
        Ok(())
    }
}
