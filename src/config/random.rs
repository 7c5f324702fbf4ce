//! The one source of randomness: counter-based, so that there is no generator state to lose.
//!
//! A draw is a pure function of the seed, a purpose and a counter. A checkpoint keeps the counters (the step, the frame's
//! number); the same seed gives the same bits on every machine.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// The configured seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The generator of one event, such as `("views", step)`. Different purposes and counters are independent.
    pub fn random(self, purpose: &str, counter: u64) -> Random {
        let mut hash = blake3::Hasher::new();
        hash.update(&self.0.to_le_bytes()).update(&counter.to_le_bytes()).update(purpose.as_bytes());
        Random(ChaCha8Rng::from_seed(*hash.finalize().as_bytes()))
    }
}

/// A generator of the draws of one event.
#[derive(Debug, Clone)]
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in 0..n, without bias (Lemire 2019).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a draw from nothing");
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= n.wrapping_neg() % n {
                return (product >> 64) as u64;
            }
        }
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Beta(a, b) as the ratio of two gamma draws; a, b > 0.
    pub fn beta(&mut self, a: f64, b: f64) -> f64 {
        let (x, y) = (self.log_gamma_draw(a), self.log_gamma_draw(b));
        // The ratio of the exponentials, taken of logarithms: with small parameters both draws may underflow.
        1.0 / (1.0 + (y - x).exp())
    }

    /// Logarithm of a Gamma(shape, 1) draw (Marsaglia and Tsang 2000).
    fn log_gamma_draw(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let boost = (1.0 - self.uniform()).ln() / shape;
            return self.log_gamma_draw(shape + 1.0) + boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.uniform()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d.ln() + v.ln();
            }
        }
    }

    /// Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// `count` different numbers of 0..n in random order; all of them where `count` is larger (Floyd's sampling, shuffled).
    pub fn choose(&mut self, n: usize, count: usize) -> Vec<usize> {
        let count = count.min(n);
        let mut taken = std::collections::HashSet::with_capacity(count);
        let mut chosen = Vec::with_capacity(count);
        for upper in n - count..n {
            let draw = self.below(upper as u64 + 1) as usize;
            let pick = if taken.insert(draw) { draw } else { upper };
            taken.insert(pick);
            chosen.push(pick);
        }
        self.shuffle(&mut chosen);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_event_draws_the_same_and_another_does_not() {
        let seed = Seed(7);
        assert_eq!(seed.random("views", 3).next_u64(), seed.random("views", 3).next_u64());
        assert_ne!(seed.random("views", 3).next_u64(), seed.random("views", 4).next_u64());
        assert_ne!(seed.random("views", 3).next_u64(), seed.random("mix", 3).next_u64());
        assert_ne!(seed.random("views", 3).next_u64(), Seed(8).random("views", 3).next_u64());
    }

    #[test]
    fn beta_has_the_mean_and_variance_of_its_formula() {
        let mut random = Seed(1).random("beta", 0);
        let draws: Vec<f64> = (0..20_000).map(|_| random.beta(0.4, 0.4)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
        assert!((variance - 0.25 / 1.8).abs() < 0.005, "variance {variance}");
        assert!(draws.iter().all(|x| (0.0..=1.0).contains(x)));
    }

    #[test]
    fn choose_is_uniform_and_without_repetition() {
        let mut hits = [0u32; 10];
        for event in 0..10_000 {
            let mut chosen = Seed(2).random("choose", event).choose(10, 3);
            chosen.iter().for_each(|&i| hits[i] += 1);
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(chosen.len(), 3);
        }
        assert!(hits.iter().all(|&h| (2_800..3_200).contains(&h)), "{hits:?}");
        assert_eq!(Seed(2).random("choose", 0).choose(2, 5).len(), 2);
    }

    #[test]
    fn normal_has_unit_variance() {
        let mut random = Seed(3).random("normal", 0);
        let draws: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let second = draws.iter().map(|x| x * x).sum::<f64>() / draws.len() as f64;
        assert!((second - 1.0).abs() < 0.03, "{second}");
    }
}
