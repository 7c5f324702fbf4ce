//! SimCLR: tell the other view of the same image from every other image of the batch.
//!
//! NT-Xent: mean over the 2n views i of -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)), j the other view of i's image and
//! s the cosine. Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
//! equation 1.

use candle_core::{Result, Tensor};

use super::{Objective, l2_normalise, project};
use crate::config::ObjectiveKind;
use crate::encoder::{Head, HeadShape, LayerShape};

/// The objective with its temperature.
pub struct SimClr {
    pub temperature: f64,
}

impl Default for SimClr {
    fn default() -> Self {
        Self { temperature: 0.5 }
    }
}

impl Objective for SimClr {
    fn kind(&self) -> ObjectiveKind {
        ObjectiveKind::SimClr
    }

    /// -> 512 -> 128 on any width of features: narrow encoders learn most with it, too.
    fn head_shape(&self, _features: usize) -> HeadShape {
        HeadShape { projector: vec![LayerShape::hidden(512), LayerShape::linear(128)], predictor: vec![] }
    }

    fn loss(&self, head: &Head, first: &Tensor, second: &Tensor) -> Result<Tensor> {
        let (z1, z2) = project(head, first, second)?;
        self.of_projections(&z1, &z2)
    }

    fn distillation(&self, projections: &Tensor, targets: &Tensor) -> Result<Tensor> {
        self.of_projections(projections, &targets.detach())
    }
}

impl SimClr {
    fn of_projections(&self, z1: &Tensor, z2: &Tensor) -> Result<Tensor> {
        let (z1, z2) = (l2_normalise(z1)?, l2_normalise(z2)?);
        let z = Tensor::cat(&[&z1, &z2], 0)?;
        let cosine = z.matmul(&z.t()?)?;
        let others = Tensor::eye(z.dim(0)?, z.dtype(), z.device())?.affine(-1.0, 1.0)?;
        // A cosine is at most 1: less that, no exponential overflows and no maximum need be sought.
        let weights = cosine.affine(1.0 / self.temperature, -1.0 / self.temperature)?.exp()?.mul(&others)?;
        let positive = z1.mul(&z2)?.sum(1)?.mean_all()?;
        let all = weights.sum(1)?.log()?.mean_all()?;
        (all - positive.affine(1.0 / self.temperature, -1.0 / self.temperature)?)?.reshape(())
    }
}
