//! What each task has lost since it ended, measured on its probes without labels.
//!
//! When a task has ended, the next version's embeddings of its probes, as they are and in two views, become its reference. Every
//! later version is compared with it: the 10 nearest neighbours and the CKA that the views confirm (their mean is the headline),
//! the change of the self-supervised loss and of the view recall. A task that returns and ends again gets a new reference, and its
//! history begins anew.
//!
//! State, in memory and in a checkpoint: 12 x width bytes for each probe (a reference keeps only rows of probes that are
//! still held, so `max_probes` bounds them), and some 300 bytes for each measurement (`history` a task).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::segment::TaskId;
use crate::stream::FrameId;

use super::measurement::{
    Measurement, MeterError, Observation, ProbeMeter, Representation, Version, Views, levels, representation,
};
use super::similarity::{ViewLevels, cka_debiased, neighbour_overlaps, view_levels};
use super::{
    AccuracyMatrix, Faces, Features, Interval, Reason, Similarities, cka_kept, history, jackknife_interval,
    neighbours_kept, view_loss,
};

/// Neighbours of the overlap.
const NEIGHBOURS: usize = 10;

/// Fewest probes of a measurement: twice the neighbours and a few, so that chance stays below one half.
pub(super) const MIN_PROBES: usize = 24;

/// What a task's end looked like; its embeddings lie beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) version: Version,
    /// In the order in which they are kept.
    pub(super) probes: Vec<FrameId>,
    /// Loss on the first so many probes: a set that shrinks keeps its first ones.
    losses: Vec<(usize, f64)>,
    view_recall: Option<f64>,
    #[serde(default)]
    view_bits: Option<f64>,
    view_loss: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TaskRecord {
    pub(super) open: bool,
    /// Ended, and no version since has been its reference.
    pub(super) awaits_reference: bool,
    pub(super) reference: Option<Reference>,
    pub(super) history: Vec<Measurement>,
    /// Why the last version gave no forgetting index.
    pub(super) undefined: Option<Reason>,
}

/// All that is saved but the embeddings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Book {
    pub(super) tasks: BTreeMap<TaskId, TaskRecord>,
    pub(super) accuracy: AccuracyMatrix,
    pub(super) latest: Option<Version>,
    pub(super) representation: Option<Representation>,
}

/// Follows every task from its end on. See the module's text.
#[derive(Debug, Clone, PartialEq)]
pub struct ForgettingMonitor {
    history: usize,
    pub(super) book: Book,
    pub(super) references: BTreeMap<TaskId, Faces>,
}

impl ForgettingMonitor {
    /// `history`: measurements kept a task.
    pub fn new(history: usize) -> Self {
        Self { history, book: Book::default(), references: BTreeMap::new() }
    }

    /// A task began, or returned.
    pub fn task_opened(&mut self, task: TaskId) {
        self.book.tasks.entry(task).or_default().open = true;
    }

    /// A task ended: the next version observed is its reference.
    pub fn task_closed(&mut self, task: TaskId) {
        let record = self.book.tasks.entry(task).or_default();
        (record.open, record.awaits_reference, record.undefined) = (false, true, None);
    }

    /// A task is no more (it was merged into another, which goes on with its own reference).
    pub fn task_removed(&mut self, task: TaskId) {
        self.book.tasks.remove(&task);
        self.references.remove(&task);
        self.book.accuracy.remove(task);
    }

    /// Measures a version: tasks that have just ended and, where any has, all tasks; else up to `budget` tasks, those
    /// first that were measured longest ago. `probes`: of every task those now held, in the order in which they are kept.
    pub fn observe(
        &mut self,
        version: &Version,
        probes: &BTreeMap<TaskId, Vec<FrameId>>,
        meter: &mut dyn ProbeMeter,
        budget: usize,
    ) -> Observation {
        let enough = |task: &TaskId| probes.get(task).is_some_and(|held| held.len() >= MIN_PROBES);
        let mut ended: Vec<TaskId> = self.awaiting().filter(enough).collect();
        let budget = if ended.is_empty() { budget } else { usize::MAX };
        let (mut observation, mut pooled) = (Observation::default(), Vec::new());
        self.drop_rows_no_longer_held(probes);
        for task in self.stalest_first().into_iter().take(budget) {
            let held = probes.get(&task).map_or(&[][..], Vec::as_slice);
            match self.measure(task, version, held, meter) {
                Ok(features) => {
                    observation.measured.push(task);
                    pooled.extend(features);
                }
                Err(error) => {
                    self.record(task).undefined = Some(Reason::MeasuringFailed);
                    observation.failed.push((task, error));
                }
            }
        }
        self.book.latest = Some(version.clone());
        self.book.representation = representation(version, &pooled).or(self.book.representation.take());
        // One that could not be measured goes on waiting.
        ended.retain(|task| !self.book.tasks[task].awaits_reference);
        self.note_accuracies(&ended);
        observation
    }

    fn awaiting(&self) -> impl Iterator<Item = TaskId> {
        self.book.tasks.iter().filter(|(_, record)| record.awaits_reference).map(|(task, _)| *task)
    }

    fn stalest_first(&self) -> Vec<TaskId> {
        let measured = |task: &TaskId| self.book.tasks[task].history.last().map(|last| last.version.frames);
        let mut tasks: Vec<TaskId> = self.book.tasks.keys().copied().collect();
        tasks.sort_by_key(measured);
        tasks
    }

    fn record(&mut self, task: TaskId) -> &mut TaskRecord {
        self.book.tasks.entry(task).or_default()
    }

    /// The embeddings of the task's probes, where there are enough to measure.
    fn measure(
        &mut self,
        task: TaskId,
        version: &Version,
        held: &[FrameId],
        meter: &mut dyn ProbeMeter,
    ) -> Result<Option<Features>, MeterError> {
        if held.len() < MIN_PROBES {
            self.record(task).undefined = Some(Reason::TooFewProbes { found: held.len(), needed: MIN_PROBES });
            return Ok(None);
        }
        let plain = meter.embed(held)?;
        let Views { first, second } = meter.views(held)?;
        let faces = Faces { plain, first, second };
        if !faces.are_of(held.len()) {
            return Err("the encoder returned another number of embeddings than of probes".into());
        }
        if !faces.is_finite() {
            self.record(task).undefined = Some(Reason::NotFinite);
            return Ok(None);
        }
        let seen = view_levels(&faces.first, &faces.second);
        let other_width = self.references.get(&task).is_some_and(|reference| reference.width() != faces.width());
        if self.book.tasks[&task].awaits_reference || other_width {
            self.take_reference(task, version, held, &faces, seen, meter)?;
        }
        let mut measurement = levels(version, held, &faces.plain, seen, meter);
        let undefined = self.compare(task, held, &faces, meter, &mut measurement)?;
        let limit = self.history;
        let record = self.record(task);
        record.undefined = undefined;
        record.history.push(measurement);
        history::thin(&mut record.history, limit, |measurement| measurement.version.frames);
        Ok(Some(faces.plain))
    }

    fn take_reference(
        &mut self,
        task: TaskId,
        version: &Version,
        held: &[FrameId],
        faces: &Faces,
        levels: Option<ViewLevels>,
        meter: &mut dyn ProbeMeter,
    ) -> Result<(), MeterError> {
        let mut losses = Vec::new();
        for length in prefix_lengths(held.len()) {
            let loss = meter.loss(&held[..length])?.filter(|loss| loss.is_finite());
            losses.extend(loss.map(|loss| (length, loss)));
        }
        let reference = Reference {
            version: version.clone(),
            probes: held.to_vec(),
            losses,
            view_recall: levels.map(|levels| levels.recall),
            view_bits: levels.map(|levels| levels.bits),
            view_loss: view_loss(faces),
        };
        let record = self.record(task);
        (record.reference, record.awaits_reference) = (Some(reference), false);
        record.history.clear();
        self.references.insert(task, faces.clone());
        Ok(())
    }

    /// Fills in what compares with the task's end; why there is no forgetting index, if so.
    fn compare(
        &self,
        task: TaskId,
        held: &[FrameId],
        faces: &Faces,
        meter: &mut dyn ProbeMeter,
        measurement: &mut Measurement,
    ) -> Result<Option<Reason>, MeterError> {
        let record = &self.book.tasks[&task];
        let (Some(reference), Some(before)) = (&record.reference, self.references.get(&task)) else {
            return Ok(Some(if record.open { Reason::Open } else { Reason::AwaitsVersion }));
        };
        let at: HashMap<FrameId, usize> = held.iter().enumerate().map(|(at, probe)| (*probe, at)).collect();
        let rows: Vec<usize> = reference.probes.iter().filter_map(|probe| at.get(probe).copied()).collect();
        // Rows of probes that are no longer held were dropped from the reference before.
        if rows.len() != before.len() || rows.len() < MIN_PROBES {
            return Ok(Some(Reason::TooFewProbes { found: rows.len(), needed: MIN_PROBES }));
        }
        let now = faces.select(&rows);
        measurement.probes = rows.len();
        measurement.cka_debiased = cka_debiased(&before.plain, &now.plain);
        measurement.neighbour_overlap = neighbour_overlaps(&before.plain, &now.plain, NEIGHBOURS)
            .map(|overlaps| overlaps.iter().sum::<f64>() / overlaps.len() as f64);
        measurement.view_recall_change =
            measurement.view_recall.zip(reference.view_recall).map(|(now, then)| now - then);
        measurement.view_bits_change = measurement.view_bits.zip(reference.view_bits).map(|(now, then)| now - then);
        measurement.view_loss = view_loss(&now);
        measurement.view_loss_change = measurement.view_loss.zip(reference.view_loss).map(|(now, then)| now - then);
        if let Some(&(length, then)) = reference.losses.last() {
            measurement.loss = meter.loss(&reference.probes[..length])?.filter(|loss| loss.is_finite());
            measurement.loss_change = measurement.loss.map(|now| now - then);
        }
        let Some((then, now)) = before.similarities().zip(now.similarities()) else {
            return Ok(Some(Reason::NotFinite));
        };
        Ok(note_kept(measurement, &then, &now))
    }

    fn drop_rows_no_longer_held(&mut self, probes: &BTreeMap<TaskId, Vec<FrameId>>) {
        for (task, faces) in &mut self.references {
            let held: BTreeSet<&FrameId> = probes.get(task).into_iter().flatten().collect();
            let Some(reference) = self.book.tasks.get_mut(task).and_then(|record| record.reference.as_mut()) else {
                continue;
            };
            let kept: Vec<usize> =
                (0..reference.probes.len()).filter(|&at| held.contains(&reference.probes[at])).collect();
            if kept.len() == reference.probes.len() {
                continue;
            }
            let unbroken = kept.iter().enumerate().take_while(|(at, kept)| at == *kept).count();
            reference.losses.retain(|(length, _)| *length <= unbroken);
            reference.probes = kept.iter().map(|&at| reference.probes[at]).collect();
            *faces = faces.select(&kept);
            reference.view_loss = view_loss(faces);
        }
    }

    fn note_accuracies(&mut self, ended: &[TaskId]) {
        let accuracies = self.accuracies();
        if accuracies.is_empty() {
            return;
        }
        for &task in ended {
            self.book.accuracy.push(Some(task), accuracies.clone());
        }
        self.book.accuracy.thin(self.history);
    }

    fn accuracies(&self) -> BTreeMap<TaskId, f64> {
        let latest = |record: &TaskRecord| record.history.last()?.knn_accuracy;
        self.book.tasks.iter().filter_map(|(task, record)| Some((*task, latest(record)?))).collect()
    }

    /// Accuracies at every task's end, and now as the last row; without rows where nothing was labelled.
    pub fn accuracy_matrix(&self) -> AccuracyMatrix {
        let (mut matrix, now) = (self.book.accuracy.clone(), self.accuracies());
        if !now.is_empty() && matrix.rows().last().is_none_or(|last| last.accuracies != now) {
            matrix.push(None, now);
        }
        matrix
    }

    /// A task's measurements since its end, the oldest first: dense where young, sparse where old.
    pub fn history(&self, task: TaskId) -> &[Measurement] {
        self.book.tasks.get(&task).map_or(&[], |record| &record.history)
    }

    /// Bytes of the references' embeddings.
    pub fn reference_bytes(&self) -> usize {
        self.references.values().map(|faces| 4 * faces.numbers()).sum()
    }
}

/// Fills in what was kept of what other views of the probes confirm; why there is no forgetting index, if so.
fn note_kept(measurement: &mut Measurement, then: &Similarities, now: &Similarities) -> Option<Reason> {
    let (neighbours, cka) = (neighbours_kept(then, now, NEIGHBOURS), cka_kept(then, now));
    measurement.neighbours_kept = neighbours.as_ref().map(|kept| kept.share);
    measurement.cka_kept = cka.as_ref().map(|kept| kept.share);
    let kept = neighbours.zip(cka).map(|(neighbours, cka)| neighbours.mean(&cka));
    let Some((kept, interval)) =
        kept.and_then(|kept| Some((kept.share, jackknife_interval(kept.share, &kept.without)?)))
    else {
        return Some(Reason::NothingKnown);
    };
    measurement.forgetting_index = Some(1.0 - kept);
    measurement.forgetting_interval = Some(Interval { low: 1.0 - interval.high, high: 1.0 - interval.low });
    None
}

/// 32, 64, ... below n, and n itself.
fn prefix_lengths(n: usize) -> impl Iterator<Item = usize> {
    (5..usize::BITS).map(|power| 1usize << power).take_while(move |length| *length < n).chain([n])
}
