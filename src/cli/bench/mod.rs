//! `lumpd bench`: what this build reaches on this machine, one file a benchmark.

use std::io::Write;

use clap::{Args, Subcommand};
use speed::Subject;

pub(super) use speed::named;

mod segment;
mod speed;
mod work;

const EXAMPLES: &str = "\
Examples:
  lumpd bench train --augment                 gradient steps a second, as the daemon takes them
  lumpd bench embed --preset resnet18-w16     images a second through the frozen encoder
  lumpd bench segment --data images           boundaries found on streams of real images";

/// Measure what this build reaches on this machine
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Training steps: forward, backward and update; one image is two views
    Train(speed::Arguments),
    /// Embedding with the frozen encoder
    Embed(speed::Arguments),
    /// Making two random views of each image
    Views(speed::Arguments),
    /// Boundaries found on streams of real images, against the truth
    Segment(segment::Arguments),
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    match &arguments.benchmark {
        Benchmark::Train(arguments) => speed::run(Subject::Train, arguments, out),
        Benchmark::Embed(arguments) => speed::run(Subject::Embed, arguments, out),
        Benchmark::Views(arguments) => speed::run(Subject::Views, arguments, out),
        Benchmark::Segment(arguments) => segment::run(arguments, out),
    }
}
