//! `lumpd buffer inspect|verify|export|resize`: the replay buffer while no daemon runs.

mod export;
mod inspect;
mod place;
mod resize;
#[cfg(test)]
mod tests;
mod verify;

use std::io::Write;

use clap::{Args, Subcommand};

const EXAMPLES: &str = "\
Examples:
  lumpd buffer inspect --state-dir /var/lib/lumpd
  lumpd buffer verify --state-dir /var/lib/lumpd --json
  lumpd buffer export pictures/ --state-dir /var/lib/lumpd
  lumpd buffer resize 16384 --state-dir /var/lib/lumpd   (then set replay.slots = 16384)

The daemon of the state folder must be stopped; while it runs, `lumpd status` and GET /v1/buffer answer.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what the buffer is and what is in it
    #[command(after_help = EXAMPLES)]
    Inspect(inspect::Arguments),
    /// Read every header and every image, and fail where one is damaged
    #[command(after_help = EXAMPLES)]
    Verify(verify::Arguments),
    /// Write the images as PNG files, and a table of them, into a folder
    #[command(after_help = EXAMPLES)]
    Export(export::Arguments),
    /// Make it larger or smaller, or bring it to the current format
    #[command(after_help = EXAMPLES)]
    Resize(resize::Arguments),
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    match &arguments.verb {
        Verb::Inspect(arguments) => inspect::run(arguments, out),
        Verb::Verify(arguments) => verify::run(arguments, out),
        Verb::Export(arguments) => export::run(arguments, out),
        Verb::Resize(arguments) => resize::run(arguments, out),
    }
}
