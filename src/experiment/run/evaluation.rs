//! What an encoder knows: its features of every task's images, and the accuracies that are taken of them.

use std::sync::Arc;

use candle_core::{DType, Device};

use super::progress::Accuracies;
use crate::config::Seed;
use crate::encoder::{Embedder, Preset};
use crate::evaluate::{Features, KnnEvaluator, KnnMode, LabelledFeatures, linear_probe};
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
    /// Those of the test images and of the training images that are tested beside them.
    all: Vec<LabelledFeatures>,
    /// Whether each task has an encoder of its own: then no bank holds more than one.
    columns: bool,
}

impl Evaluation {
    pub(super) fn new(
        trainer: &Trainer,
        dataset: &Dataset,
        split: &Split,
        device: &Device,
    ) -> Result<Self, ExperimentError> {
        let (_, now) = trainer.embedder()?;
        let (mut train, mut test, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for (number, task) in split.tasks.iter().enumerate() {
            let embedder = trainer.column(number).unwrap_or_else(|| now.clone());
            let embed = |part: &Labelled, images: &[usize]| embed(&embedder, trainer.preset(), device, part, images);
            train.push(embed(&dataset.train, &task.train)?);
            let tests = embed(&dataset.test, &task.test)?;
            all.push(joined(&[&tests, &embed(&dataset.train, &task.unused)?])?);
            test.push(tests);
        }
        Ok(Self { train, test, all, columns: trainer.column(0).is_some() })
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

    /// Of each task up to `last` (from 0), its own bank voting with the same k after every stage.
    pub(super) fn steady_row(&self, last: usize) -> Result<Accuracies, ExperimentError> {
        let evaluator = KnnEvaluator::new(&self.train[..=last])?;
        let tests = self.all[..=last].iter().enumerate();
        tests.map(|(task, test)| Ok(evaluator.steady_accuracy(test, task)?.map(f64::to_bits))).collect()
    }

    /// Of a linear classifier over the classes of each task up to `last` (from 0), trained on that task alone.
    pub(super) fn linear_row(&self, last: usize, seed: Seed) -> Accuracies {
        let parts = self.train.iter().zip(&self.all).take(last + 1);
        parts.map(|(train, test)| linear_probe(train, test, seed).map(f64::to_bits)).collect()
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
