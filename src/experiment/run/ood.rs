//! The trained encoder on datasets that it never saw: frozen, and after fine-tuning.

use candle_core::Device;

use super::Place;
use super::evaluation::embed;
use crate::config::{LearnSettings, Precision, Seed, StrategyKind};
use crate::encoder;
use crate::evaluate::{KnnEvaluator, KnnMode};
use crate::experiment::dataset::{self, Dataset, Labelled};
use crate::experiment::result::OodRecord;
use crate::experiment::{ExperimentError, RunSettings};
use crate::learn::{Samples, Trainer};

pub(super) fn all(
    settings: &RunSettings,
    place: &Place,
    trainer: &Trainer,
    device: &Device,
) -> Result<Vec<OodRecord>, ExperimentError> {
    settings.ood.iter().map(|name| one(name, settings, place, trainer, device)).collect()
}

fn one(
    name: &str,
    settings: &RunSettings,
    place: &Place,
    trainer: &Trainer,
    device: &Device,
) -> Result<OodRecord, ExperimentError> {
    let dataset = dataset::open(name, &place.data, trainer.preset().side, Seed(settings.seed))?;
    let parts = parts(settings, &dataset);
    let frozen = accuracy(trainer, &dataset, &parts, device)?;
    let fine_tuned = match settings.ood_epochs {
        0 => None,
        epochs => {
            accuracy(&fine_tuned(epochs, settings, trainer, &dataset, &parts.0, device)?, &dataset, &parts, device)?
        }
    };
    Ok(OodRecord { dataset: name.into(), blake3: dataset.hash(), frozen, fine_tuned })
}

/// Training and test images: all, or as many as the run itself has where that is limited.
fn parts(settings: &RunSettings, dataset: &Dataset) -> (Vec<usize>, Vec<usize>) {
    let tasks = settings.shape().0.max(1);
    let pick = |part: &Labelled, limit: Option<usize>, purpose: &str| {
        let most = limit.map_or(usize::MAX, |limit| limit * tasks);
        Seed(settings.seed).random(purpose, 0).choose(part.len(), most)
    };
    (
        pick(&dataset.train, settings.limit_per_task, "ood training images"),
        pick(&dataset.test, settings.test_limit, "ood test images"),
    )
}

fn accuracy(
    trainer: &Trainer,
    dataset: &Dataset,
    (train, test): &(Vec<usize>, Vec<usize>),
    device: &Device,
) -> Result<Option<f64>, ExperimentError> {
    let (_, embedder) = trainer.embedder()?;
    let bank = embed(&embedder, trainer.preset(), device, &dataset.train, train)?;
    let tests = embed(&embedder, trainer.preset(), device, &dataset.test, test)?;
    Ok(KnnEvaluator::new(&[bank])?.accuracy(&tests, 0, KnnMode::Strict)?)
}

/// The encoder after some epochs of the same objective on the dataset, its head new.
fn fine_tuned(
    epochs: usize,
    settings: &RunSettings,
    trainer: &Trainer,
    dataset: &Dataset,
    train: &[usize],
    device: &Device,
) -> Result<Trainer, ExperimentError> {
    let seed = Seed(settings.seed);
    let mut backbone = encoder::build(trainer.preset(), device, Precision::F32, seed)?;
    backbone.load(trainer.backbone().parameters(), trainer.backbone().statistics())?;
    let learn = LearnSettings { strategy: StrategyKind::Finetune, ..settings.learn(dataset.class_names.len()) };
    let mut tuned = Trainer::with_backbone(trainer.preset().clone(), backbone, &learn, seed)?;
    for epoch in 0..epochs {
        let mut order = train.to_vec();
        seed.random("fine-tuning", epoch as u64).shuffle(&mut order);
        for batch in order.chunks(settings.batch) {
            let labels: Vec<u32> = batch.iter().map(|image| dataset.train.classes[*image]).collect();
            let pixels = dataset.train.pack(batch);
            tuned.step_samples(&Samples { pixels: &pixels, ids: &[], labels: &labels }, &Samples::default())?;
        }
    }
    Ok(tuned)
}
