//! Streams of CIFAR-10 with known changes, made as features at once: the images are transformed, then put through the map.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lumpd::config::{Random, Seed};
use lumpd::segment::FeatureMap;
use rayon::prelude::*;

pub const SIDE: usize = 32;
pub const PIXELS: usize = SIDE * SIDE * 3;
/// Images of the test set, which the domains are made of.
const TEST: usize = 10_000;

/// Frames of a change-free run.
const RUN: usize = 8_000;

pub const DOMAINS: [&str; 10] =
    ["clean", "invert", "rot90", "blur", "dark", "bright", "contrast", "gray", "noise", "warm"];

/// Features of every image, and of the test images in every domain.
pub struct Pool {
    pub images: Vec<Vec<u8>>,
    features: Vec<Vec<f32>>,
    by_class: Vec<Vec<usize>>,
    domains: Vec<Vec<Vec<f32>>>,
    /// Standard deviation of every feature over the data set.
    deviations: Vec<f32>,
}

/// Frames with the places of the changes, and what each segment is.
pub struct Stream {
    pub frames: Vec<Vec<f32>>,
    pub changes: Vec<u64>,
    pub kinds: Vec<usize>,
}

impl Pool {
    /// From the folder of `data_batch_1.bin` to `test_batch.bin`, or the folder above it.
    pub fn read(folder: &Path) -> Result<Self> {
        let inner = folder.join("cifar-10-batches-bin");
        let folder = if inner.is_dir() { inner } else { folder.to_path_buf() };
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        let names = (1..=5).map(|i| format!("data_batch_{i}.bin")).chain(["test_batch.bin".into()]);
        for name in names {
            let path = folder.join(name);
            let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            ensure!(bytes.len() % (PIXELS + 1) == 0, "{} is not of CIFAR-10's binary form", path.display());
            for record in bytes.chunks_exact(PIXELS + 1) {
                labels.push(usize::from(record[0]));
                images.push(interleave(&record[1..]));
            }
        }
        ensure!(images.len() > TEST, "too few images in {}", folder.display());
        let map = FeatureMap::new();
        let extract = |images: &[Vec<u8>]| -> Result<Vec<Vec<f32>>> {
            Ok(images.par_iter().map(|image| map.extract(image, SIDE)).collect::<Result<_, _>>()?)
        };
        let features = extract(&images)?;
        let test = &images[images.len() - TEST..];
        let domain = |domain: usize| {
            let changed: Vec<Vec<u8>> =
                test.par_iter().enumerate().map(|(i, image)| transform(image, domain, i as u64)).collect();
            extract(&changed)
        };
        let domains = (0..DOMAINS.len()).map(domain).collect::<Result<_>>()?;
        let by_class = (0..10).map(|class| (0..labels.len()).filter(|&i| labels[i] == class).collect()).collect();
        let deviations = deviations(&features);
        Ok(Self { images, features, by_class, domains, deviations })
    }

    /// `count` images of some classes, in equal shares, in random order and none twice.
    pub fn classes(&self, random: &mut Random, classes: &[usize], count: usize) -> Vec<Vec<f32>> {
        let each = count.div_ceil(classes.len());
        let mut chosen: Vec<usize> = classes
            .iter()
            .flat_map(|&class| random.choose(self.by_class[class].len(), each).into_iter().map(move |i| (class, i)))
            .map(|(class, i)| self.by_class[class][i])
            .collect();
        random.shuffle(&mut chosen);
        chosen.truncate(count);
        chosen.into_iter().map(|i| self.features[i].clone()).collect()
    }

    pub fn domain(&self, random: &mut Random, domain: usize, count: usize) -> Vec<Vec<f32>> {
        random.choose(TEST, count).into_iter().map(|i| self.domains[domain][i].clone()).collect()
    }

    /// Pairs of classes, every class once in the first five segments and once in the others.
    pub fn pairs(&self, random: &mut Random, shortest: usize) -> Stream {
        let order = [permutation(random, 10), permutation(random, 10)].concat();
        let kinds = (0..10).map(|i| order[2 * i].min(order[2 * i + 1]) * 10 + order[2 * i].max(order[2 * i + 1]));
        join(kinds.map(|kind| (kind, self.classes_of_length(random, &[kind / 10, kind % 10], shortest))).collect())
    }

    fn classes_of_length(&self, random: &mut Random, classes: &[usize], shortest: usize) -> Vec<Vec<f32>> {
        let count = length(random, shortest);
        self.classes(random, classes, count)
    }

    /// Five classes, then the other five, then five others.
    pub fn halves(&self, random: &mut Random) -> Stream {
        let mut order = Vec::new();
        let mut segments = Vec::new();
        for i in 0..10 {
            if i % 2 == 0 {
                order = permutation(random, 10);
            }
            let classes = if i % 2 == 0 { &order[..5] } else { &order[5..] };
            segments.push((i, self.classes_of_length(random, classes, 1000)));
        }
        join(segments)
    }

    pub fn domains(&self, random: &mut Random) -> Stream {
        let order = permutation(random, DOMAINS.len());
        join(order.into_iter().map(|domain| (domain, self.domain_of_length(random, domain))).collect())
    }

    fn domain_of_length(&self, random: &mut Random, domain: usize) -> Vec<Vec<f32>> {
        let count = length(random, 1000);
        self.domain(random, domain, count)
    }

    /// Domains, each passing into the next over 512 frames centred on the change.
    pub fn gradual(&self, random: &mut Random) -> Stream {
        let mut stream = self.domains(random);
        let kinds = stream.kinds.clone();
        for (i, &change) in stream.changes.iter().enumerate() {
            for step in 0..512 {
                let new = random.uniform() < (step as f64 + 0.5) / 512.0;
                let domain = kinds[i + usize::from(new)];
                let image = random.below(TEST as u64) as usize;
                stream.frames[change as usize - 256 + step] = self.domains[domain][image].clone();
            }
        }
        stream
    }

    /// Three domains, or three pairs of classes, that come back.
    pub fn recurring(&self, random: &mut Random, domains: bool) -> Stream {
        let order = permutation(random, 10);
        let segments = [0, 1, 0, 2, 1, 0, 2, 0, 1, 2].into_iter().map(|which| {
            let frames = if domains {
                self.domain_of_length(random, order[which])
            } else {
                self.classes_of_length(random, &order[2 * which..2 * which + 2], 1000)
            };
            (which, frames)
        });
        join(segments.collect())
    }

    /// Every frame `times` times, each time with noise of 15 % of the features' deviation. `exact` keeps the number of
    /// distinct frames; otherwise the stream keeps its length and has fewer of them.
    pub fn repeat(&self, random: &mut Random, stream: Stream, times: usize, exact: bool) -> Stream {
        let kept = if exact { 1 } else { times };
        let starts: Vec<u64> = std::iter::once(0).chain(stream.changes.iter().copied()).collect();
        let ends: Vec<u64> = stream.changes.iter().copied().chain([stream.frames.len() as u64]).collect();
        let segments = starts.iter().zip(&ends).zip(&stream.kinds).map(|((&start, &end), &kind)| {
            let originals = stream.frames[start as usize..end as usize].iter().step_by(kept);
            let frames = originals.flat_map(|frame| (0..times).map(|_| self.jitter(random, frame)).collect::<Vec<_>>());
            (kind, frames.collect())
        });
        join(segments.collect())
    }

    fn jitter(&self, random: &mut Random, frame: &[f32]) -> Vec<f32> {
        frame.iter().zip(&self.deviations).map(|(x, sd)| x + 0.15 * sd * random.normal() as f32).collect()
    }

    /// Change-free runs: all classes, pairs of classes, single domains.
    pub fn changeless(&self, run: u64) -> Vec<Vec<f32>> {
        let mut random = Seed(0xca11).random("changeless", run);
        match run % 3 {
            0 => self.classes(&mut random, &(0..10).collect::<Vec<_>>(), RUN),
            1 => {
                let order = permutation(&mut random, 10);
                self.classes(&mut random, &order[..2], RUN)
            }
            _ => {
                let domain = random.below(DOMAINS.len() as u64) as usize;
                self.domain(&mut random, domain, RUN)
            }
        }
    }
}

fn deviations(features: &[Vec<f32>]) -> Vec<f32> {
    let n = features.len() as f64;
    (0..FeatureMap::DIMENSIONS)
        .map(|i| {
            let mean = features.iter().map(|x| f64::from(x[i])).sum::<f64>() / n;
            (features.iter().map(|x| (f64::from(x[i]) - mean).powi(2)).sum::<f64>() / n).sqrt() as f32
        })
        .collect()
}

fn length(random: &mut Random, shortest: usize) -> usize {
    shortest + random.below(2 * shortest as u64) as usize
}

fn permutation(random: &mut Random, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    random.shuffle(&mut order);
    order
}

fn join(segments: Vec<(usize, Vec<Vec<f32>>)>) -> Stream {
    let mut stream = Stream { frames: Vec::new(), changes: Vec::new(), kinds: Vec::new() };
    for (kind, frames) in segments {
        if !stream.frames.is_empty() {
            stream.changes.push(stream.frames.len() as u64);
        }
        stream.frames.extend(frames);
        stream.kinds.push(kind);
    }
    stream
}

/// Three planes to interleaved channels.
fn interleave(planes: &[u8]) -> Vec<u8> {
    let plane = SIDE * SIDE;
    (0..plane).flat_map(|i| [planes[i], planes[plane + i], planes[2 * plane + i]]).collect()
}

fn transform(image: &[u8], domain: usize, number: u64) -> Vec<u8> {
    let map = |f: &mut dyn FnMut(usize, f64) -> f64| -> Vec<u8> {
        image.iter().enumerate().map(|(i, &x)| f(i, f64::from(x)).clamp(0.0, 255.0) as u8).collect()
    };
    match DOMAINS[domain] {
        "invert" => map(&mut |_, x| 255.0 - x),
        "rot90" => (0..PIXELS).map(|i| image[((i / 3 % SIDE) * SIDE + SIDE - 1 - i / 3 / SIDE) * 3 + i % 3]).collect(),
        "blur" => blur(image, 0.8),
        "dark" => map(&mut |_, x| 0.7 * x),
        "bright" => map(&mut |_, x| 1.15 * x + 15.0),
        "contrast" => {
            let mean = |channel| image.iter().skip(channel).step_by(3).map(|&x| f64::from(x)).sum::<f64>() / 1024.0;
            let means = [mean(0), mean(1), mean(2)];
            map(&mut |i, x| 0.6 * (x - means[i % 3]) + means[i % 3])
        }
        "gray" => map(&mut |i, _| image[i / 3 * 3..i / 3 * 3 + 3].iter().map(|&x| f64::from(x)).sum::<f64>() / 3.0),
        "noise" => {
            let mut random = Seed(3).random("noise", number);
            map(&mut |_, x| x + 15.0 * random.normal())
        }
        "warm" => map(&mut |i, x| x * [1.12, 1.0, 0.85][i % 3]),
        _ => image.to_vec(),
    }
}

/// Gaussian blur, the border mirrored.
fn blur(image: &[u8], sigma: f64) -> Vec<u8> {
    let weights: Vec<f64> = (-3i32..=3).map(|d| (-f64::from(d * d) / (2.0 * sigma * sigma)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mirror = |at: i32| {
        (if at < 0 {
            -1 - at
        } else if at > 31 {
            63 - at
        } else {
            at
        }) as usize
    };
    let pass = |source: &[f64], along_rows: bool| -> Vec<f64> {
        let tap = |i: usize, d: i32| {
            let (row, column) = (i / 3 / SIDE, i / 3 % SIDE);
            let (row, column) =
                if along_rows { (row, mirror(column as i32 + d)) } else { (mirror(row as i32 + d), column) };
            source[(row * SIDE + column) * 3 + i % 3]
        };
        (0..PIXELS).map(|i| weights.iter().zip(-3..).map(|(w, d)| w * tap(i, d)).sum::<f64>() / sum).collect()
    };
    let wide: Vec<f64> = image.iter().map(|&x| f64::from(x)).collect();
    pass(&pass(&wide, true), false).iter().map(|&x| x.clamp(0.0, 255.0) as u8).collect()
}
