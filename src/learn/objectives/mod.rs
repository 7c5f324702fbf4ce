//! Self-supervised objectives: the loss of two views of the same images. One file each, and one line in [`objective`].

mod barlow;
mod simclr;
mod simsiam;

use candle_core::{Result, Tensor};

use crate::config::ObjectiveKind;
use crate::encoder::{Head, HeadShape};

pub use barlow::Barlow;
pub use simclr::SimClr;
pub use simsiam::SimSiam;

/// What the features of two views of the same images should have in common.
pub trait Objective: Send {
    fn kind(&self) -> ObjectiveKind;

    /// The head it needs on features of that width.
    fn head_shape(&self, features: usize) -> HeadShape;

    /// Images without which the loss says nothing: with one, batch norm of the head leaves no difference between images.
    fn minimum_images(&self) -> usize {
        2
    }

    /// The loss, a scalar, of features (n, features) of the first and second views; row i of both is the same image.
    fn loss(&self, head: &Head, first: &Tensor, second: &Tensor) -> Result<Tensor>;
}

/// The objective of that name.
pub fn objective(kind: ObjectiveKind) -> Box<dyn Objective> {
    match kind {
        ObjectiveKind::SimSiam => Box::new(SimSiam),
        ObjectiveKind::Barlow => Box::new(Barlow::default()),
        ObjectiveKind::SimClr => Box::new(SimClr::default()),
    }
}

/// Both views through the projector in one pass, each normalised by itself.
fn project(head: &Head, first: &Tensor, second: &Tensor) -> Result<(Tensor, Tensor)> {
    halves(&head.project(&Tensor::cat(&[first, second], 0)?, 2)?)
}

fn halves(both: &Tensor) -> Result<(Tensor, Tensor)> {
    let count = both.dim(0)? / 2;
    Ok((both.narrow(0, 0, count)?, both.narrow(0, count, count)?))
}

/// Rows of length 1; a row of zeros stays zero.
fn l2_normalise(x: &Tensor) -> Result<Tensor> {
    // Within the root, so that its gradient at a row of zeros is finite; too small to be seen in any other.
    x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.affine(1.0, 1e-24)?.sqrt()?)
}
