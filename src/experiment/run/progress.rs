//! How far a run is and what it has measured. Numbers are kept by their bits: what is read back is what was written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evaluate::AccuracyMatrix;
use crate::experiment::ExperimentError;
use crate::learn::LearnError;
use crate::segment::TaskId;

/// Name among the files of a checkpoint.
pub(super) const FILE: &str = "progress.json";

/// Bits of an accuracy of each task; none where it is not defined.
pub(super) type Accuracies = Vec<Option<u64>>;

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub task: Option<usize>,
    pub paper: Accuracies,
    pub strict: Accuracies,
    /// Of a linear classifier; empty where not asked for.
    #[serde(default)]
    pub linear: Accuracies,
    /// Of a vote whose bank and k stay what they are; empty where not asked for.
    #[serde(default)]
    pub steady: Accuracies,
    /// Of retrieval from that bank.
    #[serde(default)]
    pub precision: Accuracies,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    pub stage: usize,
    pub epoch: usize,
    /// Images of the epoch that came already.
    pub offset: usize,
    /// Images that came at all.
    pub presented: u64,
    /// The highest task that was learnt.
    pub seen: Option<usize>,
    /// Of the untrained encoder: paper, strict.
    pub baseline: Option<(Accuracies, Accuracies)>,
    pub rows: Vec<Row>,
    /// Images presented, bits of the accuracy.
    pub curve: Vec<(u64, u64)>,
    /// Bits of the mean loss of each stage that has ended.
    pub losses: Vec<u64>,
    /// Of the stage that lasts: bits of the sum, and the steps in it.
    loss: (u64, u64),
    pub boundaries: Vec<u64>,
    pub encoders: Vec<String>,
}

impl Progress {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ExperimentError> {
        serde_json::from_slice(bytes)
            .map_err(|error| LearnError::BadFile { file: FILE, message: error.to_string() }.into())
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Whole numbers, strings and lists: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn loss(&mut self, loss: Option<f64>) {
        if let Some(loss) = loss {
            self.loss = ((f64::from_bits(self.loss.0) + loss).to_bits(), self.loss.1 + 1);
        }
    }

    pub(super) fn end_stage(&mut self) {
        let (sum, steps) = std::mem::take(&mut self.loss);
        self.losses.push((f64::from_bits(sum) / steps.max(1) as f64).to_bits());
    }

    /// Paper and strict.
    pub(super) fn matrices(&self) -> (AccuracyMatrix, AccuracyMatrix) {
        let mut matrices = (AccuracyMatrix::default(), AccuracyMatrix::default());
        if let Some((paper, strict)) = &self.baseline {
            for (matrix, baseline) in [(&mut matrices.0, paper), (&mut matrices.1, strict)] {
                by_task(baseline).into_iter().for_each(|(task, accuracy)| matrix.set_baseline(task, accuracy));
            }
        }
        for Row { task, paper, strict, .. } in &self.rows {
            let trained = task.map(task_id);
            matrices.0.push(trained, by_task(paper));
            matrices.1.push(trained, by_task(strict));
        }
        matrices
    }

    /// Of the linear classifiers.
    pub(super) fn linear(&self) -> AccuracyMatrix {
        self.matrix_of(|row| &row.linear)
    }

    /// Of the votes whose bank and k stay what they are.
    pub(super) fn steady(&self) -> AccuracyMatrix {
        self.matrix_of(|row| &row.steady)
    }

    /// Of retrieval from the banks that stay what they are.
    pub(super) fn precision(&self) -> AccuracyMatrix {
        self.matrix_of(|row| &row.precision)
    }

    fn matrix_of(&self, of: impl Fn(&Row) -> &Accuracies) -> AccuracyMatrix {
        let mut matrix = AccuracyMatrix::default();
        for row in self.rows.iter().filter(|row| !of(row).is_empty()) {
            matrix.push(row.task.map(task_id), by_task(of(row)));
        }
        matrix
    }
}

fn task_id(task: usize) -> TaskId {
    TaskId(task as u32 + 1)
}

fn by_task(accuracies: &Accuracies) -> BTreeMap<TaskId, f64> {
    let defined =
        accuracies.iter().enumerate().filter_map(|(task, bits)| Some((task_id(task), f64::from_bits((*bits)?))));
    defined.collect()
}

/// A file of a checkpoint by its name.
pub(super) fn find<'a>(files: &'a [(String, Vec<u8>)], file: &'static str) -> Result<&'a [u8], ExperimentError> {
    let found = files.iter().find(|(name, _)| name == file);
    found.map(|(_, bytes)| &**bytes).ok_or_else(|| LearnError::MissingFile { file }.into())
}
