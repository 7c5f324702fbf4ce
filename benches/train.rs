//! Speed of training and embedding on random images: the encoder's part of a training step (forward and backward of two
//! views), a whole step (views, SimSiam head, loss, SGD; with `--lump` also the replayed views and mixing), or embedding.
//!
//! ```text
//! cargo bench --bench train -- [--backend cpu|plain] [--width 64] [--side 32] [--batch 64] [--steps 10] [--warmup 3]
//!     [--whole [--lump] | --forward]
//! ```
//!
//! Prints one JSON line with the keys of a PyTorch peer: `images_per_second` (one image is two views in training),
//! `step_seconds_median`, `peak_bytes` (of the process, resident); and `processor_seconds_mean`, the processor time of a
//! step on all threads together, which says more than the clock where the machine has other work.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use lumpd::config::{LearnSettings, ObjectiveKind, Seed, StrategyKind};
use lumpd::encoder::{Backbone, CpuResNet18, PlainResNet18, Preset};
use lumpd::learn::Trainer;
use rustix::time::{ClockId, clock_gettime};

struct Options {
    plain: bool,
    width: usize,
    side: usize,
    batch: usize,
    steps: usize,
    warmup: usize,
    measured: Measured,
    lump: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Measured {
    Encoder,
    Whole,
    Embedding,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self {
            plain: false,
            width: 64,
            side: 32,
            batch: 64,
            steps: 10,
            warmup: 3,
            measured: Measured::Encoder,
            lump: false,
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
                "--forward" => options.measured = Measured::Embedding,
                "--whole" => options.measured = Measured::Whole,
                "--lump" => options.lump = true,
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

type Step = Box<dyn FnMut() -> anyhow::Result<()>>;

/// The step to be measured.
fn step(options: &Options) -> anyhow::Result<Step> {
    let preset = Preset { width: options.width, side: options.side, ..Preset::load("resnet18")? };
    let device = Device::Cpu;
    let mut network: Box<dyn Backbone> = if options.plain {
        Box::new(PlainResNet18::new(&preset, &device, DType::F32, Seed(0))?)
    } else {
        Box::new(CpuResNet18::new(&preset, Seed(0))?)
    };
    let images = |count: usize| {
        Tensor::randn(0f32, 1.0, (count, options.side, options.side, 3), &device).map_err(anyhow::Error::from)
    };
    match options.measured {
        Measured::Encoder => {
            let images = images(2 * options.batch)?;
            Ok(Box::new(move || {
                let features = network.forward(&images, 2)?;
                network.backward(&features)?;
                Ok(())
            }))
        }
        Measured::Embedding => {
            let (images, frozen) = (images(options.batch)?, network.freeze()?);
            Ok(Box::new(move || Ok(frozen.embed(&images).map(drop)?)))
        }
        Measured::Whole => {
            let strategy = if options.lump { StrategyKind::Lump } else { StrategyKind::Finetune };
            let settings = LearnSettings { objective: ObjectiveKind::SimSiam, strategy, ..LearnSettings::default() };
            let bytes = options.batch * preset.image_bytes();
            let mut random = Seed(1).random("pixels", 0);
            let mut pixels = || (0..bytes).map(|_| (random.below(256)) as u8).collect::<Vec<u8>>();
            let (stream, replay) = (pixels(), if options.lump { pixels() } else { Vec::new() });
            let mut trainer = Trainer::with_backbone(preset, network, &settings, Seed(0))?;
            Ok(Box::new(move || {
                trainer.step(&stream, &replay)?;
                Ok(())
            }))
        }
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut step = step(&options)?;
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
    let measured = match options.measured {
        Measured::Encoder => "encoder forward and backward",
        Measured::Whole => "whole step",
        Measured::Embedding => "embedding",
    };
    println!(
        "{}",
        serde_json::json!({
            "backend": if options.plain { "plain" } else { "cpu" },
            "measured": measured,
            "lump": options.lump,
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
