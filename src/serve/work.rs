//! Running questions that take a while: a few at a time, with a bounded queue before them, where they hold up no socket.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{block_in_place, spawn_blocking};

use super::Problem;
use crate::daemon::answers::AnswerError;

/// A kind of work with its bounds.
pub(super) struct Work {
    what: &'static str,
    /// Running or waiting.
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    in_place: bool,
}

impl Work {
    /// `running` at once, and as many as `waiting` in line for it. `what` names the line in problems.
    pub(super) fn new(what: &'static str, running: usize, waiting: usize) -> Self {
        let running = running.max(1);
        let (admitted, running) = (Semaphore::new(running + waiting), Semaphore::new(running));
        Self { what, admitted: Arc::new(admitted), running: Arc::new(running), in_place: false }
    }

    /// For questions of a few milliseconds: they run on the thread that read them, whose other tasks go to another one
    /// meanwhile. Where training takes every core, a thread for the question and waking one for its answer were measured to cost
    /// about a millisecond of the 99th percentile.
    pub(super) fn in_place(self) -> Self {
        Self { in_place: true, ..self }
    }

    /// Runs one question. `held` is what it occupies elsewhere, given back when it is done: the permits go along with the work,
    /// which goes on when the client has gone.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        held: Option<OwnedSemaphorePermit>,
        question: impl FnOnce() -> Result<T, AnswerError> + Send + 'static,
    ) -> Result<T, Problem> {
        let full = || Problem::from(AnswerError::Overloaded { what: self.what });
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| full())?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| full())?;
        let question = move || {
            let _occupied = (admitted, running, held);
            catch_unwind(AssertUnwindSafe(question))
        };
        let answer = if self.in_place && Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
            Ok(block_in_place(question))
        } else {
            spawn_blocking(question).await
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer?),
            Ok(Err(_)) | Err(_) => {
                tracing::error!("a question failed; what panicked was written before this");
                Err(Problem::internal())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_exceeds_the_line_is_refused_and_the_line_moves_on() {
        let work = Arc::new(Work::new("the line", 1, 1).in_place());
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let start = || {
            let (work, gate) = (Arc::clone(&work), Arc::clone(&gate));
            tokio::spawn(async move {
                work.run(None, move || {
                    gate.lock().unwrap().recv().unwrap();
                    Ok(())
                })
                .await
            })
        };
        let (first, second) = (start(), start());
        while work.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = work.run(None, || Ok(())).await.unwrap_err();
        assert_eq!((refused.status, refused.detail.as_str()), (429, "the line is full"));
        release.send(()).unwrap();
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        work.run(None, || Ok(())).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_is_an_internal_problem_and_gives_its_place_back() {
        let work = Work::new("the line", 1, 0);
        let problem = work.run(None, || -> Result<(), AnswerError> { panic!("a test's panic") }).await.unwrap_err();
        assert_eq!(problem.code, "internal");
        work.run(None, || Ok(())).await.unwrap();
    }
}
