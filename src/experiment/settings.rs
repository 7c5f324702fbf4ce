//! What an experiment is: every setting that its result depends on, with the defaults of the protocol.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ExperimentError;
use super::dataset::NAMES;
use crate::config::{Durability, LearnSettings, ObjectiveKind, PolicyKind, ReplaySettings, StrategyKind};
use crate::encoder::Preset;

/// What makes a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitKind {
    /// A group of classes each.
    Classes,
    /// A domain each (phase, lighting), all classes in it.
    Domains,
}

/// In what order images come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// Task after task, each for its epochs, in an order drawn anew for each epoch.
    Tasks,
    /// Task after task in the dataset's own order, as video comes.
    Given,
    /// As `tasks`, but the end of each task and the beginning of the next are mingled.
    Gradual,
    /// As `tasks`, but of every further task fewer images, down to a tenth.
    Imbalanced,
    /// Every task twice, half of its images each time.
    Recurring,
    /// As `tasks`, the classes of a task by turns.
    Interleaved,
}

/// Where the strategies hear of boundaries from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoundaryKind {
    /// They are told when a task ends.
    Given,
    /// The daemon's own segmentation finds them.
    Found,
    /// Nobody tells.
    None,
}

/// One row of a table, but for the seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSettings {
    /// Of [`NAMES`], with or without `split-` before it.
    pub dataset: String,
    pub split: SplitKind,
    /// Tasks; 0 is what the protocol has for the dataset.
    pub tasks: usize,
    /// Classes of a task; 0 is what the protocol has for the dataset.
    pub classes_per_task: usize,
    /// Seed of the order of the classes; they come in the order of their numbers where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_order: Option<u64>,
    /// Most training images of a task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_per_task: Option<usize>,
    /// Most test images of a task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_limit: Option<usize>,
    /// Let the training images that `limit_per_task` leaves out be tested too where `label_free` asks how much accuracy was lost:
    /// the more images, the less of chance in it.
    #[serde(skip_serializing_if = "is_false")]
    pub test_unused: bool,
    /// Let every track be tested where `label_free` asks how much accuracy was lost, those trained on too, each fourth of them with
    /// the others of its task for a bank: a dozen tracks that are kept for tests say little of a drop of a few points.
    #[serde(skip_serializing_if = "is_false")]
    pub test_tracks: bool,
    pub stream: StreamKind,
    pub boundaries: BoundaryKind,
    pub epochs: usize,

    pub preset: String,
    /// Width in place of the preset's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Pixels of a side in place of the preset's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<usize>,
    /// Weights that the encoder starts from: a safetensors file with torchvision's names, as `save_encoder` leaves one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,

    pub objective: ObjectiveKind,
    pub strategy: StrategyKind,
    pub batch: usize,
    pub replay_batch: usize,
    pub steps_per_batch: usize,
    pub learning_rate: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub mix_alpha: f64,
    pub si_weight: f64,
    pub der_weight: f64,
    pub distil_weight: f64,
    pub align_weight: f64,
    pub ema_decay: f64,

    /// Images of the replay buffer.
    pub slots: usize,
    pub policy: PolicyKind,

    pub seed: u64,
    /// KNN accuracy over all classes after every so many images presented; 0 for none.
    pub curve_every: usize,
    /// Linear probe at the end.
    pub linear_probe: bool,
    /// After every task, forgetting as the daemon measures it without labels, and of every task a linear probe and a KNN vote with the
    /// same k throughout: evidence for or against those measures.
    pub label_free: bool,
    /// Datasets that the trained encoder is tried on, in the same data folder.
    pub ood: Vec<String>,
    /// Epochs of fine-tuning on each of them, after the frozen encoder was tried; 0 for none.
    pub ood_epochs: usize,
    /// Feature maps, similarity of encoders, embedding and loss landscape.
    pub views: bool,
    /// Leave the trained encoder in the run's folder (`encoder.safetensors`).
    #[serde(skip_serializing_if = "is_false")]
    pub save_encoder: bool,
    /// Seconds between checkpoints.
    pub checkpoint_seconds: f64,
}

impl Default for RunSettings {
    fn default() -> Self {
        let learn = LearnSettings::default();
        Self {
            dataset: "split-cifar10".into(),
            split: SplitKind::Classes,
            tasks: 0,
            classes_per_task: 0,
            class_order: None,
            limit_per_task: None,
            test_limit: None,
            test_unused: false,
            test_tracks: false,
            stream: StreamKind::Tasks,
            boundaries: BoundaryKind::Given,
            epochs: 200,
            preset: "resnet18".into(),
            width: None,
            side: None,
            weights: None,
            objective: ObjectiveKind::SimSiam,
            strategy: StrategyKind::Lump,
            batch: 256,
            replay_batch: 256,
            steps_per_batch: 1,
            learning_rate: 0.03,
            momentum: 0.9,
            weight_decay: 5e-4,
            mix_alpha: 0.4,
            si_weight: learn.si_weight,
            der_weight: learn.der_weight,
            distil_weight: learn.distil_weight,
            align_weight: learn.align_weight,
            ema_decay: learn.ema_decay,
            slots: 256,
            policy: PolicyKind::Reservoir,
            seed: 0,
            curve_every: 0,
            linear_probe: true,
            label_free: false,
            ood: Vec::new(),
            ood_epochs: 0,
            views: true,
            save_encoder: false,
            checkpoint_seconds: 60.0,
        }
    }
}

impl RunSettings {
    /// The dataset's name without `split-`.
    pub fn dataset_name(&self) -> &str {
        self.dataset.strip_prefix("split-").unwrap_or(&self.dataset)
    }

    /// Tasks and classes of a task, 0 for as many as there are.
    pub fn shape(&self) -> (usize, usize) {
        let customary = NAMES.iter().find(|(name, ..)| *name == self.dataset_name());
        let (tasks, classes) = customary.map_or((1, 0), |(_, tasks, classes)| (*tasks, *classes));
        let pick = |set: usize, customary: usize| if set == 0 { customary } else { set };
        match (self.tasks, self.classes_per_task) {
            // A number of tasks alone divides the classes evenly.
            (set, 0) if set > 0 => (set, 0),
            (set, per_task) => (pick(set, tasks), pick(per_task, classes)),
        }
    }

    /// The encoder's card.
    ///
    /// # Errors
    /// Where there is no such preset.
    pub fn encoder(&self) -> Result<Preset, ExperimentError> {
        let preset = Preset::load(&self.preset)?;
        let (width, side) = (self.width.unwrap_or(preset.width), self.side.unwrap_or(preset.side));
        if !(1..=512).contains(&width) || !(8..=512).contains(&side) {
            let message = "a width is from 1 to 512, a side from 8 to 512";
            return Err(ExperimentError::setting("width, side", format!("{width}, {side}"), message));
        }
        Ok(Preset { width, side, ..preset })
    }

    /// The learner's settings, for so many classes.
    pub fn learn(&self, classes: usize) -> LearnSettings {
        LearnSettings {
            objective: self.objective,
            strategy: self.strategy,
            batch: self.batch,
            replay_batch: self.replay_batch,
            steps_per_batch: self.steps_per_batch,
            learning_rate: self.learning_rate,
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            mix_alpha: self.mix_alpha,
            si_weight: self.si_weight,
            der_weight: self.der_weight,
            distil_weight: self.distil_weight,
            align_weight: self.align_weight,
            ema_decay: self.ema_decay,
            classes,
            ..LearnSettings::default()
        }
    }

    /// The replay buffer's settings.
    pub fn replay(&self) -> ReplaySettings {
        ReplaySettings {
            slots: self.slots,
            policy: self.policy,
            // Its contents are part of every checkpoint: nothing is gained by syncing the file as well.
            durability: Durability::None,
            ..ReplaySettings::default()
        }
    }

    /// Whether all tasks are learnt at once.
    pub fn is_joint(&self) -> bool {
        self.strategy == StrategyKind::Multitask
    }

    /// # Errors
    /// Names the first setting that cannot be, or does not go with another.
    pub fn check(&self) -> Result<(), ExperimentError> {
        let refuse = |key: &str, value: &dyn std::fmt::Display, message: &str| {
            Err(ExperimentError::setting(key, value, message))
        };
        if !NAMES.iter().any(|(name, ..)| *name == self.dataset_name()) {
            let known = NAMES.map(|(name, ..)| name).join(", ");
            return Err(ExperimentError::UnknownDataset { name: self.dataset.clone(), known });
        }
        for (key, value) in [("epochs", self.epochs), ("slots", self.slots), ("steps_per_batch", self.steps_per_batch)]
        {
            if value == 0 {
                return refuse(key, &value, "must be at least 1");
            }
        }
        if self.batch < 2 {
            return refuse("batch", &self.batch, "must be at least 2: one image has nothing to be told from");
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return refuse("learning_rate", &self.learning_rate, "must be above 0 and finite");
        }
        if !(0.0..1.0).contains(&self.momentum) || !(0.0..=1.0).contains(&self.ema_decay) {
            return refuse("momentum, ema_decay", &self.momentum, "must be from 0 to 1");
        }
        let supervised = self.objective == ObjectiveKind::Supervised;
        let labels_only = matches!(self.strategy, StrategyKind::AGem | StrategyKind::Gss);
        let views_only = matches!(
            self.strategy,
            StrategyKind::Lump | StrategyKind::LumpPlus | StrategyKind::Cassle | StrategyKind::Ema
        );
        let in_order = matches!(self.stream, StreamKind::Tasks | StreamKind::Given | StreamKind::Interleaved);
        if self.strategy == StrategyKind::Pnn && (self.boundaries != BoundaryKind::Given || !in_order) {
            return refuse("strategy", &"pnn", "needs every task once, and its boundaries given");
        }
        if self.strategy == StrategyKind::Pnn && self.label_free {
            return refuse(
                "label_free",
                &"true",
                "has nothing to measure with pnn, which keeps an encoder for each task",
            );
        }
        if (self.test_unused || self.test_tracks) && !self.label_free {
            return refuse("test_unused, test_tracks", &"true", "ask more of what label_free measures: set it");
        }
        if self.test_unused && self.test_tracks {
            return refuse("test_unused", &"true", "with test_tracks every image is tested: leave out one of the two");
        }
        if self.strategy == StrategyKind::Pnn && self.save_encoder {
            return refuse("save_encoder", &"true", "cannot be with pnn, which keeps an encoder for each task");
        }
        if labels_only && !supervised {
            return refuse("strategy", &name_of(&self.strategy), "needs labels: set objective = \"supervised\"");
        }
        if views_only && supervised {
            return refuse(
                "strategy",
                &name_of(&self.strategy),
                "works on two views without labels: choose another objective",
            );
        }
        self.encoder().map(|_| ())
    }
}

/// A folder of before a setting was there is of the same settings as long as it is off.
fn is_false(set: &bool) -> bool {
    !set
}

/// As a file has it.
pub(super) fn name_of(kind: &impl Serialize) -> String {
    serde_json::to_value(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_protocols() {
        let settings = RunSettings::default();
        settings.check().unwrap();
        assert_eq!((settings.dataset_name(), settings.shape()), ("cifar10", (5, 2)));
        assert_eq!((settings.epochs, settings.batch, settings.slots), (200, 256, 256));
        assert_eq!(RunSettings { tasks: 2, ..settings }.shape(), (2, 0));
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name() {
        let refused = |settings: RunSettings, says: &str| {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        let supervised = RunSettings { objective: ObjectiveKind::Supervised, ..RunSettings::default() };
        refused(supervised, "two views");
        refused(RunSettings { strategy: StrategyKind::Gss, ..RunSettings::default() }, "needs labels");
        refused(RunSettings { dataset: "imagenet".into(), ..RunSettings::default() }, "known are cifar10");
        refused(RunSettings { batch: 1, ..RunSettings::default() }, "batch");
        refused(RunSettings { test_unused: true, ..RunSettings::default() }, "label_free");
        let both = RunSettings { test_unused: true, test_tracks: true, label_free: true, ..RunSettings::default() };
        refused(both, "test_tracks");
        assert!(toml::from_str::<RunSettings>("epoch = 3").is_err());
    }
}
