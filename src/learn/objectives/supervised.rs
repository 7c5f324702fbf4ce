//! Cross-entropy with labels: what the unsupervised objectives are compared with in experiments. A stream has no labels, so the
//! daemon refuses it.
//!
//! L = mean over images of -log softmax(W f + b)_y, of one view of each image.

use candle_core::{Result, Tensor};

use super::Objective;
use crate::config::ObjectiveKind;
use crate::encoder::{Head, HeadShape, LayerShape};

/// A linear head on the encoder's features and cross-entropy.
pub struct Supervised {
    /// Outputs of the head: labels are below it.
    pub classes: usize,
}

impl Objective for Supervised {
    fn kind(&self) -> ObjectiveKind {
        ObjectiveKind::Supervised
    }

    fn head_shape(&self, _features: usize) -> HeadShape {
        HeadShape { projector: vec![LayerShape::linear(self.classes)], predictor: vec![] }
    }

    fn views(&self) -> usize {
        1
    }

    fn loss(&self, _head: &Head, _first: &Tensor, _second: &Tensor) -> Result<Tensor> {
        candle_core::bail!("cross-entropy needs labels, and these images have none: choose a self-supervised objective")
    }

    fn labelled_loss(&self, head: &Head, first: &Tensor, second: &Tensor, labels: &[u32]) -> Result<Tensor> {
        if labels.len() != first.dim(0)? {
            return self.loss(head, first, second);
        }
        cross_entropy(&head.project(first, 1)?, labels)
    }
}

/// Mean over the rows of -log softmax(logits)_label; `logits`: (n, classes).
///
/// # Errors
/// Where a label is not below the number of classes, or the device fails.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (_, classes) = logits.dims2()?;
    if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
        candle_core::bail!("class {label} is beyond the head's {classes} classes");
    }
    let labels = Tensor::new(labels, logits.device())?.unsqueeze(1)?;
    // Less the largest of the row, so that no exponential overflows; a constant to the gradient.
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    (log_sum - shifted.gather(&labels, 1)?)?.mean_all()
}
