//! Barlow Twins: the cross-correlation of the two views' projections should be the identity.
//!
//! C = z1^T z2 / N over projections standardised per dimension; L = sum_i (C_ii - 1)^2 + w sum_{i != j} C_ij^2.
//! Source: Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", equations 1 and 2.

use candle_core::{Result, Tensor};

use super::{Objective, project};
use crate::config::ObjectiveKind;
use crate::encoder::{Head, HeadShape, LayerShape};

/// Added to the variance so that a dimension that is constant over the batch does not become NaN.
const VARIANCE_FLOOR: f64 = 1e-10;

/// The objective with its one weight.
pub struct Barlow {
    /// Of the off-diagonal terms.
    pub redundancy_weight: f64,
}

impl Default for Barlow {
    fn default() -> Self {
        Self { redundancy_weight: 5e-3 }
    }
}

impl Objective for Barlow {
    fn kind(&self) -> ObjectiveKind {
        ObjectiveKind::Barlow
    }

    /// 512 -> 2048 -> 2048 on 512 features; in proportion on fewer.
    fn head_shape(&self, features: usize) -> HeadShape {
        let width = 4 * features;
        HeadShape { projector: vec![LayerShape::hidden(width), LayerShape::normed(width)], predictor: vec![] }
    }

    fn loss(&self, head: &Head, first: &Tensor, second: &Tensor) -> Result<Tensor> {
        let (z1, z2) = project(head, first, second)?;
        self.of_projections(&z1, &z2)
    }

    fn distillation(&self, projections: &Tensor, targets: &Tensor) -> Result<Tensor> {
        self.of_projections(projections, &targets.detach())
    }
}

impl Barlow {
    fn of_projections(&self, z1: &Tensor, z2: &Tensor) -> Result<Tensor> {
        let (count, width) = z1.dims2()?;
        let correlation = standardise(z1)?.t()?.matmul(&standardise(z2)?)?.affine(1.0 / count as f64, 0.0)?;
        let identity = Tensor::eye(width, z1.dtype(), z1.device())?;
        let weight = identity.affine(1.0 - self.redundancy_weight, self.redundancy_weight)?;
        (correlation - identity)?.sqr()?.mul(&weight)?.sum_all()
    }
}

/// Mean 0 and unbiased standard deviation 1 per column.
fn standardise(z: &Tensor) -> Result<Tensor> {
    let centred = z.broadcast_sub(&z.mean_keepdim(0)?)?;
    let freedom = z.dim(0)?.saturating_sub(1).max(1) as f64;
    let variance = centred.sqr()?.sum_keepdim(0)?.affine(1.0 / freedom, VARIANCE_FLOOR)?;
    centred.broadcast_div(&variance.sqrt()?)
}
