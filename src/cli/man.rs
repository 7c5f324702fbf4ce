//! `lumpd man [--out DIR]`: a page for every command, out of the same text as `--help`.
//!
//! What stands below the options there goes where readers of a manual look for it: examples, as they are, to EXAMPLES, exit codes
//! to EXIT STATUS, the rest to DESCRIPTION.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::CommandLine;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lumpd man | man -l -\n  lumpd man --out /usr/local/share/man/man1")]
pub(super) struct Arguments {
    /// Write lumpd.1 and one page for every command into this existing folder instead
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut command = CommandLine::command().disable_help_subcommand(true);
    // Gives the commands below their full names.
    command.build();
    match &arguments.out {
        Some(dir) => write_all(&command, dir)
            .with_context(|| format!("write manual pages into {}: does the folder exist?", dir.display())),
        None => Ok(page(&command, out)?),
    }
}

fn write_all(command: &Command, dir: &Path) -> io::Result<()> {
    command.get_subcommands().try_for_each(|below| write_all(below, dir))?;
    let mut text = Vec::new();
    page(command, &mut text)?;
    fs::write(dir.join(format!("{}.1", title(command))), text)
}

/// `lumpd-config-show` for `lumpd config show`.
fn title(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command, out: &mut dyn Write) -> io::Result<()> {
    let man = Man::new(command.clone())
        .title(title(command))
        .source(concat!("lumpd ", env!("CARGO_PKG_VERSION")))
        .manual("lumpd manual");
    let below = Below::of(command);
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    for paragraph in &below.description {
        writeln!(out, ".PP\n{}", plain(paragraph))?;
    }
    man.render_options_section(out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(out)?;
    }
    if !below.examples.is_empty() {
        // No filling: columns stay columns, and a line can be copied.
        writeln!(out, ".SH EXAMPLES\n.nf\n{}\n.fi", plain(&below.examples))?;
    }
    if !below.exit_status.is_empty() {
        writeln!(out, ".SH \"EXIT STATUS\"\n{}", plain(&below.exit_status))?;
    }
    if title(command) != "lumpd" {
        writeln!(out, ".SH \"SEE ALSO\"\n.BR lumpd (1)")?;
    }
    Ok(())
}

/// The text below the options of `--help`, by what it is.
#[derive(Default)]
struct Below {
    description: Vec<String>,
    examples: String,
    exit_status: String,
}

impl Below {
    fn of(command: &Command) -> Self {
        let mut found = Self::default();
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for paragraph in text.split("\n\n").map(str::trim_end).filter(|paragraph| !paragraph.is_empty()) {
            if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
                found.examples = examples.to_owned();
            } else if paragraph.starts_with("Exit code") {
                found.exit_status = paragraph.to_owned();
            } else {
                found.description.push(paragraph.to_owned());
            }
        }
        found
    }
}

/// Text as roff, with the characters that are typed: it would turn hyphens and quotes into those of print.
fn plain(text: &str) -> String {
    let line = |line: &str| {
        let line = line
            .replace('\\', "\\e")
            .replace('-', "\\-")
            .replace('\'', "\\(aq")
            .replace('`', "\\(ga")
            .replace('~', "\\(ti");
        // A line that starts with a full stop is a request.
        if line.starts_with('.') { format!("\\&{line}") } else { line }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn pages() -> Vec<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        let line = ["lumpd", "man", "--out", folder.path().to_str().unwrap()];
        CommandLine::try_parse_from(line).unwrap().run(&mut Vec::new()).unwrap();
        let files = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
        files
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
            .collect()
    }

    #[test]
    fn every_page_shows_its_examples_as_they_are_typed() {
        let pages = pages();
        assert!(pages.len() > 45, "{}", pages.len());
        for (name, text) in &pages {
            assert!(text.contains(".SH EXAMPLES\n.nf\n") && text.contains("\n.fi"), "{name}:\n{text}");
            assert!(!text.contains("EXTRA") && text.contains("lumpd 0."), "{name}:\n{text}");
        }
        let of = |name: &str| &pages.iter().find(|(found, _)| found == name).unwrap().1;
        assert!(of("lumpd.1").contains(".SH \"EXIT STATUS\"\nExit codes: 0 success"));
        assert!(of("lumpd-query.1").contains("\n  lumpd query \\-\\-id 1234 \\-k 20"));
        assert!(of("lumpd-run.1").contains(".PP\nCtrl\\-C or SIGTERM"));
        assert!(of("lumpd-status.1").contains("LUMPD_API"), "environment variables are named");
    }

    #[test]
    fn what_roff_would_read_is_escaped() {
        assert_eq!(plain("a -k '.x' `y` ~ \\\n.z"), "a \\-k \\(aq.x\\(aq \\(gay\\(ga \\(ti \\e\n\\&.z");
    }
}
