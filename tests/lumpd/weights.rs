//! Weights in and out of the built binary: given ones, exported ones, and ones that training broke.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::tempdir;

use crate::pictures::{folder_of, png};
use crate::process::{Daemon, lumpd, run, stderr, stdout};

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

fn export(state: &Path, file: &Path) -> Output {
    run(&["export", "encoder", "-o", text(file), "--state-dir", text(state)])
}

fn embedding(daemon: &Daemon) -> Value {
    let answer = daemon.post_image("/v1/embed", &png(1));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[test]
fn an_exported_encoder_is_another_daemons_start_and_a_foreign_one_is_refused_before_it() {
    let dir = tempdir().unwrap();
    let (first, second, file) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("encoder.safetensors"));
    let absent = export(&first, &file);
    assert_eq!(absent.status.code(), Some(74), "{}", stderr(&absent));
    let mut daemon = Daemon::start(&first, &["--set", "daemon.seed=7"]);
    // It writes a checkpoint at its start, and runs meanwhile.
    daemon.wait("a first checkpoint", |daemon| daemon.status()["checkpoint"]["step"].is_u64());
    let exported = export(&first, &file);
    assert!(exported.status.success(), "{}", stderr(&exported));
    assert!(stdout(&exported).contains("torchvision"), "{}", stdout(&exported));
    let before = embedding(&daemon);
    daemon.stop();

    let weights = format!("encoder.weights={}", text(&file));
    let daemon = Daemon::start(&second, &["--set", &weights, "--set", "encoder.freeze=[\"stem\"]"]);
    let after = embedding(&daemon);
    assert_eq!(before["encoder"], after["encoder"], "the same weights have the same name");
    assert_eq!(before["vector"], after["vector"]);
    daemon.stop();

    // A state folder that started from other weights.
    let refused = lumpd()
        .args(["run", "--state-dir", text(&first), "--set", "serve.listen=127.0.0.1:0"])
        .args(["--set", &weights])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(78), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("encoder.weights"), "{}", stderr(&refused));
    // A file of another form, and one that is cut short.
    let form =
        ["validate", "--set", "encoder.preset=resnet18-imagenet-96px", "--set", &weights, "--state-dir", text(&second)];
    let refused = run(&form);
    assert_eq!(refused.status.code(), Some(78));
    assert!(
        stderr(&refused).contains("conv1.weight") && stderr(&refused).contains("CIFAR form"),
        "{}",
        stderr(&refused)
    );
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let refused = run(&["validate", "--set", &weights, "--state-dir", text(&second)]);
    assert_eq!(refused.status.code(), Some(78), "{}", stderr(&refused));
}

#[test]
fn training_that_diverges_is_rolled_back_then_given_up_and_readers_notice_nothing() {
    let dir = tempdir().unwrap();
    let (state, folder) = (dir.path().join("state"), dir.path().join("in"));
    folder_of(&folder, 1..=64);
    let arguments = [
        "--watch",
        text(&folder),
        "--set",
        "learn.learning_rate=1e30",
        "--set",
        "publish.interval_seconds=0.2",
        "--set",
        "checkpoint.interval_seconds=0.2",
        "--set",
        "learn.steps_per_batch=8",
    ];
    let mut daemon = Daemon::start(&state, &arguments);
    let before = embedding(&daemon);
    daemon.wait("training to be given up", |daemon| daemon.status()["learn"]["frozen"].is_string());
    let status = daemon.status();
    assert!(status["learn"]["nonfinite_steps"].as_u64() >= Some(3), "{status}");
    let after = embedding(&daemon);
    assert_eq!(before["vector"], after["vector"], "the encoder that answers is the last good one");
    let neighbours = daemon.post_image("/v1/query", &png(2)).json();
    assert!(neighbours["neighbours"].as_array().is_some_and(|found| !found.is_empty()), "{neighbours}");
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    // Nothing broken was kept either.
    let daemon = Daemon::start(&state, &["--set", "learn.learning_rate=0.01"]);
    assert_eq!(embedding(&daemon)["vector"], before["vector"]);
}
