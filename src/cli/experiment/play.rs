//! Runs, one after the other, each with a progress bar, then the report.

use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::cli::Exit;
use crate::evaluate::AccuracySummary;
use crate::experiment::report::Report;
use crate::experiment::run::{Place, Standing, run};
use crate::experiment::{ExperimentError, RunResult, RunSettings};
use crate::learn::LearnError;

/// Where standard error is no terminal, a line as often as this.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Where runs find their datasets and leave their results, and how they tell of them.
pub(super) struct Setup<'a> {
    pub data: &'a Path,
    pub folder: &'a Path,
    /// One JSON object a line instead of sentences.
    pub json: bool,
}

/// Plays runs, each in the folder of its name, and writes the report of them beside these. A run that diverges says so and
/// leaves no result; the others go on, and the error at the end names it.
pub(super) fn all(runs: &[(String, RunSettings)], setup: &Setup<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let &Setup { data, folder, json } = setup;
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let mut diverged = Vec::new();
    for (number, (name, settings)) in runs.iter().enumerate() {
        let place = Place { data: data.into(), out: folder.join(name), command: command.clone() };
        let mut progress = Progress::new(format!("{}/{} {name}", number + 1, runs.len()));
        let result = run(settings, &place, &mut |standing| {
            progress.show(standing);
            ControlFlow::Continue(())
        });
        progress.end();
        if let Err(ExperimentError::Learn(error @ LearnError::Diverged { .. })) = &result {
            // Nothing can be told where standard error itself is closed.
            let _ = writeln!(stderr(), "run {name} diverged: {error}");
            diverged.push(&**name);
        } else if let Some(result) = result.map_err(classed).with_context(|| format!("run {name}"))? {
            match json {
                true => writeln!(out, "{}", json!({ "run": name, "result": result }))?,
                false => writeln!(out, "{name}: {}", told(&result))?,
            }
            out.flush()?;
        }
    }
    if diverged.len() < runs.len() {
        report(setup, out)?;
    }
    match &diverged[..] {
        [] => Ok(()),
        names => bail!(
            "{} of {} runs diverged and have no result: {}; lower learning_rate for them",
            names.len(),
            runs.len(),
            names.join(", ")
        ),
    }
}

fn report(setup: &Setup<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let &Setup { folder, json, .. } = setup;
    let report = Report::gather(&[folder.to_owned()]).map_err(classed)?;
    report.write(&folder.join("report")).map_err(classed)?;
    let written = folder.join("report/report.md");
    match json {
        true => writeln!(out, "{}", json!({ "report": written }))?,
        false => writeln!(out, "report in {}", written.display())?,
    }
    Ok(())
}

/// The exit code that an error of the room has.
pub(super) fn classed(error: ExperimentError) -> anyhow::Error {
    let exit = match error {
        ExperimentError::Setting { .. } | ExperimentError::UnknownDataset { .. } | ExperimentError::OtherRun { .. } => {
            Some(Exit::Usage)
        }
        ExperimentError::Missing { .. } | ExperimentError::Damaged { .. } | ExperimentError::Io { .. } => {
            Some(Exit::Io)
        }
        ExperimentError::File { .. } | ExperimentError::Encoder(_) => Some(Exit::Configuration),
        ExperimentError::Busy { .. } => Some(Exit::Temporary),
        _ => None,
    };
    let error = anyhow::Error::from(error);
    match exit {
        Some(exit) => error.context(exit),
        None => error,
    }
}

fn told(result: &RunResult) -> String {
    let percent = |value: Option<f64>| value.map_or("-".into(), |value| format!("{:.2}", 100.0 * value));
    let AccuracySummary { average_accuracy, forgetting_from_learned, .. } = result.averages.paper;
    format!(
        "accuracy {}, forgetting {} (paper); accuracy {}, forgetting {} (strict); linear probe {}",
        percent(average_accuracy),
        percent(forgetting_from_learned),
        percent(result.averages.strict.average_accuracy),
        percent(result.averages.strict.forgetting_max),
        percent(result.linear_probe)
    )
}

/// A bar on a terminal, a line a minute elsewhere.
struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    began: Option<(Instant, u64)>,
    told: Instant,
}

impl Progress {
    fn new(name: String) -> Self {
        Self { name, bar: None, began: None, told: Instant::now() }
    }

    fn show(&mut self, standing: Standing) {
        let Standing { stage, stages, epoch, epochs, presented, presentations, loss } = standing;
        let (start, first) = *self.began.get_or_insert((Instant::now(), presented));
        let name = &self.name;
        let bar = self.bar.get_or_insert_with(|| bar(name, presentations));
        let rate = (presented - first) as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let loss = loss.map_or("-".into(), |loss| format!("{loss:.4}"));
        let words = format!("task {}/{stages} epoch {}/{epochs} loss {loss} {rate:.0} images/s", stage + 1, epoch + 1);
        bar.set_position(presented);
        bar.set_message(words.clone());
        // After the first batch alone there is no rate yet.
        let known = presented > first;
        if known && !stderr().is_terminal() && self.told.elapsed() >= LINE_INTERVAL {
            self.told = Instant::now();
            let left = (presentations - presented) as f64 / rate.max(1e-9);
            // Nothing can be told where standard error itself is closed.
            let _ = writeln!(stderr(), "{}: {words}, {} left", self.name, crate::cli::table::duration(left));
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(name: &str, images: u64) -> ProgressBar {
    let target = if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{prefix} {bar:24} {percent}% {msg}, {eta} left");
    let bar = ProgressBar::with_draw_target(Some(images), target);
    bar.set_prefix(name.to_owned());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
