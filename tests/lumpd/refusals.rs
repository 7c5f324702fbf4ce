//! What is turned away: each file and each message for its own reason, and the daemon goes on.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::tempdir;

use crate::ingest::tally;
use crate::pictures::{folder_of, jpeg, move_in, png, put};
use crate::process::{Daemon, lumpd, stderr};

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

/// The head of a PNG file that claims 60,000 x 60,000 pixels, 10.8 GB once decoded.
fn png_bomb() -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend([60_000_u32.to_be_bytes(), 60_000_u32.to_be_bytes()].concat());
    header.extend([8, 2, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    bytes.extend(&header);
    bytes.extend(crc32fast::hash(&header).to_be_bytes());
    bytes.extend(b"\0\0\0\x04IDAT\0\0\0\0\0\0\0\0");
    bytes
}

fn refused(daemon: &Daemon, source: &str, code: &str) -> u64 {
    daemon.source(source)["refused"][code].as_u64().unwrap_or(0)
}

#[test]
fn every_bad_file_is_counted_by_its_reason_left_in_place_and_not_tried_again() {
    let dir = tempdir().unwrap();
    let (folder, state) = (dir.path().join("in"), dir.path().join("state"));
    let whole = jpeg(1);
    let bad: [(&str, Vec<u8>, &str); 6] = [
        ("a.txt", b"dear diary, today I was fed to a neural network\n".to_vec(), "not-an-image"),
        ("b.png", Vec::new(), "empty"),
        ("c.jpg", whole[..whole.len() * 3 / 4].to_vec(), "truncated-image"),
        ("d.png", png_bomb(), "too-large"),
        (
            "e.gif",
            b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;".to_vec(),
            "unsupported-format",
        ),
        ("f.png", vec![0x89; 50_000], "too-many-bytes"),
    ];
    for (name, bytes, _) in &bad {
        put(&folder, name, bytes);
    }
    put(&folder, "z.png", &png(1));
    let arguments = ["--watch", text(&folder), "--set", "decode.max_bytes=40000"];
    let mut daemon = Daemon::start(&state, &arguments);
    daemon.wait_accepted("watch-1", 1);
    for (name, _, code) in &bad {
        daemon.wait(&format!("refusal of {name}"), |daemon| refused(daemon, "watch-1", code) == 1);
        let metric = format!("lumpd_stream_frames_refused_total{{source=\"watch-1\",code=\"{code}\"}} 1");
        let metrics = daemon.get("/metrics").text();
        assert!(metrics.contains(&metric), "{metric} is not in\n{metrics}");
        assert!(daemon.log().contains(name), "the log names {name}:\n{}", daemon.log());
    }
    assert_eq!(daemon.stop().0, Some(0));

    let mut daemon = Daemon::start(&state, &arguments);
    move_in(&folder, "later.png", &png(2));
    daemon.wait_accepted("watch-1", 1);
    let source = daemon.source("watch-1");
    assert_eq!(source["refused"], serde_json::json!({}), "nothing is tried again: {source}");
    assert_eq!((&source["received"], &source["duplicates"]), (&1.into(), &0.into()), "{source}");
    for (name, bytes, _) in &bad {
        assert_eq!(&fs::read(folder.join(name)).unwrap(), bytes, "{name} is as it was");
    }
}

#[test]
fn only_regular_files_are_read() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("in");
    let elsewhere = put(dir.path(), "secret.png", &png(1));
    fs::create_dir(&folder).unwrap();
    symlink(&elsewhere, folder.join("link.png")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("pipe.png")).status().is_ok_and(|status| status.success()));
    let mut daemon = Daemon::start(&dir.path().join("state"), &["--watch", text(&folder)]);
    daemon.wait("two refusals", |daemon| refused(daemon, "watch-1", "not-a-regular-file") == 2);
    move_in(&folder, "good.png", &png(2));
    daemon.wait_accepted("watch-1", 1);
    assert!(fs::symlink_metadata(folder.join("link.png")).unwrap().is_symlink());
}

#[test]
fn a_file_that_may_not_be_read_is_refused_and_taken_once_it_may() {
    if rustix::process::geteuid().is_root() {
        println!("skipped: root may read every file");
        return;
    }
    let dir = tempdir().unwrap();
    let folder = dir.path().join("in");
    let path = put(&folder, "closed.png", &png(1));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let (state, arguments) = (dir.path().join("state"), ["--watch", text(&folder)]);
    let mut daemon = Daemon::start(&state, &arguments);
    daemon.wait("a refusal", |daemon| refused(daemon, "watch-1", "unreadable") == 1);
    assert_eq!(daemon.stop().0, Some(0));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Daemon::start(&state, &arguments).wait_accepted("watch-1", 1);
}

#[test]
fn files_that_vanish_while_they_are_looked_at_do_no_harm() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("in");
    fs::create_dir(&folder).unwrap();
    let mut daemon = Daemon::start(&dir.path().join("state"), &["--watch", text(&folder)]);
    for number in 1..=60 {
        let path: PathBuf = move_in(&folder, &format!("{number}.png"), &png(number));
        fs::remove_file(path).unwrap();
    }
    move_in(&folder, "stays.png", &png(100));
    daemon.wait("the file that stays", |daemon| daemon.post_image("/v1/images", &png(100)).status == 200);
    let source = daemon.source("watch-1");
    let reasons: Vec<&String> = source["refused"].as_object().unwrap().keys().collect();
    assert!(reasons.iter().all(|code| *code == "vanished"), "{source}");
    assert_eq!(source["state"], "running", "{source}");
}

/// One message of the wire format (see `lumpd::stream::wire`).
fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"LMPD\x01".to_vec();
    bytes.extend([kind, 0, 0]);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(crc32fast::hash(payload).to_le_bytes());
    bytes
}

fn frame(image: &[u8]) -> Vec<u8> {
    let mut payload = 7_u64.to_le_bytes().to_vec();
    payload.extend(i64::MIN.to_le_bytes());
    payload.push(0);
    payload.extend(image);
    message(1, &payload)
}

/// Sends bytes, and reads all that comes until the daemon closes the connection.
fn send(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The daemon may close before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn garbage_on_the_socket_is_answered_with_its_reason_and_harms_nobody_else() {
    let dir = tempdir().unwrap();
    let (frames, folder) = (dir.path().join("frames.sock"), dir.path().join("in"));
    let mut daemon = Daemon::start(&dir.path().join("state"), &["--unix", text(&frames)]);
    let mut damaged = frame(&png(1));
    *damaged.last_mut().unwrap() ^= 1;
    let mut torn_header = frame(&png(1));
    torn_header[9] ^= 1;
    let mut endless = message(1, &[]);
    endless[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = crc32fast::hash(&endless[..12]);
    endless[12..16].copy_from_slice(&crc.to_le_bytes());
    let garbage: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "wire-magic"),
        (&damaged, "wire-payload-checksum"),
        (&torn_header, "wire-header-checksum"),
        (&endless, "too-many-bytes"),
        (&message(9, &[]), "wire-type"),
        (&frame(&png(1))[..100], "wire-cut"),
    ];
    for (bytes, code) in garbage {
        let answer = send(&frames, bytes);
        let said = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with(b"LMPD") && said.contains(code), "{code}: {said:?}");
        daemon.wait(code, |daemon| refused(daemon, "unix-1", code) == 1);
    }
    let answer = send(&frames, &frame(b"no picture at all"));
    assert!(String::from_utf8_lossy(&answer).contains("not-an-image"), "{answer:?}");

    folder_of(&folder, 1..=3);
    let fed = lumpd().args(["feed", text(&folder), "--to", text(&frames)]).output().unwrap();
    assert_eq!(tally(&fed, "accepted"), 3, "{}", stderr(&fed));
}

#[test]
fn feed_says_which_files_were_refused_and_why_and_sends_the_others() {
    let dir = tempdir().unwrap();
    let (frames, folder) = (dir.path().join("frames.sock"), dir.path().join("in"));
    folder_of(&folder, 1..=3);
    put(&folder, "broken.jpg", &jpeg(1)[..200]);
    let _daemon = Daemon::start(&dir.path().join("state"), &["--unix", text(&frames)]);
    let fed = lumpd().args(["feed", text(&folder), "--to", text(&frames)]).output().unwrap();
    assert_eq!(fed.status.code(), Some(1), "{}", stderr(&fed));
    assert_eq!((tally(&fed, "accepted"), tally(&fed, "refused")), (3, 1));
    let said = crate::process::stdout(&fed);
    assert!(said.contains("truncated-image") && said.contains("broken.jpg"), "{said}");
}

#[test]
fn a_posted_image_that_cannot_be_taken_is_a_problem_with_a_remedy() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("state"), &["--set", "decode.max_bytes=40000"]);
    let whole = jpeg(1);
    let bad: [(&[u8], u16, &str); 5] = [
        (b"dear diary", 422, "not-an-image"),
        (&whole[..whole.len() / 2], 422, "truncated-image"),
        (&png_bomb(), 413, "too-large"),
        (&[0x89; 50_000], 413, "body-too-large"),
        (b"", 400, "empty-body"),
    ];
    for path in ["/v1/images", "/v1/query", "/v1/embed", "/v1/classify"] {
        for (bytes, status, code) in bad {
            let answer = daemon.post_image(path, bytes);
            let problem: Value = answer.json();
            let what = format!("{path}, {code}: {problem}");
            assert_eq!((answer.status, problem["status"].clone()), (status, status.into()), "{what}");
            assert!(answer.head.to_lowercase().contains("application/problem+json"), "{what}");
            assert_eq!(problem["code"], *code, "{what}");
            assert!(problem["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{what}");
        }
    }
    assert_eq!(daemon.status()["stream"]["accepted"], 0);
}
