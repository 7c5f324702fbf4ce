//! Notices when training has left the road: steps whose loss or gradient is not finite, or far out of what was usual.
//!
//! A loss counts as out of bounds above the median plus six times the median absolute deviation of the last 200 losses of
//! batches of the same size; losses of batches of different sizes cannot be compared (SimCLR's grows with the batch). A
//! step does where it, the learning rate times the gradient, is a hundred times as long as the median: lengths have long
//! tails in good training, too.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::LearnError;

/// Steps that are looked back upon.
const WINDOW: u64 = 100;

/// So many bad steps among them and the weights are no good.
const LIMIT: usize = 3;

/// Losses remembered.
const LOSSES: usize = 200;

/// So many losses of a batch size, and its bound means something.
const ENOUGH: usize = 50;

/// Median absolute deviations above the median.
const DEVIATIONS: f64 = 6.0;

/// Least deviation that counts, relative to the median: where a loss hardly moves, noise is not divergence.
const LEAST_DEVIATION: f64 = 0.01;

/// Lengths of the median step that one may have.
const LONGEST: f64 = 100.0;

/// Steps after the last bad one until a checkpoint may be trusted.
const CALM: u64 = 10;

/// The recent bad steps and losses, and the counts since the program started.
#[derive(Debug, Default, Clone)]
pub struct Guard {
    memory: Memory,
    bad: u64,
    out_of_bounds: u64,
}

/// What the next step's verdict depends on.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    recent: VecDeque<u64>,
    /// Images of a batch, and the bits of its loss, so that it comes back exactly.
    losses: VecDeque<(usize, u64)>,
    /// The same of the lengths of steps.
    lengths: VecDeque<(usize, u64)>,
}

/// What is wrong with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NotFinite,
    OutOfBounds,
}

impl Guard {
    /// Records a step that was skipped.
    ///
    /// # Errors
    /// [`LearnError::Diverged`] where such steps are too many.
    pub fn record(&mut self, step: u64, fault: Fault) -> Result<(), LearnError> {
        match fault {
            Fault::NotFinite => self.bad += 1,
            Fault::OutOfBounds => self.out_of_bounds += 1,
        }
        self.memory.recent.push_back(step);
        self.memory.recent.retain(|earlier| step - earlier < WINDOW);
        match self.memory.recent.len() {
            count if count < LIMIT => Ok(()),
            count => Err(LearnError::Diverged { step, count, window: WINDOW }),
        }
    }

    /// Takes note of a step that was taken: its loss and its length, the learning rate times the gradient's.
    pub fn took(&mut self, images: usize, loss: f64, length: f64) {
        for (list, value) in [(&mut self.memory.losses, loss), (&mut self.memory.lengths, length)] {
            if list.len() == LOSSES {
                list.pop_front();
            }
            list.push_back((images, value.to_bits()));
        }
    }

    /// The highest loss that is usual for a batch of so many images; `None` while too few are known.
    pub fn loss_bound(&self, images: usize) -> Option<f64> {
        let losses = of_size(&self.memory.losses, images)?;
        let median = median(losses.clone());
        let deviation = self::median(losses.iter().map(|loss| (loss - median).abs()).collect());
        Some(median + DEVIATIONS * deviation.max(LEAST_DEVIATION * median.abs()))
    }

    /// The longest step that a batch of so many images may take; `None` while too few are known.
    pub fn length_bound(&self, images: usize) -> Option<f64> {
        Some(LONGEST * median(of_size(&self.memory.lengths, images)?))
    }

    /// Whether the last steps before `step` were all good: the weights may be kept.
    pub fn is_calm(&self, step: u64) -> bool {
        self.memory.recent.back().is_none_or(|last| step.saturating_sub(*last) > CALM)
    }

    /// Forgets the recent bad steps and the losses: the weights are others now. A step's usual length is not forgotten:
    /// where the rate is what is wrong, it stays wrong.
    pub fn reset(&mut self) {
        self.memory.recent.clear();
        self.memory.losses.clear();
    }

    /// Forgets everything: the learning rate is another now, and with it all that was usual.
    pub fn start_anew(&mut self) {
        self.memory = Memory::default();
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn recall(&mut self, memory: Memory) {
        self.memory = memory;
    }

    /// All steps since the program started whose loss or gradient was not finite.
    pub fn total(&self) -> u64 {
        self.bad
    }

    /// All steps since the program started whose loss or length was out of bounds.
    pub fn out_of_bounds(&self) -> u64 {
        self.out_of_bounds
    }
}

fn of_size(list: &VecDeque<(usize, u64)>, images: usize) -> Option<Vec<f64>> {
    let same = list.iter().filter(|(count, _)| *count == images);
    let values: Vec<f64> = same.map(|(_, bits)| f64::from_bits(*bits)).collect();
    (values.len() >= ENOUGH).then_some(values)
}

/// Of at least one value.
fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    let (_, median, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    *median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bad_steps_in_a_hundred_are_divergence_and_three_far_apart_are_not() {
        let mut guard = Guard::default();
        for step in [0, 60, 120, 180] {
            assert!(guard.record(step, Fault::NotFinite).is_ok(), "step {step}");
        }
        assert_eq!(guard.record(181, Fault::OutOfBounds).unwrap_err().code(), "training-diverged");
        guard.reset();
        assert!(guard.record(182, Fault::NotFinite).is_ok());
        assert_eq!((guard.total(), guard.out_of_bounds()), (5, 1));
    }

    #[test]
    fn the_bound_is_six_deviations_above_the_median_of_the_last_200_losses_of_that_batch() {
        let mut guard = Guard::default();
        for i in 0..ENOUGH {
            assert_eq!(guard.loss_bound(8), None, "after {i} losses");
            guard.took(8, 4.0 + 0.1 * (i % 5) as f64, 2.0);
        }
        // 4.0, 4.1, 4.2, 4.3, 4.4: median 4.2, deviations 0.2, 0.1, 0, 0.1, 0.2.
        assert!((guard.loss_bound(8).unwrap() - (4.2 + 6.0 * 0.1)).abs() < 1e-9, "{:?}", guard.loss_bound(8));
        assert_eq!(guard.length_bound(8), Some(200.0));
        assert_eq!(guard.loss_bound(4), None, "batches of another size are not compared");
        (0..LOSSES).for_each(|_| guard.took(8, -0.9, 3.0));
        assert!((guard.loss_bound(8).unwrap() - (-0.9 + 6.0 * 0.009)).abs() < 1e-9, "{:?}", guard.loss_bound(8));
        guard.reset();
        assert_eq!((guard.loss_bound(8), guard.length_bound(8)), (None, Some(300.0)));
        guard.start_anew();
        assert_eq!(guard.length_bound(8), None);
    }

    #[test]
    fn a_bad_step_is_calm_again_after_a_while() {
        let mut guard = Guard::default();
        assert!(guard.is_calm(0));
        guard.record(50, Fault::OutOfBounds).unwrap();
        assert!(!guard.is_calm(51) && !guard.is_calm(60) && guard.is_calm(61));
    }

    #[test]
    fn its_memory_comes_back_exactly() {
        let mut guard = Guard::default();
        guard.record(3, Fault::NotFinite).unwrap();
        (0..7).for_each(|i| guard.took(i, 0.1 * i as f64, 0.3 * i as f64));
        let text = serde_json::to_string(guard.memory()).unwrap();
        assert_eq!(&serde_json::from_str::<Memory>(&text).unwrap(), guard.memory());
    }
}
