//! Verbs of the built binary that look at a daemon or at the settings.

use std::fs;

use serde_json::Value;
use tempfile::tempdir;

use crate::pictures::png;
use crate::process::{Daemon, run, stderr, stdout};

/// Verbs whose output has a form of its own: a daemon's log, the pages of `demo`, a schema, a file of settings, a script, a manual.
const FORMS_OF_THEIR_OWN: [&str; 6] = ["run", "demo", "config schema", "config example", "completions", "man"];

/// The verbs below `above`, without `help`.
fn verbs_below(above: &[&str]) -> Vec<String> {
    let help = stdout(&run(&[above, &["--help"]].concat()));
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What is indented further goes on with a description.
    let named = lines.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    named.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help").map(str::to_owned).collect()
}

#[test]
fn every_verb_has_an_example_and_answers_programs_in_json() {
    let mut verbs = Vec::new();
    for verb in verbs_below(&[]) {
        match verbs_below(&[&verb]) {
            below if below.is_empty() => verbs.push(verb),
            below => verbs.extend(below.iter().map(|inner| format!("{verb} {inner}"))),
        }
    }
    assert!(verbs.len() > 30, "{verbs:?}");
    for verb in verbs {
        let words: Vec<&str> = verb.split(' ').collect();
        let output = run(&[&words[..], &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0), "{verb}");
        let text = stdout(&output);
        assert!(text.contains("Usage: lumpd") && text.contains("Examples:"), "{verb} has no example:\n{text}");
        let json = text.contains("--json") || FORMS_OF_THEIR_OWN.contains(&&*verb);
        assert!(json, "{verb} has no --json:\n{text}");
    }
}

#[test]
fn the_settings_are_shown_described_and_exemplified() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("lumpd.toml");
    fs::write(&file, "[replay]\nslots = 99\n").unwrap();
    let shown = stdout(&run(&["config", "show", "--origin", "--config", file.to_str().unwrap(), "--set", "knn.k=4"]));
    let line = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("replay.slots").contains("99") && line("replay.slots").ends_with("lumpd.toml:2"), "{shown}");
    assert!(line("knn.k ").ends_with("--set") && line("learn.batch ").ends_with("default"), "{shown}");
    let schema: Value = serde_json::from_str(&stdout(&run(&["config", "schema"]))).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let example = folder.path().join("example.toml");
    fs::write(&example, run(&["config", "example"]).stdout).unwrap();
    let checked = run(&["validate", "--no-environment", "--config", example.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
}

#[test]
fn a_daemon_is_watched_drawn_changed_and_examined() {
    let folder = tempdir().unwrap();
    let state = folder.path().join("state");
    let mut daemon = Daemon::start::<&str>(&state, &[]);
    for number in 0..30 {
        assert_eq!(daemon.post_image("/v1/images", &png(number)).status, 201);
    }
    daemon.wait("a bank", |daemon| {
        daemon.get("/v1/map?limit=100").json()["points"].as_array().is_some_and(|p| p.len() > 10)
    });
    let top = stdout(&daemon.client(&["top", "--once"]));
    assert!(top.contains("frames") || top.contains("30 taken in"), "{top}");
    for what in ["timeline", "accuracy", "forgetting", "embedding"] {
        let path = folder.path().join(format!("{what}.svg"));
        let output = daemon.client(&["plot", what, "-o", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let picture = fs::read_to_string(&path).unwrap();
        assert!(
            picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>") && !picture.contains("NaN"),
            "{picture}"
        );
    }
    assert!(fs::read_to_string(folder.path().join("embedding.svg")).unwrap().matches("<circle").count() > 10);
    let task = daemon.ask(&["tasks", "--mark", "--name", "second"]);
    assert_eq!(task["name"], "second");
    assert_eq!(daemon.ask(&["tasks", "1", "--name", "first"])["name"], "first");
    assert_eq!(daemon.ask(&["tasks", "--merge", "1,2"])["id"], 1);
    assert!(daemon.ask(&["pause"])["paused_since"].is_string());
    assert_eq!(daemon.ask(&["resume"])["paused_since"], Value::Null);
    let bank = folder.path().join("bank.safetensors");
    let exported = daemon.ask(&["export", "bank", "-o", bank.to_str().unwrap()]);
    let version = daemon.status()["encoder"]["id"].clone();
    assert_eq!((&exported["width"], &exported["encoder"]), (&Value::from(128), &version));
    let rows = exported["rows"].as_u64().unwrap();
    assert!(rows > 10 && fs::metadata(&bank).unwrap().len() > rows * 128 * 4, "{exported}");
    let some = daemon.get("/v1/images?limit=1").json()["images"][0]["id"].as_u64().unwrap().to_string();
    assert_eq!(daemon.ask(&["forget", &some, "999999"])["unknown"][0], 999_999);
    let events = stdout(&daemon.client(&["events"]));
    assert!(events.contains("training-paused") && events.contains("tasks-merged"), "{events}");
    let doctor = run(&[
        "doctor",
        "--json",
        "--state-dir",
        state.to_str().unwrap(),
        "--set",
        "serve.listen=127.0.0.1:0",
        "--set",
        "replay.slots=256",
    ]);
    let findings: Value = serde_json::from_str(&stdout(&doctor)).unwrap_or_else(|e| panic!("{e}: {}", stderr(&doctor)));
    let found =
        |what: &str| findings.as_array().unwrap().iter().any(|one| one["what"] == what && one["level"] != "bad");
    assert!(["configuration", "device", "folders", "clock", "daemon"].iter().all(|what| found(what)), "{findings}");
    assert_eq!(daemon.client(&["tasks", "--name", "x"]).status.code(), Some(2));
}
