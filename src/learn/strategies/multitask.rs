//! Multitask (joint training): every task at once, the upper bound that a stream is compared with.
//!
//! The objective on batches drawn from all tasks together; the protocol gives them in that order, this does nothing to
//! remember. Costs nothing, and needs all the data at once, which is why no daemon has it.

use candle_core::Result;

use super::{Batch, Cost, Strategy};
use crate::config::{Random, StrategyKind};

/// Learns from all tasks together.
pub struct Multitask;

impl Strategy for Multitask {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Multitask
    }

    fn cost(&self) -> Cost {
        Cost::default()
    }

    fn rehearses(&self) -> bool {
        false
    }

    fn compose(&mut self, stream: Option<Batch>, _replay: Option<Batch>, _: &mut Random) -> Result<Vec<Batch>> {
        Ok(stream.into_iter().collect())
    }
}
