//! The objective on the stream alone: the lower bound of remembering, and the cheapest.

use candle_core::Result;

use super::{Cost, Strategy};
use crate::config::{Random, StrategyKind};
use crate::learn::views::Views;

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

    fn compose(&self, stream: Option<Views>, _replay: Option<Views>, _random: &mut Random) -> Result<Option<Views>> {
        Ok(stream)
    }
}
