use super::*;
use crate::config::{EncoderLayer, Random};
use crate::encoder::{GivenWeights, PlainResNet18, Stem, to_safetensors};
use crate::learn::{Batch, Cost, MODEL_FILE, STATE_FILE, State};

pub(super) fn preset() -> Preset {
    Preset { width: 2, side: 8, ..Preset::load("resnet18-w16").unwrap() }
}

pub(super) fn settings(objective: ObjectiveKind, strategy: StrategyKind) -> LearnSettings {
    LearnSettings { objective, strategy, learning_rate: 0.05, ..LearnSettings::default() }
}

fn trainer(settings: &LearnSettings) -> Trainer {
    Trainer::new(preset(), settings, &Device::Cpu, Seed(11)).unwrap()
}

fn lump() -> Trainer {
    trainer(&settings(ObjectiveKind::SimClr, StrategyKind::Lump))
}

pub(super) fn images(event: u64, count: usize) -> Vec<u8> {
    let mut random = Seed(4).random("test images", event);
    (0..count * preset().image_bytes()).map(|_| random.below(256) as u8).collect()
}

pub(super) fn id(trainer: &Trainer) -> EncoderId {
    EncoderId::of(trainer.backbone()).unwrap()
}

#[test]
fn every_objective_lowers_its_loss_on_the_same_views() {
    for objective in [ObjectiveKind::SimSiam, ObjectiveKind::Barlow, ObjectiveKind::SimClr] {
        let settings = LearnSettings { learning_rate: 0.02, ..settings(objective, StrategyKind::Finetune) };
        let mut trainer = trainer(&settings);
        let mut random = Seed(1).random("views", 0);
        let views = ViewMaker::new(&preset()).pair(&images(0, 8), &mut random, &Device::Cpu).unwrap();
        let losses: Vec<f64> = (0..40).map(|_| trainer.step_on(&views).unwrap().loss.unwrap()).collect();
        let fall = (losses[0] - losses[39]) / losses[0].abs();
        assert!(fall > 0.05, "{objective:?}: {losses:?}");
    }
}

#[test]
fn a_restored_learner_goes_on_to_the_same_bits() {
    let mut whole = lump();
    let mut first = lump();
    for step in 0..4 {
        whole.step(&images(step, 4), &images(step + 100, 4)).unwrap();
        if step < 2 {
            first.step(&images(step, 4), &images(step + 100, 4)).unwrap();
        }
    }
    let files = first.save().unwrap();
    // Another seed, and a past of its own: neither may show.
    let settings = settings(ObjectiveKind::SimClr, StrategyKind::Lump);
    let mut second = Trainer::new(preset(), &settings, &Device::Cpu, Seed(99)).unwrap();
    second.step(&images(7, 4), &[]).unwrap();
    second.restore(&files).unwrap();
    assert_eq!(second.save().unwrap(), files);
    for step in 2..4 {
        second.step(&images(step, 4), &images(step + 100, 4)).unwrap();
    }
    assert_eq!(second.save().unwrap(), whole.save().unwrap());
    assert_eq!(second.steps(), 4);
}

#[test]
fn a_probe_leaves_no_trace() {
    let mut trainer = lump();
    trainer.step(&images(0, 4), &[]).unwrap();
    let before = trainer.save().unwrap();
    let loss = trainer.probe_loss(&images(1, 4)).unwrap();
    assert_eq!(trainer.probe_loss(&images(1, 4)).unwrap(), loss);
    assert_eq!(trainer.save().unwrap(), before);
    assert_eq!(trainer.probe_loss(&images(1, 1)).unwrap(), None);
}

#[test]
fn an_idle_stream_is_rehearsed_with_lump_and_skipped_with_finetune() {
    let report = lump().step(&[], &images(0, 8)).unwrap();
    assert_eq!((report.images, report.skipped), (4, None));
    let mut finetune = trainer(&settings(ObjectiveKind::SimClr, StrategyKind::Finetune));
    assert!(!finetune.rehearses());
    let before = id(&finetune);
    let report = finetune.step(&[], &images(0, 8)).unwrap();
    assert_eq!(report.skipped, Some(Skip::NoImages));
    assert_eq!(id(&finetune), before);
}

#[test]
fn too_few_images_are_skipped_with_the_reason_and_torn_ones_refused() {
    let mut trainer = lump();
    let report = trainer.step(&images(0, 1), &[]).unwrap();
    assert_eq!(report.skipped, Some(Skip::TooFewImages { images: 1, needed: 2 }));
    assert_eq!((report.loss, trainer.steps()), (None, 0));
    assert_eq!(trainer.step(&[1, 2, 3], &[]).unwrap_err().code(), "bad-batch-bytes");
}

#[test]
fn a_step_that_is_not_finite_changes_no_weight_and_the_third_is_divergence() {
    let mut trainer = lump();
    let before = id(&trainer);
    let broken = Tensor::full(f32::NAN, (2, 8, 8, 3), &Device::Cpu).unwrap();
    let views = Views { first: broken.clone(), second: broken };
    for step in 0..2 {
        let report = trainer.step_on(&views).unwrap();
        assert_eq!((report.step, report.skipped), (step, Some(Skip::LossNotFinite)));
    }
    assert_eq!(trainer.step_on(&views).unwrap_err().code(), "training-diverged");
    assert_eq!((id(&trainer), trainer.non_finite_steps()), (before, 3));
}

#[test]
fn a_damaged_or_foreign_checkpoint_is_refused_by_name_and_changes_nothing() {
    let mut trainer = lump();
    let before = trainer.save().unwrap();
    let refused = |trainer: &mut Trainer, files: &[(String, Vec<u8>)], code: &str, says: &str| {
        let error = trainer.restore(files).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    };
    let replaced = |file: &str, bytes: Vec<u8>| {
        let mut files = before.clone();
        files.iter_mut().filter(|(name, _)| name == file).for_each(|(_, old)| *old = bytes.clone());
        files
    };
    let model = before.iter().find(|(name, _)| name == MODEL_FILE).unwrap().1.clone();
    let mut not_a_number = model.clone();
    let end = not_a_number.len();
    not_a_number[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(&mut trainer, &before[1..], "checkpoint-incomplete", MODEL_FILE);
    refused(&mut trainer, &replaced(MODEL_FILE, model[..end - 1].to_vec()), "checkpoint-damaged", MODEL_FILE);
    refused(&mut trainer, &replaced(MODEL_FILE, not_a_number), "checkpoint-damaged", "not finite");
    refused(&mut trainer, &replaced(STATE_FILE, b"{}".to_vec()), "checkpoint-damaged", STATE_FILE);

    let barlow = self::trainer(&settings(ObjectiveKind::Barlow, StrategyKind::Lump)).save().unwrap();
    refused(&mut trainer, &barlow, "checkpoint-mismatch", "learn.objective");
    let wide = Preset { width: 4, ..preset() };
    let settings = settings(ObjectiveKind::SimClr, StrategyKind::Lump);
    let wide = Trainer::new(wide, &settings, &Device::Cpu, Seed(1)).unwrap().save().unwrap();
    refused(&mut trainer, &wide, "checkpoint-mismatch", "width 4");
    // A state that claims to fit, with the tensors of another network.
    let files: Vec<_> = wide.into_iter().filter(|(name, _)| name != STATE_FILE).chain(before[2..].to_vec()).collect();
    refused(&mut trainer, &files, "checkpoint-damaged", "conv1.weight");
    assert_eq!(trainer.save().unwrap(), before);
}

type Gradients = std::sync::Arc<std::sync::Mutex<Vec<f32>>>;

/// Pulls the parameters back to where they were at the last boundary: every hook in a few lines.
struct Anchor {
    at: Option<Tensor>,
    /// Weight of the squared distance between the features of both views.
    closeness: f64,
    /// Squared length of each gradient taken.
    gradients: Gradients,
}

impl Anchor {
    fn new(closeness: f64) -> Box<Self> {
        Box::new(Self { at: None, closeness, gradients: Gradients::default() })
    }
}

impl Strategy for Anchor {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Finetune
    }

    fn cost(&self) -> Cost {
        Cost { parameter_copies: 1, forward_passes: 0 }
    }

    fn rehearses(&self) -> bool {
        false
    }

    fn compose(&mut self, stream: Option<Batch>, _: Option<Batch>, _: &mut Random) -> candle_core::Result<Vec<Batch>> {
        Ok(stream.into_iter().collect())
    }

    fn regularise(&mut self, parameters: &Tensor, gradient: Tensor) -> candle_core::Result<Tensor> {
        match &self.at {
            Some(at) => gradient + (parameters - at)?.affine(10.0, 0.0)?,
            None => Ok(gradient),
        }
    }

    fn extra_loss(
        &mut self,
        _: usize,
        _: &Batch,
        [first, second]: [&Tensor; 2],
        _: Loss<'_>,
    ) -> candle_core::Result<Option<Tensor>> {
        Ok(Some((first - second)?.sqr()?.mean_all()?.affine(self.closeness, 0.0)?))
    }

    fn after_step(&mut self, _: &mut Network<'_>, gradient: &Tensor) -> candle_core::Result<()> {
        self.gradients.lock().unwrap().push(gradient.sqr()?.sum_all()?.to_scalar()?);
        Ok(())
    }

    fn at_boundary(&mut self, network: &mut Network<'_>) -> candle_core::Result<bool> {
        self.at = Some(network.backbone.parameters().force_contiguous()?);
        Ok(false)
    }

    fn state(&self) -> candle_core::Result<State> {
        Ok(self.at.iter().map(|at| ("anchor".to_owned(), at.clone())).collect())
    }

    fn restore(&mut self, state: &State, _: &mut Network<'_>) -> candle_core::Result<()> {
        self.at = state.get("anchor").cloned();
        Ok(())
    }
}

#[test]
fn a_strategy_that_penalises_and_remembers_fits_in_and_survives_a_restart() {
    let settings = LearnSettings { momentum: 0.0, ..settings(ObjectiveKind::SimClr, StrategyKind::Finetune) };
    let anchored = || trainer(&settings).with_strategy(Anchor::new(0.0)).unwrap();
    let moved = |trainer: &Trainer, from: &Tensor| {
        let difference = (trainer.backbone().parameters() - from).unwrap();
        difference.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
    };
    let mut held = anchored();
    let start = held.backbone().parameters().force_contiguous().unwrap();
    held.at_boundary().unwrap();
    let mut free = trainer(&settings);
    assert!(held.resident_bytes() > free.resident_bytes());
    for step in 0..10 {
        held.step(&images(step, 4), &[]).unwrap();
        free.step(&images(step, 4), &[]).unwrap();
    }
    assert!(moved(&held, &start) < 0.5 * moved(&free, &start));
    let mut restored = anchored();
    restored.restore(&held.save().unwrap()).unwrap();
    for trainer in [&mut held, &mut restored] {
        trainer.step(&images(20, 4), &[]).unwrap();
    }
    assert_eq!(restored.save().unwrap(), held.save().unwrap());
}

#[test]
fn a_strategy_may_add_to_the_loss_and_sees_the_gradient_taken() {
    let settings = settings(ObjectiveKind::SimClr, StrategyKind::Finetune);
    let distance = |closeness| {
        let mut trainer = trainer(&settings).with_strategy(Anchor::new(closeness)).unwrap();
        let loss = trainer.step(&images(0, 4), &[]).unwrap().loss.unwrap();
        (loss, id(&trainer))
    };
    let (plain, drawn_together) = (distance(0.0), distance(3.0));
    assert!(drawn_together.0 > plain.0);
    assert_ne!(drawn_together.1, plain.1);

    let anchor = Anchor::new(0.0);
    let gradients = anchor.gradients.clone();
    let mut trainer = trainer(&settings).with_strategy(anchor).unwrap();
    trainer.step(&images(0, 4), &[]).unwrap();
    trainer.step(&images(0, 1), &[]).unwrap();
    trainer.step(&images(1, 4), &[]).unwrap();
    let gradients = gradients.lock().unwrap();
    assert!(gradients.len() == 2 && gradients.iter().all(|length| *length > 0.0), "{gradients:?}");
}

#[test]
fn the_learner_takes_the_precision_of_its_network() {
    let backbone = PlainResNet18::new(&preset(), &Device::Cpu, DType::F64, Seed(1)).unwrap();
    let settings = settings(ObjectiveKind::SimSiam, StrategyKind::Lump);
    let mut trainer = Trainer::with_backbone(preset(), Box::new(backbone), &settings, Seed(1)).unwrap();
    assert_eq!(trainer.step(&images(0, 4), &images(1, 4)).unwrap().skipped, None);
    assert_eq!(trainer.backbone().parameters().dtype(), DType::F64);
}

/// Parameters or statistics of the layers, to the bit.
fn bits(trainer: &Trainer, layers: &[EncoderLayer]) -> Vec<u32> {
    let backbone = trainer.backbone();
    let parts = [(backbone.layout(), backbone.parameters()), (backbone.statistics_layout(), backbone.statistics())];
    let mut bits = Vec::new();
    for (layout, flat) in parts {
        let values = flat.to_vec1::<f32>().unwrap();
        for parameter in layout.iter().filter(|parameter| layers.contains(&EncoderLayer::of(&parameter.name))) {
            bits.extend(values[parameter.offset..][..parameter.elements()].iter().map(|value| value.to_bits()));
        }
    }
    bits
}

#[test]
fn frozen_layers_stay_as_they_are_to_the_bit_while_the_others_learn_with_every_strategy_and_form() {
    use EncoderLayer::{Layer1, Layer2, Layer3, Layer4, Stem as First};
    for strategy in [StrategyKind::Finetune, StrategyKind::Lump] {
        for stem in [Stem::Cifar, Stem::Imagenet] {
            for frozen in [&[First, Layer1][..], &[Layer3]] {
                let settings = settings(ObjectiveKind::SimClr, strategy);
                let preset = Preset { stem, side: 16, ..preset() };
                let mut trainer = Trainer::new(preset.clone(), &settings, &Device::Cpu, Seed(2)).unwrap();
                trainer.freeze(frozen).unwrap();
                let before: Vec<Vec<u32>> = EncoderLayer::ALL.iter().map(|layer| bits(&trainer, &[*layer])).collect();
                let pixels: Vec<u8> = (0..8 * preset.image_bytes()).map(|i| (i * i % 251) as u8).collect();
                for _ in 0..3 {
                    assert_eq!(trainer.step(&pixels, &pixels).unwrap().skipped, None);
                }
                for (layer, before) in [First, Layer1, Layer2, Layer3, Layer4].into_iter().zip(before) {
                    let same = bits(&trainer, &[layer]) == before;
                    assert_eq!(same, frozen.contains(&layer), "{layer:?}, {frozen:?}, {strategy:?}, {stem:?}");
                }
            }
        }
    }
}

#[test]
fn layers_frozen_at_a_restart_start_without_momentum_and_others_go_on() {
    let mut trainer = lump();
    trainer.step(&images(0, 4), &[]).unwrap();
    let files = trainer.save().unwrap();
    let mut restarted = lump();
    restarted.freeze(&[EncoderLayer::Stem]).unwrap();
    restarted.restore(&files).unwrap();
    let momentum = restarted.momentum.to_vec1::<f32>().unwrap();
    let stem = restarted.backbone().layout().iter().take_while(|p| EncoderLayer::of(&p.name) == EncoderLayer::Stem);
    let end = stem.map(Parameter::elements).sum::<usize>();
    assert!(momentum[..end].iter().all(|value| *value == 0.0));
    assert!(momentum[end..].iter().any(|value| *value != 0.0));
    assert_eq!(id(&restarted), id(&trainer));
}

fn given(seed: u64) -> GivenWeights {
    let network = PlainResNet18::new(&preset(), &Device::Cpu, DType::F32, Seed(seed)).unwrap();
    GivenWeights::parse("given".as_ref(), &to_safetensors(&network).unwrap(), &preset()).unwrap()
}

#[test]
fn given_weights_learn_at_their_own_rate_and_heads_at_the_full_one() {
    let moved = |factor: f64, give: bool| {
        let settings =
            LearnSettings { given_rate_factor: factor, ..settings(ObjectiveKind::SimClr, StrategyKind::Finetune) };
        let mut trainer = trainer(&settings);
        if give {
            trainer.give(&given(5)).unwrap();
        }
        let encoder = trainer.backbone().parameters().force_contiguous().unwrap();
        let head = trainer.head().variables()[0].1.as_tensor().force_contiguous().unwrap();
        trainer.step(&images(0, 4), &[]).unwrap();
        let length = |now: &Tensor, before: &Tensor| -> f64 {
            (now - before).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt().into()
        };
        [length(trainer.backbone().parameters(), &encoder), length(&trainer.head().variables()[0].1, &head)]
    };
    let (whole, tenth, none) = (moved(1.0, true), moved(0.1, true), moved(0.0, true));
    assert!((tenth[0] / whole[0] - 0.1).abs() < 1e-3, "{tenth:?} {whole:?}");
    assert_eq!((tenth[1], none[1], none[0]), (whole[1], whole[1], 0.0));
    assert_eq!(moved(0.1, false), moved(1.0, false), "what was not given has no rate of its own");
}

#[test]
fn a_checkpoint_that_started_from_other_weights_is_refused_by_name() {
    let start = |seed: Option<u64>| {
        let mut trainer = lump();
        if let Some(seed) = seed {
            trainer.give(&given(seed)).unwrap();
        }
        trainer
    };
    let files = start(Some(5)).save().unwrap();
    // Without the setting the checkpoint itself knows.
    for seed in [Some(5), None] {
        let mut trainer = start(seed);
        trainer.restore(&files).unwrap();
        assert_eq!(trainer.save().unwrap(), files);
    }
    for (seed, files) in [(6, &files), (6, &lump().save().unwrap())] {
        let error = start(Some(seed)).restore(files).unwrap_err();
        assert_eq!(error.code(), "checkpoint-mismatch");
        assert!(error.to_string().contains("encoder.weights"), "{error}");
    }
}

#[test]
fn a_rate_a_thousand_times_too_large_is_noticed_before_anything_broken_is_used() {
    for rate in [50.0, 1e30] {
        let settings = LearnSettings { learning_rate: rate, ..settings(ObjectiveKind::SimClr, StrategyKind::Lump) };
        let mut trainer = trainer(&settings);
        let (good, start) = (trainer.save().unwrap(), id(&trainer));
        let mut diverged = false;
        for step in 0..30 {
            match trainer.step(&images(step, 4), &images(step + 100, 4)) {
                // A step was taken from finite weights, or the weights were already broken and nothing was learned.
                Ok(report) if report.skipped.is_none() => assert!(report.loss.unwrap().is_finite()),
                Ok(report) => assert!(trainer.non_finite_steps() > 0, "{report:?}"),
                Err(error) => {
                    assert_eq!(error.code(), "training-diverged");
                    diverged = true;
                    break;
                }
            }
        }
        if rate > 1e3 {
            assert!(diverged, "rate {rate}");
            trainer.restore(&good).unwrap();
            assert_eq!((trainer.is_finite().unwrap(), id(&trainer)), (true, start));
        } else {
            assert!(diverged || trainer.is_finite().unwrap(), "rate {rate}");
        }
    }
}

#[test]
fn one_image_in_the_imagenet_form_is_not_nan() {
    let preset = Preset { stem: Stem::Imagenet, ..preset() };
    let settings = settings(ObjectiveKind::SimSiam, StrategyKind::Finetune);
    let mut trainer = Trainer::new(preset, &settings, &Device::Cpu, Seed(1)).unwrap();
    for step in 0..3 {
        let needed = trainer.step(&images(step, 1), &[]).unwrap();
        assert!(needed.loss.is_none_or(f64::is_finite), "{needed:?}");
        trainer.step(&images(step, 2), &[]).unwrap();
    }
    assert!(trainer.is_finite().unwrap());
    assert_eq!(trainer.non_finite_steps(), 0);
}
