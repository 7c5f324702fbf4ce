//! DER, dark experience replay: a replayed image should look as it did when it was remembered.
//!
//! Beside the objective on the stream, alpha * mean (f(x) - f_then(x))^2 on the replayed images x, in a pass of their own, f the
//! encoder's features; with labels the logits, as in the original.
//! Source: Buzzega et al. 2020, "Dark Experience for General Continual Learning", equation 6; on features: Madaan et al. 2022,
//! section 5. What an image looked like is taken when it is replayed for the first time, which is within few steps of its
//! coming where the memory is small. Costs one forward and backward pass of the replayed images, and features x 4 bytes for
//! each of at most [`MOST_REMEMBERED`] images. Needs no task boundary.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::{Batch, Cost, Loss, Network, State, Strategy, numbers_to_tensor, tensor_to_numbers};
use crate::config::{Random, StrategyKind};

/// Images whose features are kept; beyond it those go that were not replayed for the longest time.
pub const MOST_REMEMBERED: usize = 4096;

/// The strategy and what it remembers.
pub struct Der {
    weight: f64,
    /// By the image's number: when it was last replayed, and its features.
    remembered: BTreeMap<u64, (u64, Vec<f32>)>,
    clock: u64,
}

impl Der {
    /// `weight`: alpha.
    pub fn new(weight: f64) -> Self {
        Self { weight, remembered: BTreeMap::new(), clock: 0 }
    }

    /// Squared distance of the rows that are remembered to what is remembered of them, mean over rows and columns; and what
    /// was not yet known is known from now on.
    fn distance(&mut self, ids: &[u64], now: &Tensor) -> Result<Option<Tensor>> {
        self.clock += 1;
        let current = now.detach().to_dtype(candle_core::DType::F32)?.to_vec2::<f32>()?;
        let (mut known, mut then) = (Vec::new(), Vec::new());
        for (row, (id, features)) in ids.iter().zip(current).enumerate() {
            match self.remembered.get_mut(id) {
                Some((last, remembered)) if remembered.len() == features.len() => {
                    *last = self.clock;
                    known.push(row as u32);
                    then.extend_from_slice(remembered);
                }
                _ => _ = self.remembered.insert(*id, (self.clock, features)),
            }
        }
        self.forget();
        if known.is_empty() {
            return Ok(None);
        }
        let then = Tensor::from_vec(then, (known.len(), now.dim(1)?), now.device())?.to_dtype(now.dtype())?;
        let now = now.index_select(&Tensor::new(known, now.device())?, 0)?;
        Ok(Some((now - then)?.sqr()?.mean_all()?))
    }

    fn forget(&mut self) {
        let surplus = self.remembered.len().saturating_sub(MOST_REMEMBERED);
        if surplus > 0 {
            let mut ages: Vec<(u64, u64)> = self.remembered.iter().map(|(id, (last, _))| (*last, *id)).collect();
            ages.sort_unstable();
            ages.iter().take(surplus).for_each(|(_, id)| _ = self.remembered.remove(id));
        }
    }
}

impl Strategy for Der {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Der
    }

    fn cost(&self) -> Cost {
        Cost { parameter_copies: 0, forward_passes: 1 }
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn compose(&mut self, stream: Option<Batch>, replay: Option<Batch>, _: &mut Random) -> Result<Vec<Batch>> {
        Ok(stream.into_iter().chain(replay.map(Batch::from_memory)).collect())
    }

    /// On an idle stream the replayed images are all there is, and they are learnt from, too.
    fn takes_objective(&self, pass: usize) -> bool {
        pass == 0
    }

    fn extra_loss(
        &mut self,
        _pass: usize,
        batch: &Batch,
        [first, second]: [&Tensor; 2],
        loss: Loss<'_>,
    ) -> Result<Option<Tensor>> {
        if batch.replayed == 0 || batch.ids.is_empty() {
            return Ok(None);
        }
        let seen = match loss.objective.views() {
            1 => loss.head.project(first, 1)?,
            // Both views in one, since either could stand for the image.
            _ => ((first + second)? * 0.5)?,
        };
        match self.distance(&batch.ids, &seen)? {
            Some(distance) => Ok(Some(distance.affine(self.weight, 0.0)?)),
            None => Ok(None),
        }
    }

    fn state(&self) -> Result<State> {
        let device = candle_core::Device::Cpu;
        if self.remembered.is_empty() {
            return Ok(State::new());
        }
        let ids: Vec<u64> = self.remembered.keys().copied().collect();
        let times: Vec<u64> = self.remembered.values().map(|(last, _)| *last).collect();
        let features: Vec<f32> = self.remembered.values().flat_map(|(_, features)| features).copied().collect();
        let width = features.len() / ids.len();
        Ok(State::from([
            ("ids".to_owned(), numbers_to_tensor(&ids, &device)?),
            ("times".to_owned(), numbers_to_tensor(&times, &device)?),
            ("clock".to_owned(), numbers_to_tensor(&[self.clock], &device)?),
            ("features".to_owned(), Tensor::from_vec(features, (ids.len(), width), &device)?),
        ]))
    }

    fn restore(&mut self, state: &State, _network: &mut Network<'_>) -> Result<()> {
        if state.is_empty() {
            (self.remembered, self.clock) = (BTreeMap::new(), 0);
            return Ok(());
        }
        let numbers = |name: &str| match state.get(name) {
            Some(tensor) => tensor_to_numbers(tensor),
            None => candle_core::bail!("\"{name}\" is missing"),
        };
        let (ids, times, clock) = (numbers("ids")?, numbers("times")?, numbers("clock")?);
        let Some(features) = state.get("features") else { candle_core::bail!("\"features\" is missing") };
        let features = features.to_vec2::<f32>()?;
        if ids.len() != times.len() || ids.len() != features.len() || clock.len() != 1 {
            candle_core::bail!("{} images have {} times and {} features", ids.len(), times.len(), features.len());
        }
        self.remembered = ids.into_iter().zip(times.into_iter().zip(features)).collect();
        self.clock = clock[0];
        Ok(())
    }
}
