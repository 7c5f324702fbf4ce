//! A damaged newest checkpoint of a real learner, in every way we could think of: what is taken up is what was written, of
//! this generation or the one before, to the last bit. `LUMPD_CHECKPOINT_MUTATIONS` sets how many are tried.

use std::collections::BTreeMap;

use candle_core::Device;
use serde_json::json;

use super::manifest::{MANIFEST, META, Manifest};
use super::*;
use crate::config::{LearnSettings, Random, Seed};
use crate::encoder::Preset;
use crate::learn::{MODEL_FILE, OPTIMISER_FILE, STATE_FILE, Trainer};

type Files = BTreeMap<String, Vec<u8>>;

fn trainer(seed: u64) -> Trainer {
    let preset = Preset { width: 2, side: 8, ..Preset::load("resnet18-w16").unwrap() };
    Trainer::new(preset, &LearnSettings::default(), &Device::Cpu, Seed(seed)).unwrap()
}

/// The files of a generation as they are on the disk.
fn generation(step: u64, saved: &[(String, Vec<u8>)]) -> Files {
    let meta = json!({ "step": step }).to_string().into_bytes();
    let all: Vec<(&str, &[u8])> =
        saved.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).chain([(META, meta.as_slice())]).collect();
    let manifest = Manifest::new(step, all.iter().copied()).to_bytes();
    all.into_iter()
        .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
        .chain([(MANIFEST.into(), manifest)])
        .collect()
}

fn put(folder: &Path, files: &Files) {
    fs::create_dir(folder).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
}

/// Rewrites the header of a safetensors file.
fn with_header(bytes: &[u8], change: impl FnOnce(String) -> String) -> Vec<u8> {
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header = change(String::from_utf8(header.to_vec()).unwrap());
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The first tensor's entry of a header, without the braces around.
fn first_entry(header: &str) -> &str {
    &header[1..=header.find('}').unwrap()]
}

/// Damages one file or two; says how.
fn damage(files: &mut Files, random: &mut Random) -> String {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = names[random.below(names.len() as u64) as usize].clone();
    let bytes = files.get_mut(&name).unwrap();
    let length = bytes.len();
    let at = random.below(length as u64) as usize;
    let what = match random.below(9) {
        0 => {
            bytes.truncate(at);
            "truncated"
        }
        1 => {
            bytes[at] ^= 1 << random.below(8);
            "a bit flipped"
        }
        2 => {
            let end = (at + 1 + random.below(4096) as usize).min(length);
            bytes[at..end].fill(0);
            // Zeros over zeros are no damage.
            bytes[at] ^= 1;
            "zeroed"
        }
        3 => {
            // Two blocks of the file in each other's place, as a confused disk would have it.
            let size = (length / 4).clamp(1, 512);
            let (one, two) = (at.min(length - size), random.below((length - size + 1) as u64) as usize);
            let block = bytes[one..one + size].to_vec();
            bytes.copy_within(two..two + size, one);
            if two + size <= length {
                bytes[two..two + size].copy_from_slice(&block);
            }
            "blocks swapped"
        }
        4 => {
            let other = names[random.below(names.len() as u64) as usize].clone();
            let (one, two) = (files[&name].clone(), files[&other].clone());
            files.insert(name.clone(), two);
            files.insert(other, one);
            "files swapped"
        }
        5 => {
            files.remove(&name);
            "removed"
        }
        6 => {
            bytes.extend(random.next_u64().to_le_bytes());
            "something appended"
        }
        7 => return hostile_header(files, random),
        _ => return hostile_values(files, random),
    };
    format!("{name}: {what}")
}

/// Headers that lie, in a generation whose manifest is right about them.
fn hostile_header(files: &mut Files, random: &mut Random) -> String {
    let name = [MODEL_FILE, OPTIMISER_FILE][random.below(2) as usize];
    let bytes = files[name].clone();
    let (what, changed) = match random.below(6) {
        0 => ("a name twice", with_header(&bytes, |h| format!("{{{},{}", first_entry(&h), &h[1..]))),
        1 => ("a header of 2^63 bytes", [&(1_u64 << 63).to_le_bytes()[..], &bytes[8..]].concat()),
        2 => (
            "a shape that overflows",
            with_header(&bytes, |h| h.replacen("\"shape\":[", "\"shape\":[9223372036854775807,", 1)),
        ),
        3 => (
            "an offset beyond the end",
            with_header(&bytes, |h| h.replacen("\"data_offsets\":[0,", "\"data_offsets\":[999999999,", 1)),
        ),
        4 => ("another type", with_header(&bytes, |h| h.replacen("\"F32\"", "\"I32\"", 1))),
        _ => ("a tensor renamed", with_header(&bytes, |h| h.replacen("weight", "wEight", 1))),
    };
    rehash(files, name, changed);
    format!("{name}: {what}, and the manifest agrees")
}

/// Values that no weight has, in a generation whose manifest is right about them.
fn hostile_values(files: &mut Files, random: &mut Random) -> String {
    let name = [MODEL_FILE, OPTIMISER_FILE, STATE_FILE][random.below(3) as usize];
    let mut bytes = files[name].clone();
    if name == STATE_FILE {
        let text = String::from_utf8(bytes).unwrap();
        bytes = match random.below(3) {
            0 => text.replacen("\"format\": 1", "\"format\": 9", 1),
            1 => text.replacen("\"step\"", "\"steps\"", 1),
            _ => text[..text.len() / 2].to_owned(),
        }
        .into_bytes();
    } else {
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let at = header + 4 * random.below(((bytes.len() - header) / 4) as u64) as usize;
        let value = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.below(3) as usize];
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    rehash(files, name, bytes);
    format!("{name}: values that are none, and the manifest agrees")
}

fn rehash(files: &mut Files, name: &str, bytes: Vec<u8>) {
    files.insert(name.to_owned(), bytes);
    let manifest = {
        let listed = files.iter().filter(|(name, _)| *name != MANIFEST);
        Manifest::new(2, listed.map(|(name, bytes)| (name.as_str(), bytes.as_slice()))).to_bytes()
    };
    files.insert(MANIFEST.into(), manifest);
}

fn mutations_wanted() -> u64 {
    std::env::var("LUMPD_CHECKPOINT_MUTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(150)
}

#[test]
fn no_damage_to_the_newest_checkpoint_gives_wrong_weights() {
    let (older, newer) = (trainer(1).save().unwrap(), trainer(2).save().unwrap());
    let (first, second) = (generation(1, &older), generation(2, &newer));
    let mut learner = trainer(3);
    let (mut fell_back, mut unharmed) = (0, 0);
    for case in 0..mutations_wanted() {
        let mut random = Seed(case).random("mutations", 0);
        let mut files = second.clone();
        let how = damage(&mut files, &mut random);
        let folder = tempfile::tempdir().unwrap();
        put(&folder.path().join(name_of(1)), &first);
        put(&folder.path().join(name_of(2)), &files);
        let generations = Generations::open(folder.path(), Keep::default()).unwrap();
        let search = generations
            .newest(|loaded| {
                let files: Vec<_> = loaded.files.clone().into_iter().collect();
                learner.restore(&files).map_err(|error| error.to_string())
            })
            .unwrap();
        let loaded = search.loaded.unwrap_or_else(|| panic!("case {case}: nothing is left after {how}"));
        let saved = learner.save().unwrap();
        match loaded.step {
            1 => assert!(saved == older, "case {case}: {how}: not the weights of the one before"),
            _ => assert!(saved == newer, "case {case}: {how}: not the weights that were written"),
        }
        let same = files == second || json_is_same(&files, &second);
        assert_eq!(loaded.step == 2, same, "case {case}: {how}: damage and verdict differ, {:?}", search.skipped);
        fell_back += u64::from(loaded.step == 1);
        unharmed += u64::from(loaded.step == 2);
    }
    println!("{fell_back} mutations fell back, {unharmed} changed nothing that counts, 0 gave wrong weights");
}

/// White space at the end of the manifest is no damage, and a block may be swapped with an equal one.
fn json_is_same(files: &Files, whole: &Files) -> bool {
    let manifest =
        |files: &Files| files.get(MANIFEST).and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok());
    let others = |files: &Files| {
        files.iter().filter(|(name, _)| *name != MANIFEST).map(|(n, b)| (n.clone(), b.clone())).collect::<Files>()
    };
    manifest(files) == manifest(whole) && others(files) == others(whole)
}
