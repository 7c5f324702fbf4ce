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
mod buffer;
mod checkpoint;
mod classify;
mod client;
mod completions;
mod config;
mod configuration;
mod demo;
mod devices;
mod doctor;
mod events;
mod exit;
mod experiment;
mod export;
mod feed;
mod forget;
mod forgetting;
mod json;
mod label;
mod man;
mod notify;
mod plot;
mod png;
mod query;
mod run;
mod selftest;
mod service;
mod simulate;
mod sources;
mod status;
mod stop;
mod supervised;
mod table;
mod tasks;
#[cfg(test)]
mod tests;
mod top;
mod training;
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
    /// Watch the daemon, live in the terminal
    Top(top::Arguments),
    /// Show what happened, or follow what happens
    Events(events::Arguments),
    /// Show every source, what came in and what was refused
    Sources(sources::Arguments),
    /// Find the stored images that look most like one
    Query(query::Arguments),
    /// List the tasks found in the stream, show one, or change them by hand
    Tasks(tasks::Arguments),
    /// Show what each task has lost since it ended
    Forgetting(forgetting::Arguments),
    /// Draw tasks, accuracy, forgetting or the embedding as an SVG file
    Plot(plot::Arguments),
    /// Give stored images a label, or take labels away
    Label(label::Arguments),
    /// Tell what an image is, by its labelled neighbours
    Classify(classify::Arguments),
    /// Look at the replay buffer, check it, export it, resize it, while no daemon runs
    Buffer(buffer::Arguments),
    /// Remove stored images for good
    Forget(forget::Arguments),
    /// Let training rest
    Pause(training::Arguments),
    /// Let training go on
    Resume(training::Arguments),
    /// Send images to a running daemon
    Feed(feed::Arguments),
    /// Write, list, verify or go back to what the learner writes down
    Checkpoint(checkpoint::Arguments),
    /// Check a configuration, and show what it will cost
    Validate(validate::Arguments),
    /// Show the settings, what there is to set, or an example
    Config(config::Arguments),
    /// Look for what may keep the daemon from running well, and say what to do
    Doctor(doctor::Arguments),
    /// Write what was learnt in a form that other programs read
    Export(export::Arguments),
    /// Hold this machine's kernels against their definitions
    Selftest(selftest::Arguments),
    /// List what this build can train on, on this machine
    Devices(devices::Arguments),
    /// Compare strategies on datasets with labels, as the field does
    Experiment(experiment::Arguments),
    /// Write a simulated camera's pictures and their ground truth to disk
    Simulate(simulate::Arguments),
    /// Measure what this build reaches on this machine
    Bench(bench::Arguments),
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
            Verb::Top(arguments) => top::run(arguments, out),
            Verb::Events(arguments) => events::run(arguments, out),
            Verb::Sources(arguments) => sources::run(arguments, out),
            Verb::Query(arguments) => query::run(arguments, out),
            Verb::Tasks(arguments) => tasks::run(arguments, out),
            Verb::Forgetting(arguments) => forgetting::run(arguments, out),
            Verb::Plot(arguments) => plot::run(arguments, out),
            Verb::Label(arguments) => label::run(arguments, out),
            Verb::Classify(arguments) => classify::run(arguments, out),
            Verb::Buffer(arguments) => buffer::run(arguments, out),
            Verb::Forget(arguments) => forget::run(arguments, out),
            Verb::Pause(arguments) => training::pause(arguments, out),
            Verb::Resume(arguments) => training::resume(arguments, out),
            Verb::Feed(arguments) => feed::run(arguments, out),
            Verb::Checkpoint(arguments) => checkpoint::run(arguments, out),
            Verb::Validate(arguments) => validate::run(arguments, out),
            Verb::Config(arguments) => config::run(arguments, out),
            Verb::Doctor(arguments) => doctor::run(arguments, out),
            Verb::Export(arguments) => export::run(arguments, out),
            Verb::Selftest(arguments) => selftest::run(arguments, out),
            Verb::Devices(arguments) => devices::run(arguments, out),
            Verb::Experiment(arguments) => experiment::run(arguments, out),
            Verb::Simulate(arguments) => simulate::run(arguments, out),
            Verb::Bench(arguments) => bench::run(arguments, out),
            Verb::Completions(arguments) => completions::run(arguments, out),
            Verb::Man(arguments) => man::run(arguments, out),
        }
    }
}
