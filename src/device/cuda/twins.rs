//! Plain twins of the kernels and of the convolutions: the definitions, in f64, in loops. They say what the machine must
//! compute.

use half::bf16;

use super::machine::{ConvolutionShape, Pass, Precision};
use super::norm::NormShape;
use super::pool::MaxShape;
use super::views::{Adjustments, ViewChoices, ViewShape};

/// Values as they are in memory.
pub fn encode(precision: Precision, values: &[f64]) -> Vec<u8> {
    match precision {
        Precision::Bf16 => values.iter().flat_map(|value| bf16::from_f64(*value).to_ne_bytes()).collect(),
        _ => values.iter().flat_map(|value| (*value as f32).to_ne_bytes()).collect(),
    }
}

/// The way back.
pub fn decode(precision: Precision, bytes: &[u8]) -> Vec<f64> {
    match precision {
        Precision::Bf16 => bytes.as_chunks::<2>().0.iter().map(|bytes| bf16::from_ne_bytes(*bytes).to_f64()).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_ne_bytes(*bytes))).collect(),
    }
}

/// The nearest values that memory can hold.
pub fn rounded(precision: Precision, values: &[f64]) -> Vec<f64> {
    decode(precision, &encode(precision, values))
}

/// One pass of a convolution on maps in memory. Returns which of input, weights and output it makes, and its content.
pub fn convolve(shape: &ConvolutionShape, precision: Precision, pass: Pass, memory: [&[u8]; 3]) -> (usize, Vec<u8>) {
    let place = match pass {
        Pass::Forward => 2,
        Pass::InputGradient { .. } => 0,
        Pass::WeightGradient => 1,
    };
    let counts = [shape.input_values(), shape.filter_values(), shape.output_values()];
    let mut values = [0, 1, 2].map(|index| decode(precision, &memory[index][..counts[index] * precision.bytes()]));
    let mut result = match pass {
        Pass::InputGradient { add: true } => std::mem::take(&mut values[0]),
        _ => vec![0.0; counts[place]],
    };
    products(shape, |input, weight, output| match pass {
        Pass::Forward => result[output] += values[0][input] * values[1][weight],
        Pass::InputGradient { .. } => result[input] += values[1][weight] * values[2][output],
        Pass::WeightGradient => result[weight] += values[0][input] * values[2][output],
    });
    (place, encode(precision, &result))
}

/// Every product of a convolution, by the places of input, weight and output.
fn products(shape: &ConvolutionShape, mut visit: impl FnMut(usize, usize, usize)) {
    let ConvolutionShape { images, height, width, inputs, outputs, size, stride, padding } = *shape;
    let (oh, ow) = (shape.output_height(), shape.output_width());
    for pixel in 0..images * oh * ow {
        let (image, oy, ox) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
        for tap in 0..size * size {
            let (y, x) = (oy * stride + tap / size, ox * stride + tap % size);
            if y < padding || x < padding || y - padding >= height || x - padding >= width {
                continue;
            }
            let input = ((image * height + y - padding) * width + x - padding) * inputs;
            for output in 0..outputs {
                let weight = (output * size * size + tap) * inputs;
                (0..inputs).for_each(|channel| visit(input + channel, weight + channel, pixel * outputs + output));
            }
        }
    }
}

/// What batch norm gives, and what its backward pass does.
pub struct Norm {
    pub y: Vec<f64>,
    /// (groups, channels)
    pub mean: Vec<f64>,
    /// Biased, (groups, channels).
    pub variance: Vec<f64>,
    pub dx: Vec<f64>,
    /// Behind the ReLU.
    pub d: Vec<f64>,
    pub d_weight: Vec<f64>,
    pub d_bias: Vec<f64>,
}

/// Batch norm of (groups * rows, channels) and its gradients, given that of the output; `relu` cuts both.
pub fn norm(
    shape: NormShape,
    epsilon: f64,
    x: &[f64],
    [weight, bias]: [&[f64]; 2],
    residual: Option<&[f64]>,
    relu: bool,
    dy: &[f64],
) -> Norm {
    let NormShape { groups, rows, channels } = shape;
    let count = rows as f64;
    let mut found = Norm {
        y: vec![0.0; x.len()],
        mean: vec![0.0; groups * channels],
        variance: vec![0.0; groups * channels],
        dx: vec![0.0; x.len()],
        d: vec![0.0; x.len()],
        d_weight: vec![0.0; channels],
        d_bias: vec![0.0; channels],
    };
    for (group, c) in (0..groups).flat_map(|group| (0..channels).map(move |c| (group, c))) {
        let places: Vec<usize> = (0..rows).map(|row| (group * rows + row) * channels + c).collect();
        let mean = places.iter().map(|place| x[*place]).sum::<f64>() / count;
        let variance = places.iter().map(|place| (x[*place] - mean).powi(2)).sum::<f64>() / count;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        (found.mean[group * channels + c], found.variance[group * channels + c]) = (mean, variance);
        let (mut sum, mut product) = (0.0, 0.0);
        for &place in &places {
            let normalised = (x[place] - mean) * inverse;
            let y = normalised * weight[c] + bias[c] + residual.map_or(0.0, |residual| residual[place]);
            found.y[place] = if relu { y.max(0.0) } else { y };
            found.d[place] = if relu && y <= 0.0 { 0.0 } else { dy[place] };
            sum += found.d[place];
            product += found.d[place] * normalised;
        }
        found.d_bias[c] += sum;
        found.d_weight[c] += product;
        for &place in &places {
            let normalised = (x[place] - mean) * inverse;
            found.dx[place] = weight[c] * inverse * (found.d[place] - sum / count - normalised * product / count);
        }
    }
    found
}

/// Max-pooling: for each output value, the place of the input value that it is.
pub fn max_pool(shape: MaxShape, x: &[f64]) -> Vec<usize> {
    let MaxShape { height, width, channels, size, stride, padding, .. } = shape;
    let (oh, ow) = (shape.output_height(), shape.output_width());
    let place = |output: usize| {
        let (pixel, c) = (output / channels, output % channels);
        let (image, oy, ox) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
        let taps = (0..size * size).filter_map(|tap| {
            let (y, x) = (oy * stride + tap / size, ox * stride + tap % size);
            let inside = y >= padding && x >= padding && y - padding < height && x - padding < width;
            inside.then(|| ((image * height + y - padding) * width + x - padding) * channels + c)
        });
        taps.reduce(|best, other| if x[other] > x[best] { other } else { best }).unwrap_or(0)
    };
    (0..shape.output_values()).map(place).collect()
}

/// One view of a packed RGB image: (side, side, 3).
pub fn view(shape: ViewShape, image: &[u8], choices: &ViewChoices) -> Vec<f64> {
    let side = shape.side;
    let mut planes = cropped(side, image, choices);
    if let Some(adjustments) = &choices.adjustments {
        adjust(&mut planes, adjustments);
    }
    if choices.grey {
        planes = [0, 1, 2].map(|_| (0..side * side).map(|p| luma(&planes, p)).collect());
    }
    if let Some(sigma) = choices.blur {
        planes = planes.map(|plane| blurred(&plane, side, f64::from(sigma)));
    }
    let value = |p: usize, c: usize| planes[c][p] * f64::from(shape.scale[c]) + f64::from(shape.shift[c]);
    (0..side * side).flat_map(|p| [0, 1, 2].map(|c| value(p, c))).collect()
}

fn cropped(side: usize, image: &[u8], choices: &ViewChoices) -> [Vec<f64>; 3] {
    let [top, left, height, width] = choices.crop;
    let coordinate = |start: usize, length: usize, output: usize| {
        let step = length as f64 / side as f64;
        let position = ((output as f64 + 0.5) * step - 0.5).clamp(0.0, (length - 1) as f64);
        let near = position.floor() as usize;
        (start + near, start + (near + 1).min(length - 1), position - near as f64)
    };
    [0, 1, 2].map(|c| {
        let pixel = |y: usize, x: usize| f64::from(image[(y * side + x) * 3 + c]) / 255.0;
        let value = |p: usize| {
            let column = if choices.flip { side - 1 - p % side } else { p % side };
            let (y0, y1, fy) = coordinate(top, height, p / side);
            let (x0, x1, fx) = coordinate(left, width, column);
            let upper = pixel(y0, x0) * (1.0 - fx) + pixel(y0, x1) * fx;
            upper * (1.0 - fy) + (pixel(y1, x0) * (1.0 - fx) + pixel(y1, x1) * fx) * fy
        };
        (0..side * side).map(value).collect()
    })
}

fn luma(planes: &[Vec<f64>; 3], p: usize) -> f64 {
    0.2989 * planes[0][p] + 0.587 * planes[1][p] + 0.114 * planes[2][p]
}

fn adjust(planes: &mut [Vec<f64>; 3], adjustments: &Adjustments) {
    let pixels = planes[0].len();
    for kind in adjustments.order {
        let mean = (0..pixels).map(|p| luma(planes, p)).sum::<f64>() / pixels as f64;
        for p in 0..pixels {
            let [r, g, b] = [0, 1, 2].map(|c| planes[c][p]);
            let blend = |factor: f32, reference: f64| {
                let factor = f64::from(factor);
                [r, g, b].map(|value| (factor * value + (1.0 - factor) * reference).clamp(0.0, 1.0))
            };
            let changed = match kind {
                0 => blend(adjustments.brightness, 0.0),
                1 => blend(adjustments.contrast, mean),
                2 => blend(adjustments.saturation, luma(planes, p)),
                _ => turned([r, g, b], f64::from(adjustments.hue)),
            };
            (0..3).for_each(|c| planes[c][p] = changed[c]);
        }
    }
}

/// The hue of the HSV model turned, value and saturation kept.
fn turned([r, g, b]: [f64; 3], turns: f64) -> [f64; 3] {
    let value = r.max(g).max(b);
    let chroma = value - r.min(g).min(b);
    if chroma == 0.0 {
        return [r, g, b];
    }
    let sector = if value == r {
        (g - b) / chroma
    } else if value == g {
        2.0 + (b - r) / chroma
    } else {
        4.0 + (r - g) / chroma
    };
    [5.0, 3.0, 1.0].map(|n: f64| {
        let k = (n + sector + 6.0 * turns).rem_euclid(6.0);
        value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

/// Gaussian of side / 20 * 2 + 1 pixels in both directions, mirrored at the edges.
fn blurred(plane: &[f64], side: usize, sigma: f64) -> Vec<f64> {
    let reach = (side / 20) as i64;
    let weight = |offset: i64| (-0.5 * (offset as f64 / sigma).powi(2)).exp();
    let total: f64 = (-reach..=reach).map(weight).sum();
    let mirrored = |position: i64| {
        let last = side as i64 - 1;
        (if position < 0 {
            -position
        } else if position > last {
            2 * last - position
        } else {
            position
        }) as usize
    };
    let pass = |plane: &[f64], along_rows: bool| -> Vec<f64> {
        let value = |p: usize| {
            let (y, x) = ((p / side) as i64, (p % side) as i64);
            let at = |offset: i64| match along_rows {
                true => plane[p / side * side + mirrored(x + offset)],
                false => plane[mirrored(y + offset) * side + p % side],
            };
            (-reach..=reach).map(|offset| weight(offset) / total * at(offset)).sum()
        };
        (0..side * side).map(value).collect()
    };
    pass(&pass(plane, true), false)
}
