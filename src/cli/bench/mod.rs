//! `lumpd bench`: what this build reaches on this machine, one file a benchmark.

use std::io::Write;

use clap::{Args, Subcommand};

mod segment;

/// Measure what this build reaches on this machine
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Boundaries found on streams of real images, against the truth
    Segment(segment::Arguments),
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    match &arguments.benchmark {
        Benchmark::Segment(arguments) => segment::run(arguments, out),
    }
}
