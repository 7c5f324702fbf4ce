//! What the daemon remembers: tasks, the replay buffer, stored images and their labels.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A stretch of the stream between two boundaries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskStatus {
    /// From 1.
    pub id: u32,
    pub name: String,
    /// A task that comes back has one for each time.
    pub spans: Vec<TaskSpan>,
    /// Id of its first frame.
    pub first_frame: u64,
    /// Id of its latest frame.
    pub last_frame: u64,
    /// Frames of all its spans.
    pub frames: u64,
    /// The stream is in it now.
    pub current: bool,
    /// Times it came back.
    pub returns: u64,
    /// Held-out images by which its forgetting is measured.
    pub probes: u64,
    /// Ids of stored images that stand for it.
    pub exemplars: Vec<u64>,
    /// Ids of stored images as unlike one another as it has.
    #[serde(default)]
    pub varied_exemplars: Vec<u64>,
    /// Near-duplicates among its frames, which the detector did not count.
    #[serde(default)]
    pub duplicates: u64,
    /// The task that the stream was in before this one first began; null for the first.
    #[serde(default)]
    pub parent: Option<u32>,
}

/// One time that a task was current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskSpan {
    /// Id of the first frame.
    pub first_frame: u64,
    /// Id of the last frame; null while it goes on.
    pub last_frame: Option<u64>,
    /// Null where it is no longer known.
    pub started_at: Option<Timestamp>,
    /// Null while it goes on.
    pub ended_at: Option<Timestamp>,
    /// Distinct frames by which the beginning may be off, either way (95 %); 0 where it is known, as when set by hand.
    #[serde(default)]
    pub uncertainty_frames: u32,
}

/// The replay buffer in five numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BufferSummary {
    /// Images it can hold.
    pub slots: u64,
    /// Images it holds.
    pub used: u64,
    /// Frames it has been offered.
    pub seen: u64,
    /// Images replaced by later ones.
    pub evicted: u64,
    /// Images dropped because their checksum was wrong.
    pub damaged: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// The replay buffer and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BufferStatus {
    #[serde(flatten)]
    pub summary: BufferSummary,
    /// Which image leaves when it is full.
    pub policy: String,
    /// When a frame is acknowledged.
    pub durability: String,
    /// Width and height of a stored image, pixels.
    pub side_pixels: u32,
    /// Images that carry a label.
    pub labelled: u64,
    /// By task, ids ascending; null is of no task yet.
    pub composition: Vec<TaskShare>,
}

/// How much of the buffer a task has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskShare {
    pub task: Option<u32>,
    pub images: u64,
}

/// What is known of an image in the buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredImage {
    pub id: u64,
    pub task: Option<u32>,
    pub captured_at: Timestamp,
    /// Name of the source it came from.
    pub source: String,
    pub label: Option<String>,
    /// Path of its picture in the API.
    pub thumbnail: String,
}

impl StoredImage {
    pub fn new(id: u64, task: Option<u32>, captured_at: Timestamp, source: String, label: Option<String>) -> Self {
        Self { id, task, captured_at, source, label, thumbnail: format!("/v1/images/{id}/thumbnail") }
    }
}

/// A label in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LabelCount {
    pub label: String,
    /// Stored images that carry it.
    pub images: u64,
}

/// What setting or removing labels did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LabelChange {
    /// The label given; null where labels were removed.
    pub label: Option<String>,
    /// Images whose label is another one than before.
    pub changed: u64,
}

/// What became of a frame that was handed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ingested {
    pub outcome: IngestOutcome,
    /// The frame's id; for a duplicate that of the first, null where that is no longer known.
    pub id: Option<u64>,
}

/// Refusals are errors, not outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum IngestOutcome {
    Accepted,
    /// Seen before, and not taken in again.
    Duplicate,
}
