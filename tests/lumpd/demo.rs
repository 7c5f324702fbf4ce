//! `lumpd demo`: finds a change while it is watched, and leaves nothing behind.

use std::fs;

use tempfile::tempdir;

use crate::process::{Process, lumpd};

/// Two phases, the first long enough for a detector to know what is usual.
const SCRIPT: &str = "\
[[phase]]
products = [\"nut\", \"bottle\"]
frames = 500

[[phase]]
products = [\"can\", \"biscuit\"]
frames = 400
";

#[test]
fn the_demo_tells_of_a_boundary_and_leaves_nothing_behind() {
    let dir = tempdir().unwrap();
    let (script, temporary) = (dir.path().join("belt.toml"), dir.path().join("tmp"));
    fs::write(&script, SCRIPT).unwrap();
    fs::create_dir(&temporary).unwrap();
    let mut command = lumpd();
    command.args(["demo", "--rate", "60", "--listen", "127.0.0.1:0", "--set", "learn.batch=8"]);
    command.args(["--set", "learn.replay_batch=8", "--set", "learn.steps_per_batch=1", "--script"]).arg(&script);
    command.env("TMPDIR", &temporary);
    let mut demo = Process::spawn(command);
    demo.wait("a boundary", |demo| demo.out().contains("BOUNDARY"));
    assert!(fs::read_dir(&temporary).unwrap().count() > 0, "it works in the temporary folder");
    let out = demo.out();
    assert!(out.contains("http://127.0.0.1:") && out.contains("/v1/status"), "the address is told:\n{out}");
    let (code, log) = demo.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "the temporary folder is removed:\n{log}");
}
