//! The checks of batch norm.

use candle_core::Result;

use super::{Trial, error, noise, within, worst};
use crate::config::{Random, Seed};
use crate::device::cuda::machine::*;
use crate::device::cuda::norm::{self, Affine, Fitted, NormShape, Relu, Running};
use crate::device::cuda::parameters::NormPlace;
use crate::device::cuda::twins;

/// Added to variances in the checks.
const EPSILON: f32 = 1e-5;

/// Groups, rows and channels: single rows, odd widths, more channels than a block has threads, more chunks than the threads
/// that merge them.
fn norm_shapes(random: &mut Random) -> Vec<NormShape> {
    let fixed =
        [(1, 1, 8), (2, 1, 3), (3, 2, 16), (1, 700, 8), (2, 5000, 1), (1, 3, 300), (1, 2, 4096), (2, 300, 1024)];
    let mut shapes: Vec<(usize, usize, usize)> = fixed.to_vec();
    shapes.extend((0..4).map(|_| (within(random, 1, 3), within(random, 1, 90), within(random, 1, 40))));
    shapes.into_iter().map(|(groups, rows, channels)| NormShape { groups, rows, channels }).collect()
}

/// What both passes of batch norm are tried on.
struct NormInput {
    shape: NormShape,
    x: (Region, Vec<f64>),
    residual: (Region, Vec<f64>),
    affine: [Vec<f64>; 2],
    affine_regions: [Region; 2],
    running: [Vec<f64>; 2],
    running_regions: [Region; 2],
    fitted: Fitted,
    scratch: Region,
    y: Region,
}

impl NormInput {
    fn new(trial: &Trial, shape: NormShape, random: &mut Random) -> Result<Self> {
        let values = shape.groups * shape.rows * shape.channels;
        // A mean far from zero, so that cancellation would show where there are rows enough to tell.
        let mean = if shape.rows > 16 { 20.0 } else { 0.5 };
        let x: Vec<f64> = noise(random, values).iter().map(|value| value + mean).collect();
        let affine = [0, 1].map(|_| noise(random, shape.channels));
        let running = [noise(random, shape.channels), noise(random, shape.channels).iter().map(|v| v.abs()).collect()];
        let vector = |values: &Vec<f64>| trial.vector(values);
        let fitted = Fitted::within(&trial.machine.allocate(shape.fitted_bytes())?, shape)?;
        Ok(Self {
            x: trial.map(&x)?,
            residual: trial.map(&noise(random, values))?,
            affine_regions: [vector(&affine[0])?, vector(&affine[1])?],
            running_regions: [vector(&running[0])?, vector(&running[1])?],
            affine,
            running,
            fitted,
            scratch: trial.machine.allocate(shape.scratch_bytes(trial.precision)?)?,
            y: trial.empty_map(values)?,
            shape,
        })
    }

    fn forward(&self, trial: &Trial, residual: bool, relu: bool) -> Result<()> {
        let [weight, bias] = &self.affine_regions;
        let [mean, variance] = &self.running_regions;
        let pass = norm::Forward {
            x: &self.x.0,
            residual: residual.then_some(&self.residual.0),
            y: &self.y,
            affine: Affine { weight, bias },
            running: Running { mean, variance },
            fitted: &self.fitted,
            scratch: &self.scratch,
            relu,
            epsilon: EPSILON,
            momentum: 0.1,
        };
        norm::forward(trial.machine.queue(), trial.precision, self.shape, &pass)
    }

    fn twin(&self, residual: bool, relu: bool, dy: &[f64]) -> twins::Norm {
        let affine = [self.affine[0].as_slice(), self.affine[1].as_slice()];
        let residual = residual.then_some(self.residual.1.as_slice());
        twins::norm(self.shape, f64::from(EPSILON), &self.x.1, affine, residual, relu, dy)
    }

    /// The running statistics after a forward pass: group by group, the variance unbiased; unchanged by lone values.
    fn expected_running(&self, norm: &twins::Norm) -> [Vec<f64>; 2] {
        let NormShape { groups, rows, channels } = self.shape;
        let [mut mean, mut variance] = self.running.clone();
        if rows > 1 {
            for (group, c) in (0..groups).flat_map(|group| (0..channels).map(move |c| (group, c))) {
                let unbiased = norm.variance[group * channels + c] * rows as f64 / (rows - 1) as f64;
                mean[c] += 0.1 * (norm.mean[group * channels + c] - mean[c]);
                variance[c] += 0.1 * (unbiased - variance[c]);
            }
        }
        [mean, variance]
    }
}

pub(super) fn norm_forward(trial: &Trial) -> Result<f64> {
    let mut random = Seed(1).random("checks", 0);
    let mut errors = Vec::new();
    for (index, shape) in norm_shapes(&mut random).into_iter().enumerate() {
        let (residual, relu) = (index % 2 == 1, index % 3 != 2);
        let input = NormInput::new(trial, shape, &mut random)?;
        input.forward(trial, residual, relu)?;
        let expected = input.twin(residual, relu, &vec![0.0; input.x.1.len()]);
        // Where each group is a lone value all of it is bias, residual and cancellation: nothing to be relative to.
        errors.push(error(&trial.read_map(&input.y)?, &expected.y));
        for (region, expected) in input.running_regions.iter().zip(input.expected_running(&expected)) {
            errors.push(error(&trial.read_vector(region)?, &expected));
        }
    }
    Ok(worst(errors))
}

pub(super) fn norm_backward(trial: &Trial) -> Result<f64> {
    let mut random = Seed(2).random("checks", 0);
    let mut errors = Vec::new();
    for (index, shape) in norm_shapes(&mut random).into_iter().enumerate() {
        let relu = [Relu::None, Relu::Plain, Relu::AfterResidual][index % 3];
        let residual = relu == Relu::AfterResidual;
        let input = NormInput::new(trial, shape, &mut random)?;
        input.forward(trial, residual, relu != Relu::None)?;
        let (dy, dy_values) = trial.map(&noise(&mut random, input.x.1.len()))?;
        let dx = trial.empty_map(input.x.1.len())?;
        let gradient = [trial.empty_vector(shape.channels)?, trial.empty_vector(shape.channels)?];
        let flow = norm::Flow {
            x: &input.x.0,
            y: &input.y,
            dy: &dy,
            // In place where there is no residual, as the networks use it.
            dx: if residual { &dx } else { &dy },
            residual_gradient: residual.then_some(&dy),
            relu,
            scratch: &input.scratch,
        };
        let affine = Affine { weight: &gradient[0], bias: &gradient[1] };
        norm::backward(trial.machine.queue(), trial.precision, shape, &flow, &input.fitted, affine)?;
        let expected = input.twin(residual, relu != Relu::None, &dy_values);
        // Of few rows the gradient is what cancellation leaves: it is held against what came in.
        let size = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let relative = (size(&expected.dx) / size(&expected.d).max(1e-30)).min(1.0);
        errors.push(error(&trial.read_map(flow.dx)?, &expected.dx) * if relative < 0.1 { relative } else { 1.0 });
        if residual {
            errors.push(error(&trial.read_map(&dy)?, &expected.d));
        }
        if shape.rows > 1 {
            errors.push(error(&trial.read_vector(&gradient[0])?, &expected.d_weight));
        }
        errors.push(error(&trial.read_vector(&gradient[1])?, &expected.d_bias));
    }
    Ok(worst(errors))
}

pub(super) fn frozen_norm_backward(trial: &Trial) -> Result<f64> {
    let mut random = Seed(12).random("checks", 0);
    let mut errors = Vec::new();
    for (index, shape) in norm_shapes(&mut random).into_iter().filter(|shape| shape.groups == 1).enumerate() {
        let relu = [Relu::None, Relu::Plain][index % 2];
        let (x, values) = trial.map(&noise(&mut random, shape.rows * shape.channels))?;
        let (dy, gradient) = trial.map(&noise(&mut random, values.len()))?;
        let (scale, shift) = (noise(&mut random, shape.channels), noise(&mut random, shape.channels));
        let scratch = &trial.machine.allocate(shape.scratch_bytes(trial.precision)?)?;
        let flow = norm::Flow { x: &x, y: &x, dy: &dy, dx: &dy, residual_gradient: None, relu, scratch };
        let regions = [trial.vector(&scale)?, trial.vector(&shift)?];
        norm::frozen_backward(trial.machine.queue(), trial.precision, shape, &flow, &regions[0], &regions[1])?;
        let expected = gradient.iter().zip(&values).enumerate().map(|(place, (gradient, value))| {
            let c = place % shape.channels;
            let passes = relu == Relu::None || value * scale[c] + shift[c] > 0.0;
            if passes { scale[c] * gradient } else { 0.0 }
        });
        errors.push(error(&trial.read_map(&dy)?, &expected.collect::<Vec<_>>()));
    }
    Ok(worst(errors))
}

pub(super) fn frozen_norm(trial: &Trial) -> Result<f64> {
    let mut random = Seed(8).random("checks", 0);
    let channels = [3, 300, 1];
    let (mut places, mut expected_scale, mut expected_shift) = (Vec::new(), Vec::new(), Vec::new());
    let parameters = noise(&mut random, 900);
    let statistics: Vec<f64> = noise(&mut random, 900).iter().map(|value| value.abs()).collect();
    let (mut offset, mut target) = (5, 0);
    for channels in channels {
        places.push(NormPlace::new(
            [offset, offset + channels],
            [offset + 2, offset + channels + 2],
            target,
            channels,
        )?);
        for c in 0..channels {
            let variance = statistics[offset + channels + 2 + c] + f64::from(EPSILON);
            let scale = parameters[offset + c] / variance.sqrt();
            expected_scale.push(scale);
            expected_shift.push(parameters[offset + channels + c] - statistics[offset + 2 + c] * scale);
        }
        target += channels;
        offset += channels;
    }
    let (scale, shift) = (trial.empty_vector(target)?, trial.empty_vector(target)?);
    let pass = norm::Inference {
        parameters: &trial.vector(&parameters)?,
        statistics: &trial.vector(&statistics)?,
        places: &places,
        table: &trial.machine.upload(&NormPlace::table(&places))?,
        scale: &scale,
        shift: &shift,
        epsilon: EPSILON,
    };
    norm::inference(trial.machine.queue(), &pass)?;
    Ok(worst([
        error(&trial.read_vector(&scale)?, &expected_scale),
        error(&trial.read_vector(&shift)?, &expected_shift),
    ]))
}
