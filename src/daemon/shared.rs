//! What the threads of the daemon tell its readers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::answers::{DaemonState, DeviceStatus, Timestamp};
use super::events::EventLog;
use super::history::Recorder;
use super::published::Window;

/// Over which time rates are means.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// The notice board: written by the threads that own things, read by everyone.
pub struct Shared {
    pub started: Instant,
    pub device: DeviceStatus,
    pub events: EventLog,
    pub window: Window,
    /// The evaluation's report and accuracy matrix, as it writes them.
    pub forgetting: ArcSwap<Evaluation>,
    /// The last hour in samples.
    pub history: Recorder,
    state: Mutex<DaemonState>,
    learning: Mutex<Learning>,
    images: Mutex<Rate>,
    images_total: AtomicU64,
    scrubbed: AtomicU64,
    /// Milliseconds after `started` at which the learner was last seen at work.
    beat: AtomicU64,
}

/// The last measurement, as JSON.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    pub forgetting: serde_json::Value,
    pub accuracy: serde_json::Value,
    /// How the forgetting index of every task went.
    pub history: serde_json::Value,
}

/// What training does.
#[derive(Debug, Clone, Default)]
pub struct Learning {
    pub steps: u64,
    pub loss: Option<f64>,
    pub images_trained: u64,
    /// Steps of rehearsal while the stream was idle.
    pub idle_steps: u64,
    pub nonfinite_steps: u64,
    pub out_of_bounds_steps: u64,
    pub rollbacks: u64,
    /// Batches are halved: the device ran out of memory.
    pub halved: bool,
    pub idle: bool,
    /// Why training was given up, if it was.
    pub frozen: Option<String>,
    /// Since when training rests because somebody asked for it.
    pub paused_since: Option<Timestamp>,
    pub rate: Rate,
    pub checkpoint: Option<Written>,
    pub checkpoint_errors: u64,
    /// The version's mean standard deviation of the features: a collapse alarm.
    pub representation_std: Option<f64>,
}

/// The last checkpoint.
#[derive(Debug, Clone)]
pub struct Written {
    pub at: Timestamp,
    pub step: u64,
}

impl Shared {
    pub fn new(device: DeviceStatus, window: Window) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            device,
            events: EventLog::default(),
            window,
            forgetting: ArcSwap::default(),
            history: Recorder::default(),
            state: Mutex::new(DaemonState::Starting),
            learning: Mutex::default(),
            images: Mutex::default(),
            images_total: AtomicU64::new(0),
            scrubbed: AtomicU64::new(0),
            beat: AtomicU64::new(0),
        })
    }

    pub fn state(&self) -> DaemonState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_state(&self, state: DaemonState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// The learner's numbers, to read or to change.
    pub fn learning(&self) -> MutexGuard<'_, Learning> {
        self.learning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The learner is at work: called before each step and each chunk of embeddings.
    pub fn beat(&self) {
        self.beat.store(self.started.elapsed().as_millis() as u64, Relaxed);
    }

    /// Since when nothing was seen of the learner.
    pub fn silence(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Relaxed)))
    }

    /// New images were taken in.
    pub fn images_seen(&self, count: u64) {
        self.images_total.fetch_add(count, Relaxed);
        self.images.lock().unwrap_or_else(PoisonError::into_inner).add(count);
    }

    /// Stored images were checked in the background.
    pub fn scrubbed(&self, count: u64) {
        self.scrubbed.fetch_add(count, Relaxed);
    }

    /// Stored images checked in the background since the start.
    pub fn scrubbed_total(&self) -> u64 {
        self.scrubbed.load(Relaxed)
    }

    /// Images taken in since the start.
    pub fn images(&self) -> u64 {
        self.images_total.load(Relaxed)
    }

    /// Images taken in a second, lately.
    pub fn images_per_second(&self) -> f64 {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).per_second()
    }
}

/// A mean over the last seconds, in buckets of half a second.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    buckets: VecDeque<(Instant, u64)>,
}

impl Rate {
    pub fn add(&mut self, count: u64) {
        let now = Instant::now();
        match self.buckets.back_mut() {
            Some((since, sum)) if now.duration_since(*since) < Duration::from_millis(500) => *sum += count,
            _ => self.buckets.push_back((now, count)),
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while self.buckets.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW) {
            self.buckets.pop_front();
        }
    }

    /// Counted in the window, over the window's length or the time since the first count, whichever is shorter.
    pub fn per_second(&mut self) -> f64 {
        let now = Instant::now();
        self.forget(now);
        let Some((first, _)) = self.buckets.front() else { return 0.0 };
        let seconds = now.duration_since(*first).as_secs_f64().max(0.5);
        self.buckets.iter().map(|(_, count)| *count as f64).sum::<f64>() / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_counted_over_the_time() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), 0.0);
        rate.add(5);
        rate.add(5);
        assert_eq!(rate.buckets.len(), 1, "counts of one moment share a bucket");
        assert!(rate.per_second() > 10.0);
    }
}
