//! What waits for the learner: images of the stream and commands, both bounded.
//!
//! The stream never waits for training. When it is faster, the oldest waiting images are skipped for training and counted;
//! they have reached the replay buffer and the segmentation all the same.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Images and commands for the one owner of the training device.
pub struct Mailbox<Command> {
    state: Mutex<State<Command>>,
    arrived: Condvar,
    capacity: usize,
}

struct State<Command> {
    images: VecDeque<(Instant, Vec<u8>)>,
    commands: VecDeque<Command>,
    skipped: u64,
}

/// Why the learner woke up.
#[derive(Debug)]
pub struct Wake<Command> {
    /// Every command that was waiting, in order.
    pub commands: Vec<Command>,
    /// Images of the next stream batch, the oldest first; empty where the batch is not due.
    pub images: Vec<Vec<u8>>,
}

impl<Command> Mailbox<Command> {
    /// At most `capacity` images wait.
    pub fn new(capacity: usize) -> Self {
        let state = State { images: VecDeque::new(), commands: VecDeque::new(), skipped: 0 };
        Self { state: Mutex::new(state), arrived: Condvar::new(), capacity: capacity.max(1) }
    }

    /// A thread that panicked while holding the lock left a queue that is still whole: every change is one push or pop.
    fn state(&self) -> MutexGuard<'_, State<Command>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds images (height, width, 3; u8); the oldest make room.
    pub fn push_images(&self, images: impl IntoIterator<Item = Vec<u8>>) {
        let mut state = self.state();
        for image in images {
            if state.images.len() == self.capacity {
                state.images.pop_front();
                state.skipped += 1;
            }
            state.images.push_back((Instant::now(), image));
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Commands are few (a boundary, a stop) and never dropped.
    pub fn send(&self, command: Command) {
        self.state().commands.push_back(command);
        self.arrived.notify_one();
    }

    /// Counts images that were taken out and not trained on after all.
    pub fn skip(&self, images: u64) {
        self.state().skipped += images;
    }

    /// Images that were skipped for training since the start.
    pub fn skipped(&self) -> u64 {
        self.state().skipped
    }

    /// Waits until a command or `batch` images are there, or `timeout` has passed; then takes all commands, and a whole
    /// batch or, once the oldest image has waited for `patience`, what there is of it.
    pub fn wait(&self, batch: usize, patience: Duration, timeout: Duration) -> Wake<Command> {
        let ready = |state: &State<Command>| !state.commands.is_empty() || state.images.len() >= batch;
        let state = self.state();
        let waited = self.arrived.wait_timeout_while(state, timeout, |state| !ready(state));
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let overdue = state.images.front().is_some_and(|(since, _)| since.elapsed() >= patience);
        let count = if overdue || state.images.len() >= batch { batch.min(state.images.len()) } else { 0 };
        Wake {
            commands: state.commands.drain(..).collect(),
            images: state.images.drain(..count).map(|(_, image)| image).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_whole_batch_is_handed_over_at_once_and_in_order() {
        let mailbox = Mailbox::<()>::new(8);
        mailbox.push_images((0..5).map(|i| vec![i]));
        let wake = mailbox.wait(4, LONG, LONG);
        assert_eq!(wake.images, [[0], [1], [2], [3]]);
        assert_eq!(mailbox.wait(1, LONG, LONG).images, [[4]]);
    }

    #[test]
    fn the_oldest_are_skipped_and_counted_when_the_stream_is_faster() {
        let mailbox = Mailbox::<()>::new(3);
        mailbox.push_images((0..5).map(|i| vec![i]));
        assert_eq!(mailbox.skipped(), 2);
        assert_eq!(mailbox.wait(3, LONG, Duration::ZERO).images, [[2], [3], [4]]);
    }

    #[test]
    fn a_command_does_not_wait_for_a_batch_and_leaves_the_images() {
        let mailbox = Mailbox::new(8);
        mailbox.push_images([vec![1]]);
        mailbox.send("stop");
        let wake = mailbox.wait(4, LONG, LONG);
        assert_eq!((wake.commands, wake.images.len()), (vec!["stop"], 0));
    }

    #[test]
    fn a_part_of_a_batch_comes_once_it_has_waited_long_enough() {
        let mailbox = Mailbox::<()>::new(8);
        mailbox.push_images([vec![1]]);
        assert!(mailbox.wait(4, LONG, Duration::ZERO).images.is_empty());
        assert_eq!(mailbox.wait(4, Duration::ZERO, Duration::ZERO).images.len(), 1);
    }
}
