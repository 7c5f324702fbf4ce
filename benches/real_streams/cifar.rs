//! Split CIFAR-10 as PNG files over the socket: five tasks of two classes.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Options;
use crate::daemon::{BINARY, Daemon};
use crate::score::{Labelled, Run};

const SIDE: usize = 32;
const RECORD: usize = 1 + 3 * SIDE * SIDE;

/// (label, PNG file) of each record of a CIFAR-10 batch.
fn read(path: &Path) -> Result<Vec<(usize, Vec<u8>)>, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if bytes.is_empty() || bytes.len() % RECORD != 0 {
        return Err(format!("{}: {} bytes are no whole number of {RECORD}-byte records", path.display(), bytes.len()));
    }
    bytes.chunks_exact(RECORD).map(|record| Ok((usize::from(record[0]), png(&record[1..])?))).collect()
}

/// Three planes of bytes as a PNG file.
fn png(planes: &[u8]) -> Result<Vec<u8>, String> {
    let area = SIDE * SIDE;
    let pixels: Vec<u8> = (0..area).flat_map(|i| [planes[i], planes[area + i], planes[2 * area + i]]).collect();
    let image = image::RgbImage::from_raw(SIDE as u32, SIDE as u32, pixels).ok_or("a picture of the wrong size")?;
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).map_err(|e| e.to_string())?;
    Ok(file.into_inner())
}

/// The first `count` of each class of a task, in the order of the file.
fn of_task(records: &[(usize, Vec<u8>)], task: usize, count: usize) -> Vec<&(usize, Vec<u8>)> {
    records.iter().filter(|(label, _)| label / 2 == task).take(count).collect()
}

pub fn run(options: &Options) -> Result<String, String> {
    let root = options.data.join("cifar-10-batches-bin");
    let mut train = Vec::new();
    for batch in 1..=5 {
        train.extend(read(&root.join(format!("data_batch_{batch}.bin")))?);
    }
    let place = tempfile::tempdir().map_err(|e| e.to_string())?;
    let socket = place.path().join("frames.sock");
    let source = ["--unix".into(), socket.display().to_string()];
    let daemon = Daemon::start(&place.path().join("state"), &options.arguments(&source))?;

    let start = Instant::now();
    let (mut frames, mut truth) = (0u64, Vec::new());
    for task in 0..5 {
        if frames > 0 {
            truth.push(frames + 1);
        }
        let folder = place.path().join(format!("task-{task}"));
        fs::create_dir(&folder).map_err(|e| e.to_string())?;
        let images = of_task(&train, task, options.per_task);
        for (number, (_, png)) in images.iter().enumerate() {
            fs::write(folder.join(format!("{number:05}.png")), png).map_err(|e| e.to_string())?;
        }
        frames += images.len() as u64;
        let fed = Command::new(BINARY)
            .arg("feed")
            .arg(&folder)
            .arg("--to")
            .arg(&socket)
            .arg("--rate")
            .arg(options.rate.to_string())
            .stdout(Stdio::null())
            .status()
            .map_err(|e| e.to_string())?;
        if !fed.success() {
            return Err(format!("lumpd feed ended with {fed}"));
        }
    }
    daemon.wait_accepted(frames, Duration::from_secs(300))?;
    let stream_time = start.elapsed();
    std::thread::sleep(Duration::from_secs(options.settle_seconds));

    let labelled = |records: Vec<(usize, Vec<u8>)>| {
        let (labels, images) = records.into_iter().unzip();
        Labelled { images, labels }
    };
    let test = labelled(read(&root.join("test_batch.bin"))?.into_iter().take(1000).collect());
    // The bank: images that were streamed, as many of each task.
    let bank = (0..5).flat_map(|task| of_task(&train, task, options.per_task.min(600)).into_iter().cloned()).collect();
    let untrained = Daemon::start(&place.path().join("untrained"), &options.arguments(&[]))?;
    let run = Run { name: "Split CIFAR-10, PNG files over the unix socket", truth, frames, stream_time };
    let report = run.report(&daemon, &untrained, &labelled(bank), &test)?;
    daemon.stop()?;
    Ok(report)
}
