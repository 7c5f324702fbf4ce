//! The strategies' formulas against PyTorch's: `tests/parity/make_strategies.py` made the numbers, in float64.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use lumpd::config::ObjectiveKind;
use lumpd::learn::{AGem, Gradient, Strategy, cross_entropy, objective};

/// Sums are taken in another order.
const TOLERANCE: f64 = 1e-9;

fn reference() -> BTreeMap<String, Tensor> {
    let bytes = include_bytes!("../parity/strategies.safetensors");
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap().into_iter().collect()
}

fn assert_close(what: &str, ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.dtype(), DType::F64);
    let norm = |tensor: &Tensor| tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
    let error = norm(&(ours - theirs).unwrap()) / norm(theirs);
    assert!(error <= TOLERANCE, "{what}: relative error {error:.2e}");
}

#[test]
fn distillation_is_that_of_pytorch_for_each_objective() {
    let reference = reference();
    for kind in [ObjectiveKind::SimSiam, ObjectiveKind::Barlow, ObjectiveKind::SimClr] {
        let name = format!("distillation.{}", format!("{kind:?}").to_lowercase());
        let predicted = Var::from_tensor(&reference["distillation.predicted"]).unwrap();
        let loss = objective(kind).distillation(&predicted, &reference["distillation.target"]).unwrap();
        assert_close(&name, &loss, &reference[&format!("{name}.loss")]);
        let gradients = loss.backward().unwrap();
        assert_close(&name, gradients.get(&predicted).unwrap(), &reference[&format!("{name}.gradient")]);
    }
}

#[test]
fn cross_entropy_is_that_of_pytorch() {
    let reference = reference();
    let logits = Var::from_tensor(&reference["entropy.logits"]).unwrap();
    let labels: Vec<u32> =
        reference["entropy.labels"].to_vec1::<f64>().unwrap().into_iter().map(|label| label as u32).collect();
    let loss = cross_entropy(&logits, &labels).unwrap();
    assert_close("loss", &loss, &reference["entropy.loss"]);
    assert_close("gradient", loss.backward().unwrap().get(&logits).unwrap(), &reference["entropy.gradient"]);
}

#[test]
fn a_projected_gradient_is_that_of_pytorchs_least_squares() {
    let reference = reference();
    let gradient = |name: &str| Gradient { backbone: reference[name].clone(), others: Vec::new() };
    let passes = vec![gradient("projection.gradient"), gradient("projection.reference")];
    let combined = AGem.combine(passes).unwrap();
    assert_close("projection", &combined.backbone, &reference["projection.result"]);
}
