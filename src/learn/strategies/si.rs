//! SI, synaptic intelligence: what earlier tasks rely on is held in place.
//!
//! While a task lasts every parameter sums what it did for the loss, omega += -g * (theta' - theta), g the gradient of the loss
//! without the penalty; at its end Omega += max(omega, 0) / ((theta - theta*)^2 + xi), theta* the parameters when the task began.
//! Penalty c * sum Omega (theta - theta*)^2 over the encoder, theta* those of the last boundary. A parameter that worked
//! against the loss has no claim, hence the maximum.
//! Source: Zenke, Poole and Ganguli 2017, "Continual Learning Through Synaptic Intelligence", equations 3 to 5. Costs three
//! vectors as long as the parameters between steps, two more within one; no forward pass. Needs task boundaries.

use candle_core::{Result, Tensor};

use super::{Batch, Cost, Network, State, Strategy, named};
use crate::config::{Random, StrategyKind};

/// Keeps the quotient finite where a parameter has hardly moved.
const XI: f64 = 1.0;

/// The strategy and what it has gathered.
pub struct Si {
    weight: f64,
    memory: Option<Memory>,
    /// Parameters and gradient of the step that is being taken.
    step: Option<(Tensor, Tensor)>,
}

/// Each as long as the flat parameters.
struct Memory {
    /// omega: since the last boundary.
    path: Tensor,
    /// Omega.
    importance: Tensor,
    /// theta*.
    anchor: Tensor,
}

impl Si {
    /// `weight`: c.
    pub fn new(weight: f64) -> Self {
        Self { weight, memory: None, step: None }
    }
}

impl Strategy for Si {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Si
    }

    fn cost(&self) -> Cost {
        Cost { parameter_copies: 3, forward_passes: 0 }
    }

    fn rehearses(&self) -> bool {
        false
    }

    fn compose(&mut self, stream: Option<Batch>, _replay: Option<Batch>, _: &mut Random) -> Result<Vec<Batch>> {
        Ok(stream.into_iter().collect())
    }

    fn regularise(&mut self, parameters: &Tensor, gradient: Tensor) -> Result<Tensor> {
        let memory = match self.memory.take() {
            Some(memory) => memory,
            None => Memory {
                path: parameters.zeros_like()?,
                importance: parameters.zeros_like()?,
                anchor: parameters.force_contiguous()?.detach(),
            },
        };
        let gradient = gradient.detach();
        self.step = Some((parameters.force_contiguous()?.detach(), gradient.clone()));
        let pull = (parameters.detach() - &memory.anchor)?.mul(&memory.importance)?.affine(2.0 * self.weight, 0.0)?;
        self.memory = Some(memory);
        gradient + pull
    }

    fn after_step(&mut self, network: &mut Network<'_>, _gradient: &Tensor) -> Result<()> {
        if let (Some(memory), Some((before, gradient))) = (&mut self.memory, self.step.take()) {
            let moved = (network.backbone.parameters().detach() - before)?;
            memory.path = (&memory.path - gradient.mul(&moved)?)?;
        }
        Ok(())
    }

    fn at_boundary(&mut self, network: &mut Network<'_>) -> Result<bool> {
        let now = network.backbone.parameters().force_contiguous()?.detach();
        if let Some(memory) = &mut self.memory {
            let distance = (&now - &memory.anchor)?.sqr()?.affine(1.0, XI)?;
            memory.importance = (&memory.importance + memory.path.relu()?.div(&distance)?)?;
            memory.path = memory.path.zeros_like()?;
            memory.anchor = now;
        }
        Ok(false)
    }

    fn state(&self) -> Result<State> {
        let Some(Memory { path, importance, anchor }) = &self.memory else { return Ok(State::new()) };
        let all = [("path", path), ("importance", importance), ("anchor", anchor)];
        Ok(all.into_iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect())
    }

    fn restore(&mut self, state: &State, network: &mut Network<'_>) -> Result<()> {
        let parameters = network.backbone.parameters();
        let take = |name| named(state, name, parameters.dims())?.to_dtype(parameters.dtype());
        self.memory = match state.is_empty() {
            true => None,
            false => Some(Memory { path: take("path")?, importance: take("importance")?, anchor: take("anchor")? }),
        };
        self.step = None;
        Ok(())
    }
}
