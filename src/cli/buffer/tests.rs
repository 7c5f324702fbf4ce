use std::path::Path;

use clap::Parser;

use crate::cli::{CommandLine, code};
use crate::config::{ReplaySettings, Seed};
use crate::daemon::StateDir;
use crate::replay::{Record, ReplayBuffer};
use crate::stream::{FrameId, SourceId};

const SIDE: usize = 8;

/// A state folder whose buffer of 20 slots has seen so many frames.
fn state(folder: &Path, frames: u64) {
    let settings = ReplaySettings { slots: 20, commit_frames: 8, ..Default::default() };
    let (mut buffer, _) = ReplayBuffer::open_or_create(&folder.join("replay.buf"), &settings, SIDE, Seed(0)).unwrap();
    for id in 1..=frames {
        let pixels = vec![id as u8; SIDE * SIDE * 3];
        let record = Record {
            id: FrameId(id),
            source: SourceId(1),
            source_sequence: id,
            wall_time_ns: 1_700_000_000_000_000_000,
            content_hash: [id as u8; 16],
            pixels: &pixels,
        };
        buffer.offer(&record).unwrap();
        buffer.commit().unwrap();
    }
}

/// Standard output, and the exit code.
fn lumpd(folder: &Path, verb: &[&str]) -> (String, u8) {
    let state = folder.to_str().unwrap();
    let line = ["lumpd", "buffer"].into_iter().chain(verb.iter().copied()).chain(["--state-dir", state]);
    let mut out = Vec::new();
    let end = CommandLine::try_parse_from(line).unwrap().run(&mut out);
    let text = String::from_utf8(out).unwrap();
    match end {
        Ok(()) => (text, 0),
        Err(error) => (format!("{text}{error:?}"), code(&error)),
    }
}

fn json(folder: &Path, verb: &[&str]) -> serde_json::Value {
    let (text, code) = lumpd(folder, &[verb, &["--json"]].concat());
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn inspect_says_what_the_buffer_is_and_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    state(folder.path(), 15);
    let report = json(folder.path(), &["inspect"]);
    assert_eq!((&report["slots"], &report["used"], &report["seen"]), (&20.into(), &15.into(), &15.into()), "{report}");
    assert_eq!(report["by_source"], serde_json::json!({"source-1": 15}));
    assert_eq!(report["by_age"][4], serde_json::json!(["older", 15]));
    assert_eq!(report["resized_at_frame"], serde_json::Value::Null);
    let (text, code) = lumpd(folder.path(), &["inspect"]);
    assert!(code == 0 && text.contains("15 of 20, 8x8 pixels") && text.contains("reservoir"), "{text}");
}

#[test]
fn verify_names_every_damaged_slot_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    state(folder.path(), 15);
    let whole = json(folder.path(), &["verify"]);
    assert_eq!((&whole["images"], &whole["bad"]), (&15.into(), &serde_json::json!([])));
    let path = folder.path().join("replay.buf");
    let mut bytes = std::fs::read(&path).unwrap();
    let slots: Vec<usize> =
        (4 * 4096..bytes.len()).step_by(4096).filter(|&at| bytes[at..].starts_with(b"SLOT")).collect();
    bytes[slots[2] + 128 + 50] ^= 1;
    bytes[slots[5] + 20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (text, code) = lumpd(folder.path(), &["verify", "--json"]);
    assert_eq!(code, 1, "{text}");
    // The error follows the report.
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
    let report = values.next().unwrap().unwrap();
    let bad: Vec<_> =
        report["bad"].as_array().unwrap().iter().map(|slot| (slot["offset"].as_u64(), slot["what"].clone())).collect();
    assert_eq!(bad, [(Some(slots[2] as u64), "pixels".into()), (Some(slots[5] as u64), "header".into())], "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was changed");
}

#[test]
fn export_writes_each_image_once_and_goes_on_after_an_interruption() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    state(folder.path(), 12);
    let to = out.path().join("pictures");
    let export = |to: &Path| json(folder.path(), &["export", to.to_str().unwrap()]);
    assert_eq!(export(&to)["written"], 12);
    let picture = image::load_from_memory(&std::fs::read(to.join("000000000007.png")).unwrap()).unwrap().to_rgb8();
    assert_eq!((picture.width(), picture.get_pixel(3, 4).0), (8, [7, 7, 7]));
    let manifest = std::fs::read_to_string(to.join("manifest.tsv")).unwrap();
    assert_eq!(manifest.lines().count(), 14, "{manifest}");
    let row = manifest.lines().nth(8).unwrap();
    assert!(row.starts_with("7\t000000000007.png\tsource-1\t7\t-\t2023-11-14T22:13:20Z\t0707"), "{row}");

    std::fs::remove_file(to.join("000000000003.png")).unwrap();
    std::fs::write(to.join("000000000004.png"), "mine").unwrap();
    let again = export(&to);
    assert_eq!((&again["written"], &again["present"]), (&1.into(), &11.into()));
    assert_eq!(std::fs::read(to.join("000000000004.png")).unwrap(), b"mine");
    assert_eq!(std::fs::read_to_string(to.join("manifest.tsv")).unwrap(), manifest);
    std::fs::write(to.join("manifest.tsv"), "something else").unwrap();
    let (text, code) = lumpd(folder.path(), &["export", to.to_str().unwrap()]);
    assert!(code == 74 && text.contains("not replaced"), "{text}");
}

#[test]
fn resize_grows_and_shrinks_and_says_what_to_set() {
    let folder = tempfile::tempdir().unwrap();
    state(folder.path(), 300);
    let (text, code) = lumpd(folder.path(), &["resize", "50"]);
    assert!(code == 0 && text.contains("Set replay.slots = 50"), "{text}");
    let shrunk = json(folder.path(), &["resize", "6"]);
    assert_eq!((&shrunk["kept"], &shrunk["dropped"], &shrunk["resized_at"]), (&6.into(), &14.into(), &300.into()));
    let report = json(folder.path(), &["inspect"]);
    assert_eq!((&report["slots"], &report["used"], &report["seen"]), (&6.into(), &6.into(), &300.into()));
    assert_eq!(report["resized_at_frame"], 300);
    let (text, code) = lumpd(folder.path(), &["resize", "100000000"]);
    assert!(code == 74 && text.contains("free some space"), "{text}");
    assert_eq!(json(folder.path(), &["inspect"])["slots"], 6, "refused before anything was changed");
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!files.iter().any(|name| name.to_str().unwrap().contains(".new")), "{files:?}");
}

#[test]
fn while_a_daemon_has_the_folder_it_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    state(folder.path(), 3);
    let _held = StateDir::open(folder.path()).unwrap();
    for verb in [&["inspect"][..], &["verify"], &["export", "x"], &["resize", "9"]] {
        let (text, code) = lumpd(folder.path(), verb);
        assert!(code == 75 && text.contains("stop the daemon first"), "{verb:?}: {text}");
    }
    let nowhere = folder.path().join("nowhere");
    let (text, code) = lumpd(&nowhere, &["inspect"]);
    assert!(code == 74 && text.contains("no replay buffer"), "{text}");
    assert!(!nowhere.exists());
}
