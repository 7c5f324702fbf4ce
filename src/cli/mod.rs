//! The command line: one file a verb.
//!
//! A verb is a `clap::Args` structure named `Arguments` and `pub fn run(&Arguments, out: &mut dyn Write) -> anyhow::Result<()>`.
//! What a verb says on success goes to `out` (standard output), everything else to standard error. A failure that has an
//! exit code of its own carries an [`Exit`] as context; `exit::code` finds it, however deep it lies in the chain.
//!
//! ```
//! use clap::Parser;
//! let line = lumpd::cli::CommandLine::try_parse_from(["lumpd", "completions", "bash"]).unwrap();
//! let mut text = Vec::new();
//! line.run(&mut text).unwrap();
//! assert!(String::from_utf8(text).unwrap().contains("_lumpd"));
//! ```

use std::io::Write;

use clap::{Parser, Subcommand};

mod api;
mod bench;
mod classify;
mod client;
mod completions;
mod configuration;
mod demo;
mod devices;
mod exit;
mod feed;
mod forgetting;
mod label;
mod man;
mod png;
mod query;
mod run;
mod service;
mod simulate;
mod sources;
mod status;
mod stop;
mod table;
mod tasks;
#[cfg(test)]
mod tests;
mod validate;

pub use api::ApiArguments;
pub use client::{Address, Client, ClientError};
pub use configuration::ConfigurationArguments;
pub use exit::{Exit, code, report};

const EXAMPLES: &str = "\
Examples:
  lumpd demo                                  a simulated camera, learnt from while you watch
  lumpd run --watch /srv/camera               learn from a folder of images
  lumpd run --config lumpd.toml               the same, with every setting in a file
  lumpd feed holiday/ --to tcp:127.0.0.1:7718 send a folder's images to a running daemon
  lumpd query image.jpg                       which images seen so far look most like this one
  ffmpeg -i rtsp://camera -f image2pipe -c:v mjpeg - | lumpd feed - --config lumpd.toml

Exit codes: 0 success, 1 other failure, 2 wrong usage, 69 daemon unreachable, 74 input/output, 75 try again later,
78 configuration.";

/// Learns, without labels and without forgetting, from the images that pass through one machine.
#[derive(Debug, Parser)]
#[command(name = "lumpd", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 100)]
pub struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon: take images in, learn, answer
    Run(run::Arguments),
    /// Watch it learn from a simulated camera
    Demo(demo::Arguments),
    /// Show how the daemon is doing
    Status(status::Arguments),
    /// Show every source, what came in and what was refused
    Sources(sources::Arguments),
    /// Find the stored images that look most like one
    Query(query::Arguments),
    /// List the tasks found in the stream, or show one
    Tasks(tasks::Arguments),
    /// Show what each task has lost since it ended
    Forgetting(forgetting::Arguments),
    /// Give stored images a label, or take labels away
    Label(label::Arguments),
    /// Tell what an image is, by its labelled neighbours
    Classify(classify::Arguments),
    /// Send images to a running daemon
    Feed(feed::Arguments),
    /// Check a configuration, and show what it will cost
    Validate(validate::Arguments),
    /// List what this build can train on, on this machine
    Devices(devices::Arguments),
    /// Measure how fast this machine trains, embeds and makes views
    Bench(bench::Arguments),
    /// Write a simulated camera's pictures and their ground truth to disk
    Simulate(simulate::Arguments),
    /// Print the completion script of a shell
    Completions(completions::Arguments),
    /// Print the manual page, or write one for every command
    Man(man::Arguments),
}

impl CommandLine {
    /// Does what the line asks for.
    ///
    /// # Errors
    /// Whatever the verb met; [`code`] gives the exit code.
    pub fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        match &self.verb {
            Verb::Run(arguments) => run::run(arguments, out, service::start),
            Verb::Demo(arguments) => demo::run(arguments, out, service::start),
            Verb::Status(arguments) => status::run(arguments, out),
            Verb::Sources(arguments) => sources::run(arguments, out),
            Verb::Query(arguments) => query::run(arguments, out),
            Verb::Tasks(arguments) => tasks::run(arguments, out),
            Verb::Forgetting(arguments) => forgetting::run(arguments, out),
            Verb::Label(arguments) => label::run(arguments, out),
            Verb::Classify(arguments) => classify::run(arguments, out),
            Verb::Feed(arguments) => feed::run(arguments, out),
            Verb::Validate(arguments) => validate::run(arguments, out),
            Verb::Devices(arguments) => devices::run(arguments, out),
            Verb::Bench(arguments) => bench::run(arguments, out),
            Verb::Simulate(arguments) => simulate::run(arguments, out),
            Verb::Completions(arguments) => completions::run(arguments, out),
            Verb::Man(arguments) => man::run(arguments, out),
        }
    }
}
