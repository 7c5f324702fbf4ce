//! A change in the stream is found from the images alone.

use std::path::Path;

use tempfile::tempdir;

use crate::ingest::tally;
use crate::process::{Daemon, lumpd, stderr};

/// Where the first phase of the built-in script ends.
const CHANGE: u64 = 500;
/// How late, and how early, a boundary may lie.
const CLOSE: u64 = 150;

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

#[test]
fn the_first_change_of_products_is_found_where_it_is() {
    let dir = tempdir().unwrap();
    let (belt, frames) = (dir.path().join("belt"), dir.path().join("frames.sock"));
    let made = lumpd().args(["simulate", "--out", text(&belt), "--frames", "700"]).output().unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let truth = std::fs::read_to_string(belt.join("truth.tsv")).unwrap();
    let change = truth.lines().skip(1).position(|line| line.split('\t').nth(1) == Some("2"));
    assert_eq!(change, Some(CHANGE as usize), "the script that this test knows");

    let mut daemon = Daemon::start(&dir.path().join("state"), &["--unix", text(&frames), "--set", "replay.slots=1024"]);
    let fed = lumpd().args(["feed", text(&belt.join("frames")), "--to", text(&frames)]).output().unwrap();
    assert_eq!(tally(&fed, "accepted"), 700, "{}", stderr(&fed));
    daemon.wait("a second task", |daemon| daemon.ask(&["tasks"])["tasks"].as_array().unwrap().len() >= 2);
    let tasks = daemon.ask(&["tasks"])["tasks"].clone();
    let first = tasks[1]["first_frame"].as_u64().unwrap();
    assert!(first.abs_diff(CHANGE + 1) <= CLOSE, "the boundary is at {first}: {tasks}");
    let end = tasks[0]["spans"][0]["last_frame"].as_u64();
    assert_eq!(end, Some(first - 1), "one task ends where the next begins: {tasks}");
}
