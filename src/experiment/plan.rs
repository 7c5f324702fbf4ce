//! The stream of an experiment: which image comes when, as a pure function of settings and seed, so that a run can be taken up
//! at any point.

use super::dataset::Labelled;
use super::{RunSettings, Split, StreamKind};
use crate::config::Seed;

/// A stretch of the stream, after which what is known is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The task that has been learnt when it ends; none where it is all of them.
    pub task: Option<usize>,
    /// Training images by their number in the dataset.
    images: Vec<usize>,
    pub epochs: usize,
    /// Whether each epoch has an order of its own.
    shuffled: bool,
}

/// All of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub stages: Vec<Stage>,
    seed: Seed,
}

/// How far the times of neighbouring tasks reach into each other, in tasks.
const GRADUAL_REACH: f64 = 0.6;

/// What the last task of an imbalanced stream has of its images.
const SMALLEST_SHARE: f64 = 0.1;

impl Plan {
    /// The stream of the settings over the training images `of`.
    pub fn new(settings: &RunSettings, split: &Split, of: &Labelled) -> Self {
        let seed = Seed(settings.seed);
        let shuffled = !matches!(settings.stream, StreamKind::Given | StreamKind::Gradual | StreamKind::Interleaved);
        let epochs = settings.epochs;
        let stage = |task, images, shuffled| Stage { task, images, epochs, shuffled };
        if settings.is_joint() {
            let all = split.tasks.iter().flat_map(|task| task.train.iter().copied()).collect();
            return Self { stages: vec![stage(None, all, true)], seed };
        }
        let tasks: Vec<Vec<usize>> = split.tasks.iter().map(|task| task.train.clone()).collect();
        let by_task = |tasks: Vec<Vec<usize>>| {
            tasks.into_iter().enumerate().map(|(task, images)| stage(Some(task), images, shuffled)).collect()
        };
        let stages = match settings.stream {
            StreamKind::Tasks | StreamKind::Given => by_task(tasks),
            StreamKind::Imbalanced => by_task(imbalanced(tasks, seed)),
            StreamKind::Gradual => by_task(gradual(&tasks, seed)),
            StreamKind::Interleaved => by_task(tasks.into_iter().map(|images| interleaved(images, of, seed)).collect()),
            StreamKind::Recurring => {
                let halves = halves(tasks, seed);
                let rounds = halves.0.into_iter().enumerate().chain(halves.1.into_iter().enumerate());
                rounds.map(|(task, images)| stage(Some(task), images, true)).collect()
            }
        };
        Self { stages, seed }
    }

    /// The images of one epoch of a stage, in order.
    pub fn epoch(&self, stage: usize, epoch: usize) -> Vec<usize> {
        let Stage { images, shuffled, .. } = &self.stages[stage];
        let mut images = images.clone();
        if *shuffled {
            self.seed.random(&format!("order of stage {stage}"), epoch as u64).shuffle(&mut images);
        }
        images
    }

    /// Images that come, repetitions counted.
    pub fn presentations(&self) -> u64 {
        self.stages.iter().map(|stage| (stage.images.len() * stage.epochs) as u64).sum()
    }
}

fn imbalanced(tasks: Vec<Vec<usize>>, seed: Seed) -> Vec<Vec<usize>> {
    let last = tasks.len().saturating_sub(1).max(1) as f64;
    let shrink = |(task, mut images): (usize, Vec<usize>)| {
        let share = SMALLEST_SHARE.powf(task as f64 / last);
        seed.random("imbalance", task as u64).shuffle(&mut images);
        images.truncate(((images.len() as f64 * share).ceil() as usize).max(2));
        images
    };
    tasks.into_iter().enumerate().map(shrink).collect()
}

/// Every image has a time within its task, moved by up to half of the reach: neighbours mingle at the borders.
fn gradual(tasks: &[Vec<usize>], seed: Seed) -> Vec<Vec<usize>> {
    let mut timed = Vec::new();
    for (task, images) in tasks.iter().enumerate() {
        let mut random = seed.random("gradual", task as u64);
        for image in images {
            let time = task as f64 + random.uniform() + GRADUAL_REACH * (random.uniform() - 0.5);
            timed.push((time, *image));
        }
    }
    timed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut order = timed.into_iter().map(|(_, image)| image);
    tasks.iter().map(|task| order.by_ref().take(task.len()).collect()).collect()
}

/// One image of each class by turns, for as long as there are any.
fn interleaved(images: Vec<usize>, of: &Labelled, seed: Seed) -> Vec<usize> {
    let mut by_class: std::collections::BTreeMap<u32, Vec<usize>> = std::collections::BTreeMap::new();
    let count = images.len();
    images.into_iter().for_each(|image| by_class.entry(of.classes[image]).or_default().push(image));
    for (class, queue) in &mut by_class {
        seed.random("interleaved", u64::from(*class)).shuffle(queue);
    }
    let mut order = Vec::with_capacity(count);
    while order.len() < count {
        order.extend(by_class.values_mut().filter_map(Vec::pop));
    }
    order
}

fn halves(tasks: Vec<Vec<usize>>, seed: Seed) -> (Vec<Vec<usize>>, Vec<Vec<usize>>) {
    let half = |(task, mut images): (usize, Vec<usize>)| {
        seed.random("recurrence", task as u64).shuffle(&mut images);
        let second = images.split_off(images.len() / 2);
        (images, second)
    };
    tasks.into_iter().enumerate().map(half).unzip()
}

#[cfg(test)]
mod tests {
    use super::super::TaskSplit;
    use super::*;

    fn plan(stream: StreamKind) -> Plan {
        let of =
            Labelled { pixels: vec![0; 600], classes: (0..200).map(|at| at / 50).collect(), ..Labelled::default() };
        let task = |first: usize| TaskSplit {
            classes: vec![first as u32 / 50, first as u32 / 50 + 1],
            train: (first..first + 100).collect(),
            test: vec![0],
            unused: Vec::new(),
            turns: Vec::new(),
        };
        let split = Split { tasks: vec![task(0), task(100)] };
        Plan::new(&RunSettings { stream, epochs: 2, ..RunSettings::default() }, &split, &of)
    }

    fn all(plan: &Plan) -> Vec<usize> {
        let mut all: Vec<usize> = (0..plan.stages.len()).flat_map(|stage| plan.epoch(stage, 0)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn every_stream_but_the_imbalanced_gives_every_image_once_an_epoch() {
        for stream in
            [StreamKind::Tasks, StreamKind::Given, StreamKind::Gradual, StreamKind::Recurring, StreamKind::Interleaved]
        {
            assert_eq!(all(&plan(stream)), (0..200).collect::<Vec<_>>(), "{stream:?}");
            assert_eq!(plan(stream), plan(stream));
            assert_eq!(plan(stream).presentations(), 400);
        }
        assert_eq!(all(&plan(StreamKind::Imbalanced)).len(), 110);
    }

    #[test]
    fn each_stream_has_the_order_that_it_is_named_for() {
        assert_eq!(plan(StreamKind::Given).epoch(0, 0), (0..100).collect::<Vec<_>>());
        assert_ne!(plan(StreamKind::Tasks).epoch(0, 0), plan(StreamKind::Tasks).epoch(0, 1));
        let interleaved = plan(StreamKind::Interleaved).epoch(0, 0);
        assert!(interleaved.chunks(2).all(|pair| pair[0] / 50 != pair[1] / 50));
        let gradual = plan(StreamKind::Gradual);
        let foreign = gradual.epoch(0, 0).iter().filter(|image| **image >= 100).count();
        assert!((1..40).contains(&foreign), "{foreign}");
        assert!(gradual.epoch(0, 0)[..50].iter().all(|image| *image < 100));
        let recurring = plan(StreamKind::Recurring);
        assert_eq!(recurring.stages.iter().map(|stage| stage.task).collect::<Vec<_>>(), [0, 1, 0, 1].map(Some));
    }
}
