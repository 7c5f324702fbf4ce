//! `lumpd experiment`: benchmarks with labels at hand, on the objects that the daemon runs on.

use std::io::Write;

use clap::{Args, Subcommand};

mod play;
mod report;
mod run;
mod sweep;

const EXAMPLES: &str = "\
Examples:
  lumpd experiment run --dataset split-cifar10 --data images/ --objective simsiam --strategy lump --seeds 3
  lumpd experiment run --dataset simulated --preset resnet18-w16 --objective simclr --strategy lump+ --epochs 1
  lumpd experiment sweep benches/sweeps/table1.toml --data images/ --out table1
  lumpd experiment report table1

A run that was killed goes on where it was when it is started again with the same line.";

/// Compare strategies on datasets with labels, as the field does
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Learn a dataset task by task, and measure what is known of each
    #[command(after_help = EXAMPLES)]
    Run(run::Arguments),
    /// Run a table of experiments from a file
    #[command(after_help = EXAMPLES)]
    Sweep(sweep::Arguments),
    /// Make tables and pictures of results
    #[command(after_help = EXAMPLES)]
    Report(report::Arguments),
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    match &arguments.verb {
        Verb::Run(arguments) => run::run(arguments, out),
        Verb::Sweep(arguments) => sweep::run(arguments, out),
        Verb::Report(arguments) => report::run(arguments, out),
    }
}
