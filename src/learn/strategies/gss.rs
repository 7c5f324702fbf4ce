//! GSS, gradient-based sample selection: a memory whose images pull in directions as different as can be.
//!
//! A candidate's score is c = 1 + the largest cosine between its gradient and those of images drawn from the memory. While there
//! is room it is stored with its score C; later, where c < 1, a stored image i is drawn with chance C_i / sum C, and replaced with
//! chance C_i / (C_i + c). Cross-entropy on the stream and the images drawn from this memory together.
//! Gradients are those of the linear head, (softmax - onehot) x features, whose cosine is the product of both factors'
//! cosines: exact for that layer and free, where those of the whole network would cost a backward pass an image.
//! Source: Aljundi et al. 2019, "Gradient based sample selection for online continual learning", algorithm 2. Keeps its own
//! images (side x side x 3 bytes each, [`SLOTS`] of them) and a replay batch more in each step. Needs labels.

use candle_core::{D, DType, Result, Tensor};

use super::{Batch, Cost, Loss, Network, State, Strategy, named, numbers_to_tensor, tensor_to_numbers, together};
use crate::config::{Random, Seed, StrategyKind};

/// Images of its memory.
pub const SLOTS: usize = 256;

/// The score of a candidate where there is nothing to compare with.
const FIRST_SCORE: f64 = 0.1;

/// The strategy and its memory.
pub struct Gss {
    replay_batch: usize,
    seed: Seed,
    images: Vec<Vec<u8>>,
    labels: Vec<u32>,
    scores: Vec<f64>,
    /// Images looked at so far: the counter of its draws.
    seen: u64,
}

/// The two factors of a gradient of the linear head, each of length one.
pub(super) struct Factors {
    error: Vec<f64>,
    features: Vec<f64>,
}

impl Gss {
    pub fn new(replay_batch: usize, seed: Seed) -> Self {
        Self { replay_batch, seed, images: Vec::new(), labels: Vec::new(), scores: Vec::new(), seen: 0 }
    }

    fn consider(&mut self, image: &[u8], label: u32, candidate: &Factors, drawn: &[Factors]) {
        let mut random = self.seed.random("gss", self.seen);
        self.seen += 1;
        let cosine = |other: &Factors| dot(&candidate.error, &other.error) * dot(&candidate.features, &other.features);
        let score = drawn.iter().map(cosine).reduce(f64::max).map_or(FIRST_SCORE, |most| 1.0 + most);
        if self.images.len() < SLOTS {
            self.images.push(image.to_vec());
            self.labels.push(label);
            self.scores.push(score);
        } else if score < 1.0 {
            let slot = draw(&self.scores, &mut random);
            if random.uniform() * (self.scores[slot] + score) < self.scores[slot] {
                (self.images[slot], self.labels[slot], self.scores[slot]) = (image.to_vec(), label, score);
            }
        }
    }
}

/// An index with chance in proportion to its weight.
fn draw(weights: &[f64], random: &mut Random) -> usize {
    let mut left = random.uniform() * weights.iter().sum::<f64>();
    for (index, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return index;
        }
    }
    weights.len().saturating_sub(1)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(mut row: Vec<f64>) -> Vec<f64> {
    let length = dot(&row, &row).sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|value| *value /= length);
    }
    row
}

/// Of each image of the batch.
fn factors(features: &Tensor, labels: &[u32], loss: Loss<'_>) -> Result<Vec<Factors>> {
    let logits = loss.head.project(features, 1)?.detach();
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    let shares = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let features = features.detach().to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let of = |((mut error, features), label): ((Vec<f64>, Vec<f64>), &u32)| {
        error.iter_mut().skip(*label as usize).take(1).for_each(|share| *share -= 1.0);
        Factors { error: unit(error), features: unit(features) }
    };
    Ok(shares.into_iter().zip(features).zip(labels).map(of).collect())
}

impl Strategy for Gss {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Gss
    }

    fn cost(&self) -> Cost {
        Cost::default()
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn own_replay(&self, random: &mut Random) -> Option<(Vec<u8>, Vec<u32>)> {
        let chosen = random.choose(self.images.len(), self.replay_batch);
        let labels = chosen.iter().map(|slot| self.labels[*slot]).collect();
        Some((chosen.iter().flat_map(|slot| &self.images[*slot]).copied().collect(), labels))
    }

    fn reseed(&mut self, seed: Seed) {
        self.seed = seed;
    }

    fn compose(&mut self, stream: Option<Batch>, replay: Option<Batch>, _: &mut Random) -> Result<Vec<Batch>> {
        together(stream, replay)
    }

    fn extra_loss(
        &mut self,
        _pass: usize,
        batch: &Batch,
        [first, _]: [&Tensor; 2],
        loss: Loss<'_>,
    ) -> Result<Option<Tensor>> {
        let (count, new) = (batch.count(), batch.count() - batch.replayed);
        if batch.labels.len() != count || batch.pixels.is_empty() {
            return Ok(None);
        }
        let mut candidates = factors(first, &batch.labels, loss)?;
        let drawn = candidates.split_off(new);
        let bytes = batch.pixels.len() / count;
        for (index, candidate) in candidates.iter().enumerate() {
            self.consider(&batch.pixels[index * bytes..][..bytes], batch.labels[index], candidate, &drawn);
        }
        Ok(None)
    }

    fn state(&self) -> Result<State> {
        let device = candle_core::Device::Cpu;
        let Some(bytes) = self.images.first().map(Vec::len) else { return Ok(State::new()) };
        let pixels: Vec<f32> = self.images.iter().flatten().map(|byte| f32::from(*byte)).collect();
        let labels: Vec<u64> = self.labels.iter().map(|label| u64::from(*label)).collect();
        let scores: Vec<u64> = self.scores.iter().map(|score| score.to_bits()).collect();
        Ok(State::from([
            ("images".to_owned(), Tensor::from_vec(pixels, (self.images.len(), bytes), &device)?),
            ("labels".to_owned(), numbers_to_tensor(&labels, &device)?),
            ("scores".to_owned(), numbers_to_tensor(&scores, &device)?),
            ("seen".to_owned(), numbers_to_tensor(&[self.seen], &device)?),
        ]))
    }

    fn restore(&mut self, state: &State, _network: &mut Network<'_>) -> Result<()> {
        if state.is_empty() {
            *self = Self::new(self.replay_batch, self.seed);
            return Ok(());
        }
        let Some(images) = state.get("images") else { candle_core::bail!("\"images\" is missing") };
        let images = images.to_vec2::<f32>()?;
        let numbers = |name: &str, count| tensor_to_numbers(&named(state, name, &[count, 4])?);
        let (labels, scores) = (numbers("labels", images.len())?, numbers("scores", images.len())?);
        self.seen = numbers("seen", 1)?[0];
        self.images = images.into_iter().map(|image| image.into_iter().map(|value| value as u8).collect()).collect();
        self.labels = labels.into_iter().map(|label| label as u32).collect();
        self.scores = scores.into_iter().map(f64::from_bits).collect();
        Ok(())
    }
}

/// A way in for tests: gradients as they are, without a network.
#[cfg(test)]
pub(super) mod testing {
    use super::{Factors, Gss};

    pub fn factors(error: Vec<f64>, features: Vec<f64>) -> Factors {
        Factors { error, features }
    }

    pub fn consider(gss: &mut Gss, image: &[u8], label: u32, candidate: &Factors, drawn: &[Factors]) {
        gss.consider(image, label, candidate, drawn);
    }

    pub fn memory(gss: &Gss) -> (&[Vec<u8>], &[u32]) {
        (&gss.images, &gss.labels)
    }
}
