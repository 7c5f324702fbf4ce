//! lump+: LUMP for a stream that passes once.
//!
//! A large replay batch: as many of its images as the stream has are mixed with the stream's as LUMP does, the rest goes in
//! beside them unmixed, and all that is unmixed is aligned with a moving average of the network (see `ema`). In one pass
//! LUMP's effective batch is only the stream's; this one is the replay batch's. Diversity of the memory is the replay policy's
//! affair, not this file's.
//! Source: Madaan et al. 2022 (mixing), CLA-E (alignment), joined here. Costs two copies of the parameters, and a forward
//! pass of the unmixed images. Needs no task boundary.

use candle_core::{Result, Tensor, Var};

use super::{Batch, Cost, Ema, Loss, Lump, Network, State, Strategy};
use crate::config::{Random, StrategyKind};

/// Mixes, rehearses and aligns.
pub struct LumpPlus {
    pub lump: Lump,
    pub ema: Ema,
}

impl Strategy for LumpPlus {
    fn kind(&self) -> StrategyKind {
        StrategyKind::LumpPlus
    }

    fn cost(&self) -> Cost {
        self.ema.cost()
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn compose(&mut self, stream: Option<Batch>, replay: Option<Batch>, random: &mut Random) -> Result<Vec<Batch>> {
        let (Some(stream), Some(replay)) = (&stream, &replay) else { return self.lump.compose(stream, replay, random) };
        let rest = replay.count().saturating_sub(stream.count());
        let partners = replay.narrow(0, replay.count() - rest)?;
        let mixed = self.lump.compose(Some(stream.clone()), Some(partners), random)?;
        if rest == 0 {
            return Ok(mixed);
        }
        let unmixed = replay.narrow(replay.count() - rest, rest)?.from_memory();
        mixed.into_iter().map(|mixed| mixed.followed_by(unmixed.clone())).collect()
    }

    fn prepare(&mut self, passes: &[Batch], network: &mut Network<'_>) -> Result<()> {
        self.ema.prepare(passes, network)
    }

    fn extra_loss(
        &mut self,
        pass: usize,
        batch: &Batch,
        features: [&Tensor; 2],
        loss: Loss<'_>,
    ) -> Result<Option<Tensor>> {
        self.ema.extra_loss(pass, batch, features, loss)
    }

    fn variables(&self) -> &[(String, Var)] {
        self.ema.variables()
    }

    fn after_step(&mut self, network: &mut Network<'_>, gradient: &Tensor) -> Result<()> {
        self.ema.after_step(network, gradient)
    }

    fn state(&self) -> Result<State> {
        self.ema.state()
    }

    fn restore(&mut self, state: &State, network: &mut Network<'_>) -> Result<()> {
        self.ema.restore(state, network)
    }
}
