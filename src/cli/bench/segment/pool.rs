//! Features of the image sets, computed once: streams name the frames they are made of.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use rayon::prelude::*;

use crate::config::{DecodeSettings, Fit, Seed};
use crate::decode::{Decoder, to_square};
use crate::experiment::dataset::domains::{DOMAINS, transform};
use crate::segment::FeatureMap;

pub const SIDE: usize = 32;
pub const PIXELS: usize = SIDE * SIDE * 3;
/// Images of CIFAR-10's test set, which the domains are made of.
pub const TEST: usize = 10_000;
/// Classes of CIFAR-10.
pub const CLASSES: usize = 10;
/// Noise of a repeated frame, as a share of each feature's standard deviation.
const JITTER: f32 = 0.15;
/// Draws of noise; a frame takes its own from a place in them.
const NOISE: usize = 1 << 16;

/// Where a frame's features are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub set: Set,
    pub index: u32,
    /// Where in the noise its own begins, if it has any.
    pub jitter: Option<u16>,
}

/// A set of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// CIFAR-10, training and test.
    Cifar,
    /// CIFAR-10's test images in one of the domains.
    Domain(u8),
    /// GTSRB's tracks in the order of the manifest.
    Gtsrb,
}

/// One track: frames of one sign from one pass.
#[derive(Debug, Clone)]
pub struct Track {
    pub phase: usize,
    pub class: usize,
    pub frames: Vec<u32>,
}

/// Features of a set, row by row.
#[derive(Default)]
pub struct Features(pub Vec<f32>);

impl Features {
    fn of(map: &FeatureMap, images: &[Vec<u8>]) -> anyhow::Result<Self> {
        let rows: Vec<Vec<f32>> = images.par_iter().map(|image| map.extract(image, SIDE)).collect::<Result<_, _>>()?;
        Ok(Self(rows.concat()))
    }

    fn row(&self, index: u32) -> &[f32] {
        let start = index as usize * FeatureMap::DIMENSIONS;
        &self.0[start..start + FeatureMap::DIMENSIONS]
    }
}

/// Everything the streams are made of.
pub struct Pool {
    pub images: Vec<Vec<u8>>,
    pub by_class: Vec<Vec<u32>>,
    pub tracks: Vec<Track>,
    pub cifar: Features,
    pub domains: Vec<Features>,
    pub gtsrb: Features,
    deviations: Vec<f32>,
    noise: Vec<f32>,
}

impl Pool {
    /// From a folder that holds `cifar-10-batches-bin` and, if the tracks are wanted, `gtsrb-tracks`.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let (images, labels) = read_cifar(&folder.join("cifar-10-batches-bin"))?;
        let map = FeatureMap::new();
        let cifar = Features::of(&map, &images)?;
        let test = &images[images.len() - TEST..];
        let domain = |domain: usize| {
            let changed: Vec<Vec<u8>> =
                test.par_iter().enumerate().map(|(i, image)| transform(image, domain, i as u64)).collect();
            Features::of(&map, &changed)
        };
        let domains = (0..DOMAINS.len()).map(domain).collect::<anyhow::Result<_>>()?;
        let of_class = |class| (0..).zip(&labels).filter(|&(_, &label)| label == class).map(|(i, _)| i).collect();
        let by_class = (0..CLASSES).map(of_class).collect();
        let (tracks, gtsrb) = read_tracks(&folder.join("gtsrb-tracks"))?;
        let mut random = Seed(0).random("bench-segment-noise", 0);
        let noise = (0..NOISE + FeatureMap::DIMENSIONS).map(|_| random.normal() as f32).collect();
        let gtsrb = Features::of(&map, &gtsrb)?;
        let deviations = deviations(&cifar);
        Ok(Self { images, by_class, tracks, cifar, domains, gtsrb, deviations, noise })
    }

    /// The features of a frame.
    pub fn features(&self, frame: Frame) -> Cow<'_, [f32]> {
        let row = match frame.set {
            Set::Cifar => self.cifar.row(frame.index),
            Set::Domain(domain) => self.domains[usize::from(domain)].row(frame.index),
            Set::Gtsrb => self.gtsrb.row(frame.index),
        };
        let Some(start) = frame.jitter else { return Cow::Borrowed(row) };
        let noise = &self.noise[usize::from(start)..];
        let noisy = row.iter().zip(&self.deviations).zip(noise).map(|((x, sd), noise)| x + JITTER * sd * noise);
        Cow::Owned(noisy.collect())
    }
}

/// Images, interleaved, and labels: training first.
fn read_cifar(folder: &Path) -> anyhow::Result<(Vec<Vec<u8>>, Vec<usize>)> {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    let names = (1..=5).map(|i| format!("data_batch_{i}.bin")).chain(["test_batch.bin".into()]);
    for name in names {
        let path = folder.join(name);
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        ensure!(bytes.len().is_multiple_of(PIXELS + 1), "{} is not of CIFAR-10's binary form", path.display());
        for record in bytes.chunks_exact(PIXELS + 1) {
            labels.push(usize::from(record[0]));
            images.push(interleave(&record[1..]));
        }
    }
    ensure!(images.len() > TEST, "too few images in {}", folder.display());
    Ok((images, labels))
}

/// Three planes to interleaved channels.
fn interleave(planes: &[u8]) -> Vec<u8> {
    let plane = SIDE * SIDE;
    (0..plane).flat_map(|i| [planes[i], planes[plane + i], planes[2 * plane + i]]).collect()
}

/// Tracks and their images, as the daemon would scale them; none where there is no such folder.
fn read_tracks(folder: &Path) -> anyhow::Result<(Vec<Track>, Vec<Vec<u8>>)> {
    let (mut tracks, mut images) = (Vec::<(String, Track)>::new(), Vec::new());
    if !folder.is_dir() {
        return Ok((Vec::new(), images));
    }
    let path = folder.join("manifest.tsv");
    let manifest = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let decoder = Decoder::new(&DecodeSettings::default());
    for line in manifest.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [file, phase, class, track, ..] = fields[..] else { continue };
        let bytes = fs::read(folder.join(file)).with_context(|| format!("read {file}"))?;
        let image = decoder.decode(&bytes).with_context(|| format!("decode {file}"))?;
        let key = format!("{phase}/{class}/{track}");
        if tracks.last().is_none_or(|(last, _)| *last != key) {
            let phase = ["bright", "mid", "dark"].iter().position(|name| *name == phase);
            let phase = phase.with_context(|| format!("{}: no phase of that name in {line}", path.display()))?;
            let class = class.parse().with_context(|| format!("{}: {line}", path.display()))?;
            tracks.push((key, Track { phase, class, frames: Vec::new() }));
        }
        if let Some((_, track)) = tracks.last_mut() {
            track.frames.push(u32::try_from(images.len())?);
        }
        images.push(to_square(&image, SIDE as u32, Fit::Crop).into_pixels());
    }
    Ok((tracks.into_iter().map(|(_, track)| track).collect(), images))
}

/// Standard deviation of every feature over the set.
fn deviations(features: &Features) -> Vec<f32> {
    let rows = features.0.chunks_exact(FeatureMap::DIMENSIONS);
    let n = rows.len() as f64;
    let (mut sums, mut squares) = (vec![0f64; FeatureMap::DIMENSIONS], vec![0f64; FeatureMap::DIMENSIONS]);
    for row in rows {
        for ((sum, square), &x) in sums.iter_mut().zip(&mut squares).zip(row) {
            *sum += f64::from(x);
            *square += f64::from(x) * f64::from(x);
        }
    }
    sums.iter().zip(&squares).map(|(sum, square)| (square / n - (sum / n).powi(2)).max(0.0).sqrt() as f32).collect()
}
