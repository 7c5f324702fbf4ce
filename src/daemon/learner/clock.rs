//! When the learner did what, and what is due next.

use std::time::{Duration, Instant};

/// When what is due next.
pub struct Clock {
    pub(super) last_batch: Instant,
    pub(super) last_rehearsal: Instant,
    pub(super) next_publish: Instant,
    pub(super) next_checkpoint: Instant,
    pub(super) published_step: u64,
    pub(super) rollbacks: Vec<Instant>,
}

impl Default for Clock {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            last_batch: now,
            last_rehearsal: now,
            next_publish: now,
            next_checkpoint: now,
            published_step: 0,
            rollbacks: Vec::new(),
        }
    }
}

impl Clock {
    /// When the stream has been idle for so many seconds and the last rehearsal is long enough ago for this rate a second. None
    /// where no clock goes that far.
    pub(super) fn rehearsal_due(&self, idle_after: f64, per_second: f64) -> Option<Instant> {
        let after = |instant: Instant, seconds: f64| instant.checked_add(Duration::try_from_secs_f64(seconds).ok()?);
        Some(after(self.last_batch, idle_after)?.max(after(self.last_rehearsal, 1.0 / per_second)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rehearsal_waits_for_an_idle_stream_and_for_its_rate() {
        let mut clock = Clock::default();
        let start = clock.last_batch;
        let seconds = |due: Option<Instant>| due.unwrap().duration_since(start).as_secs_f64();
        assert_eq!(seconds(clock.rehearsal_due(5.0, 1.0)), 5.0);
        clock.last_rehearsal = start + Duration::from_secs(6);
        assert_eq!(seconds(clock.rehearsal_due(5.0, 0.5)), 8.0);
    }

    #[test]
    fn a_rate_next_to_nothing_is_never_due() {
        let clock = Clock::default();
        for rate in [0.0, 1e-300, 1e-20] {
            assert_eq!(clock.rehearsal_due(5.0, rate), None, "{rate}");
        }
        assert_eq!(clock.rehearsal_due(f64::MAX, 1.0), None);
    }
}
