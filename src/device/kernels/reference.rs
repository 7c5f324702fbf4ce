//! Plain twins of the kernels: the definitions, in f64, in loops. They say what the kernels must compute.

use super::{Isa, MaxPool, Shape};

/// Visits every product of a convolution: image, output pixel, output, input pixel, input and tap by their places in the
/// dense layouts (n, height, width, channels) and (outputs, inputs, size, size).
fn for_each_product(shape: &Shape, images: usize, mut visit: impl FnMut(usize, usize, usize)) {
    let (oh, ow) = (shape.output_height(), shape.output_width());
    for image in 0..images {
        for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            for (ky, kx) in (0..shape.size).flat_map(|y| (0..shape.size).map(move |x| (y, x))) {
                let (y, x) = (oy * shape.stride + ky, ox * shape.stride + kx);
                if y < shape.padding || x < shape.padding {
                    continue;
                }
                let (y, x) = (y - shape.padding, x - shape.padding);
                if y >= shape.height || x >= shape.width {
                    continue;
                }
                for o in 0..shape.outputs {
                    for i in 0..shape.inputs {
                        let input = ((image * shape.height + y) * shape.width + x) * shape.inputs + i;
                        let output = ((image * oh + oy) * ow + ox) * shape.outputs + o;
                        let weight = ((o * shape.inputs + i) * shape.size + ky) * shape.size + kx;
                        visit(input, weight, output);
                    }
                }
            }
        }
    }
}

/// `y = sum of w x`.
pub(crate) fn convolution(shape: &Shape, images: usize, input: &[f64], weights: &[f64]) -> Vec<f64> {
    let mut output = vec![0.0; images * shape.output_height() * shape.output_width() * shape.outputs];
    for_each_product(shape, images, |i, w, o| output[o] += input[i] * weights[w]);
    output
}

/// `dx = sum of w dy`.
pub(crate) fn input_gradient(shape: &Shape, images: usize, output_gradient: &[f64], weights: &[f64]) -> Vec<f64> {
    let mut gradient = vec![0.0; images * shape.height * shape.width * shape.inputs];
    for_each_product(shape, images, |i, w, o| gradient[i] += output_gradient[o] * weights[w]);
    gradient
}

/// `dw = sum of x dy`.
pub(crate) fn weight_gradient(shape: &Shape, images: usize, input: &[f64], output_gradient: &[f64]) -> Vec<f64> {
    let mut gradient = vec![0.0; shape.weights()];
    for_each_product(shape, images, |i, w, o| gradient[w] += input[i] * output_gradient[o]);
    gradient
}

/// `relu?((x - mean) / sqrt(variance + epsilon) * weight + bias + residual)` over (rows, channels), and mean and variance.
pub(crate) fn batch_norm(
    channels: usize,
    epsilon: f64,
    x: &[f64],
    (weight, bias): (&[f64], &[f64]),
    residual: Option<&[f64]>,
    relu: bool,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let rows = (x.len() / channels) as f64;
    let column = |c: usize| x.iter().skip(c).step_by(channels);
    let mean: Vec<f64> = (0..channels).map(|c| column(c).sum::<f64>() / rows).collect();
    let variance: Vec<f64> =
        (0..channels).map(|c| column(c).map(|x| (x - mean[c]).powi(2)).sum::<f64>() / rows).collect();
    let y = x.iter().enumerate().map(|(place, x)| {
        let c = place % channels;
        let y = (x - mean[c]) / (variance[c] + epsilon).sqrt() * weight[c] + bias[c];
        let y = y + residual.map_or(0.0, |residual| residual[place]);
        if relu { y.max(0.0) } else { y }
    });
    (y.collect(), mean, variance)
}

/// Gradients of x, weight and bias, given that of the normalised values (rows, channels) and the moments of x.
pub(crate) fn batch_norm_backward(
    channels: usize,
    epsilon: f64,
    x: &[f64],
    (mean, variance): (&[f64], &[f64]),
    weight: &[f64],
    gradient: &[f64],
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let rows = (x.len() / channels) as f64;
    let inverse = |c: usize| 1.0 / (variance[c] + epsilon).sqrt();
    let (mut by_weight, mut by_bias) = (vec![0.0; channels], vec![0.0; channels]);
    for (place, gradient) in gradient.iter().enumerate() {
        let c = place % channels;
        by_weight[c] += gradient * (x[place] - mean[c]) * inverse(c);
        by_bias[c] += gradient;
    }
    let by_x = gradient.iter().enumerate().map(|(place, gradient)| {
        let c = place % channels;
        let normalised = (x[place] - mean[c]) * inverse(c);
        weight[c] * inverse(c) * (gradient - by_bias[c] / rows - normalised * by_weight[c] / rows)
    });
    (by_x.collect(), by_weight, by_bias)
}

/// The gradient of what goes into a ReLU, given that of what comes out and what came out.
pub(crate) fn masked(gradient: &[f64], output: &[f64]) -> Vec<f64> {
    gradient.iter().zip(output).map(|(gradient, output)| if *output > 0.0 { *gradient } else { 0.0 }).collect()
}

/// The largest value of each window, and its place in the dense input; of equal ones the first.
pub(crate) fn max_pool(pool: &MaxPool, channels: usize, images: usize, input: &[f64]) -> (Vec<f64>, Vec<usize>) {
    let (mut output, mut places) = (Vec::new(), Vec::new());
    let window = pool.window;
    for image in 0..images {
        for (oy, ox) in (0..pool.output_height()).flat_map(|y| (0..pool.output_width()).map(move |x| (y, x))) {
            for channel in 0..channels {
                let mut best = None;
                for (ky, kx) in (0..window.size).flat_map(|y| (0..window.size).map(move |x| (y, x))) {
                    let (y, x) = (oy * window.stride + ky, ox * window.stride + kx);
                    let inside = |at: usize, length: usize| (window.padding..length + window.padding).contains(&at);
                    if !inside(y, pool.height) || !inside(x, pool.width) {
                        continue;
                    }
                    let row = image * pool.height + y - window.padding;
                    let place = (row * pool.width + x - window.padding) * channels + channel;
                    if best.is_none_or(|best: usize| input[place] > input[best]) {
                        best = Some(place);
                    }
                }
                if let Some(best) = best {
                    output.push(input[best]);
                    places.push(best);
                }
            }
        }
    }
    (output, places)
}

/// Dense maps in f64 as the kernels store them: f32, with zeros in the channels added.
pub(crate) fn store(isa: Isa, dense: &[f64], channels: usize, packed: bool) -> Vec<f32> {
    let stored = if packed { channels } else { isa.stored(channels) };
    let mut values = vec![0.0; dense.len() / channels * stored];
    for (pixel, to) in dense.chunks_exact(channels).zip(values.chunks_exact_mut(stored)) {
        for (value, to) in pixel.iter().zip(to) {
            *to = *value as f32;
        }
    }
    values
}

/// The way back; asserts that the channels added are zero.
pub(crate) fn dense(stored: &[f32], channels: usize, stored_channels: usize) -> Vec<f64> {
    let mut values = Vec::new();
    for pixel in stored.chunks_exact(stored_channels) {
        assert!(pixel[channels..].iter().all(|value| *value == 0.0), "channels added stay zero: {pixel:?}");
        values.extend(pixel[..channels].iter().map(|value| f64::from(*value)));
    }
    values
}

/// Values of about one in size that f32 holds exactly.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f64> {
    let mut random = crate::config::Seed(seed).random("kernel tests", 0);
    (0..count).map(|_| f64::from(random.normal() as f32)).collect()
}

#[cfg(test)]
/// Asserts that the root of the mean squared error is at most `tolerance` times that of the expected values (and that no
/// single error is beyond 30 times it).
pub(crate) fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = (expected.iter().map(|e| e * e).sum::<f64>() / expected.len().max(1) as f64).sqrt().max(1e-30);
    let error = found.iter().zip(expected).map(|(f, e)| (f - e).powi(2)).sum::<f64>() / expected.len().max(1) as f64;
    assert!(error.sqrt() <= tolerance * size, "{what}: relative error {}", error.sqrt() / size);
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= 30.0 * tolerance * size, "{what} at {place}: {found}, not {expected}");
    }
}
