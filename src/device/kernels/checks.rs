//! Every kernel of the CPU against its twin in [`mod@reference`], on random inputs and every instruction set of this machine.

use super::{
    BatchNorm, Convolution, Direction, Epilogue, Isa, Mask, MaxPool, Shape, Threads, Window, global_average,
    global_average_backward, reference, relu_backward,
};
use crate::device::Check;

/// Relative errors that f32 and Winograd's algorithm leave: the tests allow as much.
const CONVOLUTION: f64 = 2e-5;
const NORM: f64 = 2e-5;
/// Sums of a few values, or none.
const POOL: f64 = 1e-6;

/// Images of a check.
const IMAGES: usize = 3;

type Report<'a> = &'a mut dyn FnMut(Check);

pub(crate) fn run(report: Report) {
    for isa in Isa::available() {
        // The forms of a residual network: both stems, Winograd's, the strided and the pointwise ones.
        for (side, inputs, outputs, size, stride) in [
            (20, 3, 16, 3, 1),
            (33, 3, 16, 7, 2),
            (14, 16, 32, 3, 1),
            (13, 24, 16, 3, 2),
            (9, 16, 40, 1, 2),
            (2, 32, 32, 3, 1),
        ] {
            let (padding, packed_input) = (size / 2, inputs == 3);
            let shape = Shape { height: side, width: side + 1, inputs, outputs, size, stride, padding, packed_input };
            convolution(isa, shape, report);
        }
        for (channels, rows) in [(16, 500), (48, 7), (64, 1)] {
            batch_norm(isa, channels, rows, report);
        }
        for (height, width, channels) in [(16, 16, 16), (9, 12, 24), (1, 2, 16)] {
            max_pool(isa, height, width, channels, report);
        }
        pools(isa, report);
    }
}

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn convolution(isa: Isa, shape: Shape, report: Report) {
    let convolution = Convolution::new(isa, shape);
    let Shape { height, width, inputs, outputs, size, stride, .. } = shape;
    let case = format!("{}, {height}x{width}, {inputs} to {outputs}, {size}x{size} stride {stride}", isa.name());
    let output_values = IMAGES * shape.output_height() * shape.output_width() * outputs;
    let input = reference::noise(1, IMAGES * height * width * inputs);
    let (weights, gradient) = (reference::noise(2, shape.weights()), reference::noise(3, output_values));
    let stored_input = reference::store(isa, &input, inputs, shape.packed_input);
    let stored_gradient = reference::store(isa, &gradient, outputs, false);
    let pack = |direction| {
        let mut packed = vec![f32::NAN; convolution.packed_values(direction)];
        convolution.pack(Threads::Pool, direction, &f32s(&weights), &mut packed);
        packed
    };
    let mut compare = |what: &str, found: &[f64], expected: &[f64]| {
        report(Check::of(&format!("convolution {what}"), &case, found, expected, CONVOLUTION));
    };

    let mut output = vec![f32::NAN; IMAGES * shape.output_values(isa)];
    let packed = pack(Direction::Forward);
    convolution.forward(Threads::Pool, &stored_input, &packed, Epilogue::default(), &mut output);
    let found = reference::dense(&output, outputs, isa.stored(outputs));
    compare("forward", &found, &reference::convolution(&shape, IMAGES, &input, &weights));

    let mut by_weights = vec![f32::NAN; shape.weights()];
    convolution.weight_gradient(Threads::Pool, &stored_input, &stored_gradient, &mut Vec::new(), &mut by_weights);
    compare("weight gradient", &f64s(&by_weights), &reference::weight_gradient(&shape, IMAGES, &input, &gradient));

    if !shape.packed_input {
        let mut by_input = vec![f32::NAN; IMAGES * shape.input_values(isa)];
        convolution.input_gradient(Threads::Pool, &stored_gradient, &pack(Direction::Backward), false, &mut by_input);
        let found = reference::dense(&by_input, inputs, isa.stored(inputs));
        compare("input gradient", &found, &reference::input_gradient(&shape, IMAGES, &gradient, &weights));
    }
}

fn batch_norm(isa: Isa, channels: usize, rows: usize, report: Report) {
    const EPSILON: f32 = 1e-5;
    let channels = isa.stored(channels);
    let case = format!("{}, {rows} rows of {channels}", isa.name());
    let count = rows * channels;
    let (x, residual, gradient) = (reference::noise(1, count), reference::noise(2, count), reference::noise(3, count));
    let (weight, bias) = (reference::noise(4, channels), reference::noise(5, channels));
    let epsilon = f64::from(EPSILON);
    let (y, mean, variance) = reference::batch_norm(channels, epsilon, &x, (&weight, &bias), Some(&residual), true);
    let expected = reference::batch_norm_backward(
        channels,
        epsilon,
        &x,
        (&mean, &variance),
        &weight,
        &reference::masked(&gradient, &y),
    );

    let norm = BatchNorm { isa, channels, epsilon: EPSILON };
    let x = f32s(&x);
    let moments = norm.moments(Threads::Pool, &x);
    let fitted = norm.fitted(&moments, &f32s(&weight), &f32s(&bias));
    let mut found = vec![f32::NAN; count];
    fitted.forward(Threads::Pool, &x, Some(&f32s(&residual)), true, &mut found);
    let (mut d_weight, mut d_bias) = (vec![0.0; channels], vec![0.0; channels]);
    let (mut of_residual, mut dx) = (f32s(&gradient), vec![f32::NAN; count]);
    let to = (&mut *d_weight, &mut *d_bias);
    // The mask of the definition: where a value is 0 but for rounding, both may differ, and are right.
    fitted.backward(Threads::Pool, &x, Mask::Output(&f32s(&y)), &mut of_residual, Some(&mut dx), to);
    let mut compare = |what: &str, found: &[f32], expected: &[f64]| {
        report(Check::of(&format!("batch norm + residual + relu {what}"), &case, &f64s(found), expected, NORM));
    };
    compare("forward", &found, &y);
    // The gradient of x vanishes where there is a single row: what is left is rounding, to be measured beside that of y.
    if rows > 1 {
        compare("input gradient", &dx, &expected.0);
        compare("weight gradient", &d_weight, &expected.1);
    }
    compare("bias gradient", &d_bias, &expected.2);
}

fn max_pool(isa: Isa, height: usize, width: usize, used: usize, report: Report) {
    let pool =
        MaxPool { isa, channels: isa.stored(used), height, width, window: Window { size: 3, stride: 2, padding: 1 } };
    let case = format!("{}, {height}x{width} of {used}, 3x3 stride 2", isa.name());
    let input = reference::noise(1, IMAGES * height * width * used);
    let (expected, places) = reference::max_pool(&pool, used, IMAGES, &input);
    let stored = reference::store(isa, &input, used, false);
    let (mut output, mut taps) = (vec![f32::NAN; IMAGES * pool.output_values()], Vec::new());
    taps.resize(output.len(), 0);
    pool.forward(Threads::Pool, &stored, None, &mut output, Some(&mut taps));
    report(Check::of("max-pool forward", &case, &reference::dense(&output, used, pool.channels), &expected, POOL));

    let gradient = reference::noise(2, expected.len());
    let mut by_input = vec![f32::NAN; stored.len()];
    pool.backward(Threads::Pool, &reference::store(isa, &gradient, used, false), &taps, &mut by_input);
    let mut expected = vec![0.0; input.len()];
    places.iter().zip(&gradient).for_each(|(place, gradient)| expected[*place] += gradient);
    report(Check::of("max-pool backward", &case, &reference::dense(&by_input, used, pool.channels), &expected, POOL));

    // Fused with batch norm and ReLU, as behind the stem.
    let (scale, shift) = (reference::noise(3, used), reference::noise(4, used));
    let normalised = |(place, x): (usize, &f64)| (x * scale[place % used] + shift[place % used]).max(0.0);
    let normalised: Vec<f64> = input.iter().enumerate().map(normalised).collect();
    let [scale, shift] = [&scale, &shift].map(|values| reference::store(isa, values, used, false));
    pool.forward(Threads::Pool, &stored, Some((&scale, &shift)), &mut output, None);
    let found = reference::dense(&output, used, pool.channels);
    let (expected, _) = reference::max_pool(&pool, used, IMAGES, &normalised);
    report(Check::of("batch norm + relu + max-pool forward", &case, &found, &expected, POOL));
}

fn pools(isa: Isa, report: Report) {
    let (pixels, channels) = (49, isa.stored(32));
    let case = format!("{}, {pixels} pixels of {channels}", isa.name());
    let input = reference::noise(1, IMAGES * pixels * channels);
    let mean = |place: usize| {
        let (image, channel) = (place / channels, place % channels);
        (0..pixels).map(|pixel| input[(image * pixels + pixel) * channels + channel]).sum::<f64>() / pixels as f64
    };
    let expected: Vec<f64> = (0..IMAGES * channels).map(mean).collect();
    let mut output = vec![f32::NAN; expected.len()];
    global_average(&f32s(&input), pixels, channels, &mut output);
    report(Check::of("average pool forward", &case, &f64s(&output), &expected, 10.0 * POOL));

    let gradient = reference::noise(2, IMAGES * channels);
    let share = |place: usize| gradient[place / (pixels * channels) * channels + place % channels] / pixels as f64;
    let expected: Vec<f64> = (0..input.len()).map(share).collect();
    let mut spread = vec![f32::NAN; input.len()];
    global_average_backward(&f32s(&gradient), pixels, channels, &mut spread);
    report(Check::of("average pool backward", &case, &f64s(&spread), &expected, POOL));

    let gradient = reference::noise(3, input.len());
    let mut stopped = f32s(&gradient);
    relu_backward(Threads::Pool, &f32s(&input), &mut stopped);
    report(Check::of("relu backward", &case, &f64s(&stopped), &reference::masked(&gradient, &input), POOL));
}
