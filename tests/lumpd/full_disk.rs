//! A disk that fills while the daemon runs, on a small file system of its own: queries and sockets go on, watched folders
//! wait, and all goes on by itself once there is room again.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::tempdir;

use crate::pictures::{folder_of, move_in, png};
use crate::process::Daemon;

/// From the moment that there is room again.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);

/// A small file system in memory; taken away when dropped.
struct Small(PathBuf);

impl Small {
    /// None where this user may not mount one.
    fn mount(at: PathBuf, bytes: &str) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(&at).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(at)),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                println!("skipped: no file system could be mounted ({why})");
                None
            }
            Err(error) => {
                println!("skipped: no file system could be mounted ({error})");
                None
            }
        }
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut ballast = fs::File::options().append(true).create(true).open(self.ballast()).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            while ballast.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn empty(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A daemon that was killed a moment ago may still hold it for another one.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

fn writable(daemon: &Daemon) -> bool {
    daemon.status()["database"]["writable"] == true
}

#[test]
fn a_full_disk_stops_watched_folders_until_there_is_room_and_no_longer() {
    let dir = tempdir().unwrap();
    let Some(disk) = Small::mount(dir.path().join("disk"), "32m") else { return };
    let (state, watched) = (disk.0.join("state"), dir.path().join("in"));
    folder_of(&watched, 1..=5);
    let settings = ["evaluate.max_probes=16", "evaluate.probes_per_task=16", "evaluate.holdout_ratio=0"];
    let mut arguments = vec!["--watch", text(&watched)];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    let mut daemon = Daemon::start(&state, &arguments);
    daemon.wait_accepted("watch-1", 5);

    let mut number = 5;
    for cycle in 1..=3_u64 {
        // Room that the daemon gives back meanwhile, a database cut to what it needs, is taken as well.
        disk.fill();
        while writable(&daemon) {
            disk.fill();
            number += 1;
            assert!(number < 4000, "the database is written on a full disk\n{}", daemon.log());
            move_in(&watched, &format!("{number:04}.png"), &png(number));
            std::thread::sleep(Duration::from_millis(10));
        }
        disk.fill();
        let posted = daemon.post_image("/v1/images", &png(1000 + cycle));
        assert_eq!(posted.status, 201, "the replay buffer has its room already: {}", posted.text());
        assert_eq!(daemon.post_image("/v1/query?k=1", &png(1)).status, 200, "queries go on");
        let status = daemon.status();
        assert!(
            status["database"]["error"].as_str().is_some_and(|error| error.contains("free some space")),
            "{status}"
        );

        let (waiting, last) = (number + 1, number + 3);
        for file in waiting..=last {
            move_in(&watched, &format!("{file:04}.png"), &png(file));
        }
        number = last;
        std::thread::sleep(Duration::from_millis(700));
        disk.empty();
        let free = Instant::now();
        daemon.wait_accepted("watch-1", last);
        daemon.wait("a database that is written again", writable);
        let took = free.elapsed();
        println!("cycle {cycle}: taken in again {:.2} s after there was room", took.as_secs_f64());
        assert!(took < RESUMES_WITHIN, "{took:?}\n{}", daemon.log());
        assert_eq!(daemon.status()["database"]["recoveries"].as_u64(), Some(cycle), "{}", daemon.log());
    }
    let source = daemon.source("watch-1");
    assert_eq!((&source["duplicates"], &source["error"]), (&0.into(), &serde_json::Value::Null), "{source}");
    let metrics = daemon.get("/metrics").text();
    assert!(metrics.contains("lumpd_state_database_recoveries_total 3"), "{metrics}");
    assert!(metrics.contains("lumpd_state_database_writable 1"), "{metrics}");
    daemon.kill();

    let mut daemon = Daemon::start(&state, &arguments);
    move_in(&watched, "later.png", &png(5000));
    daemon.wait_accepted("watch-1", 1);
    let source = daemon.source("watch-1");
    assert_eq!(
        (&source["accepted"], &source["duplicates"]),
        (&1.into(), &0.into()),
        "each file was written down: {source}"
    );
}
