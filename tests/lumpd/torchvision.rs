//! The ImageNet form against torchvision's ResNet-18 on the same weights: `tests/parity/make_torchvision.py` made the numbers,
//! in float64. The weights are random and come from a formula that both sides evaluate; they reach lumpd as a user's would,
//! through a safetensors file.
//!
//! In f64 both agree to a relative error of 1e-9. In f32 embeddings agree to 1e-5 (plain tensors and kernels alike), and what
//! passes through batch norm with the statistics of few values (features of a training batch, gradients) to 2e-4.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lumpd::config::Seed;
use lumpd::encoder::{Backbone, CpuResNet18, GivenWeights, Parameter, PlainResNet18, Preset, to_safetensors};

fn preset() -> Preset {
    Preset::load("resnet18-imagenet-96px").unwrap()
}

/// Numbers of [-1, 1) with 24 bits; see the script.
fn units(name: &str, count: usize) -> Vec<f64> {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    let start = name.bytes().fold(0xCBF2_9CE4_8422_2325, hash);
    let unit = |place: usize| {
        let mut z: u64 = start.wrapping_add((place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (0..count).map(unit).collect()
}

fn weight(parameter: &Parameter) -> Vec<f32> {
    let scale = |u: f64| match parameter.shape[..] {
        [outputs, _, height, width] => u * (6.0 / (outputs * height * width) as f64).sqrt(),
        _ if parameter.name.ends_with("running_var") => 1.0 + 0.5 * u,
        _ if parameter.name.ends_with(".weight") => 1.0 + 0.25 * u,
        _ => 0.25 * u,
    };
    units(&parameter.name, parameter.elements()).into_iter().map(|u| scale(u) as f32).collect()
}

/// The formula's weights as a file's bytes, and what lumpd reads out of them.
fn given() -> GivenWeights {
    let mut network = PlainResNet18::new(&preset(), &Device::Cpu, DType::F32, Seed(0)).unwrap();
    let flat = |layout: &[Parameter]| {
        let values: Vec<f32> = layout.iter().flat_map(weight).collect();
        Tensor::new(values, &Device::Cpu).unwrap()
    };
    let (parameters, statistics) = (flat(network.layout()), flat(network.statistics_layout()));
    network.load(&parameters, &statistics).unwrap();
    GivenWeights::parse(Path::new("formula"), &to_safetensors(&network).unwrap(), &preset()).unwrap()
}

/// The backends with the same weights, each with what it may differ by: embedding, and training.
fn backends() -> Vec<(&'static str, Box<dyn Backbone>, [f64; 2])> {
    let plain = |dtype| Box::new(PlainResNet18::new(&preset(), &Device::Cpu, dtype, Seed(1)).unwrap());
    let cpu = Box::new(CpuResNet18::new(&preset(), Seed(1)).unwrap());
    let mut backends: Vec<(_, Box<dyn Backbone>, _)> = vec![
        ("plain f64", plain(DType::F64), [1e-9; 2]),
        ("plain f32", plain(DType::F32), [1e-5, 2e-4]),
        ("cpu", cpu, [1e-5, 2e-4]),
    ];
    let given = given();
    for (_, network, _) in &mut backends {
        given.load_into(network.as_mut()).unwrap();
    }
    backends
}

fn reference() -> BTreeMap<String, Tensor> {
    let bytes = include_bytes!("../parity/torchvision.safetensors");
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap().into_iter().collect()
}

fn images(name: &str, count: usize, side: usize) -> Tensor {
    let values: Vec<f32> = units(name, count * side * side * 3).into_iter().map(|unit| unit as f32).collect();
    Tensor::from_vec(values, (count, side, side, 3), &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn assert_close(what: &str, ours: &[f64], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let error = norm(&mut ours.iter().zip(theirs).map(|(a, b)| a - b)) / norm(&mut theirs.iter().copied());
    assert!(error <= tolerance, "{what}: relative error {error:.2e}, allowed {tolerance:.0e}");
}

#[test]
fn the_embedding_is_torchvisions_on_the_same_weights_at_even_and_odd_sizes() {
    let reference = reference();
    for (backend, network, [tolerance, _]) in backends() {
        let frozen = network.freeze().unwrap();
        for (name, count, side) in [("64", 2, 64), ("97", 1, 97)] {
            let found = frozen.embed(&images(&format!("images.{name}"), count, side)).unwrap();
            let theirs = numbers(&reference[&format!("embedding.{name}")]);
            assert_close(&format!("{backend}, {side} px"), &numbers(&found), &theirs, tolerance);
        }
    }
}

#[test]
fn features_gradients_and_running_statistics_of_training_are_torchvisions() {
    let reference = reference();
    for (backend, mut network, [_, tolerance]) in backends() {
        let features = network.forward(&images("images.train", 8, 48), 2).unwrap();
        assert_close(&format!("{backend}: features"), &numbers(&features), &numbers(&reference["features"]), tolerance);
        let direction = Tensor::new(units("direction", features.elem_count()), &Device::Cpu).unwrap();
        let direction = direction.reshape(features.shape()).unwrap().to_dtype(features.dtype()).unwrap();
        let gradient = network.backward(&direction).unwrap();
        // Of each gradient its length, and its product with a random direction, which is compared on the scale of the length.
        let compare = |prefix: &str, flat: &[f64], layout: &[Parameter]| {
            for parameter in layout {
                let part = &flat[parameter.offset..][..parameter.elements()];
                let direction = units(&format!("direction.{}", parameter.name), part.len());
                let length = part.iter().map(|value| value * value).sum::<f64>().sqrt();
                let product: f64 = part.iter().zip(direction).map(|(value, direction)| value * direction).sum();
                let theirs = numbers(&reference[&format!("{prefix}.{}", parameter.name)]);
                for (found, expected) in [length, product].into_iter().zip(&theirs) {
                    let error = (found - expected).abs() / theirs[0];
                    let what = format!("{backend}: {prefix} of {}", parameter.name);
                    assert!(error <= 5.0 * tolerance, "{what}: {found} and {expected}, relative error {error:.2e}");
                }
            }
        };
        compare("gradient", &numbers(&gradient), network.layout());
        compare("statistics", &numbers(network.statistics()), network.statistics_layout());
    }
}
