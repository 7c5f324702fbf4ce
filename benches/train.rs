//! The encoder's part of a training step, forward and backward of two views of random images, by backend: its speed, or with
//! `--accuracy` its error. (Whole steps, embedding and views: `lumpd bench`.)
//!
//! ```text
//! cargo bench --bench train -- [--backend cpu|plain] [--dtype f32|bf16] [--width 64] [--side 32] [--batch 64] [--steps 10]
//!     [--warmup 3] [--accuracy]
//! ```
//!
//! Prints one JSON line: `images_per_second` (one image is two views), `step_seconds_median`, `peak_bytes` (of the process,
//! resident) and `processor_seconds_mean`, the processor time of a step on all threads together, which says more than the clock
//! where the machine has other work. With `--accuracy`: relative errors (root of the mean squared difference over that of the
//! expected values) of features, gradient and frozen features against the plain backend in f64, all on the same weights.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use lumpd::config::{Precision, Seed};
use lumpd::encoder::{Backbone, PlainResNet18, Preset, build};
use rustix::time::{ClockId, clock_gettime};

struct Options {
    plain: bool,
    precision: Precision,
    width: usize,
    side: usize,
    batch: usize,
    steps: usize,
    warmup: usize,
    accuracy: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self {
            plain: false,
            precision: Precision::F32,
            width: 64,
            side: 32,
            batch: 64,
            steps: 10,
            warmup: 3,
            accuracy: false,
        };
        while let Some(argument) = arguments.next() {
            let mut number = || -> anyhow::Result<usize> {
                let value = arguments.next().ok_or_else(|| anyhow::anyhow!("{argument} needs a number"))?;
                Ok(value.parse()?)
            };
            match argument.as_str() {
                "--width" => options.width = number()?,
                "--side" => options.side = number()?,
                "--batch" => options.batch = number()?,
                "--steps" => options.steps = number()?.max(1),
                "--warmup" => options.warmup = number()?,
                "--accuracy" => options.accuracy = true,
                "--backend" => match arguments.next().as_deref() {
                    Some("cpu") => options.plain = false,
                    Some("plain") => options.plain = true,
                    other => anyhow::bail!("--backend is cpu or plain, not {other:?}"),
                },
                "--dtype" => match arguments.next().as_deref() {
                    Some("f32") => options.precision = Precision::F32,
                    Some("bf16") => options.precision = Precision::Bf16,
                    other => anyhow::bail!("--dtype is f32 or bf16, not {other:?}"),
                },
                // Handed on by `cargo bench`.
                "--bench" => {}
                other => anyhow::bail!("unknown option {other}"),
            }
        }
        Ok(options)
    }

    fn preset(&self) -> anyhow::Result<Preset> {
        Ok(Preset { width: self.width, side: self.side, ..Preset::load("resnet18")? })
    }

    fn network(&self) -> anyhow::Result<Box<dyn Backbone>> {
        let preset = self.preset()?;
        match self.plain {
            true => Ok(Box::new(PlainResNet18::new(&preset, &Device::Cpu, DType::F32, Seed(0))?)),
            false => Ok(build(&preset, &Device::Cpu, self.precision, Seed(0))?),
        }
    }

    /// Two views of a batch.
    fn images(&self) -> anyhow::Result<Tensor> {
        Ok(Tensor::randn(0f32, 1.0, (2 * self.batch, self.side, self.side, 3), &Device::Cpu)?)
    }
}

/// Features, gradient for a fixed direction, and features of the frozen network after that pass.
fn pass(network: &mut dyn Backbone, images: &Tensor, direction: &Tensor) -> anyhow::Result<[Tensor; 3]> {
    let features = network.forward(images, 2)?;
    let gradient = network.backward(&direction.to_dtype(features.dtype())?)?;
    Ok([features, gradient, network.freeze()?.embed(images)?])
}

fn error(found: &Tensor, expected: &Tensor) -> anyhow::Result<f64> {
    let norm = |tensor: Tensor| tensor.sqr()?.sum_all()?.to_scalar::<f64>();
    let difference = (found.to_dtype(DType::F64)? - expected)?;
    Ok((norm(difference)? / norm(expected.clone())?).sqrt())
}

fn accuracy(options: &Options) -> anyhow::Result<serde_json::Value> {
    let mut network = options.network()?;
    let mut exact = PlainResNet18::new(&options.preset()?, &Device::Cpu, DType::F64, Seed(0))?;
    let images = options.images()?;
    let direction = Tensor::randn(0f32, 1.0, (2 * options.batch, 8 * options.width), &Device::Cpu)?;
    let found = pass(network.as_mut(), &images, &direction)?;
    let expected = pass(&mut exact, &images, &direction)?;
    let [features, gradient, frozen] = [0, 1, 2].map(|part: usize| error(&found[part], &expected[part]));
    Ok(serde_json::json!({
        "features_error": features?,
        "gradient_error": gradient?,
        "frozen_features_error": frozen?,
    }))
}

fn speed(options: &Options) -> anyhow::Result<serde_json::Value> {
    let (mut network, images) = (options.network()?, options.images()?);
    let mut step = || -> anyhow::Result<()> {
        let features = network.forward(&images, 2)?;
        network.backward(&features)?;
        Ok(())
    };
    for _ in 0..options.warmup {
        step()?;
    }
    let mut seconds = Vec::with_capacity(options.steps);
    let begun = processor_time();
    for _ in 0..options.steps {
        let start = Instant::now();
        step()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let processor = (processor_time() - begun).as_secs_f64() / options.steps as f64;
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    Ok(serde_json::json!({
        "threads": rayon::current_num_threads(),
        "step_seconds_median": median,
        "processor_seconds_mean": processor,
        "images_per_second": options.batch as f64 / median,
        "peak_bytes": lumpd::device::peak_resident_bytes(),
    }))
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut report = serde_json::json!({
        "backend": if options.plain { "plain" } else { "cpu" },
        "dtype": options.precision.name(),
        "width": options.width,
        "size": options.side,
        "batch": options.batch,
    });
    let measured = if options.accuracy { accuracy(&options)? } else { speed(&options)? };
    if let (Some(report), serde_json::Value::Object(measured)) = (report.as_object_mut(), measured) {
        report.extend(measured);
    }
    println!("{report}");
    Ok(())
}

/// Processor time of all threads of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
