//! `lumpd bench segment`: boundaries found on streams of real images with known changes.
//!
//! The streams are those of [`streams`], of CIFAR-10 and of GTSRB's tracks; thresholds are the ones the program ships, which
//! `--calibrate` measures on change-free streams that are never scored. The naive detector, which looks at nothing and
//! alarms every 512 frames, stands beside every score.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use self::pool::Pool;
use self::rows::{Answer, Row, rows};
use super::super::table::{Side, Table};

mod calibrate;
mod export;
mod measure;
mod pool;
mod rows;
mod streams;

const EXAMPLES: &str = "\
Examples:
  lumpd bench segment --data images                every row, some minutes on one core
  lumpd bench segment --data images --only pairs,gtsrb-12 --seeds 5
  lumpd bench segment --data images --calibrate    thresholds by the time between false alarms
  lumpd bench segment --data images --export peer  features and streams, for other programs";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in super::super) struct Arguments {
    /// Folder with cifar-10-batches-bin/ and gtsrb-tracks/
    #[arg(long, value_name = "DIR", env = "LUMPD_DATA")]
    data: PathBuf,
    /// Streams of a row
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Rows to measure; all where not given
    #[arg(long, value_name = "ROW,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Detector to measure
    #[arg(long, value_name = "NAME", default_value = "dyadic-t2")]
    detector: String,
    /// Measure thresholds on change-free streams instead
    #[arg(long)]
    calibrate: bool,
    /// Write features and streams here for other programs instead
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// Also write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build()?;
    let detector = serde_json::from_value(json!(arguments.detector))
        .with_context(|| format!("there is no detector {}", arguments.detector))?;
    let all = rows();
    if let Some(unknown) = arguments.only.iter().find(|name| all.iter().all(|row| row.name != **name)) {
        let names: Vec<&str> = all.iter().map(|row| row.name).collect();
        anyhow::bail!("there is no row {unknown}: choose of {}", names.join(", "));
    }
    let start = Instant::now();
    let pool = threads.install(|| Pool::read(&arguments.data))?;
    writeln!(out, "features of all images in {:.0} s", start.elapsed().as_secs_f64())?;
    if let Some(folder) = &arguments.export {
        return export::write(&pool, folder, arguments.seeds);
    }
    if arguments.calibrate {
        let lines = threads.install(|| calibrate::run(&pool, detector));
        return Ok(lines.iter().try_for_each(|line| writeln!(out, "{line}"))?);
    }
    let wanted = |row: &&Row| arguments.only.is_empty() || arguments.only.iter().any(|name| name == row.name);
    let mut answers = Vec::new();
    for row in all.iter().filter(wanted) {
        let start = Instant::now();
        let answer = threads.install(|| row.measure(&pool, detector, arguments.seeds))?;
        answers.push((row, answer, start.elapsed().as_secs_f64()));
        eprintln!("{}: {:.0} s", row.name, start.elapsed().as_secs_f64());
    }
    print(&answers, out)?;
    if let Some(path) = &arguments.json {
        let rows: Vec<_> = answers
            .iter()
            .map(|(row, answer, seconds)| json!({"row": row.name, "wanted": row.wanted, "seconds": seconds, "answer": answer}))
            .collect();
        let text =
            serde_json::to_string_pretty(&json!({"seeds": arguments.seeds, "detector": detector, "rows": rows}))?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn print(answers: &[(&Row, Answer, f64)], out: &mut dyn Write) -> anyhow::Result<()> {
    use Side::{Left, Right};
    let columns = ["F1", "naive", "precision", "recall", "delay p50/p90", "position p50/p90", "covering", "withdrawn"];
    let heading: Vec<(&str, Side)> = std::iter::once(("stream", Left))
        .chain(columns.into_iter().map(|column| (column, Right)))
        .chain([("false alarms", Right), ("wanted", Left)])
        .collect();
    let mut table = Table::new(&heading);
    let mut rest = Vec::new();
    for (row, answer, _) in answers {
        match answer {
            Answer::Found(found) => {
                table.row(std::iter::once(row.name.to_owned()).chain(found.cells()).chain([row.wanted.to_owned()]));
            }
            other => rest.push(format!("{:<16} {}; wanted: {}", row.name, other.text(), row.wanted)),
        }
    }
    if answers.len() > rest.len() {
        table.print(out)?;
    }
    rest.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    Ok(())
}
