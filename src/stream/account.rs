//! What a source did so far: counters that its frames keep up to date by themselves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::frame::{SourceId, Verdict, codes};

/// One source as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    pub id: SourceId,
    pub name: String,
    /// What is wrong with the source right now (a folder that disappeared), if anything.
    pub condition: Option<String>,
    /// Frames that entered the queue, and their encoded bytes.
    pub received_frames: u64,
    pub received_bytes: u64,
    pub accepted_frames: u64,
    /// Frames whose bytes had been taken before.
    pub duplicate_frames: u64,
    /// Frames answered with a refusal, and files and messages refused before they became frames, by code.
    pub refused_frames: BTreeMap<String, u64>,
    /// Frames turned away because the queue was full.
    pub dropped_frames: u64,
    /// Frames waiting or being worked on, and their encoded bytes.
    pub queued_frames: u64,
    pub queued_bytes: u64,
    /// Most bytes that may be queued.
    pub queue_limit_bytes: u64,
    /// Wall time of the last frame, nanoseconds since the Unix epoch.
    pub last_frame_at_ns: Option<i64>,
}

/// The counters behind a [`SourceReport`].
#[derive(Debug)]
pub struct Account {
    id: SourceId,
    name: String,
    queue_limit_bytes: u64,
    received_frames: AtomicU64,
    received_bytes: AtomicU64,
    accepted_frames: AtomicU64,
    duplicate_frames: AtomicU64,
    dropped_frames: AtomicU64,
    settled_frames: AtomicU64,
    settled_bytes: AtomicU64,
    last_frame_at_ns: AtomicI64,
    /// Bounded: codes are constants of the program.
    refused: Mutex<BTreeMap<&'static str, u64>>,
    condition: Mutex<Option<String>>,
}

impl Account {
    pub(super) fn new(id: SourceId, name: &str, queue_limit_bytes: usize) -> Self {
        Self {
            id,
            name: name.to_owned(),
            queue_limit_bytes: queue_limit_bytes as u64,
            received_frames: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            accepted_frames: AtomicU64::new(0),
            duplicate_frames: AtomicU64::new(0),
            dropped_frames: AtomicU64::new(0),
            settled_frames: AtomicU64::new(0),
            settled_bytes: AtomicU64::new(0),
            last_frame_at_ns: AtomicI64::new(0),
            refused: Mutex::default(),
            condition: Mutex::default(),
        }
    }

    pub(super) fn received(&self, bytes: usize, at_ns: i64) {
        self.received_frames.fetch_add(1, Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
        self.last_frame_at_ns.store(at_ns, Relaxed);
    }

    pub(super) fn settled(&self, bytes: usize, verdict: &Verdict) {
        match verdict {
            Verdict::Accepted { .. } => _ = self.accepted_frames.fetch_add(1, Relaxed),
            Verdict::Duplicate { .. } => _ = self.duplicate_frames.fetch_add(1, Relaxed),
            Verdict::Refused { code, .. } => self.refused(code),
        }
        self.settled_frames.fetch_add(1, Relaxed);
        self.settled_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Something was refused before it became a frame.
    pub(super) fn refused(&self, code: &'static str) {
        if code == codes::QUEUE_FULL {
            self.dropped_frames.fetch_add(1, Relaxed);
            return;
        }
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_insert(0) += 1;
    }

    pub(super) fn set_condition(&self, condition: Option<String>) {
        *self.condition.lock().unwrap_or_else(PoisonError::into_inner) = condition;
    }

    pub(super) fn report(&self) -> SourceReport {
        // Settled is read before received, so that what is queued is never reported below zero.
        let (settled_frames, settled_bytes) = (self.settled_frames.load(Relaxed), self.settled_bytes.load(Relaxed));
        let received_frames = self.received_frames.load(Relaxed);
        let received_bytes = self.received_bytes.load(Relaxed);
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        SourceReport {
            id: self.id,
            name: self.name.clone(),
            condition: self.condition.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            received_frames,
            received_bytes,
            accepted_frames: self.accepted_frames.load(Relaxed),
            duplicate_frames: self.duplicate_frames.load(Relaxed),
            refused_frames: refused.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
            dropped_frames: self.dropped_frames.load(Relaxed),
            queued_frames: received_frames.saturating_sub(settled_frames),
            queued_bytes: received_bytes.saturating_sub(settled_bytes),
            queue_limit_bytes: self.queue_limit_bytes,
            last_frame_at_ns: (received_frames > 0).then(|| self.last_frame_at_ns.load(Relaxed)),
        }
    }
}
