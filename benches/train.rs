//! Speed of the encoder: a training step (forward and backward of two views), or embedding, on random images.
//!
//! ```text
//! cargo bench --bench train -- [--backend cpu|plain] [--width 64] [--side 32] [--batch 64] [--steps 10] [--warmup 3] [--forward]
//! ```
//!
//! Prints one JSON line with the keys of a PyTorch peer: `images_per_second` (one image is two views in training),
//! `step_seconds_median`, `peak_bytes` (of the process, resident); and `processor_seconds_mean`, the processor time of a
//! step on all threads together, which says more than the clock where the machine has other work.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use lumpd::config::Seed;
use lumpd::encoder::{Backbone, CpuResNet18, PlainResNet18, Preset};
use rustix::time::{ClockId, clock_gettime};

struct Options {
    plain: bool,
    width: usize,
    side: usize,
    batch: usize,
    steps: usize,
    warmup: usize,
    forward: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self { plain: false, width: 64, side: 32, batch: 64, steps: 10, warmup: 3, forward: false };
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
                "--forward" => options.forward = true,
                "--backend" => match arguments.next().as_deref() {
                    Some("cpu") => options.plain = false,
                    Some("plain") => options.plain = true,
                    other => anyhow::bail!("--backend is cpu or plain, not {other:?}"),
                },
                // Handed on by `cargo bench`.
                "--bench" => {}
                other => anyhow::bail!("unknown option {other}"),
            }
        }
        Ok(options)
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let device = Device::Cpu;
    let mut network: Box<dyn Backbone> = if options.plain {
        let preset = Preset { width: options.width, side: options.side, ..Preset::load("resnet18")? };
        Box::new(PlainResNet18::new(&preset, &device, DType::F32, Seed(0))?)
    } else {
        Box::new(CpuResNet18::new(options.width, Seed(0))?)
    };
    let views = if options.forward { options.batch } else { 2 * options.batch };
    let images = Tensor::randn(0f32, 1.0, (views, options.side, options.side, 3), &device)?;
    let mut step: Box<dyn FnMut() -> anyhow::Result<()>> = if options.forward {
        let frozen = network.freeze()?;
        Box::new(move || Ok(frozen.embed(&images).map(drop)?))
    } else {
        Box::new(move || {
            let features = network.forward(&images, 2)?;
            network.backward(&features)?;
            Ok(())
        })
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
    println!(
        "{}",
        serde_json::json!({
            "backend": if options.plain { "plain" } else { "cpu" },
            "measured": if options.forward { "embedding" } else { "encoder forward and backward" },
            "width": options.width,
            "size": options.side,
            "batch": options.batch,
            "steps": options.steps,
            "threads": rayon::current_num_threads(),
            "step_seconds_median": median,
            "processor_seconds_mean": processor,
            "images_per_second": options.batch as f64 / median,
            "peak_bytes": lumpd::device::peak_resident_bytes(),
        })
    );
    Ok(())
}

/// Processor time of all threads of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
