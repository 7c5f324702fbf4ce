//! The setting `replay.policy` in the running daemon, on a stream that repeats itself.

use std::collections::BTreeSet;
use std::path::Path;

use image::{DynamicImage, ImageFormat, RgbImage};
use tempfile::tempdir;

use crate::ingest::tally;
use crate::pictures::{picture, put};
use crate::process::{Daemon, lumpd, stderr};

/// Pictures, times that each is seen in a row, and images kept.
const KINDS: u64 = 24;
const REPEATS: u64 = 8;
const SLOTS: usize = 16;

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

/// The picture with a little noise: another file, the same thing.
fn seen_again(kind: u64, time: u64) -> Vec<u8> {
    let mut image: RgbImage = picture(kind);
    let mut state = kind * 1_000 + time;
    for value in image.iter_mut() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *value = value.saturating_add((state >> 62) as u8);
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(image).write_to(&mut bytes, ImageFormat::Png).expect("a picture can be encoded");
    bytes.into_inner()
}

/// Every picture so many times in a row, each in a folder that names it.
fn stream(folder: &Path, times: std::ops::Range<u64>) {
    for kind in 0..KINDS {
        for time in times.clone() {
            put(folder, &format!("{kind:02}/{time:02}.png"), &seen_again(kind, time));
        }
    }
}

fn feed(folder: &Path, frames: &Path, count: u64) {
    let fed = lumpd().args(["feed", text(folder), "--labels-from-folders", "--to", text(frames)]).output().unwrap();
    assert_eq!(tally(&fed, "accepted"), count, "{}", stderr(&fed));
}

/// Different pictures among the images kept.
fn distinct(daemon: &mut Daemon) -> usize {
    let mut kinds = BTreeSet::new();
    daemon.wait("a label for every image kept", |daemon| {
        let list = daemon.ask(&["label"]);
        let labels = list["labels"].as_array().expect("a list of labels");
        kinds = labels.iter().map(|label| label["label"].to_string()).collect();
        labels.iter().filter_map(|label| label["images"].as_u64()).sum::<u64>() == SLOTS as u64
    });
    kinds.len()
}

#[test]
fn minred_keeps_more_different_pictures_of_a_stream_that_repeats_itself() {
    let dir = tempdir().unwrap();
    let (first, later) = (dir.path().join("first"), dir.path().join("later"));
    stream(&first, 0..REPEATS);
    stream(&later, REPEATS..REPEATS + 1);
    let mut kept = Vec::new();
    for policy in ["minred", "fifo"] {
        let (state, frames) = (dir.path().join(policy), dir.path().join(format!("{policy}.sock")));
        let settings = [
            format!("replay.policy={policy}"),
            format!("replay.slots={SLOTS}"),
            "replay.commit_frames=8".into(),
            "evaluate.holdout_ratio=0".into(),
        ];
        let mut arguments = vec!["--unix".to_owned(), text(&frames).to_owned()];
        settings.iter().for_each(|setting| arguments.extend(["--set".to_owned(), setting.clone()]));
        let mut daemon = Daemon::start(&state, &arguments);
        feed(&first, &frames, KINDS * REPEATS);
        kept.push(distinct(&mut daemon));
        assert_eq!(daemon.get("/v1/buffer").json()["policy"], policy);
        let (code, log) = daemon.stop();
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(state.join("replay.buf.features").exists(), policy == "minred", "what it knows is kept");

        let mut daemon = Daemon::start(&state, &arguments);
        feed(&later, &frames, KINDS);
        kept.push(distinct(&mut daemon));
    }
    println!("different pictures of {SLOTS}: minred {} then {}, fifo {} then {}", kept[0], kept[1], kept[2], kept[3]);
    // A uniform sample of the stream has 11.9 in the mean.
    assert!(kept[0] >= 12 && kept[1] >= 12, "minred: {kept:?}");
    // Two in the stream's own order; a frame that found the queue full came again a little later.
    assert!((2..=4).contains(&kept[2]), "fifo: {kept:?}");
}
