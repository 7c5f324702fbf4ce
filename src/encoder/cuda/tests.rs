//! The CUDA backend, its kernels run on the CPU, against the plain one.

use candle_core::Device;

use super::*;
use crate::config::EncoderLayer;
use crate::device::cuda::Emulator;
use crate::encoder::{PlainResNet18, Stem};

/// The machine, unless there is no C compiler here.
fn machine(precision: Precision) -> Option<Arc<dyn Machine>> {
    let machine = Emulator::new(precision);
    machine.map(|machine| Arc::new(machine) as Arc<dyn Machine>).map_err(|reason| eprintln!("not run: {reason}")).ok()
}

fn preset(stem: Stem, width: usize) -> Preset {
    Preset { stem, width, ..Preset::load("resnet18-w16").unwrap() }
}

fn noise(name: &str, shape: &[usize]) -> Tensor {
    let mut random = Seed(9).random(name, 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Root of the mean squared difference over that of the expected values.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    let [found, expected] = [found, expected].map(|t| t.to_dtype(DType::F64).unwrap());
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
    norm(&(found - &expected).unwrap()) / norm(&expected)
}

/// Both networks with the same random parameters; the plain one in f64.
fn pair(preset: &Preset, precision: Precision) -> Option<(CudaResNet18, PlainResNet18)> {
    let mut plain = PlainResNet18::new(preset, &Device::Cpu, DType::F64, Seed(3)).unwrap();
    let mut cuda = CudaResNet18::new(preset, machine(precision)?, precision, Seed(3)).unwrap();
    let mut parameters = cuda.parameters().to_vec1::<f32>().unwrap();
    let mut random = Seed(4).random("norms", 0);
    for parameter in cuda.layout().iter().filter(|parameter| parameter.shape.len() == 1) {
        for value in &mut parameters[parameter.offset..][..parameter.elements()] {
            *value += 0.2 * random.normal() as f32;
        }
    }
    let parameters = Tensor::new(parameters, &Device::Cpu).unwrap();
    let statistics = cuda.statistics().affine(0.9, 0.05).unwrap();
    cuda.load(&parameters, &statistics).unwrap();
    plain.load(&parameters, &statistics).unwrap();
    Some((cuda, plain))
}

/// Three steps of the same shape: piece by piece, recorded, replayed; the parameters move in between.
fn steps(preset: &Preset, frozen: Frozen, (images, side, groups): (usize, usize, usize)) {
    let Some((mut cuda, mut plain)) = pair(preset, Precision::F32) else { return };
    cuda.set_frozen(frozen).unwrap();
    plain.set_frozen(frozen).unwrap();
    for round in 0..3 {
        let what = format!("{preset:?}, {frozen}, {images} images of {side} pixels, round {round}");
        let batch = noise(&what, &[images, side, side, 3]);
        let (found, expected) = (cuda.forward(&batch, groups).unwrap(), plain.forward(&batch, groups).unwrap());
        assert!(error(&found, &expected) < 1e-4, "features: {what}: {}", error(&found, &expected));
        let direction = noise("direction", expected.dims());
        let found = cuda.backward(&direction).unwrap();
        let expected = plain.backward(&direction.to_dtype(DType::F64).unwrap()).unwrap();
        for parameter in plain.layout() {
            let part = |t: &Tensor| t.narrow(0, parameter.offset, parameter.elements()).unwrap();
            if frozen.holds(&parameter.name) {
                let values = part(&found).to_vec1::<f32>().unwrap();
                assert!(values.iter().all(|value| *value == 0.0), "{} is frozen", parameter.name);
                continue;
            }
            let error = error(&part(&found), &part(&expected));
            assert!(error < 3e-3, "gradient of {}: {what}: {error}", parameter.name);
        }
        assert!(error(&found, &expected) < 1e-3, "gradient: {what}: {}", error(&found, &expected));
        assert!(error(cuda.statistics(), plain.statistics()) < 1e-5, "running statistics: {what}");
        let moved = (cuda.parameters() - (found * 0.01).unwrap()).unwrap();
        cuda.parameters().slice_set(&moved, 0, 0).unwrap();
        plain.load(&moved, &plain.statistics().clone()).unwrap();
    }
}

#[test]
fn steps_are_those_of_the_plain_backend() {
    steps(&preset(Stem::Cifar, 4), Frozen::default(), (4, 9, 2));
    steps(&preset(Stem::Cifar, 3), Frozen::default(), (3, 8, 1));
    steps(&preset(Stem::Imagenet, 4), Frozen::default(), (2, 37, 1));
}

#[test]
fn frozen_layers_are_those_of_the_plain_backend() {
    let frozen = Frozen::new(&[EncoderLayer::Stem, EncoderLayer::Layer1, EncoderLayer::Layer3]);
    steps(&preset(Stem::Imagenet, 4), frozen, (4, 37, 2));
    steps(&preset(Stem::Cifar, 4), Frozen::new(&[EncoderLayer::Layer2]), (2, 8, 1));
}

/// PyTorch's own autocast is as far from f64 on such a network (tests/parity/bf16_autocast.py): features .023, gradient .32, the
/// cosine of the gradients .953. Deep layers of few values turn roundings of the forward pass into other ReLU masks.
#[test]
fn in_bf16_a_step_is_as_far_from_the_plain_backend_as_autocast_is() {
    let Some((mut cuda, mut plain)) = pair(&preset(Stem::Cifar, 8), Precision::Bf16) else { return };
    let batch = noise("batch", &[8, 12, 12, 3]);
    let (found, expected) = (cuda.forward(&batch, 2).unwrap(), plain.forward(&batch, 2).unwrap());
    assert!(error(&found, &expected) < 0.03, "features: {}", error(&found, &expected));
    assert!(error(cuda.statistics(), plain.statistics()) < 0.005);
    let direction = noise("direction", expected.dims());
    let found = cuda.backward(&direction).unwrap();
    let expected = plain.backward(&direction.to_dtype(DType::F64).unwrap()).unwrap();
    assert!(error(&found, &expected) < 0.45, "gradient: {}", error(&found, &expected));
    let [found, expected] = [&found, &expected].map(|t| t.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = dot(&found, &expected) / (dot(&found, &found) * dot(&expected, &expected)).sqrt();
    assert!(cosine > 0.92, "gradient: cosine {cosine}");
}

#[test]
fn the_frozen_network_embeds_as_the_plain_one_does_and_stays_as_it_is() {
    for (stem, side) in [(Stem::Cifar, 9), (Stem::Imagenet, 33)] {
        let Some((cuda, plain)) = pair(&preset(stem, 4), Precision::F32) else { return };
        let (frozen, plain) = (cuda.freeze().unwrap(), plain.freeze().unwrap());
        assert_eq!(frozen.features(), plain.features());
        let moved = cuda.parameters().affine(1.1, 0.0).unwrap();
        cuda.parameters().slice_set(&moved, 0, 0).unwrap();
        for images in [1, 3, 1] {
            let batch = noise("batch", &[images, side, side, 3]);
            let (found, expected) = (frozen.embed(&batch).unwrap(), plain.embed(&batch).unwrap());
            assert_eq!(found.dims(), expected.dims());
            assert!(error(&found, &expected) < 1e-4, "{images} images: {}", error(&found, &expected));
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let Some((mut cuda, _)) = pair(&preset(Stem::Cifar, 2), Precision::F32) else { return };
    assert!(cuda.backward(&noise("gradient", &[2, 16])).is_err(), "no forward pass");
    assert!(cuda.forward(&noise("grey", &[2, 8, 8, 1]), 1).is_err(), "one channel");
    assert!(cuda.forward(&noise("three", &[3, 8, 8, 3]), 2).is_err(), "unequal groups");
    let (parameters, statistics) = (cuda.parameters().force_contiguous().unwrap(), cuda.statistics().clone());
    let features = cuda.forward(&noise("fine", &[2, 8, 8, 3]), 2).unwrap();
    assert!(cuda.backward(&noise("short", &[2, 15])).is_err());
    assert!(cuda.load(&noise("short", &[7]), &statistics).is_err());
    // Undone as the learner undoes a rejected step: with the parameters themselves.
    let own = cuda.parameters().clone();
    cuda.load(&own, &statistics).unwrap();
    assert_eq!(cuda.statistics().to_vec1::<f32>().unwrap(), statistics.to_vec1::<f32>().unwrap());
    cuda.load(&parameters, &statistics).unwrap();
    let again = cuda.forward(&noise("fine", &[2, 8, 8, 3]), 2).unwrap();
    assert_eq!(features.to_vec2::<f32>().unwrap(), again.to_vec2::<f32>().unwrap());
}

#[test]
fn one_image_that_shrinks_to_one_pixel_is_not_nan() {
    let Some((mut cuda, _)) = pair(&preset(Stem::Cifar, 4), Precision::Bf16) else { return };
    let features = cuda.forward(&noise("one", &[1, 8, 8, 3]), 1).unwrap();
    let gradient = cuda.backward(&features.ones_like().unwrap()).unwrap();
    for tensor in [&features, &gradient, cuda.statistics()] {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values.iter().all(|value| value.is_finite()));
    }
}
