//! A change in the stream is found from the images alone.

use std::path::Path;

use tempfile::tempdir;

use crate::ingest::tally;
use crate::process::{Daemon, lumpd, stderr};

/// Pictures of the built-in script: its first phase and enough of its second.
const FRAMES: u64 = 850;
/// How late, and how early, a boundary may lie.
const CLOSE: u64 = 150;

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

#[test]
fn the_first_change_of_products_is_found_where_it_is() {
    let dir = tempdir().unwrap();
    let (belt, frames) = (dir.path().join("belt"), dir.path().join("frames.sock"));
    let made = lumpd().args(["simulate", "--out", text(&belt), "--frames", &FRAMES.to_string()]).output().unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let truth = std::fs::read_to_string(belt.join("truth.tsv")).unwrap();
    let second = truth.lines().skip(1).position(|line| line.split('\t').nth(1) == Some("2"));
    let change = second.expect("the second phase has begun") as u64 + 1;
    assert!(change + CLOSE <= FRAMES, "the change at {change} can be found in time");

    let mut daemon = Daemon::start(&dir.path().join("state"), &["--unix", text(&frames), "--set", "replay.slots=1024"]);
    let fed = lumpd().args(["feed", text(&belt.join("frames")), "--to", text(&frames)]).output().unwrap();
    assert_eq!(tally(&fed, "accepted"), FRAMES, "{}", stderr(&fed));
    daemon.wait("a second task", |daemon| daemon.ask(&["tasks"])["tasks"].as_array().unwrap().len() >= 2);
    let tasks = daemon.ask(&["tasks"])["tasks"].clone();
    let first = tasks[1]["first_frame"].as_u64().unwrap();
    assert!(first.abs_diff(change) <= CLOSE, "the change is at {change}, the boundary at {first}: {tasks}");
    let end = tasks[0]["spans"][0]["last_frame"].as_u64();
    assert_eq!(end, Some(first - 1), "one task ends where the next begins: {tasks}");
}
