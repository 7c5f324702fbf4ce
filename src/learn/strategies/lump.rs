//! LUMP, lifelong unsupervised mixup: the loss is taken on interpolations of the stream with the memory.
//!
//! view = l x + (1 - l) b with one l ~ Beta(alpha, alpha) a batch, the same l and the same partner for both views of an image.
//! Source: Madaan et al. 2022, "Representational Continuity for Unsupervised Continual Learning", section 4. Costs nothing
//! beyond the views of the replayed images; needs no task boundary.

use candle_core::{Result, Tensor};

use super::{Batch, Cost, Strategy};
use crate::config::{Random, StrategyKind};
use crate::device::cuda::tensors;
use crate::learn::views::Views;

/// The strategy with both parameters of its Beta distribution.
pub struct Lump {
    pub alpha: f64,
}

impl Strategy for Lump {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Lump
    }

    fn cost(&self) -> Cost {
        Cost::default()
    }

    fn rehearses(&self) -> bool {
        true
    }

    /// The paper's batches are of one size. Where they are not, what has no partner goes in unmixed, so that every image counts
    /// once. While the memory is empty the stream goes in as it is; while the stream is, half of the replayed images take its
    /// place.
    fn compose(&mut self, stream: Option<Batch>, replay: Option<Batch>, random: &mut Random) -> Result<Vec<Batch>> {
        let (images, partners) = match (stream, replay.map(Batch::from_memory)) {
            (Some(stream), Some(replay)) => (stream, replay),
            (None, Some(replay)) if replay.count() > 1 => {
                let half = replay.count() / 2;
                (replay.narrow(0, half)?, replay.narrow(half, replay.count() - half)?)
            }
            (alone, None) | (None, alone) => return Ok(alone.into_iter().collect()),
        };
        let weight = random.beta(self.alpha, self.alpha);
        // A mixture is no image of its own: it has neither number nor class.
        Ok(vec![Batch::of(Views {
            first: mix(&images.views.first, &partners.views.first, weight)?,
            second: mix(&images.views.second, &partners.views.second, weight)?,
        })])
    }
}

/// weight * images + (1 - weight) * partners, pair by pair; the rest of the longer one after it, as it is.
fn mix(images: &Tensor, partners: &Tensor, weight: f64) -> Result<Tensor> {
    let (count, partner_count) = (images.dim(0)?, partners.dim(0)?);
    let pairs = count.min(partner_count);
    let (first, second) = (images.narrow(0, 0, pairs)?, partners.narrow(0, 0, pairs)?);
    let mixed = match tensors::mix(&first, &second, weight) {
        Some(mixed) => mixed?,
        None => (first.affine(weight, 0.0)? + second.affine(1.0 - weight, 0.0)?)?,
    };
    let longer = if count > partner_count { images } else { partners };
    match longer.dim(0)? - pairs {
        0 => Ok(mixed),
        rest => Tensor::cat(&[mixed, longer.narrow(0, pairs, rest)?], 0),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::config::Seed;

    fn views(values: &[f32]) -> Views {
        let first = Tensor::new(values, &Device::Cpu).unwrap().reshape(((), 1, 1, 1)).unwrap();
        Views { second: first.affine(10.0, 0.0).unwrap(), first }
    }

    fn compose(stream: Option<Views>, replay: Option<Views>) -> Option<[Vec<f32>; 2]> {
        let mut lump = Lump { alpha: 0.4 };
        let (stream, replay) = (stream.map(Batch::of), replay.map(Batch::of));
        let composed = lump.compose(stream, replay, &mut Seed(1).random("mix", 0)).unwrap().pop()?.views;
        Some([composed.first, composed.second].map(|view| view.flatten_all().unwrap().to_vec1().unwrap()))
    }

    #[test]
    fn both_views_are_mixed_with_the_same_partner_by_the_same_weight() {
        let weight = Seed(1).random("mix", 0).beta(0.4, 0.4) as f32;
        let [first, second] = compose(Some(views(&[1.0, 2.0])), Some(views(&[5.0, 7.0]))).unwrap();
        for (value, expected) in first.iter().zip([weight + (1.0 - weight) * 5.0, weight * 2.0 + (1.0 - weight) * 7.0])
        {
            assert!((value - expected).abs() < 1e-5);
        }
        first.iter().zip(&second).for_each(|(a, b)| assert!((10.0 * a - b).abs() < 1e-4));
    }

    #[test]
    fn what_has_no_partner_goes_in_unmixed() {
        let [longer_replay, _] = compose(Some(views(&[1.0])), Some(views(&[5.0, 7.0, 9.0]))).unwrap();
        assert_eq!(longer_replay[1..], [7.0, 9.0]);
        let [longer_stream, _] = compose(Some(views(&[1.0, 2.0])), Some(views(&[5.0]))).unwrap();
        assert_eq!(longer_stream[1..], [2.0]);
        assert_eq!(compose(Some(views(&[3.0])), None).unwrap()[0], [3.0]);
    }

    #[test]
    fn an_idle_stream_is_replaced_by_half_of_the_memory() {
        let weight = Seed(1).random("mix", 0).beta(0.4, 0.4) as f32;
        let [first, _] = compose(None, Some(views(&[1.0, 5.0]))).unwrap();
        assert_eq!(first.len(), 1);
        assert!((first[0] - (weight + (1.0 - weight) * 5.0)).abs() < 1e-5);
        assert!(compose(None, None).is_none());
        assert_eq!(compose(None, Some(views(&[4.0]))).unwrap()[0], [4.0]);
    }
}
