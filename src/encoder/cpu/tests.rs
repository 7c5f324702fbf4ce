//! The CPU backend against the plain one.

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::encoder::{PlainResNet18, Preset};

fn preset(width: usize, side: usize) -> Preset {
    Preset { width, side, ..Preset::load("resnet18-w16").unwrap() }
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

/// Both networks with the same random parameters, biases of batch norm included; the plain one in f64.
fn pair(width: usize, side: usize, isa: Isa) -> (CpuResNet18, PlainResNet18) {
    let mut plain = PlainResNet18::new(&preset(width, side), &Device::Cpu, DType::F64, Seed(3)).unwrap();
    let mut cpu = CpuResNet18::with_isa(width, Seed(3), isa).unwrap();
    let mut parameters = cpu.parameters().to_vec1::<f32>().unwrap();
    let mut random = Seed(4).random("norms", 0);
    for parameter in cpu.layout().iter().filter(|parameter| parameter.shape.len() == 1) {
        for value in &mut parameters[parameter.offset..][..parameter.elements()] {
            *value += 0.2 * random.normal() as f32;
        }
    }
    let parameters = Tensor::new(parameters, &Device::Cpu).unwrap();
    let statistics = cpu.statistics().clone();
    cpu.load(&parameters, &statistics).unwrap();
    plain.load(&parameters, &statistics).unwrap();
    (cpu, plain)
}

#[test]
fn features_gradients_and_statistics_are_those_of_the_plain_backend() {
    let available = Isa::available();
    let cases = [(16, 16, 6, 2), (4, 32, 4, 2), (6, 11, 3, 1), (16, 8, 4, 1), (32, 13, 2, 2), (2, 5, 9, 3)];
    for (case, (width, side, images, groups)) in cases.into_iter().enumerate() {
        let isa = available[case % available.len()];
        let (mut cpu, mut plain) = pair(width, side, isa);
        assert_eq!((cpu.layout(), cpu.statistics_layout()), (plain.layout(), plain.statistics_layout()));
        for round in 0..2 {
            let what = format!("width {width}, {side} px, {images} images, {}, round {round}", isa.name());
            let batch = noise(&what, &[images, side, side, 3]);
            let found = cpu.forward(&batch, groups).unwrap();
            let expected = plain.forward(&batch, groups).unwrap();
            assert!(error(&found, &expected) < 1e-4, "features: {what}: {}", error(&found, &expected));
            let direction = noise("direction", expected.dims());
            let found = cpu.backward(&direction).unwrap();
            let expected = plain.backward(&direction.to_dtype(DType::F64).unwrap()).unwrap();
            for parameter in plain.layout() {
                let part = |t: &Tensor| t.narrow(0, parameter.offset, parameter.elements()).unwrap();
                let error = error(&part(&found), &part(&expected));
                assert!(error < 2e-3, "gradient of {}: {what}: {error}", parameter.name);
            }
            assert!(error(&found, &expected) < 5e-4, "gradient: {what}: {}", error(&found, &expected));
            let error = error(cpu.statistics(), plain.statistics());
            assert!(error < 1e-5, "running statistics: {what}: {error}");
        }
    }
}

#[test]
fn the_frozen_network_embeds_as_the_plain_one_does() {
    for (width, side, isa) in
        [(16, 32, Isa::for_channels(16)), (4, 8, Isa::for_channels(4)), (32, 9, Isa::for_channels(32))]
    {
        let (mut cpu, mut plain) = pair(width, side, isa);
        let batch = noise("batch", &[6, side, side, 3]);
        cpu.forward(&batch, 1).unwrap();
        plain.forward(&batch, 1).unwrap();
        let (cpu, plain) = (cpu.freeze().unwrap(), plain.freeze().unwrap());
        assert_eq!(cpu.features(), plain.features());
        for images in [1, 2, 6] {
            let batch = batch.narrow(0, 0, images).unwrap();
            let (found, expected) = (cpu.embed(&batch).unwrap(), plain.embed(&batch).unwrap());
            assert!(error(&found, &expected) < 1e-4, "{images} images: {}", error(&found, &expected));
        }
    }
}

/// Both pass a network of 20 layers whose products have errors of a hundredth.
#[test]
fn bf16_gives_nearly_the_same_features_and_gradient() {
    let isa = Isa::for_channels(16);
    if !isa.has_bf16() {
        return;
    }
    let (cpu, mut plain) = pair(16, 32, isa);
    let mut cpu = cpu.with_precision(Precision::Bf16).unwrap();
    let batch = noise("batch", &[8, 32, 32, 3]);
    let (found, expected) = (cpu.forward(&batch, 2).unwrap(), plain.forward(&batch, 2).unwrap());
    assert!((1e-4..0.05).contains(&error(&found, &expected)), "features: {}", error(&found, &expected));
    let direction = noise("direction", expected.dims());
    let found = cpu.backward(&direction).unwrap();
    let expected = plain.backward(&direction.to_dtype(DType::F64).unwrap()).unwrap();
    assert!(error(&found, &expected) < 0.2, "gradient: {}", error(&found, &expected));
    let (cpu, plain) = (cpu.freeze().unwrap(), plain.freeze().unwrap());
    for images in [1, 8] {
        let batch = batch.narrow(0, 0, images).unwrap();
        let (found, expected) = (cpu.embed(&batch).unwrap(), plain.embed(&batch).unwrap());
        assert!(error(&found, &expected) < 0.05, "{images} images: {}", error(&found, &expected));
    }
}

#[test]
fn bf16_on_vectors_that_have_none_is_refused_by_name() {
    let network = CpuResNet18::with_isa(4, Seed(1), Isa::for_channels(4)).unwrap();
    let error = network.with_precision(Precision::Bf16).err().unwrap();
    assert_eq!(error.code(), "no-bf16");
    assert!(error.to_string().contains("learn.precision = \"f32\""), "{error}");
}

#[test]
fn several_threads_embed_at_the_same_time() {
    let embedder = CpuResNet18::new(8, Seed(1)).unwrap().freeze().unwrap();
    let batches: Vec<Tensor> = (1..7).map(|count| noise("batch", &[count, 16, 16, 3])).collect();
    let expected: Vec<Vec<Vec<f32>>> =
        batches.iter().map(|batch| embedder.embed(batch).unwrap().to_vec2().unwrap()).collect();
    std::thread::scope(|scope| {
        for (batch, expected) in batches.iter().zip(&expected) {
            let embedder = embedder.clone();
            scope.spawn(move || {
                for _ in 0..3 {
                    assert_eq!(embedder.embed(batch).unwrap().to_vec2::<f32>().unwrap(), *expected);
                }
            });
        }
    });
}

#[test]
fn a_frozen_network_keeps_its_answer_while_the_network_learns() {
    let network = CpuResNet18::new(4, Seed(1)).unwrap();
    let frozen = network.freeze().unwrap();
    let batch = noise("batch", &[3, 8, 8, 3]);
    let before = frozen.embed(&batch).unwrap().to_vec2::<f32>().unwrap();
    let moved = network.parameters().affine(1.1, 0.0).unwrap();
    network.parameters().slice_set(&moved, 0, 0).unwrap();
    assert_eq!(frozen.embed(&batch).unwrap().to_vec2::<f32>().unwrap(), before);
    assert_ne!(network.freeze().unwrap().embed(&batch).unwrap().to_vec2::<f32>().unwrap(), before);
}

#[test]
fn the_same_steps_give_the_same_bits() {
    let run = || {
        let mut network = CpuResNet18::new(16, Seed(5)).unwrap();
        let mut bits = Vec::new();
        for step in 0..3 {
            let features = network.forward(&noise(&step.to_string(), &[6, 16, 16, 3]), 2).unwrap();
            let gradient = network.backward(&features.affine(0.5, 0.1).unwrap()).unwrap();
            let moved = (network.parameters() - (gradient * 0.01).unwrap()).unwrap();
            network.parameters().slice_set(&moved, 0, 0).unwrap();
            bits.extend(moved.to_vec1::<f32>().unwrap().iter().map(|value| value.to_bits()));
        }
        bits
    };
    let first = run();
    assert!(run() == first);
}

#[test]
fn one_image_that_shrinks_to_one_pixel_is_not_nan() {
    let mut network = CpuResNet18::new(16, Seed(1)).unwrap();
    let features = network.forward(&noise("one", &[1, 8, 8, 3]), 1).unwrap();
    let gradient = network.backward(&features.ones_like().unwrap()).unwrap();
    for tensor in [&features, &gradient, network.statistics()] {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut network = CpuResNet18::new(4, Seed(1)).unwrap();
    assert!(network.backward(&noise("gradient", &[2, 32])).is_err(), "no forward pass");
    assert!(network.forward(&noise("grey", &[2, 8, 8, 1]), 1).is_err(), "one channel");
    assert!(network.forward(&noise("three", &[3, 8, 8, 3]), 2).is_err(), "unequal groups");
    let features = network.forward(&noise("fine", &[2, 8, 8, 3]), 2).unwrap();
    assert!(network.backward(&noise("short", &[2, 31])).is_err());
    assert!(network.load(&noise("short", &[7]), &network.statistics().clone()).is_err());
    let again = network.forward(&noise("fine", &[2, 8, 8, 3]), 2).unwrap();
    assert_eq!(features.to_vec2::<f32>().unwrap(), again.to_vec2::<f32>().unwrap());
}
