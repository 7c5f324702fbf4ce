//! Every kernel against its definition on random input: what a machine is trusted by.
//!
//! The tests run this list on the kernels' source compiled for the CPU, `lumpd selftest` on the GPU that is there.

mod norms;

use candle_core::Result;

use super::filters::{FilterShape, FilterTable, pack_images};
use super::machine::*;
use super::optimiser::{RateRanges, SgdFactors, check_finite, sgd};
use super::parameters::RateRange;
use super::pool::{self, AverageShape, MaxShape};
use super::twins;
use super::views::{Adjustments, ViewChoices, ViewShape, make_views, mix};
use crate::config::{Random, Seed};

/// One kernel, or a few that belong together, on several shapes.
pub struct Check {
    /// Such as `batch norm, bf16`.
    pub name: String,
    /// What the error may be: the root of its mean square over that of what is expected.
    pub tolerance: f64,
    run: fn(&Trial) -> Result<f64>,
    precision: Precision,
}

impl Check {
    /// The greatest error over all shapes; infinite where a result is not finite.
    ///
    /// # Errors
    /// Where the machine fails.
    pub fn run(&self, machine: &dyn Machine) -> Result<f64> {
        (self.run)(&Trial { machine, precision: self.precision })
    }
}

/// The checks that a machine of that precision has to pass: everything in f32, and what touches maps in its own, too.
pub fn checks(precision: Precision) -> Vec<Check> {
    let mut precisions = vec![Precision::F32];
    precisions.extend((precision != Precision::F32).then_some(precision));
    let mut list = Vec::new();
    for precision in precisions {
        // Batch norm of a few rows divides by what cancellation leaves.
        let (of_map, of_norm, of_products) = match precision {
            Precision::F32 => (1e-5, 2e-4, 1e-5),
            Precision::Tf32 => (1e-5, 2e-4, 2e-3),
            Precision::Bf16 => (4e-3, 4e-3, 4e-3),
        };
        let mut add = |name: &str, tolerance: f64, run: fn(&Trial) -> Result<f64>| {
            let name = format!("{name}, {}", precision.name());
            list.push(Check { name, tolerance, run, precision });
        };
        add("batch norm forward", of_norm, norms::norm_forward);
        add("batch norm backward", of_norm, norms::norm_backward);
        add("batch norm of frozen layers backward", of_map, norms::frozen_norm_backward);
        add("average pooling", of_map, average_pooling);
        add("max-pooling", of_map, max_pooling);
        add("weights packed and unpacked", of_map, weights);
        add("images packed", of_map, images);
        add("convolution", of_products, convolutions);
    }
    let mut add = |name: &str, tolerance: f64, run: fn(&Trial) -> Result<f64>| {
        list.push(Check { name: name.to_owned(), tolerance, run, precision: Precision::F32 });
    };
    add("batch norm of a frozen network", 1e-5, norms::frozen_norm);
    add("gradient descent", 1e-6, descent);
    add("finite check", 0.0, finite);
    add("views", 1e-5, views);
    add("mixing", 1e-6, mixing);
    list
}

/// A machine and what to try on it.
struct Trial<'a> {
    machine: &'a dyn Machine,
    precision: Precision,
}

impl Trial<'_> {
    /// A map of these values, and what it holds of them.
    fn map(&self, values: &[f64]) -> Result<(Region, Vec<f64>)> {
        let bytes = twins::encode(self.precision, values);
        Ok((self.machine.upload(&bytes)?, twins::decode(self.precision, &bytes)))
    }

    fn empty_map(&self, values: usize) -> Result<Region> {
        self.machine.allocate(values * self.precision.bytes())
    }

    fn vector(&self, values: &[f64]) -> Result<Region> {
        self.machine.upload(&twins::encode(Precision::F32, values))
    }

    fn empty_vector(&self, values: usize) -> Result<Region> {
        self.machine.allocate(4 * values)
    }

    fn read_map(&self, region: &Region) -> Result<Vec<f64>> {
        Ok(twins::decode(self.precision, &self.machine.download(region)?))
    }

    fn read_vector(&self, region: &Region) -> Result<Vec<f64>> {
        Ok(twins::decode(Precision::F32, &self.machine.download(region)?))
    }
}

fn noise(random: &mut Random, count: usize) -> Vec<f64> {
    (0..count).map(|_| f64::from(random.normal() as f32)).collect()
}

/// A number of `low..=high`.
fn within(random: &mut Random, low: u64, high: u64) -> usize {
    (low + random.below(high - low + 1)) as usize
}

fn error(found: &[f64], expected: &[f64]) -> f64 {
    if found.len() != expected.len() || found.iter().any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let difference: f64 = found.iter().zip(expected).map(|(found, expected)| (found - expected).powi(2)).sum();
    let size: f64 = expected.iter().map(|expected| expected * expected).sum();
    if difference == 0.0 { 0.0 } else { (difference / size.max(1e-60)).sqrt() }
}

fn worst(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0.0, f64::max)
}

fn average_pooling(trial: &Trial) -> Result<f64> {
    let mut random = Seed(3).random("checks", 0);
    let mut errors = Vec::new();
    for (images, pixels, channels) in [(1, 1, 8), (2, 16, 64), (3, 49, 5), (1, 7, 300), (5, 9, 24)] {
        let shape = AverageShape { images, pixels, channels };
        let (x, values) = trial.map(&noise(&mut random, images * pixels * channels))?;
        let y = trial.empty_vector(images * channels)?;
        pool::average(trial.machine.queue(), trial.precision, shape, &x, &y)?;
        let mean = |place: usize| {
            let of_image = &values[place / channels * pixels * channels..][..pixels * channels];
            of_image.iter().skip(place % channels).step_by(channels).sum::<f64>() / pixels as f64
        };
        errors.push(error(&trial.read_vector(&y)?, &(0..images * channels).map(mean).collect::<Vec<_>>()));
        let gradient = noise(&mut random, images * channels);
        let dy = trial.vector(&gradient)?;
        pool::average_backward(trial.machine.queue(), trial.precision, shape, &dy, &x)?;
        let share = |place: usize| gradient[place / (pixels * channels) * channels + place % channels] / pixels as f64;
        errors.push(error(&trial.read_map(&x)?, &(0..images * pixels * channels).map(share).collect::<Vec<_>>()));
    }
    Ok(worst(errors))
}

fn max_pooling(trial: &Trial) -> Result<f64> {
    let mut random = Seed(4).random("checks", 0);
    let mut errors = Vec::new();
    let fixed = [(1, 1, 1, 3, 3, 2, 1), (2, 7, 9, 8, 3, 2, 1), (1, 6, 6, 16, 2, 2, 0), (2, 5, 4, 3, 3, 1, 1)];
    let mut shapes = fixed.to_vec();
    shapes.extend((0..3).map(|_| {
        let side = |random: &mut Random| within(random, 5, 12);
        (1, side(&mut random), side(&mut random), within(&mut random, 1, 20), 5, within(&mut random, 1, 6), 2)
    }));
    for (images, height, width, channels, size, stride, padding) in shapes {
        let shape = MaxShape { images, height, width, channels, size, stride, padding };
        // Few different values, so that there are ties.
        let values: Vec<f64> = (0..shape.input_values()).map(|_| random.below(7) as f64 - 3.0).collect();
        let (x, values) = trial.map(&values)?;
        let y = trial.empty_map(shape.output_values())?;
        let taps = trial.machine.allocate(shape.output_values())?;
        pool::max(trial.machine.queue(), trial.precision, shape, &x, &y, &taps)?;
        let places = twins::max_pool(shape, &values);
        let expected: Vec<f64> = places.iter().map(|place| values[*place]).collect();
        errors.push(error(&trial.read_map(&y)?, &expected));
        let (dy, gradient) = trial.map(&noise(&mut random, shape.output_values()))?;
        let dx = trial.empty_map(shape.input_values())?;
        pool::max_backward(trial.machine.queue(), trial.precision, shape, &dy, &taps, &dx)?;
        let mut expected = vec![0.0; shape.input_values()];
        places.iter().zip(&gradient).for_each(|(place, gradient)| expected[*place] += gradient);
        errors.push(error(&trial.read_map(&dx)?, &expected));
    }
    Ok(worst(errors))
}

fn weights(trial: &Trial) -> Result<f64> {
    let mut random = Seed(5).random("checks", 0);
    let shapes = [(3, 5, 3, 3, 8), (60, 2, 5, 1, 5), (75, 4, 4, 3, 4), (230, 7, 3, 7, 4)];
    let shapes =
        shapes.map(|(offset, outputs, inputs, size, stored)| FilterShape { offset, outputs, inputs, size, stored });
    let flat = noise(&mut random, 230 + 7 * 3 * 49 + 11);
    let table = FilterTable::new(trial.machine, trial.precision, &shapes)?;
    let (flat_region, packed) = (trial.vector(&flat)?, trial.machine.allocate(table.bytes())?);
    table.pack(trial.machine.queue(), &flat_region, &packed)?;
    let mut errors = Vec::new();
    let mut back = flat.iter().map(|_| 7.0).collect::<Vec<_>>();
    for (index, shape) in shapes.iter().enumerate() {
        let FilterShape { offset, outputs, inputs, size, stored } = *shape;
        let mut expected = vec![0.0; outputs * size * size * stored];
        for (o, i) in (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))) {
            for tap in 0..size * size {
                let from = offset + (o * inputs + i) * size * size + tap;
                expected[(o * size * size + tap) * stored + i] = flat[from];
                back[from] = twins::rounded(trial.precision, &[flat[from]])[0];
            }
        }
        errors.push(error(&trial.read_map(&table.part(&packed, index)?)?, &expected));
    }
    let untouched = trial.vector(&flat.iter().map(|_| 7.0).collect::<Vec<_>>())?;
    table.unpack(trial.machine.queue(), &packed, &untouched)?;
    errors.push(error(&trial.read_vector(&untouched)?, &back));
    Ok(worst(errors))
}

fn images(trial: &Trial) -> Result<f64> {
    let pixels = 301;
    let values = noise(&mut Seed(6).random("checks", 0), 3 * pixels);
    let stored = trial.precision.image_channels();
    let packed = trial.empty_map(pixels * stored)?;
    pack_images(trial.machine.queue(), trial.precision, pixels, &trial.vector(&values)?, &packed)?;
    let value = |place: usize| if place % stored < 3 { values[place / stored * 3 + place % stored] } else { 0.0 };
    Ok(error(&trial.read_map(&packed)?, &(0..pixels * stored).map(value).collect::<Vec<_>>()))
}

/// On the tests' machine the twin itself convolves, so there this checks only that plans and operands fit each other.
fn convolutions(trial: &Trial) -> Result<f64> {
    let mut random = Seed(7).random("checks", 0);
    let shapes = [
        (2, 8, 8, 16, 16, 3, 1, 1),
        (1, 9, 7, 8, 24, 3, 2, 1),
        (2, 8, 8, 16, 32, 1, 2, 0),
        (1, 13, 13, trial.precision.image_channels(), 16, 7, 2, 3),
        (3, 1, 1, 32, 32, 3, 1, 1),
        (2, 5, 5, 3, 5, 3, 1, 1),
    ];
    let mut errors = Vec::new();
    for (images, height, width, inputs, outputs, size, stride, padding) in shapes {
        let shape = ConvolutionShape { images, height, width, inputs, outputs, size, stride, padding };
        let passes = [
            Pass::Forward,
            Pass::InputGradient { add: false },
            Pass::InputGradient { add: true },
            Pass::WeightGradient,
        ];
        for pass in passes {
            let counts = [shape.input_values(), shape.filter_values(), shape.output_values()];
            let maps = counts.map(|count| trial.map(&noise(&mut random, count)));
            let [input, filter, output] = maps;
            let (input, filter, output) = (input?, filter?, output?);
            let memory = [&input.1, &filter.1, &output.1].map(|values| twins::encode(trial.precision, values));
            let plan = trial.machine.plan(shape, trial.precision, pass)?;
            let workspace = trial.machine.allocate(plan.workspace_bytes.max(1))?;
            let operands = Operands { input: &input.0, filter: &filter.0, output: &output.0, workspace: &workspace };
            trial.machine.queue().convolve(&plan, operands)?;
            let (place, expected) =
                twins::convolve(&shape, trial.precision, pass, [&memory[0], &memory[1], &memory[2]]);
            let found = trial.read_map([operands.input, operands.filter, operands.output][place])?;
            errors.push(error(&found, &twins::decode(trial.precision, &expected)));
        }
    }
    Ok(worst(errors))
}

fn descent(trial: &Trial) -> Result<f64> {
    let mut random = Seed(9).random("checks", 0);
    let count = 70_001;
    let [parameters, momentum, gradient] = [0, 1, 2].map(|_| noise(&mut random, count));
    let ranges = [RateRange::new(10, 0.0), RateRange::new(60_000, 1.0), RateRange::new(count, 0.25)];
    let factors = SgdFactors { rate: 0.03, momentum: 0.9, decay: 5e-4 };
    let mut errors = Vec::new();
    for (with_ranges, flag) in [(false, None), (true, Some(0u32)), (false, Some(1))] {
        let regions = [trial.vector(&parameters)?, trial.vector(&momentum)?, trial.vector(&gradient)?];
        let table = trial.machine.upload(&RateRange::table(&ranges))?;
        let flag_region = flag.map(|flag| trial.machine.upload(&flag.to_ne_bytes())).transpose()?;
        let rates = with_ranges.then_some(RateRanges { ranges: &ranges, table: &table });
        sgd(trial.machine.queue(), factors, count, regions.each_ref(), rates, flag_region.as_ref())?;
        let factor = |place: usize| match place {
            _ if flag == Some(1) => 0.0,
            _ if !with_ranges => 1.0,
            0..10 => 0.0,
            10..60_000 => 1.0,
            _ => 0.25,
        };
        let (mut moved, mut buffers) = (parameters.clone(), momentum.clone());
        for place in 0..count {
            if factor(place) != 0.0 {
                let decayed = gradient[place] + f64::from(factors.decay) * parameters[place];
                buffers[place] = f64::from(factors.momentum) * momentum[place] + decayed;
                moved[place] -= f64::from(factors.rate) * factor(place) * buffers[place];
            }
        }
        errors.push(error(&trial.read_vector(&regions[0])?, &moved));
        errors.push(error(&trial.read_vector(&regions[1])?, &buffers));
    }
    Ok(worst(errors))
}

fn finite(trial: &Trial) -> Result<f64> {
    let mut errors = Vec::new();
    let count = 5_000;
    for (bad, expected) in [(None, 0u32), (Some(f32::NAN), 1), (Some(f32::INFINITY), 1), (Some(f32::NEG_INFINITY), 1)] {
        let mut values = vec![f32::MAX; count];
        if let Some(bad) = bad {
            values[count - 1] = bad;
        }
        let (values, flag) = (trial.machine.upload(&bytes_of(&values))?, trial.machine.upload(&[0; 4])?);
        check_finite(trial.machine.queue(), count, &values, &flag)?;
        let found = trial.machine.download(&flag)?;
        errors.push(if found == expected.to_ne_bytes() { 0.0 } else { f64::INFINITY });
    }
    Ok(worst(errors))
}

fn choices(random: &mut Random, side: usize) -> ViewChoices {
    let (height, width) = (within(random, 1, side as u64), within(random, 1, side as u64));
    let mut order = [0, 1, 2, 3];
    random.shuffle(&mut order);
    let mut factor = |low, high| random.range(low, high) as f32;
    let adjustments = Adjustments {
        brightness: factor(0.6, 1.4),
        contrast: factor(0.6, 1.4),
        saturation: factor(0.6, 1.4),
        hue: factor(-0.1, 0.1),
        order,
    };
    let top = within(random, 0, (side - height) as u64);
    ViewChoices {
        crop: [top, within(random, 0, (side - width) as u64), height, width],
        flip: random.uniform() < 0.5,
        adjustments: (random.uniform() < 0.8).then_some(adjustments),
        grey: random.uniform() < 0.3,
        blur: (random.uniform() < 0.5).then(|| random.range(0.1, 2.0) as f32),
    }
}

/// Small images within shared memory, larger ones beyond it.
fn views(trial: &Trial) -> Result<f64> {
    let mut random = Seed(10).random("checks", 0);
    let mut errors = Vec::new();
    for (side, images, views) in [(1, 1, 1), (8, 3, 6), (33, 2, 5), (64, 2, 4)] {
        let size = side * side * 3;
        let bytes: Vec<u8> = (0..images * size).map(|_| random.below(256) as u8).collect();
        let choices: Vec<ViewChoices> = (0..views).map(|_| choices(&mut random, side)).collect();
        let shape = ViewShape { side, scale: [4.0, 4.1, 3.9], shift: [-2.0, -1.9, -1.8] };
        let found = trial.read_vector(&make_views(trial.machine, shape, &bytes, &choices)?)?;
        for (view, (found, choices)) in found.chunks_exact(size).zip(&choices).enumerate() {
            let image = &bytes[view % images * size..][..size];
            errors.push(error(found, &twins::view(shape, image, choices)));
        }
    }
    Ok(worst(errors))
}

fn mixing(trial: &Trial) -> Result<f64> {
    let mut random = Seed(11).random("checks", 0);
    let count = 4_099;
    let [images, partners] = [0, 1].map(|_| noise(&mut random, count));
    let mixed = trial.empty_vector(count)?;
    let weight = 0.3f32;
    mix(trial.machine.queue(), weight, count, &trial.vector(&images)?, &trial.vector(&partners)?, &mixed)?;
    let weight = f64::from(weight);
    let expected: Vec<f64> = images.iter().zip(&partners).map(|(a, b)| weight * a + (1.0 - weight) * b).collect();
    Ok(error(&trial.read_vector(&mixed)?, &expected))
}
