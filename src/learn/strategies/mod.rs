//! Continual-learning strategies: what the learner does so as not to forget. One file each, and one line in [`strategy`].
//!
//! A step is one pass of the network or several: a strategy composes them, may add to the loss of each, says how their gradients
//! become one, may add to that of the flat parameters, watches the step taken and hears of task boundaries. It leaves alone
//! what it does not need. Small networks of its own (predictors, lateral connections) are trained with the head. What it must
//! remember across restarts it gives as named tensors.

mod agem;
mod cassle;
mod der;
mod ema;
mod finetune;
mod frozen;
mod gss;
mod lump;
mod lump_plus;
mod multitask;
mod pnn;
mod si;

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::batch::{Batch, Gradient};
use super::objectives::Objective;
use crate::config::{LearnSettings, Random, Seed, StrategyKind};
use crate::encoder::{Backbone, Embedder, Head};

pub use agem::AGem;
pub use cassle::Cassle;
pub use der::Der;
pub use ema::Ema;
pub use finetune::Finetune;
pub use gss::Gss;
pub use lump::Lump;
pub use lump_plus::LumpPlus;
pub use multitask::Multitask;
pub use pnn::Pnn;
pub use si::Si;

/// What a strategy costs beyond the objective alone.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Vectors as long as the parameters that it keeps.
    pub parameter_copies: usize,
    /// Further forward passes of the encoder in each step.
    pub forward_passes: usize,
}

/// What is trained, lent to a strategy.
pub struct Network<'a> {
    pub backbone: &'a mut dyn Backbone,
    pub head: &'a Head,
    pub objective: &'a dyn Objective,
}

/// What a strategy may look at beside its pass.
#[derive(Clone, Copy)]
pub struct Loss<'a> {
    pub head: &'a Head,
    pub objective: &'a dyn Objective,
}

/// The network that a strategy is made for.
#[derive(Debug, Clone)]
pub struct Dimensions {
    /// Width of the encoder's features.
    pub features: usize,
    /// Width of the head's projections.
    pub projected: usize,
    pub dtype: DType,
    pub device: Device,
    pub seed: Seed,
}

/// Named tensors of a checkpoint.
pub type State = BTreeMap<String, Tensor>;

/// One way to learn from a stream and a memory.
pub trait Strategy: Send {
    fn kind(&self) -> StrategyKind;

    fn cost(&self) -> Cost;

    /// Whether replayed images are of use to it, also while the stream is idle.
    fn rehearses(&self) -> bool;

    /// Packed images and classes drawn from a memory of its own, in place of the replayed ones that it is given; none where it
    /// has no memory of its own.
    fn own_replay(&self, _random: &mut Random) -> Option<(Vec<u8>, Vec<u32>)> {
        None
    }

    /// The passes of a step, from the views of each image of the stream and of each replayed image: each is normalised by
    /// itself. None where there is nothing to train on. `random` is the step's own.
    ///
    /// # Errors
    /// Where the device fails.
    fn compose(&mut self, stream: Option<Batch>, replay: Option<Batch>, random: &mut Random) -> Result<Vec<Batch>>;

    /// Whether the objective's loss is taken on this pass; where not, only [`Strategy::extra_loss`] is.
    fn takes_objective(&self, _pass: usize) -> bool {
        true
    }

    /// Before the passes of a step: the place for a teacher to look at them.
    ///
    /// # Errors
    /// Where the device fails.
    fn prepare(&mut self, _passes: &[Batch], _network: &mut Network<'_>) -> Result<()> {
        Ok(())
    }

    /// What the head sees in place of the features (n, features) of each view of a pass.
    ///
    /// # Errors
    /// Where the device fails.
    fn transform(&self, _pass: usize, features: [Tensor; 2]) -> Result<[Tensor; 2]> {
        Ok(features)
    }

    /// A scalar added to the loss of a pass: of its views and the features (n, features) of each.
    ///
    /// # Errors
    /// Where the device fails.
    fn extra_loss(
        &mut self,
        _pass: usize,
        _batch: &Batch,
        _features: [&Tensor; 2],
        _loss: Loss<'_>,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The learner goes on as one of this seed: what is drawn from now on is drawn from it.
    fn reseed(&mut self, _seed: Seed) {}

    /// Variables of its own, by name, always in the same order; trained like those of the head.
    fn variables(&self) -> &[(String, Var)] {
        &[]
    }

    /// One gradient of those of the passes, of which there is at least one: their sum, unless it has another use for them.
    ///
    /// # Errors
    /// Where the device fails.
    fn combine(&self, passes: Vec<Gradient>) -> Result<Gradient> {
        sum(passes)
    }

    /// The gradient to descend, from that of the loss: both and the parameters flat, shape (P).
    ///
    /// # Errors
    /// Where the device fails.
    fn regularise(&mut self, _parameters: &Tensor, gradient: Tensor) -> Result<Tensor> {
        Ok(gradient)
    }

    /// After a step was taken, with the network as it is now.
    ///
    /// # Errors
    /// Where the device fails.
    fn after_step(&mut self, _network: &mut Network<'_>, _gradient: &Tensor) -> Result<()> {
        Ok(())
    }

    /// A task has ended, and the network is what it taught. True where the strategy replaced the weights, so that their
    /// momentum is of no meaning any more.
    ///
    /// # Errors
    /// Where the device fails.
    fn at_boundary(&mut self, _network: &mut Network<'_>) -> Result<bool> {
        Ok(false)
    }

    /// An immutable copy of the encoder as it is now.
    ///
    /// # Errors
    /// Where the device cannot hold it.
    fn freeze(&self, backbone: &dyn Backbone) -> Result<Arc<dyn Embedder>> {
        backbone.freeze()
    }

    /// The encoder that answers for an ended task, counted from 0, where each task has one of its own.
    fn column(&self, _task: usize) -> Option<Arc<dyn Embedder>> {
        None
    }

    /// What a checkpoint must hold for it, f32; its variables are kept by the learner.
    ///
    /// # Errors
    /// Where the device fails.
    fn state(&self) -> Result<State> {
        Ok(State::new())
    }

    /// Takes up such a state. The network lends its shape only: its weights are not yet those of the checkpoint.
    ///
    /// # Errors
    /// Where it is not one of this strategy on a network of this size; then nothing has changed.
    fn restore(&mut self, state: &State, _network: &mut Network<'_>) -> Result<()> {
        match state.keys().next() {
            None => Ok(()),
            Some(name) => candle_core::bail!("the strategy keeps no state, but the checkpoint holds \"{name}\""),
        }
    }
}

/// The strategy of the settings.
pub fn strategy(settings: &LearnSettings, dimensions: &Dimensions) -> Result<Box<dyn Strategy>> {
    Ok(match settings.strategy {
        StrategyKind::Finetune => Box::new(Finetune),
        StrategyKind::Lump => Box::new(Lump { alpha: settings.mix_alpha }),
        StrategyKind::LumpPlus => {
            Box::new(LumpPlus { lump: Lump { alpha: settings.mix_alpha }, ema: Ema::new(settings, dimensions)? })
        }
        StrategyKind::Si => Box::new(Si::new(settings.si_weight)),
        StrategyKind::Der => Box::new(Der::new(settings.der_weight)),
        StrategyKind::Cassle => Box::new(Cassle::new(settings.distil_weight, dimensions)?),
        StrategyKind::Ema => Box::new(Ema::new(settings, dimensions)?),
        StrategyKind::Pnn => Box::new(Pnn::new(dimensions)),
        StrategyKind::Multitask => Box::new(Multitask),
        StrategyKind::AGem => Box::new(AGem),
        StrategyKind::Gss => Box::new(Gss::new(settings.replay_batch, dimensions.seed)),
    })
}

fn sum(passes: Vec<Gradient>) -> Result<Gradient> {
    let mut passes = passes.into_iter();
    let Some(first) = passes.next() else { candle_core::bail!("a step without a pass has no gradient") };
    passes.try_fold(first, |sum, next| sum.plus(&next, 1.0))
}

/// The stream and, behind it, the replayed images; what there is of them.
fn together(stream: Option<Batch>, replay: Option<Batch>) -> Result<Vec<Batch>> {
    Ok(match (stream, replay.map(Batch::from_memory)) {
        (Some(stream), Some(replay)) => vec![stream.followed_by(replay)?],
        (alone, None) | (None, alone) => alone.into_iter().collect(),
    })
}

/// Another seed: a strategy's small networks must not start as the head does, whose parameters have the same names.
fn apart(seed: Seed) -> Seed {
    Seed(seed.random("strategy", 0).next_u64())
}

/// A tensor of that name and shape.
fn named(state: &State, name: &str, shape: &[usize]) -> Result<Tensor> {
    let Some(tensor) = state.get(name) else { candle_core::bail!("\"{name}\" is missing") };
    if tensor.dims() != shape {
        candle_core::bail!("\"{name}\" has the shape {:?} where the network has {shape:?}", tensor.dims());
    }
    Ok(tensor.clone())
}

/// Whole numbers as f32, which holds 16 bits exactly: (n, 4), the lowest bits first.
fn numbers_to_tensor(numbers: &[u64], device: &Device) -> Result<Tensor> {
    let parts: Vec<f32> =
        numbers.iter().flat_map(|number| [0, 16, 32, 48].map(|shift| (number >> shift & 0xffff) as f32)).collect();
    Tensor::from_vec(parts, (numbers.len(), 4), device)
}

fn tensor_to_numbers(tensor: &Tensor) -> Result<Vec<u64>> {
    let whole = |parts: &Vec<f32>| parts.iter().rev().fold(0u64, |number, part| number << 16 | (*part as u64 & 0xffff));
    Ok(tensor.to_dtype(DType::F32)?.to_vec2::<f32>()?.iter().map(whole).collect())
}

#[cfg(test)]
mod tests;
