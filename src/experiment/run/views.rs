//! What the pictures of a run are drawn from: feature maps, similarity of encoders, the embedding, the loss around an optimum.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::{DType, Device, Tensor};

use super::evaluation::embed;
use super::{Place, learner};
use crate::config::{Random, Seed};
use crate::encoder::{Backbone, Parameter, PlainResNet18, blocks};
use crate::evaluate::similarity::cka_debiased;
use crate::evaluate::{Features, principal_plane};
use crate::experiment::dataset::Dataset;
use crate::experiment::result::{EmbeddedPoint, FeatureMaps, Landscape, ViewsRecord};
use crate::experiment::{ExperimentError, RunSettings, Split};
use crate::learn::Trainer;

/// Images of the first task by which encoders are compared.
const CKA_IMAGES: usize = 128;
/// Images whose feature maps are shown, of each of the first and the last task.
const MAP_IMAGES: usize = 3;
/// The block whose maps are shown, counted from 0.
const MAP_BLOCK: usize = 1;
/// Points of the embedding, of each task.
const POINTS: usize = 80;
/// Images of the first task for the landscape, and its steps to each side.
const LANDSCAPE_IMAGES: usize = 64;
const LANDSCAPE_STEPS: i32 = 5;
/// The farthest step, in lengths of the weights.
const LANDSCAPE_REACH: f64 = 0.5;

fn folder(out: &Path, stage: usize) -> PathBuf {
    out.join("encoders").join(format!("stage-{:03}", stage + 1))
}

/// Keeps the learner as it is at the end of a stage, for the pictures at the end of the run.
pub(super) fn keep(trainer: &Trainer, out: &Path, stage: usize, wanted: bool) -> Result<(), ExperimentError> {
    if !wanted {
        return Ok(());
    }
    let folder = folder(out, stage);
    std::fs::create_dir_all(&folder).map_err(ExperimentError::io("make", &folder))?;
    for (name, bytes) in trainer.save()? {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(ExperimentError::io("write", &path))?;
    }
    Ok(())
}

/// Of all stages. None where none were wanted.
pub(super) fn all(
    settings: &RunSettings,
    place: &Place,
    dataset: &Dataset,
    split: &Split,
    device: &Device,
) -> Result<Option<ViewsRecord>, ExperimentError> {
    if !settings.views {
        return Ok(None);
    }
    let mut views = ViewsRecord { feature_maps: shown(dataset, split), ..ViewsRecord::default() };
    let first = &split.tasks[0];
    let compared: Vec<usize> = first.test.iter().take(CKA_IMAGES).copied().collect();
    let mut reference: Vec<Features> = Vec::new();
    let mut stage = 0;
    while folder(&place.out, stage).is_dir() {
        let mut trainer = restored(settings, &place.out, stage, dataset, device)?;
        views.blocks = blocks(trainer.preset().width).into_iter().map(|block| block.name).collect();
        let seen = flattened(&block_outputs(&trainer, dataset, &compared, device)?)?;
        if reference.is_empty() {
            reference = seen.clone();
        }
        views.cka.push(reference.iter().zip(&seen).map(|(before, now)| cka_debiased(before, now)).collect());
        add_maps(&mut views.feature_maps, &trainer, device)?;
        if stage == 0 {
            let images: Vec<usize> = first.train.iter().take(LANDSCAPE_IMAGES).copied().collect();
            views.landscape = landscape(&mut trainer, &dataset.train.pack(&images), Seed(settings.seed))?;
        }
        views.embedding = points(&trainer, dataset, split, device)?;
        stage += 1;
    }
    Ok(Some(views))
}

fn restored(
    settings: &RunSettings,
    out: &Path,
    stage: usize,
    dataset: &Dataset,
    device: &Device,
) -> Result<Trainer, ExperimentError> {
    let folder = folder(out, stage);
    let (mut trainer, _) = learner(settings, dataset, device)?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(ExperimentError::io("list", &folder))? {
        let path = entry.map_err(ExperimentError::io("list", &folder))?.path();
        let bytes = std::fs::read(&path).map_err(ExperimentError::io("read", &path))?;
        files.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes));
    }
    trainer.restore(&files)?;
    Ok(trainer)
}

/// What every block gives for some test images, each (n, channels, height, width).
fn block_outputs(
    trainer: &Trainer,
    dataset: &Dataset,
    images: &[usize],
    device: &Device,
) -> Result<Vec<Tensor>, ExperimentError> {
    outputs_of(trainer, &dataset.test.pack(images), device)
}

fn outputs_of(trainer: &Trainer, pixels: &[u8], device: &Device) -> Result<Vec<Tensor>, ExperimentError> {
    let mut network = PlainResNet18::new(trainer.preset(), device, DType::F32, Seed(0))?;
    network.load(trainer.backbone().parameters(), trainer.backbone().statistics())?;
    Ok(network.block_outputs(&trainer.preset().normalise(pixels, device)?)?)
}

fn flattened(outputs: &[Tensor]) -> Result<Vec<Features>, ExperimentError> {
    let flat = |output: &Tensor| {
        let rows = output.flatten_from(1)?;
        Ok(Features::new(rows.dim(1)?, rows.flatten_all()?.to_vec1::<f32>()?)?)
    };
    outputs.iter().map(flat).collect()
}

/// The images whose maps will be shown, without maps so far.
fn shown(dataset: &Dataset, split: &Split) -> Vec<FeatureMaps> {
    let mut tasks = vec![0, split.tasks.len() - 1];
    tasks.dedup();
    let of_task = |task: usize| {
        let test = &split.tasks[task].test;
        // Evenly spread, since images may be in the order of their classes.
        let images = test.iter().step_by(test.len().div_ceil(MAP_IMAGES).max(1));
        images.map(move |image| FeatureMaps {
            task,
            class: dataset.class_names[dataset.test.classes[*image] as usize].clone(),
            side: dataset.side,
            image: STANDARD.encode(dataset.test.image(*image)),
            map_side: 0,
            maps: Vec::new(),
        })
    };
    tasks.into_iter().flat_map(of_task).collect()
}

fn add_maps(shown: &mut [FeatureMaps], trainer: &Trainer, device: &Device) -> Result<(), ExperimentError> {
    let pixels: Vec<u8> = shown.iter().flat_map(|image| STANDARD.decode(&image.image).unwrap_or_default()).collect();
    let outputs = outputs_of(trainer, &pixels, device)?;
    let Some(output) = outputs.get(MAP_BLOCK) else { return Ok(()) };
    let means = output.mean(1)?;
    for (index, image) in shown.iter_mut().enumerate() {
        let map = means.get(index)?;
        image.map_side = map.dim(0)?;
        let values = map.flatten_all()?.to_vec1::<f32>()?;
        let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        let scale = 255.0 / (high - low).max(f32::MIN_POSITIVE);
        let bytes: Vec<u8> = values.iter().map(|value| ((value - low) * scale).round() as u8).collect();
        image.maps.push(STANDARD.encode(bytes));
    }
    Ok(())
}

fn points(
    trainer: &Trainer,
    dataset: &Dataset,
    split: &Split,
    device: &Device,
) -> Result<Vec<EmbeddedPoint>, ExperimentError> {
    let images: Vec<(usize, usize)> = split
        .tasks
        .iter()
        .enumerate()
        .flat_map(|(task, of)| of.test.iter().take(POINTS).map(move |image| (task, *image)))
        .collect();
    let numbers: Vec<usize> = images.iter().map(|(_, image)| *image).collect();
    let (_, embedder) = trainer.embedder()?;
    let embedded = embed(&embedder, trainer.preset(), device, &dataset.test, &numbers)?;
    let Some(plane) = principal_plane(&embedded.features) else { return Ok(Vec::new()) };
    let point = |((task, image), [x, y]): (&(usize, usize), [f64; 2])| EmbeddedPoint {
        x,
        y,
        class: dataset.test.classes[*image],
        task: *task,
    };
    Ok(images.iter().zip(plane).map(point).collect())
}

/// Loss around the weights along two directions, each filter of which is as long as the weights' own (Li et al. 2018,
/// "Visualizing the Loss Landscape of Neural Nets").
fn landscape(trainer: &mut Trainer, images: &[u8], seed: Seed) -> Result<Option<Landscape>, ExperimentError> {
    let backbone = trainer.backbone();
    let (layout, centre) = (backbone.layout().to_vec(), backbone.parameters().to_vec1::<f32>()?);
    let directions = [0, 1].map(|index| direction(&layout, &centre, &mut seed.random("landscape", index)));
    let steps: Vec<f64> = (-LANDSCAPE_STEPS..=LANDSCAPE_STEPS)
        .map(|step| f64::from(step) * LANDSCAPE_REACH / f64::from(LANDSCAPE_STEPS))
        .collect();
    let (mut losses, device) = (Vec::new(), backbone.parameters().device().clone());
    for along_second in &steps {
        let mut row = Vec::new();
        for along_first in &steps {
            let moved: Vec<f32> = centre
                .iter()
                .zip(directions[0].iter().zip(&directions[1]))
                .map(|(at, (first, second))| at + *along_first as f32 * first + *along_second as f32 * second)
                .collect();
            let loss = trainer.probe_loss_at(&Tensor::new(moved, &device)?, images)?;
            row.push(loss.filter(|loss| loss.is_finite()));
        }
        losses.push(row);
    }
    let known = losses.iter().flatten().any(Option::is_some);
    Ok(known.then_some(Landscape { steps, losses }))
}

fn direction(layout: &[Parameter], centre: &[f32], random: &mut Random) -> Vec<f32> {
    let mut direction: Vec<f32> = centre.iter().map(|_| random.normal() as f32).collect();
    for parameter in layout {
        let whole = parameter.offset..parameter.offset + parameter.elements();
        if parameter.shape.len() < 2 {
            // Batch norm stays: it would undo or exaggerate what is done to the filters.
            direction[whole].fill(0.0);
            continue;
        }
        let filter = parameter.elements() / parameter.shape[0];
        for start in whole.step_by(filter) {
            let length = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
            let scale = length(&centre[start..start + filter]) / length(&direction[start..start + filter]).max(1e-12);
            direction[start..start + filter].iter_mut().for_each(|value| *value *= scale);
        }
    }
    direction
}
