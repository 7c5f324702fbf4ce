//! What an encoder knows: its features of every task's images, and the accuracies that are taken of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{DType, Device};

use super::progress::Accuracies;
use crate::config::Seed;
use crate::encoder::{Embedder, Preset};
use crate::evaluate::{Features, KnnEvaluator, KnnMode, LabelledFeatures, Steady, linear_probe};
use crate::experiment::dataset::{Dataset, Labelled};
use crate::experiment::{ExperimentError, Split};
use crate::learn::Trainer;

/// Images that are embedded together.
const TOGETHER: usize = 500;

/// Most images of each task in the bank, and of test images, of a point of the curve.
const CURVE_BANK: usize = 1000;
const CURVE_TESTS: usize = 400;

/// Features of each task's training and test images.
pub(super) struct Evaluation {
    train: Vec<LabelledFeatures>,
    test: Vec<LabelledFeatures>,
    /// Of each task that is tried: what `label_free` takes the accuracy from.
    trials: Vec<Vec<Trial>>,
    /// Whether each task has an encoder of its own: then no bank holds more than one.
    columns: bool,
}

/// Images that are tested, and those they are held against.
struct Trial {
    bank: LabelledFeatures,
    tests: LabelledFeatures,
}

impl Evaluation {
    /// Of the first `tasks` tasks, the first `tried` of which are tried.
    pub(super) fn new(
        trainer: &Trainer,
        dataset: &Dataset,
        split: &Split,
        device: &Device,
        (tasks, tried): (usize, usize),
    ) -> Result<Self, ExperimentError> {
        let (_, now) = trainer.embedder()?;
        let (mut train, mut test, mut trials) = (Vec::new(), Vec::new(), Vec::new());
        for (number, task) in split.tasks[..tasks].iter().enumerate() {
            let embedder = trainer.column(number).unwrap_or_else(|| now.clone());
            let embed = |part: &Labelled, images: &[usize]| embed(&embedder, trainer.preset(), device, part, images);
            let (bank, tests) = (embed(&dataset.train, &task.train)?, embed(&dataset.test, &task.test)?);
            match &*task.turns {
                _ if number >= tried => {}
                [] => {
                    let tests = joined(&[&tests, &embed(&dataset.train, &task.unused)?])?;
                    trials.push(vec![Trial { bank: bank.clone(), tests }]);
                }
                turns => trials.push(in_turn(&joined(&[&bank, &tests])?, turns)),
            }
            train.push(bank);
            test.push(tests);
        }
        Ok(Self { train, test, trials, columns: trainer.column(0).is_some() })
    }

    /// Accuracies in both modes with so many tasks in the bank; `tasks` are those asked for.
    fn accuracies(
        &self,
        seen: usize,
        tasks: std::ops::Range<usize>,
    ) -> Result<(Accuracies, Accuracies), ExperimentError> {
        let evaluator = KnnEvaluator::new(&self.train[..seen])?;
        let (mut paper, mut strict) = (Accuracies::new(), Accuracies::new());
        for task in tasks {
            let take = |mode| evaluator.accuracy(&self.test[task], task, mode);
            paper.push(take(KnnMode::Paper)?.map(f64::to_bits));
            strict.push(if self.columns { None } else { take(KnnMode::Strict)?.map(f64::to_bits) });
        }
        Ok((paper, strict))
    }

    /// After the tasks up to `last` (from 0): of each of them, and of the next one, which was not learnt yet.
    pub(super) fn row(&self, last: usize) -> Result<(Accuracies, Accuracies), ExperimentError> {
        let (mut paper, mut strict) = self.accuracies(last + 1, 0..last + 1)?;
        if last + 1 < self.train.len() {
            let next = self.accuracies(last + 2, last + 1..last + 2)?;
            paper.extend(next.0);
            strict.extend(next.1);
        }
        Ok((paper, strict))
    }

    /// Of each task up to `last` (from 0), its own bank voting with the same k after every stage: accuracy, precision@10.
    pub(super) fn steady_rows(&self, last: usize) -> Result<(Accuracies, Accuracies), ExperimentError> {
        let steady = |Trial { bank, tests }: &Trial| KnnEvaluator::new(std::slice::from_ref(bank))?.steady(tests, 0);
        let mut rows = (Accuracies::new(), Accuracies::new());
        for trials in &self.trials[..=last] {
            let found = trials.iter().map(steady).collect::<Result<Option<Vec<Steady>>, _>>()?;
            let of = |take: fn(&Steady) -> f64| over(trials, found.as_ref()?.iter().map(take));
            rows.0.push(of(|steady| steady.accuracy));
            rows.1.push(of(|steady| steady.precision));
        }
        Ok(rows)
    }

    /// Of a linear classifier over the classes of each task up to `last` (from 0), trained on that task alone.
    pub(super) fn linear_row(&self, last: usize, seed: Seed) -> Accuracies {
        let of = |trials: &Vec<Trial>| {
            let found = trials.iter().map(|Trial { bank, tests }| linear_probe(bank, tests, seed));
            over(trials, found.collect::<Option<Vec<f64>>>()?)
        };
        self.trials[..=last].iter().map(of).collect()
    }

    /// Of an encoder that has learnt nothing: each task with the bank that it will have.
    pub(super) fn baseline(&self) -> Result<(Accuracies, Accuracies), ExperimentError> {
        let mut baseline = (Accuracies::new(), Accuracies::new());
        for task in 0..self.train.len() {
            let (paper, strict) = self.accuracies(task + 1, task..task + 1)?;
            baseline.0.extend(paper);
            baseline.1.extend(strict);
        }
        Ok(baseline)
    }

    /// A linear classifier over all classes; none where each task has an encoder of its own.
    pub(super) fn linear_probe(&self, seed: Seed) -> Result<Option<f64>, ExperimentError> {
        if self.columns {
            return Ok(None);
        }
        let all = |parts: &[LabelledFeatures]| joined(&parts.iter().collect::<Vec<_>>());
        Ok(linear_probe(&all(&self.train)?, &all(&self.test)?, seed))
    }
}

/// Those of each turn tested with all others for a bank.
fn in_turn(of: &LabelledFeatures, turns: &[u32]) -> Vec<Trial> {
    let part = |belongs: &dyn Fn(u32) -> bool| {
        let rows: Vec<usize> = (0..turns.len()).filter(|&row| belongs(turns[row])).collect();
        let classes = rows.iter().map(|&row| of.classes[row]).collect();
        LabelledFeatures { features: of.features.select(&rows), classes }
    };
    let all: BTreeSet<u32> = turns.iter().copied().collect();
    all.into_iter().map(|now| Trial { bank: part(&|turn| turn != now), tests: part(&|turn| turn == now) }).collect()
}

/// Bits of a mean over all tests alike, from those of each trial; none where there are no tests.
fn over(trials: &[Trial], means: impl IntoIterator<Item = f64>) -> Option<u64> {
    let sizes = trials.iter().map(|trial| trial.tests.classes.len() as f64);
    let tests: f64 = sizes.clone().sum();
    let sum: f64 = means.into_iter().zip(sizes).map(|(mean, tests)| mean * tests).sum();
    (tests > 0.0).then(|| (sum / tests).to_bits())
}

fn joined(parts: &[&LabelledFeatures]) -> Result<LabelledFeatures, ExperimentError> {
    let width = parts.first().map_or(1, |part| part.features.width());
    let values = parts.iter().flat_map(|part| part.features.values()).copied().collect();
    let classes = parts.iter().flat_map(|part| &part.classes).copied().collect();
    Ok(LabelledFeatures { features: Features::new(width, values)?, classes })
}

/// Embeddings of some images, with their classes.
pub(super) fn embed(
    embedder: &Arc<dyn Embedder>,
    preset: &Preset,
    device: &Device,
    part: &Labelled,
    images: &[usize],
) -> Result<LabelledFeatures, ExperimentError> {
    let mut values = Vec::with_capacity(images.len() * embedder.features());
    for batch in images.chunks(TOGETHER) {
        let features = embedder.embed(&preset.normalise(&part.pack(batch), device)?)?;
        values.extend(features.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
    }
    let classes = images.iter().map(|image| part.classes[*image]).collect();
    Ok(LabelledFeatures { features: Features::new(embedder.features(), values)?, classes })
}

/// KNN accuracy (k 200) with a bank of all tasks, over all test images: a point of the curve.
pub(super) fn overall(
    trainer: &Trainer,
    dataset: &Dataset,
    split: &Split,
    device: &Device,
) -> Result<f64, ExperimentError> {
    let (_, embedder) = trainer.embedder()?;
    let first = |images: &[usize], limit: usize| {
        // Evenly spread, since images may be in the order of their classes.
        let step = images.len().div_ceil(limit).max(1);
        images.iter().step_by(step).copied().collect::<Vec<_>>()
    };
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for task in &split.tasks {
        train.extend(first(&task.train, CURVE_BANK));
        test.extend(first(&task.test, CURVE_TESTS));
    }
    let bank = embed(&embedder, trainer.preset(), device, &dataset.train, &train)?;
    let tests = embed(&embedder, trainer.preset(), device, &dataset.test, &test)?;
    Ok(KnnEvaluator::new(&[bank])?.accuracy(&tests, 0, KnnMode::Strict)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of images on a line, whose classes are the halves of it.
    fn line(places: &[f32]) -> LabelledFeatures {
        let values = places.iter().flat_map(|place| [place.cos(), place.sin()]).collect();
        let classes = places.iter().map(|place| u32::from(*place > 0.5)).collect();
        LabelledFeatures { features: Features::new(2, values).unwrap(), classes }
    }

    #[test]
    fn each_turn_is_tested_with_all_others_for_a_bank() {
        let trials = in_turn(&line(&[0.0, 0.1, 0.9, 1.0, 0.2]), &[0, 1, 0, 1, 3]);
        let sizes: Vec<_> = trials.iter().map(|trial| (trial.bank.classes.len(), trial.tests.classes.len())).collect();
        assert_eq!(sizes, [(3, 2), (3, 2), (4, 1)]);
        assert_eq!(trials[1].tests.features.row(0), line(&[0.1]).features.row(0));
    }

    #[test]
    fn a_mean_is_taken_over_the_tests_of_all_trials_alike() {
        let trial = |tests: usize| Trial { bank: line(&[0.0]), tests: line(&vec![0.0; tests]) };
        assert_eq!(over(&[trial(9), trial(3)], [1.0, 1.0 / 3.0]).map(f64::from_bits), Some(10.0 / 12.0));
        assert_eq!(over(&[trial(0)], [1.0]), None);
    }
}
