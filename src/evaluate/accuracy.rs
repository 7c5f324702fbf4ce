//! Accuracy with labels: the matrix `a[t][i]` (accuracy on task i after task t was learned) and its averages.
//!
//! Average accuracy, backward and forward transfer: Lopez-Paz and Ranzato, "Gradient episodic memory", NeurIPS 2017.
//! Forgetting: Chaudhry et al., "Riemannian walk", ECCV 2018. The published code of continual unsupervised learning takes
//! forgetting against the value when learned (minus the backward transfer); both are given here under their own names.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::knn::{Bank, KnnError, NewRow, vote};
use crate::segment::TaskId;
use crate::stream::{FrameId, SourceId};

use super::Features;

/// One evaluation: accuracies of 0 to 1; a task that is missing has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AccuracyRow {
    /// The task whose end this evaluation followed; none for one at another time.
    #[schema(value_type = Option<u32>)]
    pub trained: Option<TaskId>,
    #[schema(value_type = BTreeMap<String, f64>)]
    pub accuracies: BTreeMap<TaskId, f64>,
}

/// Evaluations in the order of time. A task may be trained more than once (it returned); its value when learned is that of
/// the last time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AccuracyMatrix {
    rows: Vec<AccuracyRow>,
    /// Accuracy of the untrained encoder, b_i; only forward transfer needs it.
    baseline: BTreeMap<TaskId, f64>,
}

/// Averages of a matrix of accuracies, each over the tasks for which it is defined; none where it is for no task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AccuracySummary {
    /// Tasks with an accuracy in the last evaluation.
    pub tasks: usize,
    /// Mean over i of `a[T][i]`.
    pub average_accuracy: Option<f64>,
    /// Mean over i < T of max over l < T of `a[l][i]`, less `a[T][i]`. Below 0 where tasks got better than they ever were.
    pub forgetting_max: Option<f64>,
    /// Mean over i < T of `a[i][i]` - `a[T][i]`.
    pub forgetting_from_learned: Option<f64>,
    /// Mean over i < T of `a[T][i]` - `a[i][i]`.
    pub backward_transfer: Option<f64>,
    /// Mean over i > 1 of `a[i-1][i]` - b_i.
    pub forward_transfer: Option<f64>,
    /// Mean over i of `a[i][i]`.
    pub learning_accuracy: Option<f64>,
}

impl AccuracyMatrix {
    /// Adds an evaluation. Accuracies that are not finite are left out.
    pub fn push(&mut self, trained: Option<TaskId>, mut accuracies: BTreeMap<TaskId, f64>) {
        accuracies.retain(|_, accuracy| accuracy.is_finite());
        self.rows.push(AccuracyRow { trained, accuracies });
    }

    /// States the accuracy of the untrained encoder on a task.
    pub fn set_baseline(&mut self, task: TaskId, accuracy: f64) {
        self.baseline.insert(task, accuracy);
    }

    /// The evaluations in the order of time.
    pub fn rows(&self) -> &[AccuracyRow] {
        &self.rows
    }

    /// Takes a task out, as when it was merged into another.
    pub fn remove(&mut self, task: TaskId) {
        self.rows.retain(|row| row.trained != Some(task));
        self.rows.iter_mut().for_each(|row| _ = row.accuracies.remove(&task));
        self.baseline.remove(&task);
    }

    /// Drops the oldest evaluations beyond `limit` that no average needs: neither where a task was first or last learned
    /// (or was about to be), nor where it was best. Keeps more than `limit` if all are needed: at most four a task.
    pub fn thin(&mut self, limit: usize) {
        while self.rows.len() > limit {
            let needed = self.needed();
            let Some(oldest) = (0..self.rows.len() - 1).find(|at| !needed.contains(at)) else { return };
            self.rows.remove(oldest);
        }
    }

    fn needed(&self) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        for task in self.trained() {
            let first = self.first_learned(task);
            needed.extend(first.into_iter().chain(first.and_then(|at| at.checked_sub(1))));
            needed.extend(self.last_learned(task));
            let accuracy = |at: &usize| self.rows[*at].accuracies.get(&task).copied();
            let best = (0..self.rows.len()).filter(|at| accuracy(at).is_some());
            needed
                .extend(best.max_by(|a, b| accuracy(a).partial_cmp(&accuracy(b)).unwrap_or(std::cmp::Ordering::Equal)));
        }
        needed
    }

    /// The averages as of the last evaluation.
    pub fn summary(&self) -> AccuracySummary {
        let Some(last) = self.rows.last() else { return AccuracySummary::default() };
        let trained = self.trained();
        let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let each = |of: &dyn Fn(TaskId) -> Option<f64>| mean(trained.iter().filter_map(|&task| of(task)).collect());
        let now = |task| last.accuracies.get(&task).copied();
        let from_learned = each(&|task| Some(self.learned(self.past(task)?)? - now(task)?));
        AccuracySummary {
            tasks: trained.iter().filter(|&&task| now(task).is_some()).count(),
            average_accuracy: each(&now),
            forgetting_max: each(&|task| Some(self.best_before(self.past(task)?)? - now(task)?)),
            forgetting_from_learned: from_learned,
            backward_transfer: from_learned.map(|forgetting| 0.0 - forgetting),
            forward_transfer: each(&|task| self.forward(task)),
            learning_accuracy: each(&|task| self.learned(task)),
        }
    }

    fn trained(&self) -> BTreeSet<TaskId> {
        self.rows.iter().filter_map(|row| row.trained).collect()
    }

    fn first_learned(&self, task: TaskId) -> Option<usize> {
        self.rows.iter().position(|row| row.trained == Some(task))
    }

    fn last_learned(&self, task: TaskId) -> Option<usize> {
        self.rows.iter().rposition(|row| row.trained == Some(task))
    }

    /// `task`, unless it is the one that the last evaluation followed: that has had no time to be forgotten.
    fn past(&self, task: TaskId) -> Option<TaskId> {
        (self.last_learned(task)? + 1 < self.rows.len()).then_some(task)
    }

    fn learned(&self, task: TaskId) -> Option<f64> {
        self.rows[self.last_learned(task)?].accuracies.get(&task).copied()
    }

    fn best_before(&self, task: TaskId) -> Option<f64> {
        let before = &self.rows[self.first_learned(task)?..self.rows.len() - 1];
        before.iter().filter_map(|row| row.accuracies.get(&task)).copied().reduce(f64::max)
    }

    fn forward(&self, task: TaskId) -> Option<f64> {
        let before = self.first_learned(task)?.checked_sub(1)?;
        Some(self.rows[before].accuracies.get(&task)? - self.baseline.get(&task)?)
    }
}

/// How a table of weighted-KNN accuracies is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnnMode {
    /// As the published code of LUMP does: a bank of the same task only, k = min(200, tasks seen). Task-incremental.
    Paper,
    /// A bank of all tasks seen, k = 200. Class-incremental.
    Strict,
}

/// Neighbours in strict mode, and the most in paper mode.
const TABLE_K: usize = 200;

/// Neighbours that vote in [`KnnEvaluator::steady`].
const STEADY_K: usize = 20;

/// Neighbours of [`Steady::precision`]: as many as a query is answered with.
const PRECISION_K: usize = 10;

/// Temperature of every vote.
const TABLE_TEMPERATURE: f64 = 0.1;

/// Embeddings with the class of each row.
#[derive(Debug, Clone)]
pub struct LabelledFeatures {
    pub features: Features,
    pub classes: Vec<u32>,
}

/// What an encoder makes of a task, with a bank that stays what it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steady {
    /// Share of the test images that their 20 nearest vote into the right class.
    pub accuracy: f64,
    /// Share of right ones among the 10 nearest, in the mean over the test images: precision@10 of retrieval. It moves where a
    /// vote that is won clearly does not.
    pub precision: f64,
}

/// Weighted-KNN accuracy on tasks, against a bank of their training images.
pub struct KnnEvaluator {
    bank: Bank,
    /// Of each row of the bank, in the order given.
    classes: Vec<u32>,
    /// Of each row of the bank: its task, counted from 0.
    tasks: Vec<usize>,
}

impl KnnEvaluator {
    /// `train`: of each task seen so far, in order, its training images.
    ///
    /// # Errors
    /// [`KnnError::Width`] if the tasks' embeddings differ in width.
    pub fn new(train: &[LabelledFeatures]) -> Result<Self, KnnError> {
        let rows_of = |task: usize| train[task].features.rows().zip(&train[task].classes).map(move |row| (task, row));
        let rows: Vec<(usize, (&[f32], &u32))> = (0..train.len()).flat_map(rows_of).collect();
        let added: Vec<NewRow<'_>> = rows
            .iter()
            .enumerate()
            .map(|(at, (_, (embedding, _)))| NewRow {
                frame: FrameId(at as u64),
                source: SourceId(0),
                wall_time_ns: 0,
                embedding,
            })
            .collect();
        let width = train.first().map_or(0, |task| task.features.width());
        Ok(Self {
            bank: Bank::new("evaluated".into(), width).with_changes(&[], &added)?,
            classes: rows.iter().map(|(_, (_, class))| **class).collect(),
            tasks: rows.iter().map(|(task, _)| *task).collect(),
        })
    }

    /// Accuracy, 0 to 1, on the test images of task number `task` (from 0). To a test image without direction (all zeros: a
    /// collapsed encoder) every training image is as near as any other, so that all of them vote alike, which is chance. None
    /// where there is no test image, or no training image to vote.
    ///
    /// # Errors
    /// [`KnnError::Width`].
    pub fn accuracy(&self, test: &LabelledFeatures, task: usize, mode: KnnMode) -> Result<Option<f64>, KnnError> {
        let seen = self.tasks.iter().max().map_or(0, |last| last + 1);
        match mode {
            KnnMode::Paper => self.share_of_hits(test, seen.min(TABLE_K), |of| of == task),
            KnnMode::Strict => self.share_of_hits(test, TABLE_K, |_| true),
        }
    }

    /// With a bank of the same task only and the same k however many were seen: between two of these only the encoder changes.
    /// In the mode `paper` k grows with the tasks seen, which by itself makes the vote on an old task better.
    ///
    /// # Errors
    /// [`KnnError::Width`].
    pub fn steady(&self, test: &LabelledFeatures, task: usize) -> Result<Option<Steady>, KnnError> {
        let votes = |of: usize| of == task;
        let Some(of_all) = self.classes_of(test, votes) else { return Ok(None) };
        let by_chance = winner(of_all.iter().map(|class| (0.0, *class)));
        let share = |of: &[u32], class: u32| of.iter().filter(|of| **of == class).count() as f64 / of.len() as f64;
        let (mut hits, mut precision) = (0usize, 0.0);
        for (embedding, class) in test.features.rows().zip(&test.classes) {
            let nearest = self.nearest(embedding, STEADY_K, votes)?;
            hits += usize::from(winner(nearest.iter().copied()).or(by_chance) == Some(*class));
            let first: Vec<u32> = nearest.iter().take(PRECISION_K).map(|(_, class)| *class).collect();
            precision += share(if first.is_empty() { &of_all } else { &first }, *class);
        }
        let tests = test.features.len() as f64;
        Ok(Some(Steady { accuracy: hits as f64 / tests, precision: precision / tests }))
    }

    fn share_of_hits(
        &self,
        test: &LabelledFeatures,
        k: usize,
        task_votes: impl Fn(usize) -> bool + Sync + Copy,
    ) -> Result<Option<f64>, KnnError> {
        let Some(of_all) = self.classes_of(test, task_votes) else { return Ok(None) };
        let by_chance = winner(of_all.into_iter().map(|class| (0.0, class)));
        let mut hits = 0;
        for (embedding, class) in test.features.rows().zip(&test.classes) {
            let nearest = self.nearest(embedding, k, task_votes)?;
            hits += usize::from(winner(nearest).or(by_chance) == Some(*class));
        }
        Ok(Some(hits as f64 / test.features.len() as f64))
    }

    /// Of the rows of the bank that vote; none where nobody votes, or there is nothing to vote on.
    fn classes_of(&self, test: &LabelledFeatures, task_votes: impl Fn(usize) -> bool) -> Option<Vec<u32>> {
        let voting = self.tasks.iter().zip(&self.classes).filter(|(task, _)| task_votes(**task));
        let classes: Vec<u32> = voting.map(|(_, class)| *class).collect();
        (!test.features.is_empty() && !classes.is_empty()).then_some(classes)
    }

    /// Similarity and class of the nearest that vote, the nearest first; nobody to an embedding without direction.
    fn nearest(
        &self,
        embedding: &[f32],
        k: usize,
        task_votes: impl Fn(usize) -> bool + Sync,
    ) -> Result<Vec<(f32, u32)>, KnnError> {
        let at = |frame: FrameId| frame.0 as usize;
        match self.bank.nearest(embedding, k, |entry| task_votes(self.tasks[at(entry.frame)])) {
            Err(KnnError::NoDirection { .. }) => Ok(Vec::new()),
            nearest => Ok(nearest?.iter().map(|found| (found.similarity, self.classes[at(found.frame)])).collect()),
        }
    }
}

/// The class with the most votes, of equals the lowest; none without voters.
fn winner(voters: impl IntoIterator<Item = (f32, u32)>) -> Option<u32> {
    vote(voters, TABLE_TEMPERATURE).first().map(|first| first.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f64]) -> BTreeMap<TaskId, f64> {
        values.iter().enumerate().map(|(i, &value)| (TaskId(i as u32 + 1), value)).collect()
    }

    fn close(value: Option<f64>, expected: f64) {
        assert!((value.unwrap() - expected).abs() < 1e-12, "{value:?} for {expected}");
    }

    fn three_tasks() -> AccuracyMatrix {
        let mut matrix = AccuracyMatrix::default();
        matrix.push(Some(TaskId(1)), row(&[0.8, 0.55]));
        matrix.push(Some(TaskId(2)), row(&[0.9, 0.7]));
        matrix.push(Some(TaskId(3)), row(&[0.6, 0.8, 0.5]));
        matrix.set_baseline(TaskId(2), 0.5);
        matrix
    }

    #[test]
    fn the_averages_are_those_of_their_formulas() {
        let summary = three_tasks().summary();
        assert_eq!(summary.tasks, 3);
        close(summary.average_accuracy, (0.6 + 0.8 + 0.5) / 3.0);
        close(summary.forgetting_max, ((0.9 - 0.6) + (0.7 - 0.8)) / 2.0);
        close(summary.forgetting_from_learned, ((0.8 - 0.6) + (0.7 - 0.8)) / 2.0);
        close(summary.backward_transfer, -((0.8 - 0.6) + (0.7 - 0.8)) / 2.0);
        close(summary.forward_transfer, 0.55 - 0.5);
        close(summary.learning_accuracy, (0.8 + 0.7 + 0.5) / 3.0);
    }

    #[test]
    fn what_is_not_defined_is_none() {
        assert_eq!(AccuracyMatrix::default().summary(), AccuracySummary::default());
        let mut matrix = AccuracyMatrix::default();
        matrix.push(Some(TaskId(1)), row(&[0.8]));
        let summary = matrix.summary();
        assert_eq!((summary.average_accuracy, summary.forgetting_max), (Some(0.8), None));
        assert_eq!((summary.backward_transfer, summary.forward_transfer), (None, None));
        matrix.push(Some(TaskId(2)), row(&[f64::NAN]));
        assert_eq!(matrix.summary().average_accuracy, None);
    }

    #[test]
    fn a_task_that_returns_is_measured_from_its_last_end() {
        let mut matrix = three_tasks();
        matrix.push(Some(TaskId(1)), row(&[0.85, 0.7, 0.5]));
        assert_eq!(matrix.summary().learning_accuracy, Some((0.85 + 0.7 + 0.5) / 3.0));
        close(matrix.summary().forgetting_from_learned, ((0.7 - 0.7) + (0.5 - 0.5)) / 2.0);
        matrix.push(None, row(&[0.75, 0.7, 0.5]));
        close(matrix.summary().forgetting_from_learned, 0.1 / 3.0);
    }

    #[test]
    fn thinning_changes_no_average() {
        let mut matrix = three_tasks();
        for step in 0..60u32 {
            matrix.push(None, row(&[0.5 + f64::from(step % 7) / 100.0, 0.7, 0.4]));
        }
        matrix.push(None, row(&[0.51, 0.71, 0.41]));
        let before = matrix.summary();
        matrix.thin(10);
        assert_eq!((matrix.summary(), matrix.rows().len()), (before, 10));
        matrix.thin(0);
        assert!(matrix.rows().len() <= 4 * 3 + 1);
        matrix.remove(TaskId(2));
        assert!(matrix.rows().iter().all(|row| !row.accuracies.contains_key(&TaskId(2))));
    }

    /// Rows at these angles in degrees.
    fn at_angles(angles: &[f32], classes: &[u32]) -> LabelledFeatures {
        let point = |angle: &f32| [angle.to_radians().cos(), angle.to_radians().sin()];
        let features = Features::new(2, angles.iter().flat_map(point).collect()).unwrap();
        LabelledFeatures { features, classes: classes.to_vec() }
    }

    #[test]
    fn paper_mode_sees_its_own_task_and_few_neighbours_and_strict_mode_all() {
        let first = at_angles(&[0.0, 20.0, 22.0], &[0, 1, 1]);
        let second = at_angles(&[2.0, 3.0, 4.0, 90.0], &[2, 2, 2, 3]);
        let evaluator = KnnEvaluator::new(&[first, second]).unwrap();
        let test = at_angles(&[1.0, 21.0], &[0, 1]);
        // k is 2, of the rows of task 0 alone.
        assert_eq!(evaluator.accuracy(&test, 0, KnnMode::Paper).unwrap(), Some(1.0));
        // Near 1 degree the three rows of class 2 outvote class 0; at 21 degrees class 1 is nearer by enough.
        assert_eq!(evaluator.accuracy(&test, 0, KnnMode::Strict).unwrap(), Some(0.5));
        let wide = at_angles(&[90.0, 1.0], &[3, 2]);
        assert_eq!(evaluator.accuracy(&wide, 1, KnnMode::Paper).unwrap(), Some(1.0));
    }

    #[test]
    fn what_is_steady_does_not_change_with_the_tasks_seen() {
        // One near neighbour of the wrong class, then two of the right one.
        let first = || at_angles(&[0.0, 5.0, 6.0], &[1, 0, 0]);
        let test = at_angles(&[1.0], &[0]);
        let found = |train: &[LabelledFeatures]| {
            let evaluator = KnnEvaluator::new(train).unwrap();
            let steady = evaluator.steady(&test, 0).unwrap().unwrap();
            (evaluator.accuracy(&test, 0, KnnMode::Paper).unwrap(), steady.accuracy, steady.precision)
        };
        assert_eq!(found(&[first()]), (Some(0.0), 1.0, 2.0 / 3.0));
        // With three tasks seen the published protocol's k is 3: the same encoder scores higher.
        let others = [first(), at_angles(&[90.0], &[2]), at_angles(&[120.0], &[3])];
        assert_eq!(found(&others), (Some(1.0), 1.0, 2.0 / 3.0));
    }

    #[test]
    fn precision_is_that_of_the_ten_nearest() {
        // From 0 degrees on: five right ones, five wrong ones, then right ones that are too far to count.
        let classes: Vec<u32> = [[0; 5], [1; 5], [0; 5]].concat();
        let angles: Vec<f32> = (0u8..15).map(|at| 3.0 * f32::from(at)).collect();
        let evaluator = KnnEvaluator::new(&[at_angles(&angles, &classes)]).unwrap();
        let both = at_angles(&[0.0, 0.0], &[0, 1]);
        assert_eq!(evaluator.steady(&both, 0).unwrap().unwrap().precision, 0.5);
        let near = evaluator.steady(&at_angles(&[0.0], &[0]), 0).unwrap().unwrap();
        assert_eq!((near.accuracy, near.precision), (1.0, 0.5), "a vote that is won does not tell how clearly");
    }

    #[test]
    fn an_accuracy_of_nothing_is_none_and_that_of_a_collapsed_encoder_is_chance() {
        let evaluator = KnnEvaluator::new(&[at_angles(&[0.0], &[0])]).unwrap();
        assert_eq!(evaluator.accuracy(&at_angles(&[], &[]), 0, KnnMode::Strict).unwrap(), None);
        assert_eq!(evaluator.accuracy(&at_angles(&[0.0], &[0]), 1, KnnMode::Paper).unwrap(), None);
        let zeros = |classes: &[u32]| LabelledFeatures {
            features: Features::new(2, vec![0.0; 2 * classes.len()]).unwrap(),
            classes: classes.to_vec(),
        };
        assert!(KnnEvaluator::new(&[]).unwrap().accuracy(&zeros(&[0]), 0, KnnMode::Paper).unwrap().is_none());
        let two = at_angles(&[0.0, 10.0, 90.0, 80.0], &[4, 4, 5, 5]);
        for train in [two, zeros(&[4, 5, 4, 5])] {
            let evaluator = KnnEvaluator::new(&[train]).unwrap();
            assert_eq!(evaluator.accuracy(&zeros(&[5, 4, 5, 4]), 0, KnnMode::Paper).unwrap(), Some(0.5));
        }
    }
}
