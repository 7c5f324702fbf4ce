//! How many requests a second are taken at all: a bucket that fills steadily and is emptied by one for each.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The bucket. It holds what comes in one second.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: f64,
    bucket: Mutex<(f64, Instant)>,
}

impl Rate {
    /// `per_second` 0: no limit.
    pub(super) fn new(per_second: f64) -> Self {
        Self { per_second, bucket: Mutex::new((per_second.max(1.0), Instant::now())) }
    }

    /// Takes one; false where there is none.
    pub(super) fn take(&self) -> bool {
        self.per_second <= 0.0 || self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = *bucket;
        let filled = left + now.saturating_duration_since(at).as_secs_f64() * self.per_second;
        let left = filled.min(self.per_second.max(1.0));
        let admitted = left >= 1.0;
        *bucket = (if admitted { left - 1.0 } else { left }, now);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_of_a_second_is_taken_and_then_the_rate() {
        let (rate, start) = (Rate::new(10.0), Instant::now());
        let taken = |at: Duration| (0..100).filter(|_| rate.take_at(start + at)).count();
        assert_eq!(taken(Duration::ZERO), 10);
        assert_eq!(taken(Duration::from_millis(500)), 5);
        assert_eq!(taken(Duration::from_secs(60)), 10, "what is not used is not saved up");
        assert!((0..1000).all(|_| Rate::new(0.0).take()));
    }
}
