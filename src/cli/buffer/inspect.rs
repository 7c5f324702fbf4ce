//! `lumpd buffer inspect`: what the buffer is, what it has seen, and what is in it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::place::{Names, Place};
use crate::cli::table::{Side, Table, or_dash, print_pairs};
use crate::config::Bytes;
use crate::daemon::answers::Timestamp;
use crate::replay::{Offline, policies};

/// Upper ends of the classes of age, in seconds, and their names.
const AGES: [(i64, &str); 5] = [
    (3_600, "up to an hour"),
    (86_400, "up to a day"),
    (7 * 86_400, "up to a week"),
    (30 * 86_400, "up to 30 days"),
    (i64::MAX, "older"),
];

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    identity: String,
    policy: &'static str,
    side_pixels: usize,
    slots: usize,
    spare_slots: usize,
    slot_bytes: u64,
    file_bytes: u64,
    used: usize,
    /// Counters since the buffer was made.
    seen: u64,
    accepted: u64,
    evicted: u64,
    forgotten: u64,
    damaged: u64,
    newest_frame: u64,
    /// The newest frame when the file was last resized; null where it was not.
    resized_at_frame: Option<u64>,
    /// Writes of a commit that did not end; they were never acknowledged.
    unfinished: usize,
    /// Both superblocks were damaged: counters start again from what the slots say.
    counters_lost: bool,
    by_source: BTreeMap<String, u64>,
    /// Under "-" those of no task.
    by_task: BTreeMap<String, u64>,
    by_age: Vec<(&'static str, u64)>,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let held = arguments.place.hold()?;
    let (store, names) = (held.open()?, held.names());
    let report = report(&held.buffer.display().to_string(), &store, &names, Timestamp::now());
    arguments.place.print(&report, out, print)
}

fn report(file: &str, store: &Offline, names: &Names, now: Timestamp) -> Report {
    let (geometry, counters, recovery) = (store.geometry(), store.counters(), store.recovery());
    let metas = store.reader().metas();
    let (mut by_source, mut by_task) = (BTreeMap::new(), BTreeMap::new());
    let mut by_age = AGES.map(|(_, name)| (name, 0));
    let now_ns = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
    for meta in &metas {
        *by_source.entry(names.source(meta)).or_insert(0) += 1;
        *by_task.entry(or_dash(names.task(meta))).or_insert(0) += 1;
        let seconds = now_ns.saturating_sub(meta.wall_time_ns) / 1_000_000_000;
        if let Some(class) = AGES.iter().position(|(end, _)| seconds <= *end) {
            by_age[class].1 += 1;
        }
    }
    Report {
        file: file.into(),
        identity: geometry.identity.iter().map(|byte| format!("{byte:02x}")).collect(),
        policy: policies::name(geometry.policy),
        side_pixels: geometry.shape.side(),
        slots: geometry.slots(),
        spare_slots: geometry.spares(),
        slot_bytes: geometry.stride(),
        file_bytes: geometry.file_length(),
        used: metas.len(),
        seen: counters.seen,
        accepted: counters.accepted,
        evicted: counters.evicted,
        forgotten: counters.forgotten,
        damaged: counters.damaged,
        newest_frame: counters.last_frame,
        resized_at_frame: (counters.resized_at > 0).then_some(counters.resized_at),
        unfinished: recovery.unfinished,
        counters_lost: recovery.counters_lost,
        by_source,
        by_task,
        by_age: by_age.into(),
    }
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let side = report.side_pixels;
    let lost = if report.counters_lost { " (both superblocks were damaged: counted from the slots)" } else { "" };
    print_pairs(
        &[
            ("file", format!("{}, {}", report.file, Bytes(report.file_bytes))),
            ("identity", report.identity.clone()),
            ("images", format!("{} of {}, {side}x{side} pixels", report.used, report.slots)),
            ("slots", format!("{} and {} spare of {}", report.slots, report.spare_slots, Bytes(report.slot_bytes))),
            ("policy", report.policy.into()),
            ("seen", format!("{} frames, the newest {}{lost}", report.seen, report.newest_frame)),
            ("stored", format!("{}, {} replaced, {} forgotten", report.accepted, report.evicted, report.forgotten)),
            ("damaged", report.damaged.to_string()),
            ("resized at", or_dash(report.resized_at_frame.map(|frame| format!("frame {frame}")))),
        ],
        out,
    )?;
    let shares = [("SOURCE", &report.by_source), ("TASK", &report.by_task)];
    for (name, counts) in shares {
        writeln!(out)?;
        let mut table = Table::new(&[(name, Side::Left), ("IMAGES", Side::Right)]);
        counts.iter().for_each(|(what, images)| table.row([what.clone(), images.to_string()]));
        table.print(out)?;
    }
    writeln!(out)?;
    let mut table = Table::new(&[("AGE", Side::Left), ("IMAGES", Side::Right)]);
    report.by_age.iter().for_each(|(what, images)| table.row([(*what).to_owned(), images.to_string()]));
    table.print(out)
}
