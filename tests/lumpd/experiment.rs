//! The verb `experiment` of the built binary: a run that is killed and started again, a sweep, a report.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::process::{lumpd, run, stderr, stdout};

const SMALL: &str = "preset=resnet18-w16 width=1 side=16 batch=8 replay_batch=8 slots=16 tasks=2 \
                     classes_per_task=2 limit_per_task=40 test_limit=10 views=false checkpoint_seconds=0.0";

fn line(out: &Path, epochs: usize) -> Vec<String> {
    let mut line: Vec<String> =
        ["experiment", "run", "--objective", "simclr", "--strategy", "lump", "--dataset"].map(str::to_owned).to_vec();
    line.push("split-cifar10".into());
    let data = out.parent().unwrap().display().to_string();
    let out = out.display().to_string();
    line.extend(["--epochs".to_owned(), epochs.to_string(), "--data".into(), data, "--out".into(), out]);
    for setting in SMALL.split_whitespace() {
        line.extend(["--set".to_owned(), setting.to_owned()]);
    }
    line
}

/// A few records in CIFAR-10's layout.
fn write_dataset(folder: &Path) {
    let names = (1..=5).map(|number| format!("data_batch_{number}.bin"));
    for name in names.chain(["test_batch.bin".to_owned()]) {
        let record = |number: usize| {
            let class = (number % 10) as u8;
            let pixels = (0..3072).map(move |at| 20 * class + (at * (number + 7) % 41) as u8);
            std::iter::once(class).chain(pixels)
        };
        fs::write(folder.join(name), (0..60).flat_map(record).collect::<Vec<u8>>()).unwrap();
    }
}

/// The result without the command, which names the folder.
fn result(out: &Path) -> serde_json::Value {
    let path = out.join("cifar10-simclr-lump-e40-n40-r8/seed-0/result.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut result: serde_json::Value = serde_json::from_str(&text).unwrap();
    result["command"] = serde_json::Value::Null;
    result
}

#[test]
fn a_killed_run_goes_on_to_the_result_of_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(folder.path());
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let output = run(&line(&whole, 40));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("accuracy"), "{}", stdout(&output));
    for _ in 0..3 {
        let mut child = lumpd().args(line(&killed, 40)).stdout(std::process::Stdio::null()).spawn().unwrap();
        let checkpoints = killed.join("cifar10-simclr-lump-e40-n40-r8/seed-0/checkpoints");
        let start = Instant::now();
        while !checkpoints.is_dir() && start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none()
        {
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(150));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = run(&line(&killed, 40));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(result(&killed), result(&whole));

    let report = run(&["experiment", "report", "--print", killed.to_str().unwrap()]);
    assert!(stdout(&report).contains("cifar10-simclr-lump-e40-n40-r8"), "{}", stdout(&report));
    let other = run(&[line(&killed, 40), vec!["--set".into(), "momentum=0.5".into()]].concat());
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("momentum"), "{}", stderr(&other));
}

#[test]
fn a_run_that_diverges_is_told_and_does_not_keep_the_others_from_running() {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(folder.path());
    let sweep = folder.path().join("sweep.toml");
    let settings = SMALL.split_whitespace().map(|setting| setting.replace("resnet18-w16", "'resnet18-w16'") + "\n");
    let rates = "dataset = 'split-cifar10'\nobjective = 'simclr'\nepochs = 2\nlearning_rate = [1e30, 0.01]\n";
    let text = format!("name = 'rates'\n[common]\n{}[[run]]\n{rates}", settings.collect::<String>());
    fs::write(&sweep, text).unwrap();
    let (data, out) = (folder.path().to_str().unwrap(), folder.path().join("out"));
    let output = run(&["experiment", "sweep", sweep.to_str().unwrap(), "--data", data, "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("1 of 2 runs diverged"), "{}", stderr(&output));
    assert_eq!(stdout(&output).matches(": accuracy").count(), 1, "{}", stdout(&output));
    assert!(out.join("report/report.md").is_file(), "of the run that ended");
}

#[test]
fn a_missing_dataset_says_what_is_expected_and_who_published_it() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap();
    let output = run(&["experiment", "run", "--dataset", "split-cifar10", "--data", here, "--out", here]);
    assert_eq!(output.status.code(), Some(74));
    for what in ["data_batch_1.bin", "cifar-10-batches-bin", "Krizhevsky", "2009"] {
        assert!(stderr(&output).contains(what), "{}", stderr(&output));
    }
}

#[test]
fn a_sweep_lists_its_runs_without_running_them() {
    let sweep = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/sweeps/table1.toml");
    let output = run(&["experiment", "sweep", sweep, "--list", "--only", "cifar10-simsiam-lump"]);
    let text = stdout(&output);
    assert_eq!(text.lines().filter(|line| line.starts_with("cifar10-simsiam-lump/seed-")).count(), 3, "{text}");
}
