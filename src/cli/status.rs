//! `lumpd status`: the daemon on one page.

use std::io::{self, Write};

use clap::Args;

use super::api::ApiArguments;
use super::client::ask;
use super::sources;
use super::table::{count, duration, or_dash, print_pairs, short, time};
use crate::config::Bytes;
use crate::daemon::answers::{DaemonState, EncoderStatus, LearnStatus, SegmentStatus, Status};
use crate::serve::SourceList;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lumpd status\n  lumpd status --json | jq .learn.loss")]
pub struct Arguments {
    #[command(flatten)]
    api: ApiArguments,
}

pub fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    if arguments.api.json {
        let status: Status = ask(client.get("/v1/status"))?;
        return arguments.api.print(&status, out, |_, _| Ok(()));
    }
    let (status, list) =
        ask(async { Ok((client.get::<Status>("/v1/status").await?, client.get::<SourceList>("/v1/sources").await?)) })?;
    print(&status, out)?;
    if !list.sources.is_empty() {
        writeln!(out)?;
        sources::print(&list, out)?;
    }
    Ok(())
}

fn print(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let state = match status.state {
        DaemonState::Starting => "starting",
        DaemonState::Running => "running",
        DaemonState::Draining => "stopping",
    };
    writeln!(out, "lumpd {}, {state}, up {}\n", status.version, duration(status.uptime_seconds))?;
    let device = &status.device;
    let (stream, buffer) = (&status.stream, &status.buffer);
    let rate = stream.accepted_per_second;
    let checkpoint = status
        .checkpoint
        .as_ref()
        .map_or_else(|| "none yet".into(), |last| format!("{} ago, at step {}", duration(last.age_seconds), last.step));
    let mut pairs = vec![
        ("device", format!("{} ({})", device.taken, device.reason)),
        ("encoder", encoder(&status.preset, status.encoder.as_ref())),
        ("stream", format!("{} accepted of {}, {rate:.1} a second", stream.accepted, count(stream.received, "frame"))),
        ("learning", learning(&status.learn)),
        ("task", segment(&status.segment)),
        (
            "buffer",
            format!(
                "{} of {}, {} seen, {}",
                buffer.used,
                count(buffer.slots, "image"),
                buffer.seen,
                Bytes(buffer.bytes)
            ),
        ),
        ("checkpoint", checkpoint),
        ("memory", memory(status)),
    ];
    if let Some(error) = &status.database.error {
        pairs.push(("database", error.clone()));
    }
    print_pairs(&pairs, out)
}

fn encoder(preset: &str, published: Option<&EncoderStatus>) -> String {
    match published {
        None => format!("{preset}, no version published yet"),
        Some(encoder) => format!(
            "{preset}, version {} ({}), step {}, published {}",
            encoder.version,
            short(&encoder.id),
            encoder.step,
            time(encoder.published_at)
        ),
    }
}

fn learning(learn: &LearnStatus) -> String {
    let loss = or_dash(learn.loss.map(|loss| format!("{loss:.3}")));
    let idle = if learn.idle { ", stream idle" } else { "" };
    let mut text = format!(
        "{} with {}, {}, loss {loss}, {:.1} images a second{idle}",
        learn.objective,
        learn.strategy,
        count(learn.steps, "step"),
        learn.images_per_second
    );
    if learn.skipped_for_training > 0 {
        text += &format!(", {} skipped", count(learn.skipped_for_training, "image"));
    }
    if learn.nonfinite_steps > 0 {
        text += &format!(", {} not finite", count(learn.nonfinite_steps, "step"));
    }
    if learn.out_of_bounds_steps > 0 {
        text += &format!(", {} out of bounds", count(learn.out_of_bounds_steps, "step"));
    }
    if learn.rollbacks > 0 {
        text += &format!(", {}", count(learn.rollbacks, "roll-back"));
    }
    if learn.halved {
        text += ", batches halved for want of device memory";
    }
    text
}

fn segment(segment: &SegmentStatus) -> String {
    let current: Vec<String> = segment.current_tasks.iter().map(ToString::to_string).collect();
    let current = if current.is_empty() { "-".into() } else { current.join(", ") };
    let number = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.2}")));
    let warning = if segment.warning { ", a change is suspected" } else { "" };
    let (statistic, threshold) = (number(segment.statistic), number(segment.threshold));
    let promise = segment.calibration.as_ref().map_or_else(String::new, |calibration| {
        let frames = calibration.frames_between_false_alarms;
        let hours = calibration.hours_between_false_alarms.map(|hours| format!(" ({hours} hours)"));
        format!("; about one false boundary in {frames} distinct frames{}", hours.unwrap_or_default())
    });
    format!("{current}; {}, statistic {statistic} of {threshold}{warning}{promise}", segment.phase)
}

/// Of the process, and of the GPU where there is one.
fn memory(status: &Status) -> String {
    let process = or_dash(status.resident_bytes.map(Bytes));
    match status.device_memory {
        Some(gpu) => {
            let used = gpu.total_bytes.saturating_sub(gpu.free_bytes);
            format!("{process}; of the GPU {} of {}, other programs included", Bytes(used), Bytes(gpu.total_bytes))
        }
        None => process,
    }
}
