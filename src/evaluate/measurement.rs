//! What is measured of one version, and what measuring needs of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::segment::TaskId;
use crate::stream::FrameId;

use super::similarity::ViewLevels;
use super::spectrum::{feature_std, rank_me, uniformity};
use super::{Features, Interval};

/// Fewest labelled probes of an accuracy: one probe more or less then moves it by a tenth.
pub(super) const MIN_LABELLED: usize = 10;

/// Rows of the collapse alarms; their cost grows with the cube.
const SPECTRUM_ROWS: usize = 256;

/// A published version of the encoder, and when it was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The encoder's identity.
    pub encoder: String,
    /// Gradient steps behind it.
    pub step: u64,
    /// Frames of the stream accepted by then; staleness is counted in these.
    pub frames: u64,
    /// Nanoseconds since the Unix epoch.
    pub wall_time_ns: i64,
}

/// Embeddings of two fixed views of each probe.
#[derive(Debug, Clone)]
pub struct Views {
    pub first: Features,
    pub second: Features,
}

/// Why a version could not be measured.
pub type MeterError = Box<dyn std::error::Error + Send + Sync>;

/// A published version, as far as measuring needs it. Rows are in the order of the probes asked for. Views are drawn from
/// seeds that depend on the probe alone, so that every version sees the same ones.
pub trait ProbeMeter {
    /// Pooled features of the probes as they are, (n, width).
    ///
    /// # Errors
    /// If an image cannot be read, or the encoder fails.
    fn embed(&mut self, probes: &[FrameId]) -> Result<Features, MeterError>;

    /// Pooled features of both fixed views.
    ///
    /// # Errors
    /// As [`ProbeMeter::embed`].
    fn views(&mut self, probes: &[FrameId]) -> Result<Views, MeterError>;

    /// The self-supervised loss on the fixed views, all probes in one batch; none where the objective has none.
    ///
    /// # Errors
    /// As [`ProbeMeter::embed`].
    fn loss(&mut self, probes: &[FrameId]) -> Result<Option<f64>, MeterError>;

    /// The label of a probe, where a person gave it one.
    fn label(&self, _probe: FrameId) -> Option<Arc<str>> {
        None
    }

    /// The label that the bank's labelled frames (the probe itself excluded) vote for; none without such frames.
    fn classify(&self, _probe: FrameId, _embedding: &[f32]) -> Option<Arc<str>> {
        None
    }
}

/// One task under one version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Measurement {
    pub version: Version,
    /// Probes behind the comparison with the task's end; those behind the levels where there is none.
    pub probes: usize,
    /// Share of the 10 nearest neighbours at the task's end that still are; chance is 10 / (probes - 1).
    pub neighbour_overlap: Option<f64>,
    /// What is gone of what other views of the probes confirmed at the task's end: 1 - the mean of `neighbours_kept` and
    /// `cka_kept`, neither of which counts for more than 1. 0 nothing, about 1 as much as with unrelated embeddings.
    pub forgetting_index: Option<f64>,
    /// 95 % interval of `forgetting_index`.
    pub forgetting_interval: Option<Interval>,
    /// What is left of the 10 nearest neighbours that other views of a probe confirmed at the task's end: 1 all, about 0 nothing.
    #[serde(default)]
    pub neighbours_kept: Option<f64>,
    pub cka_debiased: Option<f64>,
    /// What is left of the CKA that other views of the probes confirmed at the task's end: 1 all, about 0 nothing.
    #[serde(default)]
    pub cka_kept: Option<f64>,
    /// Self-supervised loss on the probes that the loss at the task's end was taken of.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Loss now less loss at the task's end, on the same probes and views.
    pub loss_change: Option<f64>,
    /// A level: share of probes recognised in another view of themselves.
    pub view_recall: Option<f64>,
    /// `view_recall` now less that at the task's end.
    pub view_recall_change: Option<f64>,
    /// A level: bits above chance that one view of a probe tells of which probe another is of.
    #[serde(default)]
    pub view_bits: Option<f64>,
    /// `view_bits` now less that at the task's end.
    #[serde(default)]
    pub view_bits_change: Option<f64>,
    /// Contrastive loss of the embeddings of the probes' views, without heads, nats: how hard it is to find a probe by another view
    /// of it.
    #[serde(default)]
    pub view_loss: Option<f64>,
    /// `view_loss` now less that at the task's end, on the same probes.
    #[serde(default)]
    pub view_loss_change: Option<f64>,
    /// Share of labelled probes that the vote gets right.
    pub knn_accuracy: Option<f64>,
    /// Probes with a label.
    pub labelled: usize,
}

/// Levels of a whole version, over a sample of all tasks' probes. Alarms for collapse, no measures of forgetting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Representation {
    pub version: Version,
    pub probes: usize,
    /// Directions in use, 1 to the smaller of probes and width.
    pub rank_me: Option<f64>,
    /// 0: all embeddings are one point; the lower the more spread.
    pub uniformity: Option<f64>,
    /// 1: spread over the sphere; near 0: collapsed.
    pub feature_std: Option<f64>,
}

/// What [`ForgettingMonitor::observe`](super::ForgettingMonitor::observe) did.
#[derive(Debug, Default)]
pub struct Observation {
    pub measured: Vec<TaskId>,
    /// Tasks whose probes could not be embedded; their earlier measurements stand.
    pub failed: Vec<(TaskId, MeterError)>,
}

/// The part of a measurement that needs no reference.
pub(super) fn levels(
    version: &Version,
    held: &[FrameId],
    features: &Features,
    levels: Option<ViewLevels>,
    meter: &dyn ProbeMeter,
) -> Measurement {
    let labelled: Vec<(usize, Arc<str>)> =
        held.iter().enumerate().filter_map(|(at, probe)| Some((at, meter.label(*probe)?))).collect();
    let votes: Vec<bool> = labelled
        .iter()
        .filter_map(|(at, label)| Some(meter.classify(held[*at], features.row(*at))? == *label))
        .collect();
    let hits = votes.iter().filter(|hit| **hit).count();
    Measurement {
        version: version.clone(),
        probes: held.len(),
        neighbour_overlap: None,
        forgetting_index: None,
        forgetting_interval: None,
        neighbours_kept: None,
        cka_debiased: None,
        cka_kept: None,
        loss: None,
        loss_change: None,
        view_recall: levels.map(|levels| levels.recall),
        view_recall_change: None,
        view_bits: levels.map(|levels| levels.bits),
        view_bits_change: None,
        view_loss: None,
        view_loss_change: None,
        knn_accuracy: (votes.len() >= MIN_LABELLED).then(|| hits as f64 / votes.len() as f64),
        labelled: labelled.len(),
    }
}

/// Over rows spread evenly over those of all tasks.
pub(super) fn representation(version: &Version, pooled: &[Features]) -> Option<Representation> {
    let width = pooled.last()?.width();
    let rows: Vec<&[f32]> = pooled.iter().filter(|task| task.width() == width).flat_map(Features::rows).collect();
    let sample = rows.iter().step_by(rows.len().div_ceil(SPECTRUM_ROWS).max(1)).flat_map(|row| row.iter().copied());
    let sample = Features::new(width, sample.collect()).ok()?;
    Some(Representation {
        version: version.clone(),
        probes: sample.len(),
        rank_me: rank_me(&sample),
        uniformity: uniformity(&sample),
        feature_std: feature_std(&sample),
    })
}
