//! What readers ask of the threads that own things, and wait for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::answers::AnswerError;
use crate::stream::FrameId;

/// Requests that may wait for the memory thread.
const WAITING: usize = 16;

/// How long a reader waits. A training step, a publication or a commit on a slow disk may come before.
const PATIENCE: Duration = Duration::from_secs(50);

/// An answer on its way: `Err` is a failure of the disk or the device, in words for the log.
pub type Reply<T> = Sender<Result<T, String>>;

/// What the memory thread is asked for.
#[derive(Debug)]
pub enum Request {
    /// Remove these images from every file. The answer: those that were stored.
    Forget { frames: Vec<FrameId>, reply: Reply<Vec<FrameId>> },
}

/// Requests to the memory thread, which looks at them between two groups of frames.
#[derive(Debug, Default)]
pub struct Requests {
    waiting: Mutex<VecDeque<Request>>,
}

impl Requests {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Request>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// [`AnswerError::Overloaded`] where too many wait already.
    pub fn push(&self, request: Request) -> Result<(), AnswerError> {
        let mut waiting = self.waiting();
        if waiting.len() >= WAITING {
            return Err(AnswerError::Overloaded { what: "the line of changes" });
        }
        waiting.push_back(request);
        Ok(())
    }

    pub fn pop(&self) -> Option<Request> {
        self.waiting().pop_front()
    }
}

/// A place for one answer.
pub fn reply<T>() -> (Reply<T>, Receiver<Result<T, String>>) {
    bounded(1)
}

/// Waits for the answer. `what`: the thread that gives it.
///
/// # Errors
/// [`AnswerError::Busy`] where it does not come in time, [`AnswerError::Draining`] where the thread has ended, and
/// [`AnswerError::Storage`] for what it says.
pub fn await_reply<T>(answer: &Receiver<Result<T, String>>, what: &'static str) -> Result<T, AnswerError> {
    match answer.recv_timeout(PATIENCE) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(detail)) => Err(AnswerError::Storage { detail }),
        Err(RecvTimeoutError::Timeout) => Err(AnswerError::Busy { what }),
        Err(RecvTimeoutError::Disconnected) => Err(AnswerError::Draining),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_line_refuses_and_a_thread_that_ends_answers_nobody() {
        let requests = Requests::new();
        let (sender, answer) = reply::<Vec<FrameId>>();
        let forget = || Request::Forget { frames: vec![FrameId(1)], reply: sender.clone() };
        (0..WAITING).for_each(|_| requests.push(forget()).unwrap());
        assert_eq!(requests.push(forget()).unwrap_err().code(), "overloaded");
        let Some(Request::Forget { frames, reply }) = requests.pop() else { panic!("a request waits") };
        reply.send(Ok(frames)).unwrap();
        assert_eq!(await_reply(&answer, "the test").unwrap(), [FrameId(1)]);
        drop((requests, reply, sender));
        assert_eq!(await_reply(&answer, "the test").unwrap_err().code(), "draining");
    }
}
