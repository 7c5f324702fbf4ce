//! Whose turn the processor's cores are: those who wait for an answer go before training.
//!
//! The kernel's niceness is not enough. Where a question, its client and training share two cores, a question that hands
//! over to another thread for a moment may find that training has been given its turn of a millisecond or two, and that was
//! measured to make the 99th percentile. So training's threads look, between pieces of their work, whether anybody waits, and
//! sleep meanwhile. However much is asked, they sleep no more than half of their time.

use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Training sleeps no longer for one question: neither a slow one nor a slow client shall stop it.
const LONGEST: Duration = Duration::from_millis(5);

/// Until a client has woken and read its answer.
const FAREWELL: Duration = Duration::from_micros(400);

/// How often a sleeping thread looks again.
const NAP: Duration = Duration::from_micros(100);

/// Time on this clock is counted from here.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Of this process.
static TURNS: Turns = Turns::new();

/// Who waits.
struct Turns {
    /// Until when training gives way, in nanoseconds; 0: nobody has asked yet.
    until: AtomicU64,
    /// Questions without an answer.
    waiting: AtomicUsize,
}

/// Somebody waits for an answer as long as this lives.
pub struct Turn(&'static Turns);

impl Turn {
    /// A question is here, or its head.
    pub fn ask() -> Self {
        TURNS.ask()
    }

    /// The whole question is here.
    pub fn renew(&self) {
        self.0.until.fetch_max(now() + nanoseconds(LONGEST), Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Relaxed) == 1 {
            self.0.until.store(now() + nanoseconds(FAREWELL), Relaxed);
        }
    }
}

/// Called by threads that train, wherever they can stop for a moment.
#[inline]
pub(super) fn give_turn() {
    TURNS.give();
}

thread_local! {
    /// Before then this thread sleeps no more.
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

impl Turns {
    const fn new() -> Self {
        Self { until: AtomicU64::new(0), waiting: AtomicUsize::new(0) }
    }

    fn ask(&'static self) -> Turn {
        self.waiting.fetch_add(1, Relaxed);
        let turn = Turn(self);
        turn.renew();
        turn
    }

    #[inline]
    fn give(&self) {
        if self.until.load(Relaxed) != 0 {
            self.sleep();
        }
    }

    fn sleep(&self) {
        let start = now();
        let mut time = start;
        while time >= NEXT.get() && time < self.until.load(Relaxed) && time - start < nanoseconds(LONGEST) {
            std::thread::sleep(NAP);
            time = now();
        }
        if time > start {
            // It works as long as it has slept.
            NEXT.set(time + (time - start));
        }
    }
}

fn now() -> u64 {
    nanoseconds(START.elapsed())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a thread that does nothing else but give way: the times that it slept, and the time that it took.
    fn slept(turns: &'static Turns, during: Duration) -> (Vec<Duration>, Duration) {
        let work = move || {
            let (start, mut naps) = (Instant::now(), Vec::new());
            while start.elapsed() < during {
                let (before, began) = (NEXT.get(), Instant::now());
                turns.give();
                if NEXT.get() != before {
                    naps.push(began.elapsed());
                }
            }
            (naps, start.elapsed())
        };
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn training_sleeps_while_somebody_waits_but_no_longer_than_it_works() {
        static HERE: Turns = Turns::new();
        let moment = Duration::from_millis(2);
        assert!(slept(&HERE, moment).0.is_empty(), "nobody has asked");
        let turn = HERE.ask();
        drop(HERE.ask());
        std::thread::sleep(LONGEST);
        assert!(slept(&HERE, moment).0.is_empty(), "a slow client holds nothing up");
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let asker = std::thread::spawn(move || {
            while stopped.try_recv().is_err() {
                turn.renew();
                std::thread::yield_now();
            }
        });
        let (naps, took) = slept(&HERE, Duration::from_millis(100));
        stop.send(()).unwrap();
        asker.join().unwrap();
        let (total, longest) = (naps.iter().sum::<Duration>(), naps.iter().max().expect("it gave way"));
        // After each but the last it worked for as long.
        assert!(total - *longest <= (took - total) * 6 / 5, "{total:?} of {took:?}, once {longest:?}");
        std::thread::sleep(FAREWELL);
        assert!(slept(&HERE, moment).0.is_empty(), "nobody waits any more");
    }
}
