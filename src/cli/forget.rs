//! `lumpd forget`: removes stored images for good.

use std::io::Write;

use clap::Args;

use super::api::{ApiArguments, with_parameters};
use super::client::ask;
use super::table::count;
use crate::daemon::answers::Forgotten;

/// Ids of one request; the daemon takes no more.
const IDS_AT_ONCE: usize = 100;

#[derive(Debug, Args)]
#[command(
    after_help = "Their pixels are overwritten on the disk, their embeddings leave the bank, their labels go. What training has learnt from\nthem stays learnt.

Examples:
  lumpd forget 1234 1240
  lumpd query face.jpg -k 50 --json | jq '.neighbours[].id' | xargs lumpd forget"
)]
pub(super) struct Arguments {
    /// Ids of stored images
    #[arg(required = true, value_name = "ID")]
    ids: Vec<u64>,

    #[command(flatten)]
    api: ApiArguments,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = arguments.api.client()?;
    let mut total = Forgotten { forgotten: 0, unknown: vec![] };
    for ids in arguments.ids.chunks(IDS_AT_ONCE) {
        let list = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let done: Forgotten = ask(client.delete(&with_parameters("/v1/images", &[("ids", list)])))?;
        total.forgotten += done.forgotten;
        total.unknown.extend(done.unknown);
    }
    arguments.api.print(&total, out, |total, out| {
        writeln!(out, "{} gone for good", count(total.forgotten, "image"))?;
        if total.unknown.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = total.unknown.iter().map(ToString::to_string).collect();
        writeln!(out, "not stored: {}", ids.join(", "))
    })
}
