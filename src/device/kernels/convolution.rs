//! A convolution of a fixed shape, by the algorithm that suits it.

use super::{Direction, Epilogue, Isa, Products, Shape, Threads, direct::Direct, winograd::Winograd};

/// A convolution without bias (cross-correlation, as networks have it):
/// `y[p][o] = sum over taps t and inputs i of w[o][i][t] * x[p * stride - padding + t][i]`.
///
/// 3x3 at stride 1 goes by Winograd's F(4x4, 3x3) where that saves multiplications, everything else by the definition.
/// Weights are packed by [`Convolution::pack`] for each direction whenever they have changed.
#[derive(Debug, Clone)]
pub struct Convolution {
    isa: Isa,
    shape: Shape,
    algorithm: Algorithm,
}

#[derive(Debug, Clone)]
enum Algorithm {
    Direct(Direct),
    Winograd(Winograd),
}

impl Convolution {
    /// The algorithm with the fewest multiplications for maps of this shape.
    pub fn new(isa: Isa, shape: Shape) -> Self {
        Self::with_products(isa, shape, Products::F32)
    }

    /// As [`Convolution::new`], multiplying in these numbers.
    ///
    /// # Panics
    /// If the instruction set does not: see [`Isa::has_bf16`].
    pub fn with_products(isa: Isa, shape: Shape, products: Products) -> Self {
        assert!(products == Products::F32 || isa.has_bf16(), "{} does not multiply bf16 here", isa.name());
        let algorithm = if Winograd::suits(&shape) {
            Algorithm::Winograd(Winograd::new(isa, shape, products))
        } else {
            Algorithm::Direct(Direct::new(isa, shape, products))
        };
        Self { isa, shape, algorithm }
    }

    /// By the definition: its packed weights are a quarter of the other's, which is what counts for a single image.
    pub fn direct(isa: Isa, shape: Shape) -> Self {
        Self { isa, shape, algorithm: Algorithm::Direct(Direct::new(isa, shape, Products::F32)) }
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Length of packed weights; in bf16 half as long, each place holding a pair.
    pub fn packed_values(&self, direction: Direction) -> usize {
        match &self.algorithm {
            Algorithm::Direct(direct) => direct.packed_values(direction),
            Algorithm::Winograd(winograd) => winograd.packed_values(direction),
        }
    }

    /// Packs `weights`, in PyTorch's layout (outputs, inputs, size, size), for one direction.
    ///
    /// # Panics
    /// If a slice's length does not fit the shape, or there is no such direction (`packed_input`).
    pub fn pack(&self, threads: Threads, direction: Direction, weights: &[f32], packed: &mut [f32]) {
        self.check_direction(direction);
        match &self.algorithm {
            Algorithm::Direct(direct) => direct.pack(threads, direction, weights, packed),
            Algorithm::Winograd(winograd) => winograd.pack(threads, direction, weights, packed),
        }
    }

    /// `output = epilogue(convolution of input)`. `input`: (n, height, width, stored inputs); `packed`: of
    /// [`Direction::Forward`]; `output`: (n, output height, output width, stored outputs).
    ///
    /// # Panics
    /// If a slice's length does not fit the shape.
    pub fn forward(&self, threads: Threads, input: &[f32], packed: &[f32], epilogue: Epilogue, output: &mut [f32]) {
        match &self.algorithm {
            Algorithm::Direct(direct) => direct.forward(threads, input, packed, epilogue, output),
            Algorithm::Winograd(winograd) => winograd.forward(threads, input, packed, epilogue, output),
        }
    }

    /// Gradient of the input, given that of the output; `packed`: of [`Direction::Backward`]. With `accumulate` it is
    /// added to what `input_gradient` holds.
    ///
    /// # Panics
    /// If a slice's length does not fit the shape, or the shape has a packed input.
    pub fn input_gradient(
        &self,
        threads: Threads,
        output_gradient: &[f32],
        packed: &[f32],
        accumulate: bool,
        input_gradient: &mut [f32],
    ) {
        self.check_direction(Direction::Backward);
        match &self.algorithm {
            Algorithm::Direct(direct) => {
                direct.input_gradient(threads, output_gradient, packed, accumulate, input_gradient);
            }
            Algorithm::Winograd(winograd) => {
                winograd.input_gradient(threads, output_gradient, packed, accumulate, input_gradient);
            }
        }
    }

    /// Gradient of the weights in PyTorch's layout, given the input and the gradient of the output. `workspace` is
    /// memory kept between calls; it grows to what the largest convolution needs.
    ///
    /// # Panics
    /// If a slice's length does not fit the shape.
    pub fn weight_gradient(
        &self,
        threads: Threads,
        input: &[f32],
        output_gradient: &[f32],
        workspace: &mut Vec<f32>,
        weights_gradient: &mut [f32],
    ) {
        match &self.algorithm {
            Algorithm::Direct(direct) => {
                direct.weight_gradient(threads, input, output_gradient, workspace, weights_gradient);
            }
            Algorithm::Winograd(winograd) => {
                winograd.weight_gradient(threads, input, output_gradient, workspace, weights_gradient);
            }
        }
    }

    fn check_direction(&self, direction: Direction) {
        assert!(
            direction == Direction::Forward || !self.shape.packed_input,
            "a convolution of packed input has no input gradient"
        );
    }

    /// The instruction set whose vectors decide how channels lie in memory.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::kernels::reference;

    /// Winograd in f32 is good to about 1e-5; by the definition the error is that of summation.
    const TOLERANCE: f64 = 2e-5;

    /// Winograd with products of bf16 is good to about 1.2 %.
    const TOLERANCE_BF16: f64 = 0.03;

    struct Case {
        tolerance: f64,
        convolution: Convolution,
        images: usize,
        input: Vec<f64>,
        weights: Vec<f64>,
        gradient: Vec<f64>,
    }

    impl Case {
        fn new(convolution: Convolution, images: usize) -> Self {
            let shape = *convolution.shape();
            let outputs = images * shape.output_height() * shape.output_width() * shape.outputs;
            Self {
                tolerance: TOLERANCE,
                convolution,
                images,
                input: reference::noise(1, images * shape.height * shape.width * shape.inputs),
                weights: reference::noise(2, shape.weights()),
                gradient: reference::noise(3, outputs),
            }
        }

        fn packed(&self, direction: Direction) -> Vec<f32> {
            let weights: Vec<f32> = self.weights.iter().map(|w| *w as f32).collect();
            let mut packed = vec![f32::NAN; self.convolution.packed_values(direction)];
            self.convolution.pack(Threads::Pool, direction, &weights, &mut packed);
            packed
        }

        fn stored_input(&self) -> Vec<f32> {
            let shape = self.convolution.shape();
            reference::store(self.convolution.isa(), &self.input, shape.inputs, shape.packed_input)
        }

        fn stored_gradient(&self) -> Vec<f32> {
            reference::store(self.convolution.isa(), &self.gradient, self.convolution.shape().outputs, false)
        }

        fn check(&self, threads: Threads) {
            let (shape, isa) = (*self.convolution.shape(), self.convolution.isa());
            let what = |pass: &str| format!("{pass} on {} of {} images, {shape:?}", isa.name(), self.images);

            let mut output = vec![f32::NAN; self.images * shape.output_values(isa)];
            let packed = self.packed(Direction::Forward);
            self.convolution.forward(threads, &self.stored_input(), &packed, Epilogue::default(), &mut output);
            let output = reference::dense(&output, shape.outputs, isa.stored(shape.outputs));
            let expected = reference::convolution(&shape, self.images, &self.input, &self.weights);
            reference::assert_close(&what("forward"), &output, &expected, self.tolerance);

            let mut gradient = vec![f32::NAN; shape.weights()];
            let mut workspace = vec![f32::NAN; 7];
            self.convolution.weight_gradient(
                threads,
                &self.stored_input(),
                &self.stored_gradient(),
                &mut workspace,
                &mut gradient,
            );
            let gradient: Vec<f64> = gradient.iter().map(|g| f64::from(*g)).collect();
            let expected = reference::weight_gradient(&shape, self.images, &self.input, &self.gradient);
            reference::assert_close(&what("weight gradient"), &gradient, &expected, self.tolerance);

            if shape.packed_input {
                return;
            }
            let mut gradient = vec![f32::NAN; self.images * shape.input_values(isa)];
            let packed = self.packed(Direction::Backward);
            let given = self.stored_gradient();
            self.convolution.input_gradient(threads, &given, &packed, false, &mut gradient);
            let once = reference::dense(&gradient, shape.inputs, isa.stored(shape.inputs));
            let expected = reference::input_gradient(&shape, self.images, &self.gradient, &self.weights);
            reference::assert_close(&what("input gradient"), &once, &expected, self.tolerance);

            self.convolution.input_gradient(threads, &given, &packed, true, &mut gradient);
            let twice = reference::dense(&gradient, shape.inputs, isa.stored(shape.inputs));
            let expected: Vec<f64> = expected.iter().map(|gradient| 2.0 * gradient).collect();
            reference::assert_close(&what("input gradient added"), &twice, &expected, self.tolerance);
        }
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        let maps = (1..13_usize, 1..13_usize, 1..40_usize, 1..40_usize);
        let windows = (1..8_usize, 1..4_usize, 0..4_usize);
        let any =
            (maps, windows, any::<bool>()).prop_map(|((height, width, inputs, outputs), window, packed_input)| {
                let (size, stride, padding) = window;
                Shape { height, width, inputs, outputs, size, stride, padding, packed_input }
            });
        let fitting = any.prop_filter("the kernel fits the padded map", |shape| {
            shape.height.min(shape.width) + 2 * shape.padding >= shape.size && shape.padding < shape.size
        });
        let winograd =
            (1..20_usize, 1..20_usize, 1..40_usize, 1..40_usize).prop_map(|(height, width, inputs, outputs)| Shape {
                height,
                width,
                inputs,
                outputs,
                size: 3,
                stride: 1,
                padding: 1,
                packed_input: false,
            });
        prop_oneof![fitting, winograd]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_pass_agrees_with_the_definition(shape in shapes(), images in 1..4_usize) {
            for isa in Isa::available() {
                Case::new(Convolution::new(isa, shape), images).check(Threads::Pool);
                Case::new(Convolution::direct(isa, shape), images).check(Threads::Caller);
                if isa.has_bf16() {
                    let convolution = Convolution::with_products(isa, shape, Products::Bf16);
                    Case { tolerance: TOLERANCE_BF16, ..Case::new(convolution, images) }.check(Threads::Pool);
                }
            }
        }
    }

    #[test]
    fn the_layers_of_a_residual_network_agree_with_the_definition() {
        let layer = |side, inputs, outputs, size, stride| {
            let (padding, packed_input) = (size / 2, inputs == 3);
            Shape { height: side, width: side, inputs, outputs, size, stride, padding, packed_input }
        };
        let layers = [
            layer(32, 3, 16, 3, 1),
            layer(32, 16, 16, 3, 1),
            layer(16, 32, 64, 3, 2),
            layer(16, 32, 64, 1, 2),
            layer(4, 160, 96, 3, 1),
            layer(2, 64, 64, 3, 1),
            layer(1, 64, 64, 3, 1),
            layer(30, 3, 8, 7, 2),
            layer(33, 3, 64, 7, 2),
        ];
        for (index, shape) in layers.into_iter().enumerate() {
            let isa = Isa::available()[index % Isa::available().len()];
            Case::new(Convolution::new(isa, shape), 2 + index % 3).check(Threads::Pool);
            if let Some(isa) = Isa::available().into_iter().find(|isa| isa.has_bf16()) {
                let convolution = Convolution::with_products(isa, shape, Products::Bf16);
                Case { tolerance: TOLERANCE_BF16, ..Case::new(convolution, 1 + index % 3) }.check(Threads::Pool);
            }
        }
    }

    #[test]
    fn bf16_where_the_processor_has_none_is_refused() {
        let shape =
            Shape { height: 4, width: 4, inputs: 4, outputs: 4, size: 3, stride: 1, padding: 1, packed_input: false };
        for isa in Isa::available().into_iter().filter(|isa| !isa.has_bf16()) {
            let made = std::panic::catch_unwind(|| Convolution::with_products(isa, shape, Products::Bf16));
            assert!(made.is_err(), "{}", isa.name());
        }
    }

    #[test]
    fn bias_residual_and_relu_are_applied_in_this_order() {
        for side in [4, 6, 9] {
            let isa = Isa::for_channels(16);
            let shape = Shape {
                height: side,
                width: side,
                inputs: 16,
                outputs: 48,
                size: 3,
                stride: 1,
                padding: 1,
                packed_input: false,
            };
            for convolution in [Convolution::new(isa, shape), Convolution::direct(isa, shape)] {
                let case = Case::new(convolution, 2);
                let bias: Vec<f32> = reference::noise(5, 48).iter().map(|b| *b as f32).collect();
                let residual = reference::noise(6, case.gradient.len());
                let mut output: Vec<f32> = residual.iter().map(|r| *r as f32).collect();
                let packed = case.packed(Direction::Forward);
                let epilogue = Epilogue { bias: Some(&bias), accumulate: true, relu: true };
                case.convolution.forward(Threads::Caller, &case.stored_input(), &packed, epilogue, &mut output);
                let sums = reference::convolution(&shape, 2, &case.input, &case.weights);
                let all = sums.iter().zip(&residual).enumerate();
                let expected: Vec<f64> = all
                    .map(|(place, (sum, residual))| (sum + f64::from(bias[place % 48]) + residual).max(0.0))
                    .collect();
                let output: Vec<f64> = output.iter().map(|value| f64::from(*value)).collect();
                reference::assert_close("with epilogue", &output, &expected, TOLERANCE);
            }
        }
    }

    #[test]
    fn the_gradients_are_those_of_finite_differences() {
        let isa = Isa::for_channels(16);
        for (size, stride) in [(3, 1), (3, 2), (1, 2)] {
            let padding = size / 2;
            let shape =
                Shape { height: 6, width: 5, inputs: 16, outputs: 16, size, stride, padding, packed_input: false };
            let case = Case::new(Convolution::new(isa, shape), 2);
            let mut by_weights = vec![0.0; shape.weights()];
            let mut by_input = vec![0.0; case.input.len()];
            let (input, gradient) = (case.stored_input(), case.stored_gradient());
            case.convolution.weight_gradient(Threads::Pool, &input, &gradient, &mut Vec::new(), &mut by_weights);
            let packed = case.packed(Direction::Backward);
            case.convolution.input_gradient(Threads::Pool, &gradient, &packed, false, &mut by_input);
            // The loss <y, dy> is linear in both, so that a difference quotient of any width is exact.
            let loss = |input: &[f64], weights: &[f64]| -> f64 {
                let y = reference::convolution(&shape, 2, input, weights);
                y.iter().zip(&case.gradient).map(|(y, dy)| y * dy).sum()
            };
            let here = loss(&case.input, &case.weights);
            for place in (0..by_weights.len()).step_by(by_weights.len() / 7) {
                let mut weights = case.weights.clone();
                weights[place] += 1.0;
                let quotient = loss(&case.input, &weights) - here;
                assert!((quotient - f64::from(by_weights[place])).abs() < 1e-3, "weight {place} of {shape:?}");
            }
            for place in (0..by_input.len()).step_by(by_input.len() / 7) {
                let mut input = case.input.clone();
                input[place] += 1.0;
                let quotient = loss(&input, &case.weights) - here;
                assert!((quotient - f64::from(by_input[place])).abs() < 1e-3, "input {place} of {shape:?}");
            }
        }
    }

    #[test]
    fn the_same_call_gives_the_same_bits() {
        let isa = Isa::for_channels(16);
        let shape =
            Shape { height: 8, width: 8, inputs: 32, outputs: 32, size: 3, stride: 1, padding: 1, packed_input: false };
        let case = Case::new(Convolution::new(isa, shape), 9);
        let (input, gradient) = (case.stored_input(), case.stored_gradient());
        let once = || {
            let mut sums = vec![0.0; shape.weights()];
            case.convolution.weight_gradient(Threads::Pool, &input, &gradient, &mut Vec::new(), &mut sums);
            sums
        };
        let first = once();
        for _ in 0..5 {
            assert_eq!(first, once());
        }
    }
}
