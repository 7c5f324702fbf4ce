//! A-GEM, averaged gradient episodic memory: no step may raise the loss of the memory.
//!
//! With g the gradient on the stream and r that on replayed images, g is descended where g.r >= 0, else g - (g.r / r.r) r: the
//! nearest vector that does not point against r. Over the encoder and the head.
//! Source: Chaudhry et al. 2019, "Efficient Lifelong Learning with A-GEM", equation 11. Costs a forward and a backward pass
//! of the replayed images. Needs labels in memory, and so no daemon has it; the published comparison takes it supervised.

use candle_core::Result;

use super::{Batch, Cost, Gradient, Strategy};
use crate::config::{Random, StrategyKind};

/// Projects the stream's gradient so that it does not work against the memory's.
pub struct AGem;

impl Strategy for AGem {
    fn kind(&self) -> StrategyKind {
        StrategyKind::AGem
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

    fn combine(&self, passes: Vec<Gradient>) -> Result<Gradient> {
        let [gradient, reference] = match <[Gradient; 2]>::try_from(passes) {
            Ok(both) => both,
            Err(other) => return super::sum(other),
        };
        let (along, length) = (gradient.dot(&reference)?, reference.dot(&reference)?);
        if along >= 0.0 || length == 0.0 {
            return Ok(gradient);
        }
        gradient.plus(&reference, -along / length)
    }
}
