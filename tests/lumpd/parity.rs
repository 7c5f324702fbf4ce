//! The learner's numbers against PyTorch's: `tests/parity/make_reference.py` made them, in float64.
//!
//! In f64 both agree to a relative error of 1e-9 (of the whole tensor, in the L2 norm); in f32, which is what trains, to 1e-5.
//! Only the f32 gradient of the whole encoder may differ by 5e-5: PyTorch's own in f32 is 0.6e-5 to 3.2e-5 from its f64 on
//! networks of this size.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use lumpd::config::{LearnSettings, ObjectiveKind, Seed, StrategyKind};
use lumpd::encoder::{Backbone, Head, HeadShape, LayerShape, Parameter, PlainResNet18, Preset};
use lumpd::learn::{Sgd, Trainer, Views, objective};

/// The precisions, with the relative error that each may have.
const PRECISIONS: [(DType, f64); 2] = [(DType::F64, 1e-9), (DType::F32, 1e-5)];

struct Reference(BTreeMap<String, Tensor>);

impl Reference {
    fn load(bytes: &[u8]) -> Self {
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap();
        Self(tensors.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(DType::F64).unwrap())).collect())
    }

    fn network() -> Self {
        Self::load(include_bytes!("../parity/network.safetensors"))
    }

    fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("the reference has no {name}"))
    }

    /// The flat vector of a layout.
    fn flat(&self, prefix: &str, layout: &[Parameter]) -> Tensor {
        let part = |parameter: &Parameter| {
            let tensor = self.get(&format!("{prefix}{}", parameter.name));
            assert_eq!(tensor.dims(), parameter.shape, "{}", parameter.name);
            tensor.flatten_all().unwrap()
        };
        Tensor::cat(&layout.iter().map(part).collect::<Vec<_>>(), 0).unwrap()
    }

    fn fill(&self, prefix: &str, head: &Head) {
        for (name, var) in head.variables() {
            var.set(&self.get(&format!("{prefix}{name}")).to_dtype(var.dtype()).unwrap()).unwrap();
        }
    }
}

fn assert_close(what: &str, ours: &Tensor, theirs: &Tensor, tolerance: f64) {
    let ours = ours.to_dtype(DType::F64).unwrap();
    let norm = |tensor: &Tensor| tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
    let error = norm(&(&ours - theirs).unwrap()) / norm(theirs);
    assert!(error <= tolerance, "{what}: relative error {error:.2e}, allowed {tolerance:.0e}");
}

fn preset() -> Preset {
    Preset { width: 2, side: 16, ..Preset::load("resnet18-w16").unwrap() }
}

fn network(reference: &Reference, dtype: DType) -> PlainResNet18 {
    let mut network = PlainResNet18::new(&preset(), &Device::Cpu, dtype, Seed(0)).unwrap();
    let parameters = reference.flat("before.", network.layout());
    let statistics = reference.flat("before.", network.statistics_layout());
    network.load(&parameters, &statistics).unwrap();
    network
}

fn views(reference: &Reference) -> Views {
    let view = |name: &str| reference.get(name).to_dtype(DType::F32).unwrap();
    Views { first: view("first"), second: view("second") }
}

#[test]
fn features_of_two_views_and_the_running_statistics_are_those_of_pytorch() {
    let reference = Reference::network();
    for (dtype, tolerance) in PRECISIONS {
        let mut network = network(&reference, dtype);
        let Views { first, second } = views(&reference);
        let features = network.forward(&Tensor::cat(&[first, second], 0).unwrap(), 2).unwrap();
        assert_close("features", &features, reference.get("features"), tolerance);
        let statistics = reference.flat("after.", network.statistics_layout());
        assert_close("running statistics", network.statistics(), &statistics, tolerance);
    }
}

#[test]
fn a_whole_training_step_is_that_of_pytorch() {
    let reference = Reference::network();
    let settings = LearnSettings {
        objective: ObjectiveKind::SimSiam,
        strategy: StrategyKind::Finetune,
        learning_rate: 0.05,
        momentum: 0.9,
        weight_decay: 5e-4,
        ..LearnSettings::default()
    };
    for (dtype, tolerance) in PRECISIONS {
        let network = Box::new(network(&reference, dtype));
        let mut trainer = Trainer::with_backbone(preset(), network, &settings, Seed(0)).unwrap();
        reference.fill("before.head.", trainer.head());
        let before = trainer.backbone().parameters().force_contiguous().unwrap();
        let report = trainer.step_on(&views(&reference)).unwrap();
        let loss = reference.get("loss").to_scalar::<f64>().unwrap();
        assert!((report.loss.unwrap() - loss).abs() <= tolerance * loss.abs(), "{:?}, torch {loss}", report.loss);

        let network = trainer.backbone();
        let after = reference.flat("after.", network.layout());
        assert_close("parameters after", network.parameters(), &after, tolerance);
        // The step is small beside the weights: what it moved must be right as well, as far as f32 resolves the difference.
        let moved =
            (network.parameters().to_dtype(DType::F64).unwrap() - before.to_dtype(DType::F64).unwrap()).unwrap();
        let expected = (&after - reference.flat("before.", network.layout())).unwrap();
        assert_close("movement", &moved, &expected, 10.0 * tolerance);
        let statistics = reference.flat("after.", network.statistics_layout());
        assert_close("statistics after", network.statistics(), &statistics, tolerance);
        for (name, var) in trainer.head().variables() {
            if let Some(theirs) = reference.0.get(&format!("after.head.{name}")) {
                assert_close(name, var, theirs, tolerance);
            }
        }
        let frozen = trainer.embedder().unwrap().1.embed(&views(&reference).first).unwrap();
        assert_close("embedding", &frozen, reference.get("embedding"), tolerance);
    }
}

#[test]
fn the_gradient_of_the_encoder_is_that_of_pytorch() {
    let reference = Reference::network();
    for (dtype, tolerance) in PRECISIONS {
        let mut network = network(&reference, dtype);
        let Views { first, second } = views(&reference);
        let features = network.forward(&Tensor::cat(&[first, second], 0).unwrap(), 2).unwrap();
        let objective = objective(ObjectiveKind::SimSiam);
        let head = Head::new(&objective.head_shape(16), 16, dtype, &Device::Cpu, Seed(0)).unwrap();
        reference.fill("before.head.", &head);
        let leaf = Var::from_tensor(&features).unwrap();
        let (first, second) = (leaf.narrow(0, 0, 5).unwrap(), leaf.narrow(0, 5, 5).unwrap());
        let gradients = objective.loss(&head, &first, &second).unwrap().backward().unwrap();
        let gradient = network.backward(gradients.get(&leaf).unwrap()).unwrap();
        let tolerance = if dtype == DType::F32 { 5.0 * tolerance } else { tolerance };
        assert_close("gradient", &gradient, &reference.flat("gradient.", network.layout()), tolerance);
    }
}

#[test]
fn the_objectives_and_their_gradients_are_those_of_pytorch() {
    let reference = Reference::load(include_bytes!("../parity/objectives.safetensors"));
    for (dtype, tolerance) in PRECISIONS {
        for kind in [ObjectiveKind::SimSiam, ObjectiveKind::Barlow, ObjectiveKind::SimClr] {
            let (objective, name) = (objective(kind), format!("{kind:?}").to_lowercase());
            let shape = match kind {
                // Narrower than its own; the reference says why.
                ObjectiveKind::SimClr => {
                    HeadShape { projector: vec![LayerShape::hidden(24), LayerShape::linear(8)], predictor: vec![] }
                }
                _ => objective.head_shape(4),
            };
            let head = Head::new(&shape, 4, dtype, &Device::Cpu, Seed(0)).unwrap();
            reference.fill(&format!("{name}.head."), &head);
            let leaf =
                |view| Var::from_tensor(&reference.get(&format!("{name}.{view}")).to_dtype(dtype).unwrap()).unwrap();
            let (first, second) = (leaf("first"), leaf("second"));
            let loss = objective.loss(&head, &first, &second).unwrap();
            assert_close(&name, &loss, reference.get(&format!("{name}.loss")), tolerance);
            let gradients = loss.backward().unwrap();
            for (view, var) in [("first", &first), ("second", &second)] {
                let theirs = reference.get(&format!("{name}.{view}.gradient"));
                assert_close(&format!("{name} {view}"), gradients.get(var).unwrap(), theirs, tolerance);
            }
            // As one vector: a parameter that the next batch norm cancels has the gradient 0, whose relative error says nothing.
            let join = |of: &dyn Fn(&str, &Var) -> Tensor| {
                let parts: Vec<Tensor> =
                    head.variables().iter().map(|(name, var)| of(name, var).flatten_all().unwrap()).collect();
                Tensor::cat(&parts, 0).unwrap()
            };
            let ours = join(&|_, var| gradients.get(var).unwrap().clone());
            let theirs = join(&|parameter, _| reference.get(&format!("{name}.gradient.{parameter}")).clone());
            assert_close(&format!("{name} head"), &ours, &theirs, tolerance);
        }
    }
}

#[test]
fn seven_steps_of_momentum_and_weight_decay_are_those_of_pytorch() {
    let reference = Reference::load(include_bytes!("../parity/sgd.safetensors"));
    let sgd = Sgd { learning_rate: 0.03, momentum: 0.9, weight_decay: 5e-4 };
    for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 1e-6)] {
        let parameter = reference.get("parameter.0").to_dtype(dtype).unwrap().force_contiguous().unwrap();
        let buffer = parameter.zeros_like().unwrap();
        let gradients = reference.get("gradients").to_dtype(dtype).unwrap();
        for step in 0..7 {
            sgd.step(&parameter, &buffer, &gradients.get(step).unwrap()).unwrap();
            let theirs = reference.get(&format!("parameter.{}", step + 1));
            assert_close(&format!("step {step}"), &parameter, theirs, tolerance);
        }
    }
}
