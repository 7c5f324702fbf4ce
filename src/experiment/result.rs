//! What a run leaves: one JSON file that says what was done with what, and what came out. A run on the CPU with the same seed
//! gives the same bytes, so times and folders are elsewhere (timing.json).

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ExperimentError, RunSettings};
use crate::config::durable;
use crate::evaluate::{AccuracyMatrix, AccuracySummary, KnnMode};

/// Name of the file within a run's folder.
pub const RESULT_FILE: &str = "result.json";

/// Version of the file.
pub const FORMAT: u32 = 1;

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    pub format: u32,
    pub settings: RunSettings,
    /// Of lumpd.
    pub version: String,
    pub device: String,
    /// As it was given.
    pub command: String,
    /// Name of the weights that the encoder started from, where they were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    pub data: DataRecord,
    pub tasks: Vec<TaskRecord>,
    /// A bank of the same task, k = min(200, tasks seen), as the published code does.
    pub paper: AccuracyMatrix,
    /// A bank of every class seen, k = 200.
    pub strict: AccuracyMatrix,
    pub averages: Averages,
    /// Of a linear classifier over all classes on the encoder's features at the end.
    pub linear_probe: Option<f64>,
    /// Of a linear classifier over the classes of each task, after every stage; empty where not asked for.
    #[serde(default)]
    pub linear: AccuracyMatrix,
    /// A bank of the same task and k = 20 after every stage, so that only the encoder changes; empty where not asked for.
    #[serde(default)]
    pub steady: AccuracyMatrix,
    /// Of the 10 nearest in that bank, the share that is of the same class; empty where not asked for.
    #[serde(default)]
    pub precision: AccuracyMatrix,
    /// Forgetting without labels, after every later stage; empty where not asked for.
    #[serde(default)]
    pub label_free: Vec<ForgettingRecord>,
    pub curve: Vec<CurvePoint>,
    /// Mean loss of each stage.
    pub losses: Vec<f64>,
    /// Images after which the strategy heard of a boundary.
    pub boundaries: Vec<u64>,
    /// Name of the weights at the end of each stage.
    pub encoders: Vec<String>,
    pub ood: Vec<OodRecord>,
    pub views: Option<ViewsRecord>,
}

/// The data of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataRecord {
    pub name: String,
    /// BLAKE3 of the images with their classes.
    pub blake3: String,
    pub train: usize,
    pub test: usize,
    pub classes: usize,
    pub notes: Vec<String>,
}

/// A task of the split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    pub classes: Vec<String>,
    pub train: usize,
    pub test: usize,
}

/// The averages of both matrices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Averages {
    pub paper: AccuracySummary,
    pub strict: AccuracySummary,
}

/// A past task after a later stage, both from 0, against what it was at its own end. Meanings as in
/// [`crate::evaluate::Measurement`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ForgettingRecord {
    pub task: usize,
    pub stage: usize,
    pub neighbour_overlap: Option<f64>,
    pub forgetting_index: Option<f64>,
    #[serde(default)]
    pub neighbours_kept: Option<f64>,
    pub cka_debiased: Option<f64>,
    #[serde(default)]
    pub cka_kept: Option<f64>,
    pub loss: Option<f64>,
    pub loss_change: Option<f64>,
    pub view_recall: Option<f64>,
    pub view_recall_change: Option<f64>,
    pub view_bits: Option<f64>,
    pub view_bits_change: Option<f64>,
    #[serde(default)]
    pub view_loss_change: Option<f64>,
}

/// KNN accuracy over all classes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Presented so far, repetitions counted.
    pub images: u64,
    pub accuracy: f64,
}

/// KNN accuracy of the encoder on another dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OodRecord {
    pub dataset: String,
    pub blake3: String,
    pub frozen: Option<f64>,
    /// After fine-tuning on that dataset.
    pub fine_tuned: Option<f64>,
}

/// What the pictures are drawn from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ViewsRecord {
    /// Names of the blocks.
    pub blocks: Vec<String>,
    /// Similarity (CKA, debiased) of the encoder after each task with that after the first, on images of the first:
    /// `[stage][block]`.
    pub cka: Vec<Vec<Option<f64>>>,
    pub feature_maps: Vec<FeatureMaps>,
    pub embedding: Vec<EmbeddedPoint>,
    pub landscape: Option<Landscape>,
}

/// What the second block makes of one test image at the end of every stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureMaps {
    pub task: usize,
    pub class: String,
    /// Pixels of a side of the image.
    pub side: usize,
    /// RGB8, base64.
    pub image: String,
    /// Pixels of a side of a map.
    pub map_side: usize,
    /// Mean over the channels, 0 to 255, base64; one a stage.
    pub maps: Vec<String>,
}

/// A test image in the plane of the two greatest variances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddedPoint {
    pub x: f64,
    pub y: f64,
    pub class: u32,
    pub task: usize,
}

/// Loss of the first task's images around the weights at its end, along two random directions of the length of the weights,
/// filter by filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Landscape {
    /// Steps along each direction, from below zero to above.
    pub steps: Vec<f64>,
    /// `[along the second][along the first]`.
    pub losses: Vec<Vec<Option<f64>>>,
}

impl RunResult {
    /// The averages in a mode.
    pub fn summary(&self, mode: KnnMode) -> &AccuracySummary {
        match mode {
            KnnMode::Paper => &self.averages.paper,
            KnnMode::Strict => &self.averages.strict,
        }
    }

    /// Reads the result of a run's folder; none where the run has not ended.
    ///
    /// # Errors
    /// Where the file is there and cannot be understood.
    pub fn read(folder: &Path) -> Result<Option<Self>, ExperimentError> {
        let path = folder.join(RESULT_FILE);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(ExperimentError::io("read", &path))?,
        };
        let result: Self = serde_json::from_slice(&text)
            .map_err(|error| ExperimentError::File { path: path.clone(), message: error.to_string() })?;
        match result.format {
            FORMAT => Ok(Some(result)),
            other => Err(ExperimentError::File { path, message: format!("its format is {other}, not {FORMAT}") }),
        }
    }

    /// Writes it into a run's folder, whole or not at all.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn write(&self, folder: &Path) -> Result<(), ExperimentError> {
        let path = folder.join(RESULT_FILE);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| ExperimentError::File { path: path.clone(), message: error.to_string() })?;
        durable::replace(&path, &bytes).map_err(ExperimentError::io("write", &path))
    }
}

/// The averages of a matrix. Where all tasks were learnt at once there is no order, hence neither forgetting nor transfer.
pub fn averages(matrix: &AccuracyMatrix, joint: bool) -> AccuracySummary {
    if !joint {
        return matrix.summary();
    }
    let Some(last) = matrix.rows().last() else { return AccuracySummary::default() };
    let tasks = last.accuracies.len();
    let mean = last.accuracies.values().sum::<f64>() / tasks.max(1) as f64;
    AccuracySummary { tasks, average_accuracy: (tasks > 0).then_some(mean), ..AccuracySummary::default() }
}
