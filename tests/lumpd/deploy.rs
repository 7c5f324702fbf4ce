//! What is installed around the binary: alert rules and dashboards ask for metrics that there are, units and files are well-formed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use lumpd::telemetry::{Kind, Metric};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// Names of metrics in a text, without what histograms add to theirs.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c)).filter(|word| word.starts_with("lumpd_"));
    let histograms: Vec<&str> =
        Metric::ALL.iter().filter(|metric| metric.kind() == Kind::Histogram).map(|metric| metric.name()).collect();
    let base = |word: &str| {
        let parts = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        parts.filter(|name| histograms.contains(name)).unwrap_or(word).to_owned()
    };
    words.map(base).collect()
}

#[test]
fn every_query_names_a_metric_that_there_is() {
    let known: BTreeSet<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
    for (file, least) in [("prometheus/lumpd.rules.yml", 10), ("grafana/lumpd.json", 20)] {
        let used = metrics_in(&text(file));
        let unknown: Vec<&String> = used.iter().filter(|name| !known.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "deploy/{file} asks for {unknown:?}");
        assert!(used.len() >= least, "deploy/{file}: {used:?}");
    }
}

#[test]
fn the_dashboard_shows_every_metric() {
    let shown = metrics_in(&text("grafana/lumpd.json"));
    let missing: Vec<&str> =
        Metric::ALL.iter().map(|metric| metric.name()).filter(|name| !shown.contains(*name)).collect();
    assert!(missing.is_empty(), "deploy/grafana/lumpd.json has no panel with {missing:?}");
}

#[test]
fn every_alert_says_what_to_do() {
    let rules = text("prometheus/lumpd.rules.yml");
    let alerts = rules.matches("- alert:").count();
    assert!(alerts >= 10);
    for part in ["expr:", "severity:", "summary:", "action:"] {
        assert_eq!(rules.matches(part).count(), alerts, "{part}");
    }
}

#[test]
fn the_dashboards_panels_do_not_overlap() {
    let board: Value = serde_json::from_str(&text("grafana/lumpd.json")).unwrap();
    let mut taken = BTreeSet::new();
    for panel in board["panels"].as_array().unwrap() {
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(x + w <= 24, "{}", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} lies on another", panel["title"]);
        }
    }
}

/// Runs a checker if it is installed; what it says must be nothing bad.
fn checked(program: &str, arguments: &[&str]) {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {arguments:?}: {said}");
        }
        Err(_) => println!("skipped: {program} is not installed"),
    }
}

#[test]
fn promtool_accepts_the_rules() {
    checked("promtool", &["check", "rules", deploy("prometheus/lumpd.rules.yml").to_str().unwrap()]);
}

/// Each query of the dashboard as a recording rule, which is what promtool reads.
#[test]
fn promtool_understands_the_queries_of_the_dashboard() {
    let dashboard: Value = serde_json::from_str(&text("grafana/lumpd.json")).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<String> = targets.map(|target| target["expr"].to_string()).collect();
    assert!(queries.len() > 40, "{queries:?}");
    let numbered = queries.iter().enumerate();
    let rules: String =
        numbered.map(|(number, query)| format!("      - record: query_{number}\n        expr: {query}\n")).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("groups:\n  - name: dashboard\n    rules:\n{rules}")).unwrap();
    checked("promtool", &["check", "rules", file.path().to_str().unwrap()]);
}

#[test]
fn the_unit_is_hardened_and_starts_what_there_is() {
    let unit = text("systemd/lumpd.service");
    for line in [
        "Type=notify",
        "ExecStartPre=/usr/bin/lumpd validate",
        "ExecStart=/usr/bin/lumpd run",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
        "MemoryDenyWriteExecute=yes",
        "RestartPreventExitStatus=2 78",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    let folder = tempfile::tempdir().unwrap();
    let here = unit.replace("/usr/bin/lumpd", env!("CARGO_BIN_EXE_lumpd"));
    fs::write(folder.path().join("lumpd.service"), here).unwrap();
    checked("systemd-analyze", &["verify", "--man=no", folder.path().join("lumpd.service").to_str().unwrap()]);
    assert!(
        unit.contains("WatchdogSec=") && text("systemd/lumpd.service.d/gpu.conf").contains("DeviceAllow=char-nvidia")
    );
}
