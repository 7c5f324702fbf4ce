//! What survives: a kill, a stop, a damaged checkpoint, a flipped bit.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::tempdir;

use crate::ingest::tally;
use crate::pictures::{folder_of, move_in, png};
use crate::process::{Daemon, lumpd, stderr};

/// Checkpoints several times a second, and a buffer and a stream that are small.
const OFTEN: [&str; 4] = ["--set", "checkpoint.interval_seconds=0.3", "--set", "publish.interval_seconds=0.5"];

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

fn steps(daemon: &Daemon) -> u64 {
    daemon.status()["learn"]["steps"].as_u64().unwrap()
}

fn checkpointed(daemon: &Daemon) -> u64 {
    daemon.status()["checkpoint"]["step"].as_u64().unwrap_or(0)
}

/// The folders of whole checkpoints, oldest first.
fn checkpoints(state: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let is_step = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("step-");
    let mut folders: Vec<PathBuf> = entries.filter(is_step).collect();
    folders.sort();
    folders
}

#[test]
fn whatever_was_acknowledged_is_still_there_after_kill_9() {
    let dir = tempdir().unwrap();
    let (state, frames, folder) = (dir.path().join("state"), dir.path().join("frames.sock"), dir.path().join("in"));
    let arguments = ["--unix", text(&frames), "--set", "evaluate.holdout_ratio=0"];
    for round in 0..3_u64 {
        folder_of(&folder, round * 20 + 1..=round * 20 + 20);
        let daemon = Daemon::start(&state, &arguments);
        let fed = lumpd().args(["feed", text(&folder), "--to", text(&frames)]).output().unwrap();
        assert!(fed.status.success(), "{}", stderr(&fed));
        assert_eq!((tally(&fed, "duplicate"), tally(&fed, "accepted")), (round * 20, 20), "round {round}");
        daemon.kill();
    }
    let daemon = Daemon::start(&state, &arguments);
    assert_eq!(daemon.status()["buffer"]["used"], 60);
    for id in 1..=60 {
        let answer = daemon.get(&format!("/v1/images/{id}/thumbnail"));
        assert_eq!(answer.status, 200, "image {id}: {}", answer.text());
    }
    let next = daemon.post_image("/v1/images", &png(1000)).json()["id"].as_u64();
    assert!(next > Some(60), "numbers are never given twice: {next:?}");
}

#[test]
fn labels_tasks_training_and_versions_go_on_after_kill_9() {
    let dir = tempdir().unwrap();
    let (state, frames, folder) = (dir.path().join("state"), dir.path().join("frames.sock"), dir.path().join("in"));
    folder_of(&folder, 1..=48);
    let arguments = [&["--unix", text(&frames), "--set", "evaluate.holdout_ratio=0"], &OFTEN[..]].concat();
    let mut daemon = Daemon::start(&state, &arguments);
    let fed = lumpd().args(["feed", text(&folder), "--to", text(&frames)]).output().unwrap();
    assert_eq!(tally(&fed, "accepted"), 48);
    daemon.ask(&["label", "stop sign", "1", "2", "3"]);
    daemon.wait("a second version", |daemon| daemon.status()["encoder"]["version"].as_u64() >= Some(2));
    let version = daemon.status()["encoder"]["version"].as_u64();
    let step = daemon.status()["encoder"]["step"].as_u64().unwrap();
    daemon.wait("a checkpoint of it", |daemon| checkpointed(daemon) >= step.max(1));
    let (saved, tasks) = (checkpointed(&daemon), daemon.ask(&["tasks"])["tasks"].clone());
    daemon.kill();

    let daemon = Daemon::start(&state, &arguments);
    assert!(steps(&daemon) >= saved, "{} steps, and {saved} were saved", steps(&daemon));
    let status = daemon.status();
    assert!(status["encoder"]["version"].as_u64() >= version, "versions go on from {version:?}: {status}");
    assert_eq!(daemon.ask(&["label"])["labels"], json!([{"label": "stop sign", "images": 3}]));
    let again = daemon.ask(&["tasks"])["tasks"].clone();
    for field in ["id", "first_frame", "name"] {
        assert_eq!(again[0][field], tasks[0][field], "{again}");
    }
    assert!(status["stream"]["accepted"].is_u64(), "{status}");
}

#[test]
fn files_are_not_taken_twice() {
    let dir = tempdir().unwrap();
    let (state, folder) = (dir.path().join("state"), dir.path().join("in"));
    folder_of(&folder, 1..=10);
    let mut daemon = Daemon::start(&state, &["--watch", text(&folder)]);
    daemon.wait_accepted("watch-1", 10);
    daemon.kill();
    for round in 1..=2 {
        let mut daemon = Daemon::start(&state, &["--watch", text(&folder)]);
        move_in(&folder, &format!("later-{round}.png"), &png(100 + round));
        daemon.wait_accepted("watch-1", 1);
        assert_eq!(daemon.source("watch-1")["accepted"], 1, "{}", daemon.log());
        assert_eq!(daemon.stop().0, Some(0));
    }
}

#[test]
fn sigterm_writes_a_checkpoint_and_is_success() {
    let dir = tempdir().unwrap();
    let (state, frames, folder) = (dir.path().join("state"), dir.path().join("frames.sock"), dir.path().join("in"));
    folder_of(&folder, 1..=32);
    let arguments = ["--unix", text(&frames), "--set", "checkpoint.interval_seconds=3600"];
    let mut daemon = Daemon::start(&state, &arguments);
    assert!(lumpd().args(["feed", text(&folder), "--to", text(&frames)]).status().unwrap().success());
    daemon.wait("training", |daemon| steps(daemon) > 0);
    let before = steps(&daemon);
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!checkpoints(&state).is_empty(), "{log}");
    let daemon = Daemon::start(&state, &arguments);
    assert!(steps(&daemon) >= before, "{} steps after {before}", steps(&daemon));
}

#[test]
fn a_damaged_newest_checkpoint_gives_way_to_the_one_before() {
    let dir = tempdir().unwrap();
    let state = dir.path().join("state");
    let arguments =
        [&["--set", "learn.idle_steps_per_second=20", "--set", "learn.idle_after_seconds=0.1"], &OFTEN[..]].concat();
    let mut daemon = Daemon::start(&state, &arguments);
    for number in 1..=24 {
        assert_eq!(daemon.post_image("/v1/images", &png(number)).status, 201);
    }
    daemon.wait("two checkpoints with steps", |daemon| {
        checkpointed(daemon) > 0 && checkpoints(&state).iter().filter(|path| step_of(path) > 0).count() >= 2
    });
    daemon.kill();

    let found = checkpoints(&state);
    let [.., before, newest] = found.as_slice() else { panic!("{found:?}") };
    let weights = fs::read_dir(newest).unwrap().map(|entry| entry.unwrap().path());
    let weights = weights.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();

    let daemon = Daemon::start(&state, &["--set", "checkpoint.interval_seconds=3600"]);
    let resumed = checkpointed(&daemon);
    assert_eq!(resumed, step_of(before), "{}", daemon.log());
    assert!(steps(&daemon) >= resumed);
    let name = newest.file_name().unwrap().to_str().unwrap();
    assert!(daemon.log().contains(name), "the log names the damaged one:\n{}", daemon.log());
    assert!(!newest.exists() && state.join("checkpoints/quarantine").exists(), "it is put aside");
}

fn step_of(checkpoint: &Path) -> u64 {
    checkpoint.file_name().unwrap().to_str().unwrap().trim_start_matches("step-").parse().unwrap()
}

#[test]
fn a_flipped_bit_in_the_buffer_costs_that_image_only() {
    /// Where slots begin, their size for 32 x 32 pixels, and where their pixels begin (see `lumpd::replay`).
    const FIRST: usize = 4 * 4096;
    const SLOT: usize = 4096;
    const PIXELS: usize = 128;
    let dir = tempdir().unwrap();
    let state = dir.path().join("state");
    let arguments = ["--set", "evaluate.holdout_ratio=0"];
    let daemon = Daemon::start(&state, &arguments);
    for number in 1..=12 {
        assert_eq!(daemon.post_image("/v1/images", &png(number)).status, 201);
    }
    assert_eq!(daemon.stop().0, Some(0));

    let path = state.join("replay.buf");
    let mut bytes = fs::read(&path).unwrap();
    let slot = (FIRST..bytes.len()).step_by(SLOT).find(|slot| bytes[*slot..].starts_with(b"SLOT")).unwrap();
    bytes[slot + PIXELS + 1000] ^= 0x10;
    fs::write(&path, bytes).unwrap();

    let mut daemon = Daemon::start(&state, &arguments);
    let there =
        |daemon: &Daemon| (1..=12).filter(|id| daemon.get(&format!("/v1/images/{id}/thumbnail")).status == 200).count();
    assert_eq!(there(&daemon), 11, "{}", daemon.log());
    daemon.wait("the damage to be counted", |daemon| daemon.status()["buffer"]["damaged"] == 1);
    assert_eq!(daemon.status()["buffer"]["used"], 11);
    assert_eq!(daemon.post_image("/v1/images", &png(100)).status, 201, "and it goes on");
}
