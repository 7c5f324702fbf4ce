//! Batch norm against its definition.

use proptest::prelude::*;

use super::*;
use crate::device::kernels::reference;

const EPSILON: f32 = 1e-5;

/// A layer with its inputs; channels fill whole vectors.
struct Case {
    norm: BatchNorm,
    x: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    residual: Option<Vec<f64>>,
    gradient: Vec<f64>,
}

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

impl Case {
    fn new(isa: Isa, vectors: usize, rows: usize, centre: f64, residual: bool) -> Self {
        let channels = vectors * isa.lanes();
        let count = rows * channels;
        let x = reference::noise(1, count).iter().map(|x| f64::from((x + centre) as f32)).collect();
        Self {
            norm: BatchNorm { isa, channels, epsilon: EPSILON },
            x,
            weight: reference::noise(2, channels),
            bias: reference::noise(3, channels),
            residual: residual.then(|| reference::noise(4, count)),
            gradient: reference::noise(5, count),
        }
    }

    fn loss(&self, x: &[f64], weight: &[f64], bias: &[f64], relu: bool) -> f64 {
        let affine = (weight, bias);
        let epsilon = f64::from(EPSILON);
        let (y, ..) = reference::batch_norm(self.norm.channels, epsilon, x, affine, self.residual.as_deref(), relu);
        y.iter().zip(&self.gradient).map(|(y, dy)| y * dy).sum()
    }

    /// Output, and gradients of residual, input, weight and bias.
    fn run(&self, threads: Threads, relu: bool, recompute: bool, in_place: bool) -> [Vec<f32>; 5] {
        let (x, weight, bias) = (f32s(&self.x), f32s(&self.weight), f32s(&self.bias));
        let residual = self.residual.as_deref().map(f32s);
        let moments = self.norm.moments(threads, &x);
        let mut y = vec![f32::NAN; x.len()];
        let fitted = self.norm.fitted(&moments, &weight, &bias);
        fitted.forward(threads, &x, residual.as_deref(), relu, &mut y);
        let mask = match (relu, recompute) {
            (false, _) => Mask::None,
            (true, false) => Mask::Output(&y),
            (true, true) => Mask::Recompute,
        };
        let mut gradient = f32s(&self.gradient);
        let mut dx = vec![f32::NAN; x.len()];
        let (mut d_weight, mut d_bias) = (vec![0.0; weight.len()], vec![0.0; bias.len()]);
        let to = (!in_place).then_some(dx.as_mut_slice());
        let parameters = (d_weight.as_mut_slice(), d_bias.as_mut_slice());
        fitted.backward(threads, &x, mask, &mut gradient, to, parameters);
        if in_place {
            dx.copy_from_slice(&gradient);
        }
        [y, gradient, dx, d_weight, d_bias]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forward_agrees_with_the_definition(
        vectors in 1..7_usize, rows in 1..3000_usize, far in any::<bool>(), residual in any::<bool>(), relu in any::<bool>()
    ) {
        for isa in Isa::available() {
            let centre = if far { 100.0 } else { 0.0 };
            let case = Case::new(isa, vectors, rows, centre, residual);
            let affine = (case.weight.as_slice(), case.bias.as_slice());
            let (y, mean, variance) = reference::batch_norm(
                case.norm.channels, f64::from(EPSILON), &case.x, affine, case.residual.as_deref(), relu);
            let moments = case.norm.moments(Threads::Pool, &f32s(&case.x));
            let tolerance = if far { 3e-4 } else { 1e-5 };
            for (found, expected) in moments.mean.iter().zip(&mean) {
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 1e-6 * (3.0 + centre), "mean {found}, not {expected}: a deviation is one");
            }
            reference::assert_close("variance", &f64s(&moments.variance), &variance, 1e-5);
            if rows > 1 {
                let [found, ..] = case.run(Threads::Pool, relu, false, false);
                reference::assert_close("outputs", &f64s(&found), &y, tolerance);
            }
        }
    }
}

#[test]
fn the_gradients_are_those_of_finite_differences() {
    for (isa, rows) in Isa::available().into_iter().zip([40, 2, 1500, 7]) {
        for (relu, residual) in [(true, true), (true, false), (false, false)] {
            let case = Case::new(isa, 3, rows, 0.5, residual);
            let [_, masked, dx, d_weight, d_bias] = case.run(Threads::Pool, relu, !residual, false);
            let [_, in_place, _, _, _] = case.run(Threads::Caller, relu, false, true);
            assert_eq!(in_place, dx, "in place as beside");
            let step = 1e-6;
            let check = |what: &str, found: f32, change: &dyn Fn(f64) -> f64| {
                let quotient = (change(step) - change(-step)) / (2.0 * step);
                let error = (quotient - f64::from(found)).abs();
                assert!(error < 2e-3 * (1.0 + quotient.abs()), "{what}: {found}, by differences {quotient}");
            };
            let moved = |values: &[f64], place: usize, by: f64| {
                let mut moved = values.to_vec();
                moved[place] += by;
                moved
            };
            for place in (0..case.x.len()).step_by(case.x.len() / 5) {
                let change = |by| case.loss(&moved(&case.x, place, by), &case.weight, &case.bias, relu);
                check("input", dx[place], &change);
            }
            for channel in (0..case.norm.channels).step_by(5) {
                let change = |by| case.loss(&case.x, &moved(&case.weight, channel, by), &case.bias, relu);
                check("weight", d_weight[channel], &change);
                let change = |by| case.loss(&case.x, &case.weight, &moved(&case.bias, channel, by), relu);
                check("bias", d_bias[channel], &change);
            }
            if residual {
                let [y, ..] = case.run(Threads::Pool, relu, false, false);
                for ((masked, y), given) in masked.iter().zip(&y).zip(&case.gradient) {
                    assert_eq!(*masked, if *y > 0.0 { *given as f32 } else { 0.0 });
                }
            }
        }
    }
}

#[test]
fn a_single_row_becomes_the_bias_and_has_no_gradient() {
    let case = Case::new(Isa::for_channels(16), 1, 1, 3.0, false);
    let [y, _, dx, d_weight, _] = case.run(Threads::Caller, false, false, false);
    reference::assert_close("outputs", &f64s(&y), &case.bias, 1e-4);
    assert!(dx.iter().chain(&d_weight).all(|gradient| gradient.abs() < 1e-3), "{dx:?} {d_weight:?}");
}
