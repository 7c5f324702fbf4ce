//! The last hour in samples: what a page or a plot needs that was not watching.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::answers::{History, Sample, Timestamp};

/// Between two samples.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// Samples kept: an hour.
const KEPT: usize = 1800;

/// The ring. Some 150 bytes a sample.
#[derive(Debug, Default)]
pub struct Recorder {
    samples: Mutex<VecDeque<Sample>>,
}

impl Recorder {
    fn samples(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, sample: Sample) {
        let mut samples = self.samples();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Samples later than `since`, oldest first.
    pub fn since(&self, since: Option<Timestamp>) -> History {
        let samples = self.samples();
        let later = samples.iter().filter(|sample| since.is_none_or(|since| sample.at > since));
        History { interval_seconds: INTERVAL.as_secs_f64(), samples: later.cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::answers::timestamp;

    #[test]
    fn the_oldest_make_room_and_a_reader_takes_what_is_new_to_it() {
        let recorder = Recorder::default();
        for second in 0..KEPT as i64 + 3 {
            recorder.note(Sample {
                at: timestamp(second * 1_000_000_000),
                accepted: 0,
                accepted_per_second: 0.0,
                dropped: 0,
                skipped_for_training: 0,
                loss: None,
                steps: 0,
                images_per_second: 0.0,
                statistic: None,
                threshold: None,
                task: None,
                stored: 0,
            });
        }
        let all = recorder.since(None).samples;
        assert_eq!((all.len(), all[0].at), (KEPT, timestamp(3_000_000_000)));
        assert_eq!(recorder.since(Some(all[KEPT - 3].at)).samples.len(), 2);
    }
}
