//! `lumpd devices`: what this build can train on, on this machine.

use std::io::Write;

use clap::Args;

use crate::device::describe;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lumpd devices\n  lumpd devices --json | jq '.devices[0]'")]
pub(super) struct Arguments {
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let inventory = describe();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&inventory)?)?;
        return Ok(());
    }
    for device in &inventory.devices {
        writeln!(out, "{device}")?;
    }
    for reason in &inventory.missing {
        writeln!(out, "not found: {reason}")?;
    }
    Ok(())
}
