//! The objective on the stream alone: the lower bound of remembering, and the cheapest.

use candle_core::Result;

use super::{Batch, Cost, Strategy};
use crate::config::{Random, StrategyKind};

/// Learns from the stream and never looks back.
pub struct Finetune;

impl Strategy for Finetune {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Finetune
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
