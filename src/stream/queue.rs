//! Many sources, one consumer, bounded bytes: the queue between whoever receives frames and the daemon.
//!
//! Each source has a lane of its own, bounded in bytes: every frame costs its length plus [`FRAME_OVERHEAD`], so the bound
//! holds the number of frames too (16 MiB are at most 16,384 frames). A frame holds its room from before it is read until it
//! is settled: `queue_bytes` is the most that a source keeps in memory, wherever its frames are. A frame larger than the
//! whole lane is let in alone.
//!
//! The consumer takes from the lanes by deficit round robin in bytes (Shreedhar and Varghese, "Efficient fair queuing using
//! deficit round-robin", SIGCOMM 1995): a source that floods gets its share and no more.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::account::{Account, SourceReport};
use super::frame::{Draft, Frame, Receipt, SourceId, codes};

/// What a frame costs beyond its bytes: its bookkeeping, and a bound on the number of tiny frames.
pub const FRAME_OVERHEAD: usize = 1024;

/// Bytes a lane may send each time its turn comes.
const QUANTUM: usize = 64 << 10;

/// Bounds of one source's lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Bytes of undecided frames, overhead included.
    pub bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { bytes: 16 << 20 }
    }
}

/// Why a frame was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("the queue of this source is full; send again in a second, or send slower")]
    Full,
    #[error("the daemon stops and takes no more frames; send again after its restart")]
    Closed,
}

impl Rejected {
    /// Stable name for metrics and API problems.
    pub fn code(self) -> &'static str {
        match self {
            Self::Full => codes::QUEUE_FULL,
            Self::Closed => codes::SHUTTING_DOWN,
        }
    }
}

/// What the consumer finds.
#[derive(Debug)]
pub enum Next {
    /// At least one frame, each to be settled.
    Frames(Vec<Frame>),
    /// Nothing came within the time given.
    Idle,
    /// The intake is closed and empty: nothing will come any more.
    End,
}

/// The consumer's end. One thread owns it; dropping it closes the queue and answers what waits with "shutting-down".
#[derive(Debug)]
pub struct Intake(Arc<Shared>);

/// Registers sources, reports on them, closes the queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct IntakeHandle(Arc<Shared>);

/// A source's end. Cheap to clone: the connections of a socket share one lane.
#[derive(Debug, Clone)]
pub struct Inlet {
    shared: Arc<Shared>,
    lane: usize,
    source: SourceId,
    account: Arc<Account>,
    room: Arc<Semaphore>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Shared {
    lanes: Mutex<Lanes>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Lanes {
    lanes: Vec<Lane>,
    /// Frames in all lanes.
    waiting: usize,
    /// Whose turn it is, and whether its quantum was added in this turn.
    turn: usize,
    credited: bool,
    closed: bool,
}

#[derive(Debug)]
struct Lane {
    frames: VecDeque<Frame>,
    deficit: usize,
    account: Arc<Account>,
    room: Arc<Semaphore>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut lanes = self.lock();
        lanes.closed = true;
        lanes.lanes.iter().for_each(|lane| lane.room.close());
        self.arrived.notify_all();
    }
}

impl Lanes {
    fn take(&mut self, max_frames: usize) -> Vec<Frame> {
        let mut batch = Vec::with_capacity(max_frames.min(self.waiting));
        while batch.len() < max_frames && self.waiting > 0 {
            let lane = &mut self.lanes[self.turn];
            if !self.credited {
                lane.deficit += QUANTUM;
                self.credited = true;
            }
            match lane.pop() {
                Some(frame) => {
                    self.waiting -= 1;
                    batch.push(frame);
                }
                None => {
                    self.turn = (self.turn + 1) % self.lanes.len();
                    self.credited = false;
                }
            }
        }
        batch
    }
}

impl Lane {
    /// The next frame the deficit pays for. An empty lane saves nothing up.
    fn pop(&mut self) -> Option<Frame> {
        let Some(head) = self.frames.front() else {
            self.deficit = 0;
            return None;
        };
        self.deficit = self.deficit.checked_sub(head.bytes.len() + FRAME_OVERHEAD)?;
        self.frames.pop_front()
    }
}

impl Intake {
    /// An empty queue without sources.
    pub fn new() -> (Self, IntakeHandle) {
        let shared = Arc::new(Shared::default());
        (Self(Arc::clone(&shared)), IntakeHandle(shared))
    }

    /// Blocks until there is a frame, at most `max_wait`, then takes what is there without waiting for more: while a batch is
    /// worked on the next one gathers. For a plain thread, not for an async task.
    pub fn next_batch(&mut self, max_frames: usize, max_wait: Duration) -> Next {
        let deadline = Instant::now() + max_wait;
        let mut lanes = self.0.lock();
        loop {
            if lanes.waiting > 0 {
                return Next::Frames(lanes.take(max_frames.max(1)));
            }
            if lanes.closed {
                return Next::End;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Idle;
            }
            lanes = self.0.arrived.wait_timeout(lanes, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.0.close();
        let mut lanes = self.0.lock();
        let left: Vec<_> = lanes.lanes.iter_mut().flat_map(|lane| lane.frames.drain(..)).collect();
        lanes.waiting = 0;
        drop(lanes);
        // Outside the lock: each drop answers its sender.
        drop(left);
    }
}

impl IntakeHandle {
    /// Adds a source and gives it its end of the queue.
    pub fn register(&self, source: SourceId, name: &str, limits: QueueLimits) -> Inlet {
        let capacity = limits.bytes.clamp(FRAME_OVERHEAD, u32::MAX as usize);
        let room = Arc::new(Semaphore::new(capacity));
        let account = Arc::new(Account::new(source, name, capacity));
        let mut lanes = self.0.lock();
        if lanes.closed {
            room.close();
        }
        lanes.lanes.push(Lane {
            frames: VecDeque::new(),
            deficit: 0,
            account: Arc::clone(&account),
            room: Arc::clone(&room),
        });
        Inlet { shared: Arc::clone(&self.0), lane: lanes.lanes.len() - 1, source, account, room, capacity }
    }

    /// Every source, in the order of registration.
    pub fn reports(&self) -> Vec<SourceReport> {
        self.0.lock().lanes.iter().map(|lane| lane.account.report()).collect()
    }

    /// No frame comes in any more; the consumer gets those that wait, then [`Next::End`].
    pub fn close(&self) {
        self.0.close();
    }
}

impl Inlet {
    pub fn source(&self) -> SourceId {
        self.source
    }

    /// The counters of this source.
    pub fn report(&self) -> SourceReport {
        self.account.report()
    }

    /// Waits until a frame of that many bytes may come: backpressure. First come, first served within a source.
    ///
    /// # Errors
    /// [`Rejected::Closed`] when the daemon stops.
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation, Rejected> {
        let room = Arc::clone(&self.room).acquire_many_owned(self.cost(bytes)).await.map_err(|_| Rejected::Closed)?;
        Ok(Reservation { inlet: self.clone(), room })
    }

    /// As [`Inlet::reserve`], but never waits; a full queue is counted as a dropped frame.
    ///
    /// # Errors
    /// [`Rejected::Full`] or [`Rejected::Closed`].
    pub fn try_reserve(&self, bytes: usize) -> Result<Reservation, Rejected> {
        match Arc::clone(&self.room).try_acquire_many_owned(self.cost(bytes)) {
            Ok(room) => Ok(Reservation { inlet: self.clone(), room }),
            Err(TryAcquireError::NoPermits) => {
                self.count_refusal(codes::QUEUE_FULL);
                Err(Rejected::Full)
            }
            Err(TryAcquireError::Closed) => Err(Rejected::Closed),
        }
    }

    /// Reserves and sends.
    ///
    /// # Errors
    /// [`Rejected::Closed`] when the daemon stops.
    pub async fn offer(&self, draft: Draft) -> Result<Receipt, Rejected> {
        self.reserve(draft.bytes.len()).await?.send(draft)
    }

    /// Reserves and sends without waiting; for HTTP, whose answer to [`Rejected::Full`] is 429.
    ///
    /// # Errors
    /// [`Rejected::Full`] or [`Rejected::Closed`].
    pub fn try_offer(&self, draft: Draft) -> Result<Receipt, Rejected> {
        self.try_reserve(draft.bytes.len())?.send(draft)
    }

    /// Counts something refused before it became a frame: an unreadable file, a damaged message.
    pub fn count_refusal(&self, code: &'static str) {
        self.account.refused(code);
    }

    /// Says what is wrong with the source right now; `None` when it is well again.
    pub fn set_condition(&self, condition: Option<String>) {
        self.account.set_condition(condition);
    }

    fn cost(&self, bytes: usize) -> u32 {
        let cost = bytes.saturating_add(FRAME_OVERHEAD).min(self.capacity);
        u32::try_from(cost).unwrap_or(u32::MAX)
    }
}

/// Room for one frame in the queue of its source; given back when dropped unused.
#[derive(Debug)]
pub struct Reservation {
    inlet: Inlet,
    room: OwnedSemaphorePermit,
}

impl Reservation {
    /// Puts the frame into the queue.
    ///
    /// # Errors
    /// [`Rejected::Closed`] when the daemon stops.
    pub fn send(self, draft: Draft) -> Result<Receipt, Rejected> {
        let Inlet { shared, lane, source, account, .. } = self.inlet;
        let mut lanes = shared.lock();
        if lanes.closed {
            return Err(Rejected::Closed);
        }
        let (frame, receipt) = Frame::new(source, draft, account, self.room);
        lanes.lanes[lane].frames.push_back(frame);
        lanes.waiting += 1;
        shared.arrived.notify_one();
        Ok(receipt)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
