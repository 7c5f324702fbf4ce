//! The daemon as a whole: its state, its device, its inlets, and what has happened lately.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::BufferSummary;
use crate::device::DeviceMemory;

/// Whether queries are answered now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    pub ready: bool,
    /// What is still missing; empty where ready.
    pub waiting_for: Vec<String>,
}

/// Where the daemon is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DaemonState {
    /// State is restored, the device is taken, sources are not open yet.
    Starting,
    Running,
    /// Sources are closed, the last checkpoint is written.
    Draining,
}

/// The daemon on one page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of lumpd.
    pub version: String,
    pub state: DaemonState,
    pub uptime_seconds: f64,
    pub device: DeviceStatus,
    /// Name of the encoder's preset.
    pub preset: String,
    /// The published version; null before the first.
    pub encoder: Option<EncoderStatus>,
    pub stream: StreamStatus,
    pub learn: LearnStatus,
    pub segment: SegmentStatus,
    pub buffer: BufferSummary,
    /// The last one written or restored; null before the first.
    pub checkpoint: Option<CheckpointStatus>,
    /// The state folder's database: ledger of files, tasks, labels.
    pub database: DatabaseStatus,
    /// Physical memory the process takes; null where the system does not tell.
    pub resident_bytes: Option<u64>,
    /// Memory of the GPU; null on the CPU, and where the driver does not tell.
    pub device_memory: Option<DeviceMemory>,
}

/// Whether the state folder's database takes writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseStatus {
    pub writable: bool,
    /// What stands in the way, and what to do; null where it is writable.
    pub error: Option<String>,
    /// Times that it was closed because the disk refused, since the start.
    pub failures: u64,
    /// Times that it was opened again and written to.
    pub recoveries: u64,
}

/// What was asked for, what was taken, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceStatus {
    /// `auto`, `cpu`, `cuda` or `metal`, as configured.
    pub asked: String,
    /// What training runs on, with its name: `cpu (2 threads)`, `cuda:0 (NVIDIA H100)`.
    pub taken: String,
    /// Why that one.
    pub reason: String,
}

/// The version of the encoder that answers come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EncoderStatus {
    /// Counts published versions, from 1.
    pub version: u64,
    /// Hash of its weights.
    pub id: String,
    pub published_at: Timestamp,
    /// Gradient steps it had seen.
    pub step: u64,
}

/// What comes in, over all sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamStatus {
    /// Frames received since the start.
    pub received: u64,
    /// Of these, taken in as new.
    pub accepted: u64,
    /// Mean over the last seconds.
    pub accepted_per_second: f64,
}

/// What training does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LearnStatus {
    pub objective: String,
    pub strategy: String,
    /// Gradient steps, over restarts.
    pub steps: u64,
    /// Mean loss of the latest steps; null before the first.
    pub loss: Option<f64>,
    /// Images of the stream that gradient steps have seen.
    pub images_trained: u64,
    /// Images of the stream that reached buffer and segmentation but not training, which was slower.
    pub skipped_for_training: u64,
    /// Steps left out because loss or gradient was not finite.
    pub nonfinite_steps: u64,
    /// Steps left out because loss or gradient was far out of what was usual.
    #[serde(default)]
    pub out_of_bounds_steps: u64,
    /// Times that training went back to a checkpoint.
    #[serde(default)]
    pub rollbacks: u64,
    /// Batches are halved, since the device ran out of memory.
    #[serde(default)]
    pub halved: bool,
    /// Images through training a second, replayed ones included; mean over the last seconds.
    pub images_per_second: f64,
    /// No frame has come for a while; the learner rehearses from the buffer.
    pub idle: bool,
    /// Why training was given up; null where it goes on.
    pub frozen: Option<String>,
    /// Since when training rests because somebody asked for it; null where it goes on.
    pub paused_since: Option<Timestamp>,
}

/// What segmentation sees now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SegmentStatus {
    /// The detector's phase in its own words, such as `calibrating` or `stable`.
    pub phase: String,
    /// The detector's statistic; null before it has one.
    pub statistic: Option<f64>,
    /// The statistic beyond which a task ends; null before it is calibrated.
    pub threshold: Option<f64>,
    /// A change is suspected and not yet sure.
    pub warning: bool,
    /// One id for each stream of tasks: one, or one a source.
    pub current_tasks: Vec<u32>,
    /// Frames that the detector did not count: near-duplicates of the one before.
    pub duplicates_skipped: u64,
    /// What the thresholds stand for; null before the first frame.
    #[serde(default)]
    pub calibration: Option<CalibrationStatus>,
}

/// What a detector's thresholds promise, and what it has learnt of the stream for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CalibrationStatus {
    /// About one false boundary in so many distinct frames.
    pub frames_between_false_alarms: u64,
    /// The promise in hours, where it was given so: the frames are those that come in them.
    pub hours_between_false_alarms: Option<f64>,
    /// The rate by which hours are frames; null where nothing was promised in hours, and before enough have come.
    pub distinct_frames_per_hour: Option<f64>,
    /// The statistic beyond which there is a warning.
    pub warning_threshold: f64,
    /// Distinct frames that are the reference so far.
    pub reference_frames: u64,
    /// Distinct frames of a whole reference.
    pub reference_wanted: u64,
    /// For how many frames one independent frame stands: 1 where frames are independent, more in video; null before
    /// there is a reference. It is measured again with every reference.
    pub variance_ratio: Option<f64>,
}

/// The last checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointStatus {
    pub written_at: Timestamp,
    pub age_seconds: f64,
    /// Gradient steps it holds.
    pub step: u64,
}

/// How a source is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// Opening, or going through what was there already.
    Starting,
    Running,
    /// Not working now; tried again. The source's `error` says why.
    Failed,
    Stopped,
}

/// One inlet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceStatus {
    pub name: String,
    /// `directory`, `unix`, `tcp` or `http`.
    pub kind: String,
    /// The folder, the socket or the address.
    pub address: String,
    pub state: SourceState,
    /// The last failure of the source itself (not of a frame); null where there was none.
    pub error: Option<String>,
    /// Frames since the start, whatever became of them.
    pub received: u64,
    pub accepted: u64,
    /// Frames seen before.
    pub duplicates: u64,
    /// Frames refused, by the error's code.
    pub refused: BTreeMap<String, u64>,
    /// Frames turned away because the queue was full.
    pub dropped: u64,
    /// Undecoded bytes that wait.
    pub queued_bytes: u64,
    pub last_frame_at: Option<Timestamp>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts events since the start of the daemon, from 1.
    pub sequence: u64,
    pub at: Timestamp,
    /// Stable name, such as `task-opened`, `task-closed`, `drift-warning`, `version-published`, `checkpoint`.
    pub kind: String,
    /// One line for people.
    pub message: String,
    /// What belongs to the kind: ids and numbers.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}

/// A part of the recent past.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Number of the oldest event still kept; null where there is none. Greater than the number asked for plus one: some were missed.
    pub oldest: Option<u64>,
    /// Ask for what comes after this number next.
    pub next: u64,
}
