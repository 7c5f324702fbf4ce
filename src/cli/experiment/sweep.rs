//! `lumpd experiment sweep`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::play::{self, Setup};
use crate::cli::json;
use crate::experiment::sweep::Sweep;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The table of runs
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder of the datasets
    #[arg(long, value_name = "DIR", default_value = ".")]
    data: PathBuf,
    /// Folder for results; the sweep's name where not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only runs whose name holds this; may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// List the runs and end
    #[arg(long)]
    list: bool,
    /// One JSON object a run, each on a line of its own
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let sweep = Sweep::read(&arguments.file).map_err(play::classed)?;
    let wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(&**part));
    let runs: Vec<_> = sweep.runs.iter().filter(|(name, _)| wanted(name)).cloned().collect();
    if arguments.list && arguments.json {
        let names: Vec<&str> = runs.iter().map(|(name, _)| &**name).collect();
        return json::print(&json!({ "name": sweep.name, "about": sweep.about.trim(), "runs": names }), out);
    }
    if arguments.list {
        writeln!(out, "{}: {}", sweep.name, sweep.about.trim())?;
        return runs.iter().try_for_each(|(name, _)| Ok(writeln!(out, "{name}")?));
    }
    let folder = arguments.out.clone().unwrap_or_else(|| PathBuf::from(&sweep.name));
    play::all(&runs, &Setup { data: &arguments.data, folder: &folder, json: arguments.json }, out)
}
