//! A whole step of a device's network against the plain one in f64 on the CPU: forward, backward, SGD, embedding.
//!
//! Both start from the same random weights and see the same random images. What a device may differ by is stated here.

use candle_core::{DType, Device, Tensor};

use super::sgd::Sgd;
use super::{LearnError, Trainer};
use crate::config::{EncoderLayer, LearnSettings, ObjectiveKind, Precision, Seed, StrategyKind};
use crate::device::Check;
use crate::device::cuda;
use crate::encoder::{self, Backbone, Frozen, Parameter, PlainResNet18, Preset, Stem};

/// Relative errors that a device's arithmetic leaves.
#[derive(Debug, Clone, Copy)]
struct Tolerances {
    /// Features of a training batch, and embeddings.
    features: f64,
    statistics: f64,
    gradient: f64,
    /// Of one parameter alone; small ones are sums that nearly cancel.
    gradient_of_one: f64,
    /// What an SGD step moved.
    movement: f64,
}

impl Tolerances {
    fn of(device: &Device, precision: Precision) -> Self {
        if device.is_cpu() && precision != Precision::Bf16 {
            // A value beside 0 may pass a ReLU in one precision and not in the other, and a maximum may lie elsewhere: features do
            // not notice, gradients jump. A few in a hundred thousand do; a wrong kernel is off by the size of the gradient.
            return Self { features: 1e-4, statistics: 1e-5, gradient: 1e-2, gradient_of_one: 5e-2, movement: 1e-2 };
        }
        let found = cuda::machine(device).and_then(Result::ok);
        match found.and_then(|machine| cuda::precision(machine.as_ref(), precision)) {
            Some(cuda::Precision::F32) => Self::of(&Device::Cpu, Precision::F32),
            Some(cuda::Precision::Bf16) => Self::of_bf16(),
            None if device.is_cpu() => Self::of_bf16(),
            Some(cuda::Precision::Tf32) | None => Self::of_tensor_cores(),
        }
    }

    /// Roundings of the forward pass change ReLU masks, as in PyTorch's autocast, which is as far from f64: see
    /// tests/parity/bf16_autocast.py. What a kernel does wrong shows in its own check, or in f32.
    fn of_bf16() -> Self {
        Self { features: 6e-2, statistics: 1e-2, gradient: 6e-1, gradient_of_one: 1.2, movement: 6e-1 }
    }

    /// Tensor cores multiply numbers of 10 (tf32) or 7 (bf16) digits of fraction.
    fn of_tensor_cores() -> Self {
        Self { features: 3e-2, statistics: 3e-2, gradient: 1e-1, gradient_of_one: 3e-1, movement: 1e-1 }
    }
}

/// What is trained in a check: form, images, frozen layers.
struct Case {
    preset: Preset,
    images: usize,
    groups: usize,
    frozen: &'static [EncoderLayer],
}

impl Case {
    fn name(&self) -> String {
        let Preset { stem, width, side, .. } = self.preset;
        let form = match stem {
            Stem::Cifar => "CIFAR form",
            Stem::Imagenet => "ImageNet form",
        };
        let frozen = Frozen::new(self.frozen);
        let frozen = if frozen.is_empty() { String::new() } else { format!(", frozen {frozen}") };
        format!("{form}, width {width}, {side} px, {} images in {} views{frozen}", self.images, self.groups)
    }
}

fn cases() -> Result<Vec<Case>, LearnError> {
    let cifar = Preset::load("resnet18-w16")?;
    let imagenet = Preset { width: 16, side: 64, ..Preset::load("resnet18-imagenet-96px")? };
    let case = |preset: &Preset, images, groups, frozen| Case { preset: preset.clone(), images, groups, frozen };
    Ok(vec![
        case(&cifar, 8, 2, &[]),
        case(&Preset { side: 17, ..cifar.clone() }, 3, 1, &[]),
        case(&imagenet, 8, 2, &[]),
        case(&Preset { side: 49, ..imagenet.clone() }, 3, 1, &[]),
        case(&imagenet, 8, 2, &[EncoderLayer::Stem, EncoderLayer::Layer1]),
        case(&cifar, 4, 2, &[EncoderLayer::Layer2]),
    ])
}

/// Checks whole steps of the network that [`encoder::build`] makes for the device, and reports each comparison as it is made.
///
/// # Errors
/// Where the device fails.
pub fn check_steps(device: &Device, precision: Precision, report: &mut dyn FnMut(Check)) -> Result<(), LearnError> {
    for case in cases()? {
        check_backbone(device, precision, &case, report)?;
    }
    check_learning(device, precision, report)
}

fn check_backbone(
    device: &Device,
    precision: Precision,
    case: &Case,
    report: &mut dyn FnMut(Check),
) -> Result<(), LearnError> {
    let (name, tolerances) = (case.name(), Tolerances::of(device, precision));
    let (mut fast, mut plain) = pair(device, precision, &case.preset)?;
    fast.set_frozen(Frozen::new(case.frozen))?;
    plain.set_frozen(Frozen::new(case.frozen))?;
    let mut compare = |what: &str, found: &Tensor, expected: &Tensor, tolerance| -> Result<(), LearnError> {
        report(Check::of(what, &name, &numbers(found)?, &numbers(expected)?, tolerance));
        Ok(())
    };
    let side = case.preset.side;
    let images = noise("images", &[case.images, side, side, 3])?;
    let features = fast.forward(&images.to_device(device)?, case.groups)?;
    let expected = plain.forward(&images, case.groups)?;
    compare("features", &features, &expected, tolerances.features)?;
    compare("running statistics", fast.statistics(), plain.statistics(), tolerances.statistics)?;

    let direction = noise("direction", expected.dims())?;
    let gradient = fast.backward(&direction.to_device(device)?)?;
    let expected = plain.backward(&direction.to_dtype(DType::F64)?)?;
    compare("gradient", &gradient, &expected, tolerances.gradient)?;
    let worst = worst_parameter(plain.layout(), &numbers(&gradient)?, &numbers(&expected)?, tolerances.gradient_of_one);
    let sgd = Sgd { learning_rate: 0.05, momentum: 0.9, weight_decay: 5e-4 };
    let fast_step = movement(&sgd, fast.as_ref(), &gradient)?;
    let plain_step = movement(&sgd, &plain, &expected)?;
    compare("movement by SGD", &fast_step, &plain_step, tolerances.movement)?;

    let (fast, plain) = (fast.freeze()?, plain.freeze()?);
    for count in [1, case.images] {
        let images = images.narrow(0, 0, count)?;
        let found = fast.embed(&images.to_device(device)?)?;
        let what = format!("embedding of {count}");
        compare(&what, &found, &plain.embed(&images)?, tolerances.features)?;
    }
    worst.into_iter().for_each(|(parameter, check)| report(Check { case: format!("{name}: {parameter}"), ..check }));
    Ok(())
}

/// Both networks with the same weights: random, batch norm off the identity, running statistics off their start.
fn pair(
    device: &Device,
    precision: Precision,
    preset: &Preset,
) -> Result<(Box<dyn Backbone>, PlainResNet18), LearnError> {
    let mut plain = PlainResNet18::new(preset, &Device::Cpu, DType::F64, Seed(3))?;
    let mut fast = encoder::build(preset, device, precision, Seed(3))?;
    let shifted = |flat: &Tensor, layout: &[Parameter], name: &str| -> Result<Tensor, LearnError> {
        let mut values = numbers(flat)?;
        let mut random = Seed(4).random(name, 0);
        for parameter in layout.iter().filter(|parameter| parameter.shape.len() == 1) {
            for value in &mut values[parameter.offset..][..parameter.elements()] {
                *value += 0.2 * random.uniform();
            }
        }
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        Ok(Tensor::new(values, &Device::Cpu)?)
    };
    let parameters = shifted(plain.parameters(), plain.layout(), "parameters")?;
    let statistics = shifted(plain.statistics(), plain.statistics_layout(), "statistics")?;
    plain.load(&parameters, &statistics)?;
    fast.load(&parameters.to_device(device)?, &statistics.to_device(device)?)?;
    Ok((fast, plain))
}

/// How far one step of SGD from rest moves the parameters.
fn movement(sgd: &Sgd, network: &dyn Backbone, gradient: &Tensor) -> Result<Tensor, LearnError> {
    let parameters = network.parameters().force_contiguous()?;
    sgd.step(&parameters, &parameters.zeros_like()?, gradient)?;
    Ok((parameters - network.parameters())?)
}

/// The parameter whose gradient is furthest off for its size, among those that have one.
fn worst_parameter(layout: &[Parameter], found: &[f64], expected: &[f64], tolerance: f64) -> Option<(String, Check)> {
    let checks = layout.iter().filter_map(|parameter| {
        let range = parameter.offset..parameter.offset + parameter.elements();
        let (found, expected) = (&found[range.clone()], &expected[range]);
        let check = Check::of("gradient, worst parameter", "", found, expected, tolerance);
        expected.iter().any(|value| *value != 0.0).then(|| (parameter.name.clone(), check))
    });
    checks.max_by(|a, b| a.1.error.total_cmp(&b.1.error))
}

/// Three steps of a learner, views and heads included, against the same learner on the plain network in f32 on the CPU.
fn check_learning(device: &Device, precision: Precision, report: &mut dyn FnMut(Check)) -> Result<(), LearnError> {
    let preset = Preset { width: 8, side: 16, ..Preset::load("resnet18-w16")? };
    let settings = LearnSettings {
        objective: ObjectiveKind::SimClr,
        strategy: StrategyKind::Lump,
        learning_rate: 0.01,
        precision,
        ..LearnSettings::default()
    };
    let plain = PlainResNet18::new(&preset, &Device::Cpu, DType::F32, Seed(3))?;
    let mut plain = Trainer::with_backbone(preset.clone(), Box::new(plain), &settings, Seed(3))?;
    let mut fast = Trainer::new(preset.clone(), &settings, device, Seed(3))?;
    let bytes = |name: &str, count: usize| -> Vec<u8> {
        let mut random = Seed(5).random(name, 0);
        (0..count * preset.image_bytes()).map(|_| random.below(256) as u8).collect()
    };
    let tolerance = Tolerances::of(device, precision).movement;
    let mut losses = [Vec::new(), Vec::new()];
    for step in 0..3 {
        let (stream, replay) = (bytes(&format!("stream {step}"), 8), bytes(&format!("replay {step}"), 8));
        for (trainer, losses) in [&mut fast, &mut plain].into_iter().zip(&mut losses) {
            losses.push(trainer.step(&stream, &replay)?.loss.unwrap_or(f64::NAN));
        }
    }
    let case = format!("SimCLR with LUMP, width {}, {} px, 8 + 8 images, three steps", preset.width, preset.side);
    report(Check::of("losses of the learner", &case, &losses[0], &losses[1], tolerance));
    Ok(())
}

fn noise(name: &str, shape: &[usize]) -> Result<Tensor, LearnError> {
    let mut random = Seed(9).random(name, 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>, LearnError> {
    Ok(tensor.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_steps_on_the_cpu_pass_in_both_forms() {
        let mut checks = Vec::new();
        check_steps(&Device::Cpu, Precision::Auto, &mut |check| checks.push(check)).unwrap();
        let failed: Vec<&Check> = checks.iter().filter(|check| !check.passed()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        for what in ["features", "gradient", "movement by SGD", "embedding of 1", "running statistics"] {
            for form in ["CIFAR", "ImageNet"] {
                assert!(
                    checks.iter().any(|check| check.what == what && check.case.starts_with(form)),
                    "{what}, {form}"
                );
            }
        }
    }
}
