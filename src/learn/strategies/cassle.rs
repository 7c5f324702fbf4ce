//! CaSSLe: what the network shows now must still tell what it showed at the last boundary.
//!
//! Beside the objective, w * (D(g(z1), z1') + D(g(z2), z2')) / 2: z the projections of each view, z' those of the encoder and head
//! frozen at the last boundary, g a small predictor that is trained along, D the objective's own loss between the two.
//! Source: Fini et al. 2022, "Self-Supervised Models are Continual Learners", equation 5. Costs one copy of the parameters and
//! a forward pass of the whole batch. Needs task boundaries; before the first there is nothing to distil.

use candle_core::{Result, Tensor, Var};

use super::frozen::Frozen;
use super::{Batch, Cost, Dimensions, Loss, Network, State, Strategy, apart};
use crate::config::{Random, StrategyKind};
use crate::encoder::{Head, HeadShape, LayerShape};

/// The strategy, its predictor and the network of the last boundary.
pub struct Cassle {
    weight: f64,
    predictor: Head,
    past: Option<Frozen>,
    /// Of each pass: the past's projections, both views one after the other.
    targets: Vec<Tensor>,
}

impl Cassle {
    /// # Errors
    /// Where the device fails.
    pub fn new(weight: f64, dimensions: &Dimensions) -> Result<Self> {
        let width = dimensions.projected;
        let shape =
            HeadShape { projector: vec![LayerShape::hidden(width), LayerShape::linear(width)], predictor: vec![] };
        let Dimensions { dtype, device, seed, .. } = dimensions;
        let predictor = Head::new(&shape, width, *dtype, device, apart(*seed))?;
        Ok(Self { weight, predictor, past: None, targets: Vec::new() })
    }
}

impl Strategy for Cassle {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Cassle
    }

    fn cost(&self) -> Cost {
        Cost { parameter_copies: 1, forward_passes: 1 }
    }

    fn rehearses(&self) -> bool {
        false
    }

    fn compose(&mut self, stream: Option<Batch>, _replay: Option<Batch>, _: &mut Random) -> Result<Vec<Batch>> {
        Ok(stream.into_iter().collect())
    }

    fn prepare(&mut self, passes: &[Batch], network: &mut Network<'_>) -> Result<()> {
        self.targets = match &mut self.past {
            Some(past) => passes.iter().map(|batch| past.project(&batch.views, network)).collect::<Result<_>>()?,
            None => Vec::new(),
        };
        Ok(())
    }

    fn extra_loss(
        &mut self,
        pass: usize,
        batch: &Batch,
        [first, second]: [&Tensor; 2],
        loss: Loss<'_>,
    ) -> Result<Option<Tensor>> {
        let Some(targets) = self.targets.get(pass) else { return Ok(None) };
        let count = batch.count();
        let projections = loss.head.project(&Tensor::cat(&[first, second], 0)?, 2)?;
        let predicted = self.predictor.project(&projections, 2)?;
        let of =
            |start| loss.objective.distillation(&predicted.narrow(0, start, count)?, &targets.narrow(0, start, count)?);
        Ok(Some((of(0)? + of(count)?)?.affine(0.5 * self.weight, 0.0)?))
    }

    fn variables(&self) -> &[(String, Var)] {
        self.predictor.variables()
    }

    fn at_boundary(&mut self, network: &mut Network<'_>) -> Result<bool> {
        self.past = Some(Frozen::of(network)?);
        Ok(false)
    }

    fn state(&self) -> Result<State> {
        Ok(self.past.as_ref().map(|past| past.state("past")).unwrap_or_default())
    }

    fn restore(&mut self, state: &State, network: &mut Network<'_>) -> Result<()> {
        self.past = Frozen::restore("past", state, network)?;
        self.targets.clear();
        Ok(())
    }
}
