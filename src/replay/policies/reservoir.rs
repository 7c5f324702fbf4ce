use crate::config::Seed;

use super::{Offer, Policy};

/// A uniform sample of everything offered (Vitter, "Random sampling with a reservoir", 1985, algorithm R).
///
/// The first frames fill the slots. The n-th after them draws a number below n: if that is a slot, the frame replaces
/// what is there. A slot that was emptied on request or by damage is refilled by that draw only: to fill it with the
/// next frame would favour that one.
#[derive(Debug, Clone, Copy)]
pub struct Reservoir {
    seed: Seed,
}

impl Reservoir {
    pub fn new(seed: Seed) -> Self {
        Self { seed }
    }
}

impl Policy for Reservoir {
    fn place(&mut self, offer: &Offer<'_>) -> Option<usize> {
        let slots = offer.slots as u64;
        let draw = match offer.seen {
            seen if seen < slots => seen,
            seen => self.seed.random("reservoir", offer.id.0).below(seen.saturating_add(1)),
        };
        (draw < slots).then_some(draw as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::FrameId;

    /// Frames that are in a reservoir of `slots` after `frames` offers.
    fn fill(seed: u64, slots: usize, frames: u64) -> Vec<u64> {
        let mut policy = Reservoir::new(Seed(seed));
        let mut stored = vec![0; slots];
        for seen in 0..frames {
            if let Some(slot) = policy.place(&Offer::new(FrameId(seen + 1), seen, slots)) {
                stored[slot] = seen;
            }
        }
        stored
    }

    #[test]
    fn every_frame_has_the_same_chance_to_stay() {
        let (slots, frames, runs) = (10, 100, 4_000);
        let mut hits = vec![0.0; frames as usize];
        for seed in 0..runs {
            fill(seed, slots, frames).into_iter().for_each(|frame| hits[frame as usize] += 1.0);
        }
        let chance = slots as f64 / frames as f64;
        let expected = runs as f64 * chance;
        // Inclusions of one run are dependent (they sum to 10); dividing by (1 - chance) makes the statistic one of chi
        // square with 99 degrees of freedom, whose 0.999 quantile is 148.2.
        let statistic: f64 = hits.iter().map(|hits: &f64| (hits - expected).powi(2) / expected).sum();
        let statistic = statistic / (1.0 - chance) * (frames as f64 - 1.0) / frames as f64;
        assert!(statistic < 148.2, "chi square {statistic}");
    }

    #[test]
    fn the_same_seed_and_frames_give_the_same_sample() {
        assert_eq!(fill(5, 8, 500), fill(5, 8, 500));
        assert_ne!(fill(5, 8, 500), fill(6, 8, 500));
    }
}
