//! Features and streams as plain files, for other programs to be measured on the same.
//!
//! `features.f32` holds rows of little-endian floats: CIFAR-10, the ten domains, the tracks. `streams.json` says, row by row and
//! seed by seed, which of them make a stream, and where it changes; `quiet` are the change-free runs of the calibration.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use super::pool::{Frame, Pool, Set, TEST};
use super::rows::rows;
use super::streams;
use crate::segment::FeatureMap;

/// Rows whose frames have noise of their own would need a file of features each.
const LARGEST: usize = 60_000;

pub fn write(pool: &Pool, folder: &Path, seeds: u64) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join("features.f32");
    let mut file = BufWriter::new(File::create(&path).with_context(|| format!("make {}", path.display()))?);
    for set in std::iter::once(&pool.cifar).chain(&pool.domains).chain([&pool.gtsrb]) {
        for value in &set.0 {
            file.write_all(&value.to_le_bytes())?;
        }
    }
    file.flush()?;
    let row_of = |frame: &Frame| match frame.set {
        Set::Cifar => frame.index as usize,
        Set::Domain(domain) => pool.images.len() + usize::from(domain) * TEST + frame.index as usize,
        Set::Gtsrb => pool.images.len() + pool.domains.len() * TEST + frame.index as usize,
    };
    let plain = |frames: &[Frame]| frames.iter().map(row_of).collect::<Vec<_>>();
    let mut all = Vec::new();
    for row in rows() {
        for seed in 0..seeds {
            let Some(stream) = row.stream(pool, seed) else { break };
            if stream.frames.len() > LARGEST || stream.frames.iter().any(|frame| frame.jitter.is_some()) {
                break;
            }
            let frames = plain(&stream.frames);
            all.push(json!({"row": row.name, "seed": seed, "changes": stream.changes, "frames": frames}));
        }
    }
    let quiet: Vec<_> = (0..60).map(|run| plain(&streams::changeless(pool, run))).collect();
    let text = json!({"dimensions": FeatureMap::DIMENSIONS, "streams": all, "quiet": quiet}).to_string();
    let path = folder.join("streams.json");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
