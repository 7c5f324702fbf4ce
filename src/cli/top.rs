//! `lumpd top`: the daemon, live in the terminal.

use std::io::{self, IsTerminal, Write, stdout};
use std::thread;
use std::time::Duration;

use clap::Args;

use super::api::ApiArguments;
use super::client::{Client, ClientError, ask};
use super::table::{Side, Table, count, duration, or_dash, printable, time};
use crate::config::Bytes;
use crate::daemon::answers::{Events, History, Sample, Status};
use crate::serve::{SourceList, TaskList};

/// Samples of a line of bars.
const BARS: usize = 60;

/// Clears the screen and goes to its corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
#[command(after_help = "Ends with Ctrl-C. Where standard output is no terminal it prints once.

Examples:
  lumpd top
  lumpd top --interval 5
  lumpd top --once --json | jq .status.learn")]
pub(super) struct Arguments {
    /// Seconds between two looks
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    interval: f64,

    /// Look once
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    api: ApiArguments,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("give 0.1 to 3600 seconds".into()) }
}

/// Everything that is shown, of about one moment.
#[derive(serde::Serialize)]
struct View {
    status: Status,
    sources: SourceList,
    tasks: TaskList,
    history: History,
    events: Events,
}

impl View {
    async fn of(client: &Client) -> Result<Self, ClientError> {
        let status: Status = client.get("/v1/status").await?;
        let (sources, tasks) = (client.get("/v1/sources").await?, client.get("/v1/tasks?limit=1000").await?);
        let (history, events) = (client.get("/v1/history").await?, client.get("/v1/events?limit=1000").await?);
        Ok(Self { status, sources, tasks, history, events })
    }
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    let live = stdout().is_terminal() && !arguments.once;
    loop {
        let view = ask(View::of(&client))?;
        if arguments.api.json {
            serde_json::to_writer(&mut *out, &view).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            // Made whole before it is shown, so that it does not flicker.
            let mut text = Vec::new();
            print(&view, &mut text)?;
            write!(out, "{}", if live { CLEAR } else { "" })?;
            out.write_all(&text)?;
        }
        out.flush()?;
        if !live {
            return Ok(());
        }
        thread::sleep(Duration::from_secs_f64(arguments.interval));
    }
}

fn print(view: &View, out: &mut dyn Write) -> io::Result<()> {
    let View { status, sources, tasks, history, events } = view;
    let (learn, stream, segment) = (&status.learn, &status.stream, &status.segment);
    let state = match (&learn.frozen, learn.paused_since) {
        (Some(_), _) => "TRAINING FROZEN",
        (None, Some(_)) => "training paused",
        (None, None) if learn.idle => "rehearsing",
        (None, None) => "training",
    };
    let memory = or_dash(status.resident_bytes.map(Bytes));
    writeln!(
        out,
        "lumpd {}  {state}  on {}  up {}  memory {memory}\n",
        status.version,
        status.device.taken,
        duration(status.uptime_seconds)
    )?;
    let dropped: u64 = sources.sources.iter().map(|source| source.dropped).sum();
    let current: Vec<&str> = tasks.tasks.iter().filter(|task| task.current).map(|task| task.name.as_str()).collect();
    let threshold = or_dash(segment.threshold.map(|value| format!("{value:.1}")));
    let rows = [
        (
            "in",
            bars(history, |s| Some(s.accepted_per_second)),
            format!("{:.1} a second, {} taken in, {dropped} dropped", stream.accepted_per_second, stream.accepted),
        ),
        (
            "training",
            bars(history, |s| Some(s.images_per_second)),
            format!(
                "{:.1} images a second, {}, {} skipped",
                learn.images_per_second,
                count(learn.steps, "step"),
                learn.skipped_for_training
            ),
        ),
        ("loss", bars(history, |s| s.loss), or_dash(learn.loss.map(|loss| format!("{loss:.3}")))),
        (
            "drift",
            bars(history, |s| s.statistic),
            format!(
                "{} of {threshold}, {}{}",
                or_dash(segment.statistic.map(|value| format!("{value:.1}"))),
                segment.phase,
                if segment.warning { ", a change is suspected" } else { "" }
            ),
        ),
        (
            "buffer",
            bars(history, |s| Some(s.stored as f64)),
            format!("{} of {} images", status.buffer.used, status.buffer.slots),
        ),
    ];
    for (name, bars, words) in rows {
        writeln!(out, "{name:<9} {bars:<BARS$}  {words}")?;
    }
    let encoder =
        status.encoder.as_ref().map(|encoder| format!("version {} of step {}", encoder.version, encoder.step));
    writeln!(out, "\ntask {}   encoder {}\n", printable(&current.join(", ")), or_dash(encoder))?;
    let mut table = Table::new(&[
        ("SOURCE", Side::Left),
        ("STATE", Side::Left),
        ("TAKEN IN", Side::Right),
        ("DROPPED", Side::Right),
        ("QUEUED", Side::Right),
    ]);
    for source in &sources.sources {
        let state = format!("{:?}", source.state).to_lowercase();
        table.row([
            source.name.clone(),
            state,
            source.accepted.to_string(),
            source.dropped.to_string(),
            Bytes(source.queued_bytes).to_string(),
        ]);
    }
    table.print(out)?;
    writeln!(out)?;
    let latest = events.events.len().saturating_sub(6);
    for event in &events.events[latest..] {
        writeln!(out, "{}  {}", time(event.at), printable(&event.message))?;
    }
    Ok(())
}

/// The latest samples as a line of bars, the highest of them full.
fn bars(history: &History, of: impl Fn(&Sample) -> Option<f64>) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let start = history.samples.len().saturating_sub(BARS);
    let values: Vec<Option<f64>> = history.samples[start..].iter().map(of).collect();
    let highest = values.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
    let height = |value: f64| HEIGHTS[((value.max(0.0) / highest * 7.0).round() as usize).min(7)];
    values.into_iter().map(|value| value.map_or(' ', height)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::answers::timestamp;

    fn sample(rate: f64, loss: Option<f64>) -> Sample {
        Sample {
            at: timestamp(0),
            accepted: 0,
            accepted_per_second: rate,
            dropped: 0,
            skipped_for_training: 0,
            loss,
            steps: 0,
            images_per_second: 0.0,
            statistic: None,
            threshold: None,
            task: None,
            stored: 0,
        }
    }

    #[test]
    fn bars_are_as_high_as_their_share_of_the_highest_and_empty_where_undefined() {
        let samples = vec![sample(0.0, None), sample(5.0, Some(1.0)), sample(10.0, Some(1.0))];
        let history = History { interval_seconds: 2.0, samples };
        assert_eq!(bars(&history, |s| Some(s.accepted_per_second)), "▁▅█");
        assert_eq!(bars(&history, |s| s.loss), " ██");
        assert_eq!(bars(&History::default(), |s| s.loss), "");
    }
}
