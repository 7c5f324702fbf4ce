//! `lumpd buffer verify`: every header and every image against its checksum.

use std::io::{self, Write};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::place::Place;
use crate::cli::table::{Side, Table, count, or_dash};
use crate::replay::BadSlot;

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    /// Images whose pixels were read.
    images: usize,
    /// Writes of a commit that did not end; the next start wipes them.
    unfinished: usize,
    bad: Vec<BadSlot>,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let held = arguments.place.hold()?;
    let store = held.open()?;
    let report = Report {
        file: held.buffer.display().to_string(),
        images: store.reader().len(),
        unfinished: store.recovery().unfinished,
        bad: store.verify(),
    };
    arguments.place.print(&report, out, print)?;
    if !report.bad.is_empty() {
        let slots = count(report.bad.len() as u64, "damaged slot");
        bail!("{slots} in {}: the next start drops them; restore the file where that matters", report.file);
    }
    Ok(())
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let Report { file, images, unfinished, bad } = report;
    writeln!(out, "{file}: {} read, {} damaged, {unfinished} unfinished", count(*images as u64, "image"), bad.len())?;
    if bad.is_empty() {
        return Ok(());
    }
    let columns = [("SLOT", Side::Right), ("BYTE", Side::Right), ("FRAME", Side::Right), ("DAMAGED", Side::Left)];
    let mut table = Table::new(&columns);
    for BadSlot { slot, offset, frame, what } in bad {
        table.row([slot.to_string(), offset.to_string(), or_dash(*frame), (*what).to_owned()]);
    }
    table.print(out)
}
