//! Real driving video: bright, mid and dark, copied frame by frame into a watched folder.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::Options;
use crate::daemon::Daemon;
use crate::score::{Labelled, Run};

struct Track {
    phase: String,
    class: usize,
    files: Vec<String>,
}

/// The tracks in the order of the manifest.
fn tracks(manifest: &str) -> Vec<Track> {
    let mut tracks: Vec<(String, Track)> = Vec::new();
    for line in manifest.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [file, phase, class, track, ..] = fields[..] else { continue };
        let key = format!("{phase}/{class}/{track}");
        if tracks.last().is_none_or(|(last, _)| *last != key) {
            let class = class.parse().unwrap_or(usize::MAX);
            tracks.push((key, Track { phase: phase.into(), class, files: Vec::new() }));
        }
        if let Some((_, track)) = tracks.last_mut() {
            track.files.push(file.into());
        }
    }
    tracks.into_iter().map(|(_, track)| track).collect()
}

/// Every fourth track of a sign and phase is for the test.
fn split(tracks: Vec<Track>) -> (Vec<Track>, Vec<Track>) {
    let mut seen: BTreeMap<(String, usize), usize> = BTreeMap::new();
    let (mut stream, mut test) = (Vec::new(), Vec::new());
    for track in tracks {
        let count = seen.entry((track.phase.clone(), track.class)).or_default();
        *count += 1;
        if count.is_multiple_of(4) { test.push(track) } else { stream.push(track) }
    }
    (stream, test)
}

pub fn run(options: &Options) -> Result<String, String> {
    let root = options.data.join("gtsrb-tracks");
    let manifest = fs::read_to_string(root.join("manifest.tsv"))
        .map_err(|e| format!("{}: {e}", root.join("manifest.tsv").display()))?;
    let (stream, test) = split(tracks(&manifest));
    let read = |tracks: &[Track]| -> Result<Labelled, String> {
        let mut labelled = Labelled { images: Vec::new(), labels: Vec::new() };
        for track in tracks {
            for file in &track.files {
                labelled.images.push(fs::read(root.join(file)).map_err(|e| format!("{file}: {e}"))?);
                labelled.labels.push(track.class);
            }
        }
        Ok(labelled)
    };
    let (bank, test) = (read(&stream)?, read(&test)?);

    let place = tempfile::tempdir().map_err(|e| e.to_string())?;
    let watched = place.path().join("camera");
    fs::create_dir(&watched).map_err(|e| e.to_string())?;
    let source = ["--watch".into(), watched.display().to_string()];
    let daemon = Daemon::start(&place.path().join("state"), &options.arguments(&source))?;
    let start = Instant::now();
    let (mut fed, mut truth, mut phase) = (0u64, Vec::new(), String::new());
    for track in &stream {
        if track.phase != phase {
            if fed > 0 {
                truth.push(fed + 1);
            }
            phase.clone_from(&track.phase);
        }
        for file in &track.files {
            let due = Duration::from_secs_f64(fed as f64 / options.rate);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            let name = file.rsplit('/').next().unwrap_or(file);
            let part = watched.join(format!("{name}.part"));
            fs::copy(root.join(file), &part)
                .and_then(|_| fs::rename(&part, watched.join(name)))
                .map_err(|e| e.to_string())?;
            fed += 1;
        }
    }
    daemon.wait_accepted(fed, Duration::from_secs(300))?;
    let stream_time = start.elapsed();
    std::thread::sleep(Duration::from_secs(options.settle_seconds));
    let untrained = Daemon::start(&place.path().join("untrained"), &options.arguments(&[]))?;
    let run = Run { name: "GTSRB tracks, copied into a watched folder", truth, frames: fed, stream_time };
    let report = run.report(&daemon, &untrained, &bank, &test)?;
    daemon.stop()?;
    Ok(report)
}
