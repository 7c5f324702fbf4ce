//! What goes in: every inlet and every format, and that all who count agree.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::tempdir;

use crate::pictures::{bmp, folder_of, jpeg, move_in, picture, png, pnm, put, webp};
use crate::process::{Daemon, lumpd, stderr, stdout};

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

/// The stored image that is nearest to this one.
fn nearest(daemon: &Daemon, image: &[u8]) -> Value {
    let answer = daemon.post_image("/v1/query?k=1", image);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["neighbours"][0].clone()
}

/// What `feed` counts under this word.
pub fn tally(feed: &std::process::Output, word: &str) -> u64 {
    let out = stdout(feed);
    let line = out.lines().find_map(|line| line.strip_prefix(word));
    let count = line.and_then(|rest| rest.split_whitespace().next()).and_then(|count| count.parse().ok());
    count.unwrap_or_else(|| panic!("no {word:?} in {out}\n{}", stderr(feed)))
}

#[test]
fn a_folder_gives_what_it_holds_in_the_order_of_names_and_then_what_is_moved_in() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("in");
    folder_of(&folder, 1..=5);
    put(&folder, "deeper/6.png", &png(6));
    put(&folder, "7.png.part", &png(7));
    put(&folder, ".hidden.png", &png(8));
    let arguments = ["--watch", text(&folder), "--set", "evaluate.holdout_ratio=0"];
    let mut daemon = Daemon::start(&dir.path().join("state"), &arguments);
    daemon.wait_accepted("watch-1", 6);
    for number in 1..=5 {
        daemon.wait("the picture under the number of its place in the order", |daemon| {
            let hit = nearest(daemon, &png(number));
            hit["id"] == number && hit["score"].as_f64() > Some(0.999)
        });
    }

    move_in(&folder, "later.jpg", &jpeg(9));
    daemon.wait_accepted("watch-1", 7);
    fs::rename(folder.join("7.png.part"), folder.join("7.png")).unwrap();
    daemon.wait_accepted("watch-1", 8);
    let source = daemon.source("watch-1");
    assert_eq!(source["received"], 8, "{source}");
    assert_eq!(source["refused"], serde_json::json!({}), "{source}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 9, "files are left in place");
}

#[test]
fn all_inlets_work_at_once_and_all_counts_agree() {
    let dir = tempdir().unwrap();
    let (watched, by_unix, by_tcp) = (dir.path().join("in"), dir.path().join("a"), dir.path().join("b"));
    let frames = dir.path().join("frames.sock");
    folder_of(&watched, 1..=4);
    folder_of(&by_unix, 11..=18);
    folder_of(&by_tcp, 21..=26);
    let arguments = ["--watch", text(&watched), "--unix", text(&frames), "--tcp", "127.0.0.1:0"];
    let mut daemon = Daemon::start(&dir.path().join("state"), &arguments);

    let tcp = format!("tcp:{}", daemon.source("tcp-3")["address"].as_str().unwrap());
    for (folder, to, count) in [(&by_unix, text(&frames), 8), (&by_tcp, tcp.as_str(), 6)] {
        let fed = lumpd().args(["feed", text(folder), "--to", to]).output().unwrap();
        assert!(fed.status.success(), "{}", stderr(&fed));
        assert_eq!((tally(&fed, "sent"), tally(&fed, "accepted"), tally(&fed, "refused")), (count, count, 0));
    }
    let posted = daemon.post_image("/v1/images", &png(31));
    assert_eq!((posted.status, posted.json()["outcome"].clone()), (201, "accepted".into()), "{}", posted.text());
    daemon.wait_accepted("watch-1", 4);

    for (source, count) in [("watch-1", 4), ("unix-2", 8), ("tcp-3", 6), ("http", 1)] {
        let row = daemon.source(source);
        assert_eq!((&row["received"], &row["accepted"]), (&count.into(), &count.into()), "{row}");
        assert_eq!((&row["duplicates"], &row["state"]), (&0.into(), &"running".into()), "{row}");
        let metric = format!("lumpd_stream_frames_accepted_total{{source=\"{source}\"}} {count}");
        let metrics = daemon.get("/metrics").text();
        assert!(metrics.contains(&metric), "{metric} is not in\n{metrics}");
    }
    let status = daemon.status();
    assert_eq!(status["stream"]["accepted"], 19, "{status}");
    let probes: u64 =
        daemon.ask(&["tasks"])["tasks"].as_array().unwrap().iter().map(|t| t["probes"].as_u64().unwrap()).sum();
    let used = status["buffer"]["used"].as_u64().unwrap();
    assert_eq!(used + probes, 19, "every frame is kept, in the buffer or as a probe: {status}");
    assert_eq!(daemon.get("/v1/buffer").json()["used"], used);
}

#[test]
fn jpeg_png_webp_bmp_and_pnm_are_taken_and_are_the_same_picture() {
    let dir = tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("state"), &["--set", "evaluate.holdout_ratio=0"]);
    let pictures = [jpeg(1), png(2), webp(3), bmp(4), pnm(5)];
    for (bytes, format) in pictures.iter().zip(["JPEG", "PNG", "WebP", "BMP", "PNM"]) {
        let answer = daemon.post_image("/v1/images", bytes);
        assert_eq!(answer.status, 201, "{format}: {}", answer.text());
        let id = answer.json()["id"].as_u64().unwrap();
        let thumbnail = daemon.get(&format!("/v1/images/{id}/thumbnail"));
        let stored = image::load_from_memory(&thumbnail.body).expect("a thumbnail is a picture").to_rgb8();
        // The middle of the first block, whose colour survives resizing.
        let (found, truth) = (stored.get_pixel(2, 2).0, picture(id).get_pixel(4, 4).0);
        let far = found.iter().zip(truth).map(|(a, b)| a.abs_diff(b)).max();
        assert!(far < Some(24), "{format}: {found:?} is not {truth:?}");
    }
}

#[test]
fn concatenated_jpegs_on_standard_input_are_one_frame_each() {
    let dir = tempdir().unwrap();
    let frames = dir.path().join("frames.sock");
    let daemon = Daemon::start(&dir.path().join("state"), &["--unix", text(&frames)]);
    let mut feed = lumpd();
    feed.args(["feed", "-", "--to", text(&frames)]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut feed = feed.spawn().unwrap();
    let mut pipe = feed.stdin.take().unwrap();
    (1..=7).for_each(|number| pipe.write_all(&jpeg(number)).unwrap());
    drop(pipe);
    let fed = feed.wait_with_output().unwrap();
    assert!(fed.status.success(), "{}", stderr(&fed));
    assert_eq!(tally(&fed, "accepted"), 7);
    assert_eq!(daemon.source("unix-1")["accepted"], 7);
}

#[test]
fn labels_come_from_the_names_of_folders_where_asked_for() {
    let dir = tempdir().unwrap();
    let (frames, folder) = (dir.path().join("frames.sock"), dir.path().join("in"));
    folder_of(&folder.join("bolt"), 1..=3);
    folder_of(&folder.join("nut"), 11..=15);
    let arguments = ["--unix", text(&frames), "--set", "evaluate.holdout_ratio=0"];
    let mut daemon = Daemon::start(&dir.path().join("state"), &arguments);
    let fed = lumpd().args(["feed", text(&folder), "--labels-from-folders", "--to", text(&frames)]).output().unwrap();
    assert_eq!(tally(&fed, "accepted"), 8);
    let expected = serde_json::json!([{"label": "bolt", "images": 3}, {"label": "nut", "images": 5}]);
    daemon.wait("labels", |daemon| daemon.ask(&["label"])["labels"] == expected);
}

#[test]
fn what_came_before_is_a_duplicate_through_whichever_inlet_it_comes() {
    let dir = tempdir().unwrap();
    let (frames, folder) = (dir.path().join("frames.sock"), dir.path().join("in"));
    folder_of(&folder, 1..=6);
    let daemon = Daemon::start(&dir.path().join("state"), &["--unix", text(&frames)]);
    let feed = || lumpd().args(["feed", text(&folder), "--to", text(&frames)]).output().unwrap();
    assert_eq!(tally(&feed(), "accepted"), 6);
    let again = feed();
    assert!(again.status.success(), "a duplicate is no failure: {}", stderr(&again));
    assert_eq!((tally(&again, "accepted"), tally(&again, "duplicate")), (0, 6));
    let posted = daemon.post_image("/v1/images", &png(4));
    assert_eq!((posted.status, posted.json()["outcome"].clone()), (200, "duplicate".into()), "{}", posted.text());
    assert_eq!(daemon.status()["stream"]["accepted"], 6);
    assert_eq!(daemon.source("unix-1")["duplicates"], 6);
    assert_eq!(daemon.source("http")["duplicates"], 1);
}
