//! `lumpd completions SHELL`

use std::io::Write;

use clap::{Args, CommandFactory};

use super::CommandLine;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lumpd completions bash > ~/.local/share/bash-completion/completions/lumpd\n  lumpd completions zsh > ~/.zfunc/_lumpd"
)]
pub(super) struct Arguments {
    /// The shell that will read the script
    shell: clap_complete::Shell,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    // Through a buffer: the generator panics where its writer fails, as a closed pipe does.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "lumpd", &mut script);
    Ok(out.write_all(&script)?)
}
