//! The numbers that were published: Madaan et al. 2022, "Representational Continuity for Unsupervised Continual Learning", tables 1
//! and 2. Percent, mean and standard deviation over three seeds, ResNet-18 of width 64, 200 epochs a task.

use serde::Serialize;

use super::RunSettings;
use crate::config::{ObjectiveKind, StrategyKind};

/// A mean and its standard deviation, in percent.
pub type Figure = (f64, f64);

/// One cell of the table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Published {
    pub accuracy: Figure,
    /// None where nothing can be forgotten.
    pub forgetting: Option<Figure>,
}

use ObjectiveKind::{Barlow, SimSiam, Supervised};
use StrategyKind::{AGem, Der, Finetune, Gss, Lump, Multitask, Pnn, Si};

type Cell = (f64, f64, f64, f64);

/// What has no forgetting.
const NONE: f64 = f64::NAN;

/// Accuracy, its deviation, forgetting, its deviation: CIFAR-10, CIFAR-100, Tiny-ImageNet.
const TABLE: [(ObjectiveKind, StrategyKind, [Cell; 3]); 19] = [
    (Supervised, Finetune, [(82.87, 0.47, 14.26, 0.52), (61.08, 0.04, 31.23, 0.41), (53.10, 1.37, 33.15, 1.22)]),
    (Supervised, Pnn, [(82.74, 2.12, NONE, NONE), (66.05, 0.86, NONE, NONE), (64.38, 0.92, NONE, NONE)]),
    (Supervised, Si, [(85.18, 0.65, 11.39, 0.77), (63.58, 0.37, 27.98, 0.34), (44.96, 2.41, 26.29, 1.40)]),
    (Supervised, AGem, [(82.41, 1.24, 13.82, 1.27), (59.81, 1.07, 30.08, 0.91), (60.45, 0.24, 24.94, 1.24)]),
    (Supervised, Gss, [(89.49, 1.75, 7.50, 1.52), (70.78, 1.67, 21.28, 1.52), (70.96, 0.72, 14.76, 1.22)]),
    (Supervised, Der, [(91.35, 0.46, 5.65, 0.35), (79.52, 1.88, 12.80, 1.47), (68.03, 0.85, 17.74, 0.65)]),
    (Supervised, Multitask, [(97.77, 0.15, NONE, NONE), (93.89, 0.78, NONE, NONE), (91.79, 0.46, NONE, NONE)]),
    (SimSiam, Finetune, [(90.11, 0.12, 5.42, 0.08), (75.42, 0.78, 10.19, 0.37), (71.07, 0.20, 9.48, 0.56)]),
    (SimSiam, Pnn, [(90.93, 0.22, NONE, NONE), (66.58, 1.00, NONE, NONE), (62.15, 1.35, NONE, NONE)]),
    (SimSiam, Si, [(92.75, 0.06, 1.81, 0.21), (80.08, 1.30, 5.54, 1.30), (72.34, 0.42, 8.26, 0.64)]),
    (SimSiam, Der, [(91.22, 0.30, 4.63, 0.26), (77.27, 0.30, 9.31, 0.09), (71.90, 1.44, 8.36, 2.06)]),
    (SimSiam, Lump, [(91.00, 0.40, 2.92, 0.53), (82.30, 1.35, 4.71, 1.52), (76.66, 2.39, 3.54, 1.04)]),
    (SimSiam, Multitask, [(95.76, 0.08, NONE, NONE), (86.31, 0.38, NONE, NONE), (82.89, 0.49, NONE, NONE)]),
    (Barlow, Finetune, [(87.72, 0.32, 4.08, 0.56), (71.97, 0.54, 9.45, 1.01), (66.28, 1.23, 8.89, 0.66)]),
    (Barlow, Pnn, [(87.52, 0.33, NONE, NONE), (57.93, 2.98, NONE, NONE), (48.70, 2.59, NONE, NONE)]),
    (Barlow, Si, [(90.21, 0.08, 2.03, 0.22), (75.04, 0.63, 7.43, 0.67), (56.96, 1.48, 17.04, 0.89)]),
    (Barlow, Der, [(88.67, 0.24, 2.41, 0.26), (73.48, 0.53, 7.98, 0.29), (68.56, 1.47, 7.87, 0.44)]),
    (Barlow, Lump, [(90.31, 0.30, 1.13, 0.18), (80.24, 1.04, 3.53, 0.83), (72.17, 0.89, 2.43, 1.00)]),
    (Barlow, Multitask, [(95.48, 0.14, NONE, NONE), (87.16, 0.52, NONE, NONE), (82.42, 0.74, NONE, NONE)]),
];

/// Out of distribution: trained on, tried on, KNN accuracy in percent; SimSiam with LUMP.
const OOD: [(&str, &str, f64); 8] = [
    ("cifar10", "mnist", 91.03),
    ("cifar10", "fashion-mnist", 80.78),
    ("cifar10", "svhn", 45.18),
    ("cifar10", "cifar100", 31.17),
    ("cifar100", "mnist", 91.76),
    ("cifar100", "fashion-mnist", 81.61),
    ("cifar100", "svhn", 50.13),
    ("cifar100", "cifar10", 63.00),
];

/// The cell of the table for a dataset in its customary split.
pub fn table(settings: &RunSettings) -> Option<Published> {
    let column = ["cifar10", "cifar100", "tiny-imagenet"].iter().position(|name| *name == settings.dataset_name())?;
    let customary = RunSettings { dataset: settings.dataset.clone(), ..RunSettings::default() };
    if settings.shape() != customary.shape() || settings.split != customary.split {
        return None;
    }
    let row = TABLE.iter().find(|row| (row.0, row.1) == (settings.objective, settings.strategy))?;
    let (accuracy, spread, forgetting, forgetting_spread) = row.2[column];
    let forgetting = (!forgetting.is_nan()).then_some((forgetting, forgetting_spread));
    Some(Published { accuracy: (accuracy, spread), forgetting })
}

/// The accuracy out of distribution, in percent.
pub fn out_of_distribution(settings: &RunSettings, tried_on: &str) -> Option<f64> {
    if (settings.objective, settings.strategy) != (SimSiam, Lump) {
        return None;
    }
    OOD.iter().find(|(trained, tried, _)| *trained == settings.dataset_name() && *tried == tried_on).map(|row| row.2)
}

/// How the protocol of these settings differs from the published one; none where it does not.
pub fn reduced(settings: &RunSettings) -> Option<String> {
    let protocol = RunSettings::default();
    let mut differences = Vec::new();
    if settings.width.is_some() || !["resnet18", "resnet18-64px"].contains(&&*settings.preset) {
        let width = settings.encoder().map_or(0, |preset| preset.width);
        differences.push(format!("width {width} of 64"));
    }
    if settings.epochs != protocol.epochs {
        differences.push(format!("{} of 200 epochs", settings.epochs));
    }
    if let Some(limit) = settings.limit_per_task {
        differences.push(format!("{limit} images a task"));
    }
    if (settings.batch, settings.learning_rate) != (protocol.batch, protocol.learning_rate) {
        differences.push(format!("batch {}, learning rate {}", settings.batch, settings.learning_rate));
    }
    if settings.weights.is_some() {
        differences.push("from given weights".to_owned());
    }
    if settings.stream != protocol.stream {
        differences.push(format!("stream {}", super::settings::name_of(&settings.stream)));
    }
    (!differences.is_empty()).then(|| differences.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_looked_up_by_what_was_run() {
        let lump = table(&RunSettings::default()).unwrap();
        assert_eq!((lump.accuracy, lump.forgetting), ((91.00, 0.40), Some((2.92, 0.53))));
        let joint = RunSettings { strategy: Multitask, ..RunSettings::default() };
        assert_eq!(table(&joint).unwrap().forgetting, None);
        assert_eq!(table(&RunSettings { tasks: 2, ..RunSettings::default() }), None);
        assert_eq!(table(&RunSettings { dataset: "mnist".into(), ..RunSettings::default() }), None);
        assert_eq!(out_of_distribution(&RunSettings::default(), "svhn"), Some(45.18));
        assert_eq!(out_of_distribution(&joint, "svhn"), None);
        assert_eq!(reduced(&RunSettings::default()), None);
        assert!(reduced(&RunSettings { epochs: 2, ..RunSettings::default() }).unwrap().contains("2 of 200 epochs"));
    }
}
