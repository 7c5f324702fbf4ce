//! Continual-learning strategies: what the learner does so as not to forget. One file each, and one line in [`strategy`].
//!
//! A strategy sees the step from five places and leaves alone those it does not need: it composes the batch, may add to the
//! loss, may add to the gradient of the flat parameters, watches the step taken and hears of task boundaries. What it must
//! remember across restarts it gives as named tensors.

mod finetune;
mod lump;

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::views::Views;
use crate::config::{LearnSettings, Random, StrategyKind};
use crate::encoder::{Backbone, Head};

pub use finetune::Finetune;
pub use lump::Lump;

/// What a strategy costs beyond the objective alone.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Vectors as long as the parameters that it keeps.
    pub parameter_copies: usize,
    /// Further forward passes of the encoder in each step.
    pub forward_passes: usize,
}

/// One way to learn from a stream and a memory.
pub trait Strategy: Send {
    fn kind(&self) -> StrategyKind;

    fn cost(&self) -> Cost;

    /// Whether replayed images are of use to it, also while the stream is idle.
    fn rehearses(&self) -> bool;

    /// The images to train on: from two views of each image of the stream, of each replayed image, or of both. `None` where
    /// there is nothing to train on. `random` is the step's own.
    ///
    /// # Errors
    /// Where the device fails.
    fn compose(&self, stream: Option<Views>, replay: Option<Views>, random: &mut Random) -> Result<Option<Views>>;

    /// A scalar added to the loss: of the composed views and the features (n, features) of each.
    ///
    /// # Errors
    /// Where the device fails.
    fn extra_loss(&self, _views: &Views, _features: [&Tensor; 2], _head: &Head) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The gradient to descend, from that of the loss: both and the parameters flat, shape (P).
    ///
    /// # Errors
    /// Where the device fails.
    fn regularise(&self, _parameters: &Tensor, gradient: Tensor) -> Result<Tensor> {
        Ok(gradient)
    }

    /// After a step was taken: the flat parameters as they are now and the gradient that was descended.
    ///
    /// # Errors
    /// Where the device fails.
    fn after_step(&mut self, _parameters: &Tensor, _gradient: &Tensor) -> Result<()> {
        Ok(())
    }

    /// A task has ended, and the network is what it taught.
    ///
    /// # Errors
    /// Where the device fails.
    fn at_boundary(&mut self, _backbone: &dyn Backbone) -> Result<()> {
        Ok(())
    }

    /// What a checkpoint must hold for it, f32.
    fn state(&self) -> BTreeMap<String, Tensor> {
        BTreeMap::new()
    }

    /// Takes up such a state.
    ///
    /// # Errors
    /// Where it is not one of this strategy on a network of this size; then nothing has changed.
    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        match state.keys().next() {
            None => Ok(()),
            Some(name) => candle_core::bail!("the strategy keeps no state, but the checkpoint holds \"{name}\""),
        }
    }
}

/// The strategy of the settings.
pub fn strategy(settings: &LearnSettings) -> Box<dyn Strategy> {
    match settings.strategy {
        StrategyKind::Finetune => Box::new(Finetune),
        StrategyKind::Lump => Box::new(Lump { alpha: settings.mix_alpha }),
    }
}
