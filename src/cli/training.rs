//! `lumpd pause` and `lumpd resume`: training rests, and goes on.

use std::io::{self, Write};

use clap::Args;

use super::api::ApiArguments;
use super::client::ask;
use super::table::{count, printable, time};
use crate::daemon::answers::TrainingState;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lumpd pause       while the machine is needed for something else\n  lumpd resume      also after training was given up"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    api: ApiArguments,
}

pub(super) fn pause(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    change(arguments, "/v1/training/pause", out)
}

pub(super) fn resume(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    change(arguments, "/v1/training/resume", out)
}

fn change(arguments: &Arguments, path: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    let state: TrainingState = ask(arguments.api.client()?.post(path))?;
    arguments.api.print(&state, out, print)
}

fn print(state: &TrainingState, out: &mut dyn Write) -> io::Result<()> {
    let steps = count(state.steps, "step");
    match (&state.frozen, state.paused_since) {
        (Some(reason), _) => writeln!(out, "training is frozen after {steps}: {}", printable(reason)),
        (None, Some(since)) => {
            writeln!(out, "training rests since {}, after {steps}; `lumpd resume` lets it go on", time(since))
        }
        (None, None) => writeln!(out, "training goes on after {steps}"),
    }
}
