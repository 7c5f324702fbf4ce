//! `lumpd experiment report`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::play;
use crate::cli::json;
use crate::experiment::report::{Report, markdown};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Folders with results, at any depth
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// Folder for the report: Markdown, JSON, CSV and pictures; the first folder's `report` where not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the tables instead of writing files
    #[arg(long, conflicts_with = "out")]
    print: bool,
    /// Print the report as one JSON object instead of writing files
    #[arg(long, conflicts_with_all = ["out", "print"])]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let report = Report::gather(&arguments.folders).map_err(play::classed)?;
    if arguments.json {
        return json::print(&report, out);
    }
    if arguments.print {
        write!(out, "{}", markdown(&report, &[]))?;
        return Ok(());
    }
    let folder = arguments.out.clone().unwrap_or_else(|| arguments.folders[0].join("report"));
    let files = report.write(&folder).map_err(play::classed)?;
    writeln!(out, "{} files in {}", files.len(), folder.display())?;
    Ok(())
}
