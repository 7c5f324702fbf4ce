//! Whether measures of forgetting that need no labels mean something: how they go with the accuracy that was really lost.
//!
//! A case is a past task after a later stage of a run. The truth is what retrieval from a bank of the same task has lost since
//! the task's own end, so that only the encoder changes: precision@10, since a query is answered with neighbours, and the accuracy
//! of a vote of 20 (in the mode `paper` k grows with the tasks seen, which by itself raises the accuracy of old ones). Each
//! measure is turned so that more is worse. Beside the measures stand the other drops that labels give, of a linear
//! probe among them: the ceiling, since two ways to take what was lost agree no better with each other.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::evaluate::AccuracyMatrix;
use crate::experiment::RunResult;
use crate::experiment::result::ForgettingRecord;
use crate::experiment::settings::name_of;
use crate::segment::TaskId;

/// What counts as a loss: 3 points.
pub const LOSS: f64 = 0.03;

/// How one measure goes with the real drop.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evidence {
    pub measure: &'static str,
    pub cases: usize,
    /// Spearman's rank correlation over all cases.
    pub spearman: Option<f64>,
    /// Over the means of the runs.
    pub spearman_of_runs: Option<f64>,
    /// Over the runs that forgot at least 3 points in the mean.
    pub spearman_where_forgotten: Option<f64>,
    /// Probability that a case with a drop over 3 points reads worse than one without.
    pub auroc: Option<f64>,
    /// Both of the cases after the last stage alone: forgetting as the averages of a run take it.
    pub spearman_at_end: Option<f64>,
    pub auroc_at_end: Option<f64>,
}

/// The same for the runs of one dataset and objective.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamEvidence {
    pub dataset: String,
    pub objective: String,
    pub evidence: Vec<Evidence>,
}

/// The means of one strategy, over its runs' cases.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ordering {
    pub dataset: String,
    pub objective: String,
    pub strategy: String,
    pub cases: usize,
    /// Of 0 to 1.
    pub drop: f64,
    /// In the order of [`Against::evidence`]; none where one is not defined.
    pub measures: Vec<Option<f64>>,
}

/// Every measure held against one way to take what was lost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Against {
    pub truth: &'static str,
    /// Of all cases of all runs together.
    pub evidence: Vec<Evidence>,
    /// For each dataset and objective.
    pub streams: Vec<StreamEvidence>,
    /// The strategies by what they lost, and what the measures say of them.
    pub ordering: Vec<Ordering>,
}

/// A measure's name and what it reads of a case.
type Measure = (&'static str, fn(&Case) -> Option<f64>);

/// With labels: of the ten nearest, how many are of the same class.
const PRECISION: Measure = ("drop of precision@10", |case| case.precision_drop);
/// With labels: a vote of twenty.
const ACCURACY: Measure = ("drop of KNN accuracy", |case| case.accuracy_drop);

/// What each measure is held against.
pub const TRUTHS: [Measure; 2] = [PRECISION, ACCURACY];

/// The last three need labels.
const MEASURES: [Measure; 12] = [
    ("forgetting index (mean of the next two)", index),
    ("1 - neighbours@10 kept", |case| Some(1.0 - neighbours_kept(&case.record)?)),
    ("1 - CKA kept", |case| Some(1.0 - case.record.cka_kept?)),
    ("self-supervised loss change", |case| relative_loss_change(&case.record)),
    ("contrastive loss change of the features", |case| case.record.view_loss_change),
    ("1 - neighbour overlap@10, plain", |case| Some(1.0 - case.record.neighbour_overlap?)),
    ("1 - debiased CKA, plain", |case| Some(1.0 - case.record.cka_debiased?)),
    ("view recall@1 lost", |case| Some(-case.record.view_recall_change?)),
    ("view bits lost", |case| Some(-case.record.view_bits_change?)),
    PRECISION,
    ACCURACY,
    ("drop of a linear probe", |case| case.linear_drop),
];

/// What is held against a truth: all but itself.
fn beside(truth: &Measure) -> impl Iterator<Item = &'static Measure> {
    let name = truth.0;
    MEASURES.iter().filter(move |measure| measure.0 != name)
}

/// In results of before they were a measure of their own, the index was of them alone.
fn neighbours_kept(record: &ForgettingRecord) -> Option<f64> {
    record.neighbours_kept.or(Some(1.0 - record.forgetting_index?))
}

fn index(case: &Case) -> Option<f64> {
    Some(1.0 - (neighbours_kept(&case.record)?.min(1.0) + case.record.cka_kept?.min(1.0)) / 2.0)
}

/// In units of the loss at the task's end: objectives have losses of very different sizes.
fn relative_loss_change(record: &ForgettingRecord) -> Option<f64> {
    let (now, change) = (record.loss?, record.loss_change?);
    let relative = change / (now - change).abs();
    relative.is_finite().then_some(relative)
}

/// A past task after a later stage.
#[derive(Debug, Clone)]
pub struct Case {
    record: ForgettingRecord,
    precision_drop: Option<f64>,
    accuracy_drop: Option<f64>,
    linear_drop: Option<f64>,
    /// After the last stage of its run.
    at_end: bool,
}

/// The cases of a run; none where it was not asked to measure them.
pub fn cases(result: &RunResult) -> Vec<Case> {
    let last = result.label_free.iter().map(|record| record.stage).max();
    let of = |record: &ForgettingRecord| Case {
        at_end: Some(record.stage) == last,
        record: *record,
        precision_drop: drop_of(&result.precision, *record),
        accuracy_drop: drop_of(&result.steady, *record),
        linear_drop: drop_of(&result.linear, *record),
    };
    result.label_free.iter().map(of).collect()
}

/// Against each truth of which there are cases.
pub fn against_each(runs: &[(&RunResult, Vec<Case>)]) -> Vec<Against> {
    let known = |truth: &&Measure| runs.iter().flat_map(|(_, cases)| cases).any(|case| (truth.1)(case).is_some());
    let of = |truth: &Measure| {
        let cases: Vec<&[Case]> = runs.iter().map(|(_, cases)| &**cases).collect();
        let (evidence, streams) = (evidence(&cases, truth), by_stream(runs, truth));
        Against { truth: truth.0, evidence, streams, ordering: ordering(runs, truth) }
    };
    TRUTHS.iter().filter(known).map(of).collect()
}

/// Accuracy of the task at its own (first) end, less that after the later stage.
fn drop_of(matrix: &AccuracyMatrix, record: ForgettingRecord) -> Option<f64> {
    let task = TaskId(record.task as u32 + 1);
    let learnt = matrix.rows().iter().find(|row| row.trained == Some(task))?;
    Some(learnt.accuracies.get(&task)? - matrix.rows().get(record.stage)?.accuracies.get(&task)?)
}

/// A reading and the drop beside it, of the cases that have both.
fn pairs<'a>(cases: impl IntoIterator<Item = &'a Case>, measure: &Measure, truth: &Measure) -> Vec<(f64, f64)> {
    cases.into_iter().filter_map(|case| Some(((measure.1)(case)?, (truth.1)(case)?))).collect()
}

/// Of all cases of all runs together.
fn evidence(runs: &[&[Case]], truth: &Measure) -> Vec<Evidence> {
    let forgot = |run: &&&[Case]| mean(run.iter().filter_map(truth.1)) >= LOSS;
    let forgotten: Vec<&Case> = runs.iter().filter(forgot).copied().flatten().collect();
    let one = |measure: &Measure| {
        let pooled = pairs(runs.iter().copied().flatten(), measure, truth);
        let selected = pairs(forgotten.iter().copied(), measure, truth);
        let at_end = pairs(runs.iter().copied().flatten().filter(|case| case.at_end), measure, truth);
        let of_run = |run: &&[Case]| {
            let pairs = pairs(*run, measure, truth);
            let (readings, drops) = (pairs.iter().map(|(reading, _)| *reading), pairs.iter().map(|(_, drop)| *drop));
            (!pairs.is_empty()).then(|| (mean(readings), mean(drops)))
        };
        let means: Vec<(f64, f64)> = runs.iter().filter_map(of_run).collect();
        Evidence {
            measure: measure.0,
            cases: pooled.len(),
            spearman: spearman(&pooled),
            spearman_of_runs: spearman(&means),
            spearman_where_forgotten: spearman(&selected),
            auroc: auroc(&pooled),
            spearman_at_end: spearman(&at_end),
            auroc_at_end: auroc(&at_end),
        }
    };
    beside(truth).map(one).collect()
}

/// Of runs with the same dataset and objective.
fn by_stream(runs: &[(&RunResult, Vec<Case>)], truth: &Measure) -> Vec<StreamEvidence> {
    let mut groups: BTreeMap<[String; 2], Vec<&[Case]>> = BTreeMap::new();
    for (result, cases) in runs.iter().filter(|(_, cases)| !cases.is_empty()) {
        let settings = &result.settings;
        let key = [settings.dataset_name().into(), name_of(&settings.objective)];
        groups.entry(key).or_default().push(cases);
    }
    let of = |([dataset, objective], runs): ([String; 2], Vec<&[Case]>)| StreamEvidence {
        dataset,
        objective,
        evidence: evidence(&runs, truth),
    };
    groups.into_iter().map(of).collect()
}

/// Of runs with the same dataset, objective and strategy, the least drop first.
fn ordering(runs: &[(&RunResult, Vec<Case>)], truth: &Measure) -> Vec<Ordering> {
    let mut orderings: Vec<Ordering> = Vec::new();
    let mut groups: BTreeMap<[String; 3], Vec<&Case>> = BTreeMap::new();
    for (result, cases) in runs {
        let settings = &result.settings;
        let key = [settings.dataset_name().into(), name_of(&settings.objective), name_of(&settings.strategy)];
        groups.entry(key).or_default().extend(cases.iter().filter(|case| (truth.1)(case).is_some()));
    }
    for ([dataset, objective, strategy], cases) in groups.into_iter().filter(|(_, cases)| !cases.is_empty()) {
        let of = |read: fn(&Case) -> Option<f64>| {
            let values: Vec<f64> = cases.iter().filter_map(|case| read(case)).collect();
            (!values.is_empty()).then(|| mean(values.iter().copied()))
        };
        let drop = mean(cases.iter().filter_map(|case| (truth.1)(case)));
        let measures = beside(truth).map(|measure| of(measure.1)).collect();
        orderings.push(Ordering { dataset, objective, strategy, cases: cases.len(), drop, measures });
    }
    orderings
        .sort_by(|a, b| (&a.dataset, &a.objective).cmp(&(&b.dataset, &b.objective)).then(a.drop.total_cmp(&b.drop)));
    orderings
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    sum / count as f64
}

/// Spearman's rank correlation, equals sharing the mean of their ranks; none of fewer than three pairs, or without spread.
fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (a, b) = (ranks(&a), ranks(&b));
    let middle = (pairs.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - middle) * (b - middle)).sum::<f64>();
    let correlation = product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt();
    correlation.is_finite().then_some(correlation)
}

/// Area under the curve of telling drops over [`LOSS`] from others, by ranks (Mann and Whitney); none without both kinds.
fn auroc(pairs: &[(f64, f64)]) -> Option<f64> {
    let ranks = ranks(&pairs.iter().map(|(reading, _)| *reading).collect::<Vec<_>>());
    let lost: Vec<f64> = ranks.iter().zip(pairs).filter(|(_, (_, drop))| *drop > LOSS).map(|(rank, _)| *rank).collect();
    let (positive, negative) = (lost.len() as f64, (pairs.len() - lost.len()) as f64);
    let area = (lost.iter().sum::<f64>() - positive * (positive + 1.0) / 2.0) / (positive * negative);
    area.is_finite().then_some(area)
}

/// From 1; equals share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let before = order.iter().position(|at| at == &equal[0]).unwrap_or_default() as f64;
        equal.iter().for_each(|&at| ranks[at] = before + (equal.len() as f64 + 1.0) / 2.0);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(index: f64, drop: f64) -> Case {
        let record = ForgettingRecord {
            task: 0,
            stage: 1,
            neighbour_overlap: None,
            forgetting_index: Some(index),
            neighbours_kept: None,
            cka_debiased: None,
            cka_kept: Some(1.0 - index),
            loss: Some(1.0),
            loss_change: Some(-index),
            view_recall: None,
            view_recall_change: None,
            view_bits: None,
            view_bits_change: None,
            view_loss_change: None,
        };
        Case { record, precision_drop: Some(drop), accuracy_drop: None, linear_drop: Some(drop), at_end: drop >= 0.05 }
    }

    #[test]
    fn rank_correlations_are_those_of_the_textbook() {
        // Pearson of the ranks (1, 2.5, 2.5, 4, 5) and (2, 1, 3.5, 3.5, 5): 7.25 / 9.5.
        let pairs = [(1.0, 3.0), (2.0, 1.0), (2.0, 4.0), (4.0, 4.0), (5.0, 6.0)];
        assert!((spearman(&pairs).unwrap() - 0.763_157_894_7).abs() < 1e-9, "{:?}", spearman(&pairs));
        assert_eq!(spearman(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(ranks(&[5.0, 1.0, 5.0, 0.0]), [3.5, 2.0, 3.5, 1.0]);
    }

    #[test]
    fn the_area_is_the_share_of_pairs_in_order() {
        // Two losses read .5 and .9, two others .1 and .5: of four pairs three are in order and one is equal.
        let pairs = [(0.5, 0.10), (0.9, 0.05), (0.1, 0.0), (0.5, 0.03)];
        assert!((auroc(&pairs).unwrap() - 3.5 / 4.0).abs() < 1e-12);
        assert_eq!(auroc(&pairs[..2]), None);
    }

    #[test]
    fn measures_are_read_over_all_runs_and_over_those_that_forgot() {
        let steady = vec![case(0.1, 0.0), case(0.2, 0.01), case(0.3, -0.01)];
        let forgetful = vec![case(0.5, 0.05), case(0.7, 0.10), case(0.9, 0.20)];
        let found = evidence(&[&steady, &forgetful, &[]], &PRECISION);
        assert_eq!((found.len(), found[0].cases, found[5].cases), (MEASURES.len() - 1, 6, 0));
        assert!(found.iter().all(|found| found.measure != PRECISION.0), "a truth is not held against itself");
        assert_eq!((found[0].spearman_where_forgotten, found[0].auroc), (Some(1.0), Some(1.0)));
        assert_eq!(
            (found[0].spearman_of_runs, spearman(&[(0.2, 0.0), (0.7, 0.1)])),
            (None, None),
            "two runs have no ranks"
        );
        assert!(found[0].spearman.unwrap() > 0.7 && found[3].auroc == Some(0.0));
        assert_eq!(
            (found[3].spearman_at_end, found[3].auroc_at_end),
            (Some(-1.0), None),
            "all of them lost over 3 points"
        );
    }

    #[test]
    fn a_truth_that_no_run_took_is_left_out() {
        assert_eq!(against_each(&[]), []);
        assert_eq!(pairs(&[case(0.5, 0.1)], &MEASURES[0], &PRECISION), [(0.5, 0.1)]);
        assert_eq!(pairs(&[case(0.5, 0.1)], &MEASURES[0], &ACCURACY), []);
    }
}
