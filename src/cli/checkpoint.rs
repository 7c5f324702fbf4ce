//! `lumpd checkpoint`: what the learner has written down, on the disk, which needs no daemon; and one more now, of a running one.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::api::ApiArguments;
use super::client::ask;
use super::table::{Side, Table};
use super::{ConfigurationArguments, Exit, json};
use crate::daemon::StateDir;
use crate::daemon::answers::CheckpointStatus;
use crate::learn::checkpoint::{Generations, Verified};

const EXAMPLES: &str = "\
Examples:
  lumpd checkpoint now                           of the running daemon, before a copy of its state folder
  lumpd checkpoint list --state-dir /var/lib/lumpd
  lumpd checkpoint verify --config lumpd.toml    fails if any is damaged
  lumpd checkpoint restore 1200                  the next start goes on from step 1200; stop the daemon first

Later checkpoints are put aside in checkpoints/quarantine, where the three newest stay. The replay buffer, tasks and labels
are not part of a checkpoint: they go on from where they are.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Let the running daemon write one
    #[command(after_help = EXAMPLES)]
    Now(Now),
    /// List the checkpoints, oldest first
    #[command(after_help = EXAMPLES)]
    List(Look),
    /// Read every checkpoint whole, and fail if one is damaged
    #[command(after_help = EXAMPLES)]
    Verify(Look),
    /// Make an earlier checkpoint the newest
    #[command(after_help = EXAMPLES)]
    Restore(Restore),
}

#[derive(Debug, Args)]
struct Now {
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Debug, Args)]
struct Look {
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    configuration: ConfigurationArguments,
}

#[derive(Debug, Args)]
struct Restore {
    /// As `lumpd checkpoint list` shows it
    step: u64,
    /// One JSON object instead of a sentence
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    configuration: ConfigurationArguments,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    match &arguments.verb {
        Verb::Now(now) => self::now(now, out),
        Verb::List(look) => list(look, out).map(|_| ()),
        Verb::Verify(look) => {
            let damaged = list(look, out)?;
            if damaged > 0 {
                bail!(anyhow::anyhow!("{damaged} damaged: the next start passes over them").context(Exit::Io));
            }
            Ok(())
        }
        Verb::Restore(restore) => self::restore(restore, out),
    }
}

fn now(now: &Now, out: &mut dyn Write) -> anyhow::Result<()> {
    let written: CheckpointStatus = ask(now.api.client()?.post("/v1/checkpoints"))?;
    now.api.print(&written, out, |written, out| writeln!(out, "checkpoint of step {} written", written.step))
}

fn state_dir(configuration: &ConfigurationArguments) -> anyhow::Result<std::path::PathBuf> {
    Ok(configuration.load()?.config.daemon.state_dir)
}

/// How many are damaged.
fn list(look: &Look, out: &mut dyn Write) -> anyhow::Result<usize> {
    let state_dir = state_dir(&look.configuration)?;
    let found = Generations::at(&state_dir.join("checkpoints")).verify().context(Exit::Io)?;
    let damaged = found.iter().filter(|found| found.damage.is_some()).count();
    if look.json {
        let rows: Vec<_> = found.iter().map(row).collect();
        json::print(&json!({ "checkpoints": rows }), out)?;
        return Ok(damaged);
    }
    if found.is_empty() {
        writeln!(out, "no checkpoints in {}", state_dir.display())?;
        return Ok(0);
    }
    let mut table = Table::new(&[("STEP", Side::Right), ("MIB", Side::Right), ("STATE", Side::Left)]);
    for Verified { step, bytes, damage } in &found {
        let state = damage.as_ref().map_or("whole".to_owned(), |reason| format!("damaged: {reason}"));
        table.row([step.to_string(), format!("{:.1}", *bytes as f64 / f64::from(1 << 20)), state]);
    }
    table.print(out)?;
    Ok(damaged)
}

fn row(found: &Verified) -> serde_json::Value {
    json!({
        "step": found.step,
        "bytes": found.bytes,
        "damage": found.damage.as_ref().map(ToString::to_string),
    })
}

fn restore(restore: &Restore, out: &mut dyn Write) -> anyhow::Result<()> {
    let state_dir = state_dir(&restore.configuration)?;
    let _held = hold(&state_dir)?;
    let generations = Generations::at(&state_dir.join("checkpoints"));
    let newer = generations.go_back_to(restore.step).context(Exit::Io)?;
    if restore.json {
        return json::print(&json!({ "step": restore.step, "put_aside": newer }), out);
    }
    let aside = match newer.len() {
        0 => "it was the newest already".to_owned(),
        count => format!("{count} later ones were put aside"),
    };
    writeln!(out, "the next start goes on from step {}; {aside}", restore.step)?;
    Ok(())
}

/// A running daemon would write the next one over it.
fn hold(state_dir: &Path) -> anyhow::Result<StateDir> {
    if !state_dir.is_dir() {
        bail!(anyhow::anyhow!("there is no state folder {}", state_dir.display()).context(Exit::Io));
    }
    StateDir::open(state_dir).map_err(|error| {
        let class = if error.is_temporary() { Exit::Temporary } else { Exit::Io };
        anyhow::anyhow!(error).context(class)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{CommandLine, code};
    use crate::learn::checkpoint::Keep;

    fn line(words: &[&str], state: &Path) -> anyhow::Result<String> {
        let state = state.to_str().unwrap();
        let line = [&["lumpd", "checkpoint"], words, &["--state-dir", state]].concat();
        let mut out = Vec::new();
        CommandLine::try_parse_from(line)?.run(&mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn checkpoints_are_listed_verified_and_gone_back_to() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("checkpoints");
        let generations = Generations::open(&folder, Keep::default()).unwrap();
        for step in [7, 40, 300] {
            generations.write(step, &[("weights", b"w")], &json!({})).unwrap();
        }
        assert!(line(&["verify"], state.path()).unwrap().contains("whole"));
        std::fs::write(folder.join("step-000000000300/weights"), b"x").unwrap();
        let table = line(&["list"], state.path()).unwrap();
        assert!(table.contains("300") && table.contains("damaged: the content of weights"), "{table}");
        assert_eq!(code(&line(&["verify"], state.path()).unwrap_err()), 74);
        let json: serde_json::Value = serde_json::from_str(&line(&["list", "--json"], state.path()).unwrap()).unwrap();
        assert_eq!((&json["checkpoints"][0]["step"], &json["checkpoints"][0]["damage"]), (&json!(7), &json!(null)));

        let held = StateDir::open(state.path()).unwrap();
        assert_eq!(code(&line(&["restore", "40"], state.path()).unwrap_err()), 75, "a daemon runs");
        drop(held);
        assert_eq!(code(&line(&["restore", "41"], state.path()).unwrap_err()), 74);
        let said = line(&["restore", "40"], state.path()).unwrap();
        assert!(said.contains("step 40") && said.contains("1 later"), "{said}");
        assert_eq!(generations.steps().unwrap(), [7, 40]);
        let said: serde_json::Value =
            serde_json::from_str(&line(&["restore", "7", "--json"], state.path()).unwrap()).unwrap();
        assert_eq!(said, json!({ "step": 7, "put_aside": [40] }));
    }

    #[test]
    fn an_empty_state_folder_is_said_and_none_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("none");
        assert!(line(&["list"], &state).unwrap().contains("no checkpoints"));
        assert_eq!(code(&line(&["restore", "1"], &state).unwrap_err()), 74);
        assert!(!state.exists());
    }
}
