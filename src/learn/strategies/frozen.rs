//! A copy of encoder and head that is not trained: the teacher of the strategies that have one.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};

use super::{Network, State, named};
use crate::config::Seed;
use crate::encoder::{Embedder, Head};
use crate::learn::objectives::Objective;
use crate::learn::views::Views;

/// The weights, and the encoder made of them when it is asked.
pub(super) struct Frozen {
    parameters: Tensor,
    statistics: Tensor,
    head: Head,
    embedder: Option<Arc<dyn Embedder>>,
}

impl Frozen {
    /// The network as it is now.
    pub(super) fn of(network: &Network<'_>) -> Result<Self> {
        let copy = |tensor: &Tensor| Ok::<_, candle_core::Error>(tensor.force_contiguous()?.detach());
        let head = like(network)?;
        for ((_, to), (_, from)) in head.variables().iter().zip(network.head.variables()) {
            to.set(&copy(from)?)?;
        }
        let backbone = &network.backbone;
        Ok(Self {
            parameters: copy(backbone.parameters())?,
            statistics: copy(backbone.statistics())?,
            head,
            embedder: None,
        })
    }

    /// Projections of both views, one after the other: (2n, projected), detached. The encoder normalises with its running
    /// statistics, the head with those of each view.
    pub(super) fn project(&mut self, views: &Views, network: &mut Network<'_>) -> Result<Tensor> {
        let embedder = match &self.embedder {
            Some(embedder) => embedder.clone(),
            None => self.embedder.insert(freeze(network, &self.parameters, &self.statistics)?).clone(),
        };
        let features = embedder.embed(&Tensor::cat(&[&views.first, &views.second], 0)?)?;
        Ok(self.head.project(&features.detach(), 2)?.detach())
    }

    /// Moves towards the network: decay * self + (1 - decay) * network, running statistics and head included.
    pub(super) fn follow(&mut self, network: &Network<'_>, decay: f64) -> Result<()> {
        let towards = |old: &Tensor, new: &Tensor| old.affine(decay, 0.0)? + new.detach().affine(1.0 - decay, 0.0)?;
        self.parameters = towards(&self.parameters, network.backbone.parameters())?.detach();
        self.statistics = towards(&self.statistics, network.backbone.statistics())?.detach();
        for ((_, old), (_, new)) in self.head.variables().iter().zip(network.head.variables()) {
            let moved = towards(&old.as_tensor().detach(), new)?.detach();
            old.set(&moved)?;
        }
        self.embedder = None;
        Ok(())
    }

    /// Under names that begin with `prefix`.
    pub(super) fn state(&self, prefix: &str) -> State {
        let mut state = State::from([
            (format!("{prefix}.parameters"), self.parameters.clone()),
            (format!("{prefix}.statistics"), self.statistics.clone()),
        ]);
        let variables: &[(String, Var)] = self.head.variables();
        state.extend(
            variables.iter().map(|(name, var)| (format!("{prefix}.head.{name}"), var.as_tensor().detach().clone())),
        );
        state
    }

    /// What [`Frozen::state`] gave; none where nothing of that name is there.
    pub(super) fn restore(prefix: &str, state: &State, network: &Network<'_>) -> Result<Option<Self>> {
        if !state.keys().any(|name| name.starts_with(&format!("{prefix}."))) {
            return Ok(None);
        }
        let take = |name: String, like: &Tensor| named(state, &name, like.dims())?.to_dtype(like.dtype());
        let head = like(network)?;
        for (name, var) in head.variables() {
            var.set(&take(format!("{prefix}.head.{name}"), var)?)?;
        }
        Ok(Some(Self {
            parameters: take(format!("{prefix}.parameters"), network.backbone.parameters())?,
            statistics: take(format!("{prefix}.statistics"), network.backbone.statistics())?,
            head,
            embedder: None,
        }))
    }
}

/// A head of the network's shape.
fn like(network: &Network<'_>) -> Result<Head> {
    let parameters = network.backbone.parameters();
    let first = network.head.variables().first();
    let features = first.map_or(Ok(0), |(_, weight)| weight.dim(1))?;
    let shape = Objective::head_shape(network.objective, features);
    Head::new(&shape, features, parameters.dtype(), parameters.device(), Seed(0))
}

/// An encoder with these weights. The network lends its shape and has its own weights back afterwards.
pub(super) fn freeze(network: &mut Network<'_>, parameters: &Tensor, statistics: &Tensor) -> Result<Arc<dyn Embedder>> {
    let own = (
        network.backbone.parameters().force_contiguous()?.detach(),
        network.backbone.statistics().force_contiguous()?.detach(),
    );
    network.backbone.load(parameters, statistics)?;
    let frozen = network.backbone.freeze();
    network.backbone.load(&own.0, &own.1)?;
    frozen
}
