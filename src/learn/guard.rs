//! Notices when training has left the road: steps whose loss or gradient is not finite.

use std::collections::VecDeque;

use super::LearnError;

/// Steps that are looked back upon.
const WINDOW: u64 = 100;

/// So many bad steps among them and the weights are no good.
const LIMIT: usize = 3;

/// The recent bad steps, and the count of all since the program started.
#[derive(Debug, Default)]
pub struct Guard {
    recent: VecDeque<u64>,
    total: u64,
}

impl Guard {
    /// Records a step that was skipped because something was not finite.
    ///
    /// # Errors
    /// [`LearnError::Diverged`] where such steps are too many.
    pub fn record(&mut self, step: u64) -> Result<(), LearnError> {
        self.total += 1;
        self.recent.push_back(step);
        self.recent.retain(|earlier| step - earlier < WINDOW);
        match self.recent.len() {
            count if count < LIMIT => Ok(()),
            count => Err(LearnError::Diverged { step, count, window: WINDOW }),
        }
    }

    /// Forgets the recent steps: the weights are others now.
    pub fn reset(&mut self) {
        self.recent.clear();
    }

    /// All bad steps since the program started.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bad_steps_in_a_hundred_are_divergence_and_three_far_apart_are_not() {
        let mut guard = Guard::default();
        for step in [0, 60, 120, 180] {
            assert!(guard.record(step).is_ok(), "step {step}");
        }
        assert_eq!(guard.record(181).unwrap_err().code(), "training-diverged");
        guard.reset();
        assert!(guard.record(182).is_ok());
        assert_eq!(guard.total(), 6);
    }
}
