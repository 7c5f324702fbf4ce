//! `lumpd events`: what happened, and with `--follow` what happens.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use clap::Args;

use super::api::{ApiArguments, with_parameters};
use super::client::ask;
use super::table::{printable, time};
use crate::daemon::answers::{Event, Events};

/// Between two looks with `--follow`.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lumpd events\n  lumpd events --follow\n  lumpd events --follow --json | jq 'select(.kind == \"task-opened\")'"
)]
pub(super) struct Arguments {
    /// Go on with what happens, until interrupted
    #[arg(long, short)]
    follow: bool,

    /// Only events after this number
    #[arg(long, default_value_t = 0)]
    after: u64,

    #[command(flatten)]
    api: ApiArguments,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    let mut after = arguments.after;
    loop {
        let path = with_parameters("/v1/events", &[("limit", "1000".into()), ("after", after.to_string())]);
        let page: Events = ask(client.get(&path))?;
        let whole = page.events.len() == 1000;
        for event in &page.events {
            print(event, arguments.api.json, out)?;
        }
        out.flush()?;
        after = page.next;
        if whole {
            continue;
        }
        if !arguments.follow {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}

/// With `--json` one object a line.
fn print(event: &Event, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, event)?;
        return writeln!(out);
    }
    writeln!(out, "{}  {:<20}  {}", time(event.at), event.kind, printable(&event.message))
}
