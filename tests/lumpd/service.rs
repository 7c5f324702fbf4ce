//! A daemon as a service: the service manager hears of it, settings are read again, images are forgotten, and the client in
//! Python agrees with it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::tempdir;

use crate::pictures::png;
use crate::process::{Daemon, stdout};

#[test]
fn the_service_manager_hears_that_it_is_ready_alive_and_stopping() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let environment = [("NOTIFY_SOCKET", path.as_os_str()), ("WATCHDOG_USEC", OsStr::new("4000000"))];
    let daemon = Daemon::start_in::<&str>(&folder.path().join("state"), &[], &environment);
    let hear = || {
        let mut words = [0; 512];
        let length = manager.recv(&mut words).expect("it says something");
        String::from_utf8_lossy(&words[..length]).into_owned()
    };
    let ready = hear();
    assert!(ready.starts_with("READY=1\nSTATUS=") && ready.contains("images seen"), "{ready}");
    let start = Instant::now();
    let mut alive = 0;
    while alive < 3 {
        alive += u32::from(hear() == "WATCHDOG=1");
        assert!(start.elapsed() < Duration::from_secs(20), "signs of life come in time");
    }
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    let last = std::iter::repeat_with(hear).find(|words| !words.starts_with("WATCHDOG")).unwrap();
    assert!(last.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC="), "{last}");
}

#[test]
fn settings_are_read_again_taken_where_possible_and_refused_whole_where_wrong() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("lumpd.toml");
    fs::write(&file, "[knn]\nk = 3\n").unwrap();
    let mut daemon = Daemon::start(&folder.path().join("state"), &["--config", file.to_str().unwrap()]);
    for number in 0..12 {
        assert_eq!(daemon.post_image("/v1/images", &png(number)).status, 201);
    }
    let neighbours =
        |daemon: &Daemon| daemon.post_image("/v1/query", &png(1)).json()["neighbours"].as_array().unwrap().len();
    daemon.wait("three neighbours", |daemon| neighbours(daemon) == 3);
    fs::write(&file, "[knn]\nk = 5\n[decode]\nmax_pixels = 1000000\n").unwrap();
    daemon.signal("HUP");
    daemon.wait("five neighbours", |daemon| neighbours(daemon) == 5);
    let metrics = daemon.get("/metrics").text();
    assert!(metrics.contains("lumpd_config_reload_success 1"), "{metrics}");
    daemon.wait("the key that needs a restart", |daemon| daemon.log().contains("decode.max_pixels"));
    fs::write(&file, "[knn]\nk = 7\nkk = 8\n").unwrap();
    daemon.signal("HUP");
    daemon.wait("the refusal", |daemon| daemon.get("/metrics").text().contains("lumpd_config_reload_success 0"));
    assert_eq!(neighbours(&daemon), 5, "the old settings stay");
    assert!(daemon.log().contains("kk"), "{}", daemon.log());
    let events = stdout(&daemon.client(&["events"]));
    let told = "read again: knn.k taken over; decode.max_pixels: from the next start on";
    assert!(events.contains(told) && events.contains("configuration-refused"), "{events}");
    assert_eq!(daemon.stop().0, Some(0));
}

/// Every file below a folder that holds these bytes.
fn holding(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(holding(&path, bytes));
        } else if kind.is_file() && fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes) {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_forgotten_image_is_nowhere_on_the_disk() {
    let folder = tempdir().unwrap();
    let state = folder.path().join("state");
    let mut daemon = Daemon::start(&state, &["--set", "evaluate.holdout_ratio=0.3"]);
    let mut ids = Vec::new();
    for number in 0..40 {
        ids.push(daemon.post_image("/v1/images", &png(number)).json()["id"].as_u64().unwrap());
    }
    let stored: BTreeSet<u64> = {
        let list = daemon.get("/v1/images?limit=1000").json();
        list["images"].as_array().unwrap().iter().map(|image| image["id"].as_u64().unwrap()).collect()
    };
    let (kept, held_out): (Vec<u64>, Vec<u64>) = ids.iter().partition(|id| stored.contains(id));
    assert!(kept.len() > 10 && held_out.len() > 3, "{kept:?} {held_out:?}");
    let mut patterns = Vec::new();
    for id in &kept[..5] {
        let thumbnail = daemon.get(&format!("/v1/images/{id}/thumbnail")).body;
        let pixels = image::load_from_memory(&thumbnail).unwrap().into_rgb8().into_raw();
        let pattern = pixels[..256].to_vec();
        assert!(!holding(&state, &pattern).is_empty(), "it is there before");
        patterns.push(pattern);
    }
    assert_eq!(
        daemon.send_json("PUT", "/v1/labels", &serde_json::json!({"label": "x", "ids": &kept[..5]})).status,
        200
    );
    let list: Vec<String> = kept[..5].iter().chain(&held_out[..2]).map(u64::to_string).collect();
    let answer = daemon.request("DELETE", &format!("/v1/images?ids={}", list.join(",")), "text/plain", &[]);
    assert_eq!(answer.json(), serde_json::json!({"forgotten": 7, "unknown": []}));
    for pattern in &patterns {
        assert_eq!(holding(&state, pattern), Vec::<PathBuf>::new());
    }
    for id in &kept[..5] {
        assert_eq!(daemon.get(&format!("/v1/images/{id}")).status, 404);
    }
    let near = daemon.post_image("/v1/query?k=100", &png(0)).json();
    let near: BTreeSet<u64> =
        near["neighbours"].as_array().unwrap().iter().map(|n| n["id"].as_u64().unwrap()).collect();
    assert!(kept[..5].iter().all(|id| !near.contains(id)), "{near:?}");
    assert_eq!(daemon.get("/v1/labels/x").json()["ids"], serde_json::json!([]));
    daemon.wait("the event", |daemon| daemon.get("/v1/events?limit=1000").text().contains("images-forgotten"));
    assert_eq!(daemon.stop().0, Some(0));
}

#[test]
fn the_client_in_python_and_the_daemon_agree() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: python3 is not installed");
        return;
    }
    let folder = tempdir().unwrap();
    let daemon = Daemon::start::<&str>(&folder.path().join("state"), &[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/python/test_lumpd.py");
    let output = Command::new("python3").arg("-B").arg(script).arg(daemon.socket()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", daemon.log());
}

/// Seconds of processor time that a process has taken so far, by the kernel's clock ticks of 10 ms.
#[cfg(target_os = "linux")]
fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// Waiting is not done by turning in circles, whatever there is nothing to do for.
#[test]
#[cfg(target_os = "linux")]
fn a_daemon_with_nothing_to_learn_takes_no_processor_time() {
    let quick = "learn.idle_steps_per_second=1000";
    for (setting, paused) in [("learn.strategy=lump", true), ("learn.strategy=finetune", false)] {
        let folder = tempdir().unwrap();
        let daemon = Daemon::start(&folder.path().join("state"), &["--set", quick, "--set", setting]);
        if paused {
            daemon.ask(&["pause"]);
        }
        for number in 0..4 {
            assert_eq!(daemon.post_image("/v1/images", &png(number)).status, 201);
        }
        // Longer than anything that images start.
        std::thread::sleep(Duration::from_secs(4));
        let before = processor_seconds(daemon.pid());
        std::thread::sleep(Duration::from_secs(2));
        let taken = processor_seconds(daemon.pid()) - before;
        assert!(taken < 1.0, "{setting}: {taken} of 2 seconds");
        assert_eq!(daemon.stop().0, Some(0));
    }
}
