//! `lumpd buffer resize SLOTS`: a new file of another size, or of the current format.

use std::io::Write;

use clap::Args;

use super::place::{Place, failed};
use crate::cli::table::count;
use crate::config::{Bytes, Seed};
use crate::replay;

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Images that it shall keep; as many as now only brings it to the current format
    #[arg(value_name = "SLOTS")]
    slots: usize,

    #[command(flatten)]
    place: Place,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let held = arguments.place.hold()?;
    let seed = Seed(held.config.daemon.seed);
    let resized = replay::resize(&held.buffer, arguments.slots, seed).map_err(failed)?;
    arguments.place.print(&resized, out, |resized, out| {
        writeln!(
            out,
            "{} of {} slots before, {} of {} after ({}); {} dropped, {} damaged",
            resized.kept + resized.dropped + resized.damaged,
            resized.slots_before,
            resized.kept,
            resized.slots_after,
            Bytes(resized.file_bytes),
            count(resized.dropped, "image"),
            resized.damaged
        )?;
        if resized.slots_after != resized.slots_before {
            writeln!(out, "Set replay.slots = {} before the next start.", resized.slots_after)?;
        }
        Ok(())
    })
}
