//! SimSiam: predict one view's projection from the other's, without negatives.
//!
//! L = D(p1, z2) / 2 + D(p2, z1) / 2, D(p, z) = -cos(p, stopgrad z), mean over the batch.
//! Source: Chen and He 2021, "Exploring Simple Siamese Representation Learning", algorithm 1.

use candle_core::{Result, Tensor};

use super::{Objective, halves, negative_cosine, project};
use crate::config::ObjectiveKind;
use crate::encoder::{Head, HeadShape, LayerShape};

/// Needs long training before its features are better than random ones.
pub struct SimSiam;

impl Objective for SimSiam {
    fn kind(&self) -> ObjectiveKind {
        ObjectiveKind::SimSiam
    }

    /// 512 -> 2048 -> 2048 and 2048 -> 512 -> 2048 on 512 features; in proportion on fewer.
    fn head_shape(&self, features: usize) -> HeadShape {
        let width = 4 * features;
        HeadShape {
            projector: vec![LayerShape::hidden(width), LayerShape::normed(width)],
            predictor: vec![LayerShape::hidden(width / 4), LayerShape::linear(width)],
        }
    }

    fn loss(&self, head: &Head, first: &Tensor, second: &Tensor) -> Result<Tensor> {
        let (z1, z2) = project(head, first, second)?;
        let (p1, p2) = halves(&head.predict(&Tensor::cat(&[&z1, &z2], 0)?, 2)?)?;
        (negative_cosine(&p1, &z2)? + negative_cosine(&p2, &z1)?)? * 0.5
    }
}
