//! `lumpd sources`: every inlet, what came in and what was refused.

use std::io::{self, Write};

use clap::Args;

use super::api::ApiArguments;
use super::client::ask;
use super::table::{Side, Table, or_dash, printable, time};
use crate::config::Bytes;
use crate::daemon::answers::{SourceState, SourceStatus};
use crate::serve::SourceList;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lumpd sources\n  lumpd sources --json | jq '.sources[].refused'")]
pub struct Arguments {
    #[command(flatten)]
    api: ApiArguments,
}

pub fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    let list: SourceList = ask(client.get("/v1/sources"))?;
    arguments.api.print(&list, out, print)
}

pub(super) fn print(list: &SourceList, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&[
        ("SOURCE", Side::Left),
        ("KIND", Side::Left),
        ("STATE", Side::Left),
        ("RECEIVED", Side::Right),
        ("ACCEPTED", Side::Right),
        ("DUPLICATE", Side::Right),
        ("REFUSED", Side::Right),
        ("QUEUED", Side::Right),
        ("LAST FRAME", Side::Left),
        ("ADDRESS", Side::Left),
    ]);
    for source in &list.sources {
        table.row([
            source.name.clone(),
            source.kind.clone(),
            state(source.state).into(),
            source.received.to_string(),
            source.accepted.to_string(),
            source.duplicates.to_string(),
            source.refused.values().sum::<u64>().to_string(),
            Bytes(source.queued_bytes).to_string(),
            or_dash(source.last_frame_at.map(time)),
            source.address.clone(),
        ]);
    }
    table.print(out)?;
    list.sources.iter().try_for_each(|source| print_trouble(source, out))
}

fn state(state: SourceState) -> &'static str {
    match state {
        SourceState::Starting => "starting",
        SourceState::Running => "running",
        SourceState::Failed => "failed",
        SourceState::Stopped => "stopped",
    }
}

/// What a table has no room for: why a source fails, and why it refused frames.
fn print_trouble(source: &SourceStatus, out: &mut dyn Write) -> io::Result<()> {
    if let Some(error) = &source.error {
        writeln!(out, "{}: {}", printable(&source.name), printable(error))?;
    }
    if source.refused.is_empty() {
        return Ok(());
    }
    let reasons: Vec<String> =
        source.refused.iter().map(|(code, count)| format!("{count} {}", printable(code))).collect();
    writeln!(out, "{}: refused {}", printable(&source.name), reasons.join(", "))
}
