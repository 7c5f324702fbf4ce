//! `lumpd man [--out DIR]`

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};

use super::CommandLine;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lumpd man | man -l -\n  lumpd man --out /usr/local/share/man/man1")]
pub(super) struct Arguments {
    /// Write lumpd.1 and one page for every command into this existing folder instead
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let command = CommandLine::command();
    match &arguments.out {
        Some(dir) => clap_mangen::generate_to(command, dir)
            .with_context(|| format!("write manual pages into {}: does the folder exist?", dir.display())),
        None => Ok(clap_mangen::Man::new(command).render(out)?),
    }
}
