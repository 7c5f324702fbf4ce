//! The order of knowledge: a room uses only the rooms before it, and each outside concern stays in its own.

use std::fs;
use std::path::{Path, PathBuf};

/// A room may use those of smaller rank. Rooms of one rank do not know each other.
const ROOMS: [(&str, u32); 15] = [
    ("config", 0),
    ("telemetry", 1),
    ("device", 2),
    ("stream", 3),
    ("decode", 4),
    ("segment", 5),
    ("encoder", 5),
    ("replay", 6),
    ("learn", 7),
    ("knn", 8),
    ("evaluate", 9),
    ("experiment", 10),
    ("daemon", 10),
    ("serve", 11),
    ("cli", 12),
];

/// (what, the rooms that may name it).
const CONFINED: [(&str, &[&str]); 6] = [
    ("axum::", &["serve"]),
    ("clap::", &["cli"]),
    ("cudarc::", &["device"]),
    ("feature = \"cuda\"", &["device"]),
    ("feature = \"metal\"", &["device"]),
    ("memmap2::", &["replay"]),
];

fn rank(room: &str) -> u32 {
    let known = ROOMS.iter().find(|(name, _)| *name == room);
    known.unwrap_or_else(|| panic!("src/{room} has no place in the order of knowledge: add it to ROOMS")).1
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable source folder") {
        let path = entry.expect("readable entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every source file within a room: (room, path within src, code without comments).
fn files_of_rooms() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    let rooms = found.into_iter().filter_map(|path| {
        let inner = path.strip_prefix(&src).expect("within src").to_owned();
        let room = inner.components().next()?.as_os_str().to_str()?.to_owned();
        (inner.components().count() > 1).then(|| {
            let text = fs::read_to_string(&path).expect("readable source");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            (room, inner.display().to_string(), code)
        })
    });
    rooms.collect()
}

/// Rooms named after `crate::`, also within a braced list such as `crate::{config::Seed, replay::Batch}`.
fn rooms_used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list = match rest.strip_prefix('{') {
            Some(list) => top_level(list),
            None => vec![rest],
        };
        for item in list {
            let name: String = item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                used.push(name);
            }
        }
    }
    used
}

/// The comma-separated items of a braced list up to its closing brace.
fn top_level(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&list[start..at]);
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn a_room_uses_only_rooms_before_it() {
    let mut wrong = Vec::new();
    for (room, path, code) in files_of_rooms() {
        for used in rooms_used(&code) {
            let known = ROOMS.iter().any(|(name, _)| *name == used);
            if known && used != room && rank(&used) >= rank(&room) {
                wrong.push(format!("{path}: {room} uses {used}"));
            }
        }
        rank(&room);
    }
    assert!(wrong.is_empty(), "rooms that look ahead:\n{}", wrong.join("\n"));
}

#[test]
fn outside_concerns_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (room, path, code) in files_of_rooms() {
        for (what, rooms) in CONFINED {
            if code.contains(what) && !rooms.contains(&room.as_str()) {
                wrong.push(format!("{path}: {what} belongs in {rooms:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_is_confined_and_every_block_says_why_it_is_sound() {
    let mut wrong = Vec::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    for path in found {
        let inner = path.strip_prefix(&src).expect("within src").display().to_string();
        let allowed = ["device/kernels", "device/cuda"].iter().any(|room| inner.starts_with(room))
            || ["device/process.rs", "replay/backing.rs"].contains(&inner.as_str());
        let text = fs::read_to_string(&path).expect("readable source");
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            // What stands in quotes is no code.
            let code = code.split('"').step_by(2).collect::<Vec<_>>().join(" ");
            let is_unsafe = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
            if is_unsafe && !allowed {
                wrong.push(format!("{inner}:{}: unsafe outside its rooms", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_test_reads_braced_and_plain_uses() {
    let code = "use crate::{config::Seed, replay::{Batch, Store}, learn};\nuse crate::serve::listen;";
    assert_eq!(rooms_used(code), ["config", "replay", "learn", "serve"]);
}
