//! `lumpd bench`: how fast this machine trains, embeds and makes views, through the same trainer and network as the daemon.
//!
//! With `--json` the answer is one line with the keys of the PyTorch peer (`benches/peers/torch_step.py`), so that
//! `benches/peers/ratio.py` can run both in turn.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use candle_core::Device;
use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::work::Work;
use crate::config::{Bytes, DeviceKind, DeviceSettings, LearnSettings, ObjectiveKind, Precision, StrategyKind};
use crate::device::{self, peak_resident_bytes};
use crate::encoder::Preset;
use crate::learn::StepSeconds;

const EXAMPLES: &str = "\
Examples:
  lumpd bench train --augment                      one training step as the daemon takes it, views included
  lumpd bench train --augment --dtype bf16 --json
  lumpd bench embed --preset resnet18-w16 --batch 256
  lumpd bench views --size 64";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Subject {
    /// Training steps: forward, backward and update; one image is two views
    Train,
    /// Embedding with the frozen encoder
    Embed,
    /// Making two random views of each image
    Views,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// auto, cpu, cuda or metal
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = named::<DeviceKind>)]
    device: DeviceKind,
    /// Which of several devices of that kind
    #[arg(long, default_value_t = 0)]
    ordinal: usize,
    /// An encoder preset, or the path of a card
    #[arg(long, default_value = "resnet18")]
    preset: String,
    /// Images of one step; with LUMP as many replayed ones come on top
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Pixels of an image's side; the preset's where not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(8..=1024))]
    size: Option<u16>,
    /// Numbers that the encoder multiplies in: auto, f32, tf32 or bf16
    #[arg(long, default_value = "f32", value_parser = named::<Precision>)]
    dtype: Precision,
    /// As learn.objective
    #[arg(long, default_value = "simsiam", value_parser = named::<ObjectiveKind>)]
    objective: ObjectiveKind,
    /// As learn.strategy
    #[arg(long, default_value = "lump", value_parser = named::<StrategyKind>)]
    strategy: StrategyKind,
    /// Make the views within the step, from bytes, instead of once before it
    #[arg(long)]
    augment: bool,
    /// Steps that are timed
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before those
    #[arg(long, default_value_t = 3)]
    warmup: u32,
    /// Compute threads; 0 takes every core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

/// A value by the name that it has in the configuration.
pub(in crate::cli) fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    T::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text)).map_err(|e| e.to_string())
}

/// What was measured and how, under the peer's names.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    peer: String,
    measured: String,
    device: String,
    preset: String,
    batch: usize,
    size: usize,
    width: usize,
    dtype: Precision,
    objective: Option<ObjectiveKind>,
    strategy: Option<StrategyKind>,
    augment: bool,
    lump: bool,
    forward: bool,
    steps: u32,
    warmup: u32,
    threads: usize,
    step_seconds_median: f64,
    /// Of all threads together: says more than the clock where the machine has other work.
    processor_seconds_mean: f64,
    /// Images of the stream: two views each in training.
    images_per_second: f64,
    /// Most memory of the process; null where the device's own is not known.
    peak_bytes: Option<u64>,
    /// Medians of the parts of a training step.
    parts: Option<Parts>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Parts {
    views: f64,
    forward: f64,
    loss: f64,
    backward: f64,
    update: f64,
}

pub(super) fn run(subject: Subject, arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build()?;
    let report = pool.install(|| measure(subject, arguments))?;
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
        return Ok(());
    }
    write_text(&report, out)
}

fn measure(subject: Subject, arguments: &Arguments) -> anyhow::Result<Report> {
    let settings = DeviceSettings { kind: arguments.device, ordinal: arguments.ordinal };
    let chosen = device::choose(&settings).context(crate::cli::Exit::Configuration)?;
    let preset = Preset::load(&arguments.preset).context(crate::cli::Exit::Configuration)?;
    let preset = Preset { side: arguments.size.map_or(preset.side, usize::from), ..preset };
    let (batch, training) = (usize::from(arguments.batch), subject == Subject::Train);
    let learn = LearnSettings {
        objective: arguments.objective,
        strategy: arguments.strategy,
        precision: arguments.dtype,
        batch,
        replay_batch: batch,
        ..LearnSettings::default()
    };
    let (device, width, size) = (&chosen.device, preset.width, preset.side);
    let free_before = device::memory(device).map(|memory| memory.free_bytes);
    let mut work = match subject {
        Subject::Train => Work::training(preset, &learn, device, arguments.augment)?,
        Subject::Embed => Work::embedding(&preset, &learn, device)?,
        Subject::Views => Work::views(&preset, batch, device),
    };
    for _ in 0..arguments.warmup {
        work.step()?;
        device.synchronize()?;
    }
    let (mut seconds, mut parts) = (Vec::new(), Vec::new());
    let before = processor_time();
    for _ in 0..arguments.steps {
        let start = Instant::now();
        let part = work.step()?;
        device.synchronize()?;
        seconds.push(start.elapsed().as_secs_f64());
        parts.extend(part);
    }
    let processor = (processor_time() - before).as_secs_f64() / f64::from(arguments.steps);
    let step_seconds_median = median(seconds);
    Ok(Report {
        peer: format!("lumpd {}", env!("CARGO_PKG_VERSION")),
        measured: format!("{:?}", subject).to_lowercase(),
        device: chosen.info.backend.to_string(),
        preset: arguments.preset.clone(),
        batch,
        size,
        width,
        dtype: arguments.dtype,
        objective: training.then_some(arguments.objective),
        strategy: training.then_some(arguments.strategy),
        augment: training && arguments.augment,
        lump: training && arguments.strategy == StrategyKind::Lump,
        forward: subject == Subject::Embed,
        steps: arguments.steps,
        warmup: arguments.warmup,
        threads: rayon::current_num_threads(),
        step_seconds_median,
        processor_seconds_mean: processor,
        images_per_second: batch as f64 / step_seconds_median,
        peak_bytes: peak_bytes(device, free_before),
        parts: median_parts(&parts),
    })
}

/// The process's on the CPU; on a GPU what the driver has less than before the work began, which keeps what was freed.
fn peak_bytes(device: &Device, free_before: Option<u64>) -> Option<u64> {
    if device.is_cpu() {
        return peak_resident_bytes();
    }
    Some(free_before?.saturating_sub(device::memory(device)?.free_bytes))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn median_parts(steps: &[StepSeconds]) -> Option<Parts> {
    let of = |part: fn(&StepSeconds) -> f64| median(steps.iter().map(part).collect());
    (!steps.is_empty()).then(|| Parts {
        views: of(|s| s.views),
        forward: of(|s| s.forward),
        loss: of(|s| s.loss),
        backward: of(|s| s.backward),
        update: of(|s| s.update),
    })
}

/// Processor time of all threads of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn write_text(report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let Report { measured, device, preset, batch, size, steps, threads, .. } = report;
    let dtype = report.dtype.name();
    writeln!(out, "{measured} on {device}, {preset}, {batch} images of {size} px, {dtype}, {threads} threads:")?;
    writeln!(
        out,
        "  {:.1} images a second; {:.4} s a step (median of {steps}), {:.4} s of processor time",
        report.images_per_second, report.step_seconds_median, report.processor_seconds_mean
    )?;
    if let Some(Parts { views, forward, loss, backward, update }) = report.parts {
        writeln!(
            out,
            "  views {views:.4}, forward {forward:.4}, loss {loss:.4}, backward {backward:.4}, update {update:.4} s"
        )?;
    }
    if let Some(bytes) = report.peak_bytes {
        writeln!(out, "  most memory held: {}", Bytes(bytes))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{CommandLine, code};

    fn say(line: &[&str]) -> anyhow::Result<String> {
        let small = ["--preset", "resnet18-w16", "--size", "8", "--batch", "4", "--steps", "2", "--warmup", "0"];
        let mut out = Vec::new();
        CommandLine::try_parse_from([&["lumpd", "bench"], line, &small, &["--device", "cpu"]].concat())?
            .run(&mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn each_subject_is_measured_and_told_in_one_line_of_json() {
        for line in [&["train", "--augment"][..], &["train", "--strategy", "finetune"], &["embed"], &["views"]] {
            let text = say(&[line, &["--json", "--threads", "2"]].concat()).unwrap();
            assert_eq!(text.lines().count(), 1);
            let report: Report = serde_json::from_str(&text).unwrap();
            assert!(report.images_per_second > 0.0 && report.step_seconds_median > 0.0, "{text}");
            assert_eq!((report.measured.as_str(), report.threads, report.size), (line[0], 2, 8));
            assert_eq!(report.parts.is_some(), line[0] == "train");
            let parts = report.parts.map_or(0.0, |p| p.views + p.forward + p.loss + p.backward + p.update);
            assert!(parts <= 3.0 * report.step_seconds_median);
            assert_eq!(report.lump, line == ["train", "--augment"]);
        }
    }

    #[test]
    fn people_read_the_rate_and_the_parts() {
        let text = say(&["train"]).unwrap();
        for word in ["images a second", "forward", "f32", "4 images of 8 px"] {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_those_there_are() {
        let error = say(&["train", "--dtype", "f16"]).unwrap_err().to_string();
        assert!(error.contains("f32") && error.contains("bf16"), "{error}");
        let error = CommandLine::try_parse_from(["lumpd", "bench", "views", "--preset", "none", "--device", "cpu"]);
        let error = error.unwrap().run(&mut Vec::new()).unwrap_err();
        assert_eq!(code(&error), 78);
    }
}
