use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::Frozen;

/// One named parameter within the flat vector of a backbone, under torchvision's name and in PyTorch's shape
/// (convolution weights: out, in, height, width).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<usize>,
    /// First element within the flat vector.
    pub offset: usize,
}

impl Parameter {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The trainable network below the heads: an explicit forward and backward, so that each device can have its own.
///
/// Parameters and their gradient are one flat f32 vector each, on the training device, in the order of [`Backbone::layout`]:
/// the optimiser, the strategies' penalties and the checkpoint see vectors and names, never layers.
pub trait Backbone: Send {
    /// The trainable parameters in the order of the flat vector.
    fn layout(&self) -> &[Parameter];

    /// The running statistics of batch normalisation (`*.running_mean`, `*.running_var`), in the order of the flat vector
    /// of [`Backbone::statistics`].
    fn statistics_layout(&self) -> &[Parameter];

    /// Flat parameters, f32, shape (P). The optimiser updates it in place.
    fn parameters(&self) -> &Tensor;

    /// Flat running statistics, f32, shape (S).
    fn statistics(&self) -> &Tensor;

    /// Features of a training batch. `images`: f32, shape (n, side, side, 3), normalised. The batch consists of `groups` equal
    /// runs of consecutive images (the views), each normalised with its own batch statistics; each updates the running ones
    /// in turn. Returns (n, features), detached, and keeps what [`Backbone::backward`] needs.
    fn forward(&mut self, images: &Tensor, groups: usize) -> Result<Tensor>;

    /// Gradient of the flat parameters, shape (P), given that of the features of the last [`Backbone::forward`], shape
    /// (n, features). Consumes what the forward pass kept.
    fn backward(&mut self, features_gradient: &Tensor) -> Result<Tensor>;

    /// Makes the parameters and running statistics those of the two flat vectors.
    fn load(&mut self, parameters: &Tensor, statistics: &Tensor) -> Result<()>;

    /// Freezes these layers, and no others, from the next forward pass on: their batch norm normalises with the running
    /// statistics as in inference, the running statistics stay as they are, and the gradient of their parameters is 0. That
    /// their parameters stay as they are is the optimiser's part.
    ///
    /// # Errors
    /// Where the backend cannot freeze layers.
    fn set_frozen(&mut self, frozen: Frozen) -> Result<()> {
        if frozen.is_empty() {
            return Ok(());
        }
        bail!("this device's network cannot freeze layers yet: set encoder.freeze = [], or train on the cpu")
    }

    /// Gives back what is kept from one step to the next to save time. The next step makes it anew.
    fn release(&mut self) {}

    /// An immutable copy for inference, batch norm with its running statistics.
    fn freeze(&self) -> Result<Arc<dyn Embedder>>;
}

/// A frozen network: answers from any thread, never changes.
pub trait Embedder: Send + Sync {
    /// Width of an embedding.
    fn features(&self) -> usize;

    /// `images`: f32, shape (n, side, side, 3), normalised. Returns the pooled features (n, features), not L2-normalised.
    fn embed(&self, images: &Tensor) -> Result<Tensor>;
}
