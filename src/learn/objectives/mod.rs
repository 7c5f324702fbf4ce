//! Objectives: the loss of two views of the same images, and cross-entropy to compare with. One file each, and one line in
//! [`objective`].

mod barlow;
mod simclr;
mod simsiam;
mod supervised;

use candle_core::{Result, Tensor};

use crate::config::{LearnSettings, ObjectiveKind};
use crate::encoder::{Head, HeadShape};

pub use barlow::Barlow;
pub use simclr::SimClr;
pub use simsiam::SimSiam;
pub use supervised::{Supervised, cross_entropy};

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

    /// Views of each image that it takes: 1 where `second` is not looked at.
    fn views(&self) -> usize {
        2
    }

    /// The same of images with these classes, one each or none at all. Only an objective that learns from labels looks at
    /// them.
    ///
    /// # Errors
    /// Where labels are needed and missing, or the device fails.
    fn labelled_loss(&self, head: &Head, first: &Tensor, second: &Tensor, _labels: &[u32]) -> Result<Tensor> {
        self.loss(head, first, second)
    }

    /// How far projections are from constant targets, both (n, projected), as the objective itself measures it: the
    /// distillation loss of CaSSLe. Minus the cosine where the objective has nothing of its own.
    ///
    /// # Errors
    /// Where shapes differ or the device fails.
    fn distillation(&self, projections: &Tensor, targets: &Tensor) -> Result<Tensor> {
        negative_cosine(projections, targets)
    }
}

/// The objective of that name.
pub fn objective(kind: ObjectiveKind) -> Box<dyn Objective> {
    match kind {
        ObjectiveKind::SimSiam => Box::new(SimSiam),
        ObjectiveKind::Barlow => Box::new(Barlow::default()),
        ObjectiveKind::SimClr => Box::new(SimClr::default()),
        ObjectiveKind::Supervised => Box::new(Supervised { classes: LearnSettings::default().classes }),
    }
}

/// The objective of the settings.
pub fn objective_of(settings: &LearnSettings) -> Box<dyn Objective> {
    match settings.objective {
        ObjectiveKind::Supervised => Box::new(Supervised { classes: settings.classes }),
        kind => objective(kind),
    }
}

/// -cos(p, z), mean over the rows, `z` taken as a constant.
///
/// # Errors
/// Where shapes differ or the device fails.
pub fn negative_cosine(p: &Tensor, z: &Tensor) -> Result<Tensor> {
    l2_normalise(p)?.mul(&l2_normalise(&z.detach())?)?.sum(1)?.mean_all()?.neg()
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
