//! A frame on its way: what it is, where it came from, and the one answer it must get.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::account::Account;

/// Longest label a sender may attach to a frame.
pub const MAX_LABEL_BYTES: usize = 64;

/// Codes of refusals that this room itself gives.
pub mod codes {
    /// The daemon stops; send the frame again after its restart.
    pub const SHUTTING_DOWN: &str = "shutting-down";
    /// The queue of the source is full; the frame was not taken.
    pub const QUEUE_FULL: &str = "queue-full";
    /// More bytes than `decode.max_bytes`.
    pub const TOO_MANY_BYTES: &str = "too-many-bytes";
    /// The file was there when it was found and gone when it was opened.
    pub const VANISHED: &str = "vanished";
    /// The file cannot be opened or read.
    pub const UNREADABLE: &str = "unreadable";
    /// A link, a pipe, a device: anything but a regular file.
    pub const NOT_A_FILE: &str = "not-a-regular-file";
    /// The process died twice while this file, alone, was being worked on.
    pub const CRASHED_TWICE: &str = "crashed-twice";
}

/// Global sequence number of a frame accepted for processing: from 1, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrameId(pub u64);

/// Small persistent number of a source's name (see [`Ledger::source_id`](super::Ledger::source_id)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceId(pub u32);

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a frame came from, for people and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Path within the watched folder.
    File(PathBuf),
    /// A connection or a caller, and the number it gave the frame.
    Peer { name: String, sequence: u64 },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Peer { name, sequence } => write!(f, "{name}#{sequence}"),
        }
    }
}

/// What became of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Taken; with `durability = "sync"` the commit that holds it has reached the disk.
    Accepted {
        id: FrameId,
        /// Number of the task that was open, where segmentation had one.
        task: Option<u32>,
    },
    /// The same bytes were taken before.
    Duplicate { id: FrameId },
    /// Not taken; `retry_after` says that a later try may do.
    Refused { code: &'static str, detail: String, retry_after: Option<Duration> },
}

impl Verdict {
    /// A refusal that another try will not change.
    pub fn refused(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Refused { code, detail: detail.into(), retry_after: None }
    }

    /// The refusal of a frame that nobody decided.
    pub fn shutting_down() -> Self {
        Self::Refused {
            code: codes::SHUTTING_DOWN,
            detail: "the daemon stops; send the frame again after its restart".into(),
            retry_after: Some(Duration::from_secs(5)),
        }
    }
}

/// What a source offers: a frame that has no number and no answer yet.
#[derive(Debug, Clone)]
pub struct Draft {
    pub origin: Origin,
    /// The encoded image as it came.
    pub bytes: Bytes,
    /// Wall time, nanoseconds since the Unix epoch, said by the sender or the file's modification time.
    pub captured_at_ns: Option<i64>,
    /// Class given by the sender for evaluation only; at most [`MAX_LABEL_BYTES`] (a longer one is cut there).
    pub label: Option<String>,
}

impl Draft {
    /// A frame with neither capture time nor label.
    pub fn new(origin: Origin, bytes: impl Into<Bytes>) -> Self {
        Self { origin, bytes: bytes.into(), captured_at_ns: None, label: None }
    }
}

/// A frame in the queue or in the hands of the daemon. Every frame is answered exactly once: by [`Frame::settle`], or, when
/// it is dropped, with [`codes::SHUTTING_DOWN`].
#[derive(Debug)]
pub struct Frame {
    pub source: SourceId,
    pub origin: Origin,
    /// The encoded image. May be taken out (`std::mem::take`) as soon as it is decoded.
    pub bytes: Bytes,
    /// Wall time of its arrival, nanoseconds since the Unix epoch.
    pub received_at_ns: i64,
    pub captured_at_ns: Option<i64>,
    pub label: Option<String>,
    settlement: Settlement,
}

impl Frame {
    pub(super) fn new(
        source: SourceId,
        draft: Draft,
        account: Arc<Account>,
        room: OwnedSemaphorePermit,
    ) -> (Self, Receipt) {
        let (reply, receipt) = oneshot::channel();
        let bytes = draft.bytes.len();
        let received_at_ns = wall_time_ns();
        account.received(bytes, received_at_ns);
        let frame = Self {
            source,
            origin: draft.origin,
            bytes: draft.bytes,
            received_at_ns,
            captured_at_ns: draft.captured_at_ns,
            label: draft.label.map(cut_label),
            settlement: Settlement { reply: Some(reply), account, bytes, _room: room },
        };
        (frame, Receipt(receipt))
    }

    /// Answers the frame: the source's counters, the room in its queue and the sender all learn it here.
    pub fn settle(mut self, verdict: Verdict) {
        self.settlement.answer(verdict);
    }
}

/// The part of a frame that must not be forgotten.
#[derive(Debug)]
struct Settlement {
    reply: Option<oneshot::Sender<Verdict>>,
    account: Arc<Account>,
    bytes: usize,
    /// Room in the source's queue, given back when this is dropped.
    _room: OwnedSemaphorePermit,
}

impl Settlement {
    fn answer(&mut self, verdict: Verdict) {
        if let Some(reply) = self.reply.take() {
            self.account.settled(self.bytes, &verdict);
            // A sender that has gone away needs no answer.
            let _ = reply.send(verdict);
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.answer(Verdict::shutting_down());
    }
}

/// The answer to come: a future of the [`Verdict`].
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Verdict>);

impl Receipt {
    /// The verdict if it has been given already.
    pub fn try_verdict(&mut self) -> Option<Verdict> {
        match self.0.try_recv() {
            Ok(verdict) => Some(verdict),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Verdict::shutting_down()),
        }
    }
}

impl Future for Receipt {
    type Output = Verdict;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Verdict> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or_else(|_| Verdict::shutting_down()))
    }
}

/// Wall time as data: nanoseconds since the Unix epoch; 0 on a clock before it.
pub(super) fn wall_time_ns() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
}

fn cut_label(mut label: String) -> String {
    label.truncate(label.floor_char_boundary(MAX_LABEL_BYTES));
    label
}
