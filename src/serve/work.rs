//! Running questions that take a while: a few at a time, with a bounded queue before them, where they hold up no socket.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{block_in_place, spawn_blocking};

use super::Problem;
use crate::daemon::answers::AnswerError;
use crate::decode::claimed_pixels;
use crate::device::Turn;

/// How long other sockets may wait for the question of one.
const BRIEF: Duration = Duration::from_millis(3);

/// Bytes of a question that may be brief, and pixels of its image: what is larger takes long to decode.
const SMALL: usize = 32 << 10;
const FEW_PIXELS: u64 = 1 << 18;

/// Whether a question of these bytes may be brief.
pub(super) fn is_small(bytes: &[u8]) -> bool {
    bytes.len() <= SMALL && claimed_pixels(bytes).is_none_or(|pixels| pixels <= FEW_PIXELS)
}

/// A kind of work with its bounds.
pub(super) struct Work {
    what: &'static str,
    /// Running or waiting.
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    pace: Pace,
}

/// What a question about one image holds until it is answered.
#[allow(dead_code, reason = "two of them are held, not read")]
pub(super) struct Held {
    /// Whether it may be brief.
    pub(super) small: bool,
    /// Its share of what bodies may occupy.
    pub(super) budget: Option<OwnedSemaphorePermit>,
    /// Training gives way meanwhile.
    pub(super) turn: Turn,
}

/// Where a question runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On a thread of its own.
    Apart,
    /// On the thread that read it, whose sockets go to another one meanwhile.
    Here,
    /// On the thread that read it, whose sockets wait.
    AtOnce,
}

impl Work {
    /// `running` at once, and as many as `waiting` in line for it. `what` names the line in problems.
    pub(super) fn new(what: &'static str, running: usize, waiting: usize) -> Self {
        let running = running.max(1);
        let (admitted, running) = (Semaphore::new(running + waiting), Semaphore::new(running));
        Self { what, admitted: Arc::new(admitted), running: Arc::new(running), pace: Pace::default() }
    }

    /// Runs one question. `held` is what it occupies elsewhere, given back when it is done: the permits go along with the work,
    /// which goes on when the client has gone.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        held: impl Send + 'static,
        question: impl FnOnce() -> Result<T, AnswerError> + Send + 'static,
    ) -> Result<T, Problem> {
        self.run_at(Place::Apart, held, question).await
    }

    /// As [`Work::run`], for a question about one image. While those are brief, they wake no other thread. One that is woken
    /// may push the question off its core; where training takes every core, the kernel may then give training its turn of a
    /// millisecond or two before the question goes on, which was measured to make the 99th percentile.
    pub(super) async fn run_one<T: Send + 'static>(
        &self,
        held: Held,
        question: impl FnOnce() -> Result<T, AnswerError> + Send + 'static,
    ) -> Result<T, Problem> {
        let pace = self.pace.clone();
        let place = if held.small && pace.mean() < BRIEF { Place::AtOnce } else { Place::Here };
        let timed = move || {
            let started = Instant::now();
            let answer = question();
            pace.add(started.elapsed());
            answer
        };
        self.run_at(place, held, timed).await
    }

    async fn run_at<T: Send + 'static>(
        &self,
        place: Place,
        held: impl Send + 'static,
        question: impl FnOnce() -> Result<T, AnswerError> + Send + 'static,
    ) -> Result<T, Problem> {
        let full = || Problem::from(AnswerError::Overloaded { what: self.what });
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| full())?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| full())?;
        let question = move || {
            let _occupied = (admitted, running, held);
            catch_unwind(AssertUnwindSafe(question))
        };
        let several = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        let answer = match place {
            Place::AtOnce if several => Ok(question()),
            Place::Here if several => Ok(block_in_place(question)),
            _ => spawn_blocking(question).await,
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

/// How long questions take of late: a mean over about the last eight, in nanoseconds.
#[derive(Debug, Clone, Default)]
struct Pace(Arc<AtomicU64>);

impl Pace {
    fn mean(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }

    /// Of two questions that end at once one may be passed over.
    fn add(&self, took: Duration) {
        let (mean, took) = (self.0.load(Relaxed), u64::try_from(took.as_nanos()).unwrap_or(u64::MAX / 8));
        self.0.store(mean - mean / 8 + took / 8, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::decode::{Image, png_bytes};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_exceeds_the_line_is_refused_and_the_line_moves_on() {
        let work = Arc::new(Work::new("the line", 1, 1));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let start = || {
            let (work, gate) = (Arc::clone(&work), Arc::clone(&gate));
            tokio::spawn(async move {
                work.run((), move || {
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
        let refused = work.run((), || Ok(())).await.unwrap_err();
        assert_eq!((refused.status, refused.detail.as_str()), (429, "the line is full"));
        release.send(()).unwrap();
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        work.run((), || Ok(())).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_is_an_internal_problem_and_gives_its_place_back() {
        let work = Work::new("the line", 1, 0);
        let problem = work.run((), || -> Result<(), AnswerError> { panic!("a test's panic") }).await.unwrap_err();
        assert_eq!(problem.code, "internal");
        work.run((), || Ok(())).await.unwrap();
    }

    fn held(small: bool) -> Held {
        Held { small, budget: None, turn: Turn::ask() }
    }

    /// A question that ends once another task of the same thread has run; whether it did.
    async fn lets_others_run(work: &Work, small: bool) -> bool {
        let (release, gate) = mpsc::channel::<()>();
        let other = tokio::spawn(async move { release.send(()).is_ok() });
        let ran =
            work.run_one(held(small), move || Ok(gate.recv_timeout(Duration::from_millis(500)).is_ok())).await.unwrap();
        ran && other.await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn brief_questions_wake_nobody_and_long_ones_hold_up_nobody() {
        tokio::spawn(async {
            let work = Work::new("the line", 1, 0);
            let here = std::thread::current().id();
            assert_eq!(work.run_one(held(true), || Ok(std::thread::current().id())).await.unwrap(), here);
            assert!(lets_others_run(&work, false).await, "a large question, and the thread's other tasks waited");
            work.pace.add(9 * BRIEF);
            assert!(lets_others_run(&work, true).await, "long questions, and the thread's other tasks waited");
        })
        .await
        .unwrap();
    }

    #[test]
    fn what_is_large_packed_or_unpacked_is_not_small() {
        let image = |side: u32| png_bytes(&Image::new(side, side, vec![7; (side * side * 3) as usize]));
        let flat = image(600);
        assert!(flat.len() < SMALL && !is_small(&flat), "a small file of many pixels: {} bytes", flat.len());
        assert!(is_small(&image(500)) && is_small(b"{\"id\": 3}"));
        assert!(!is_small(&vec![b' '; SMALL + 1]));
    }

    #[test]
    fn the_pace_follows_what_questions_take() {
        let (pace, long) = (Pace::default(), 4 * BRIEF);
        pace.add(long);
        assert!(pace.mean() < BRIEF, "one long question among brief ones");
        (0..20).for_each(|_| pace.add(long));
        assert!((long * 9 / 10..=long).contains(&pace.mean()), "{:?}", pace.mean());
        pace.add(Duration::MAX);
        (0..400).for_each(|_| pace.add(Duration::ZERO));
        assert!(pace.mean() < BRIEF, "{:?}", pace.mean());
    }
}
