//! The replay buffer on a real disk: acknowledged frames, sampled batches, the start, and the policies.
//!
//! `cargo bench --bench replay [FOLDER]`; the files are made in FOLDER (the system's folder for temporary files where
//! not given) and removed. Sizes are those of 64 px images: 12,288 bytes, slots of 16 KiB.

use std::path::Path;
use std::time::{Duration, Instant};

use lumpd::config::{Durability, PolicyKind, ReplaySettings, Seed};
use lumpd::replay::policies::{self, FeatureKind, FeatureSpace, Offer};
use lumpd::replay::{Record, ReplayBuffer};
use lumpd::stream::{FrameId, SourceId};

const SIDE: usize = 64;
const RUN: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = tempfile::tempdir_in(named.map_or_else(std::env::temp_dir, Into::into))?;
    println!("files in {}", folder.path().display());
    commits(folder.path())?;
    large(folder.path())?;
    placing();
    comparing();
    Ok(())
}

fn settings(slots: usize, group: usize, durability: Durability) -> ReplaySettings {
    ReplaySettings { slots, commit_frames: group, durability, policy: PolicyKind::Fifo, ..Default::default() }
}

fn open(path: &Path, settings: &ReplaySettings) -> Result<ReplayBuffer, lumpd::replay::ReplayError> {
    Ok(ReplayBuffer::open_or_create(path, settings, SIDE, Seed(0))?.0)
}

fn offer(buffer: &mut ReplayBuffer, pixels: &[u8]) -> Result<(), lumpd::replay::ReplayError> {
    let id = buffer.next_id();
    let (source, content_hash) = (SourceId(1), [0; 16]);
    buffer.offer(&Record { id, source, source_sequence: id.0, wall_time_ns: 0, content_hash, pixels })?;
    Ok(())
}

/// Commits and frames a second, acknowledged after their sync, for groups of several sizes.
fn commits(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let pixels = vec![7; SIDE * SIDE * 3];
    for durability in [Durability::Sync, Durability::None] {
        for group in [1, 64, 256] {
            let path = folder.join("commits.buf");
            let mut buffer = open(&path, &settings(4_096, group, durability))?;
            let (start, mut times) = (Instant::now(), Vec::new());
            while start.elapsed() < RUN {
                let began = Instant::now();
                (0..group).try_for_each(|_| offer(&mut buffer, &pixels))?;
                buffer.commit()?;
                times.push(began.elapsed());
            }
            let seconds = start.elapsed().as_secs_f64();
            times.sort_unstable();
            println!(
                "commit {durability:?} group {group}: {:.0} commits/s, {:.0} frames/s, median {:?}, p99 {:?}",
                times.len() as f64 / seconds,
                (times.len() * group) as f64 / seconds,
                times[times.len() / 2],
                times[times.len() * 99 / 100],
            );
            drop(buffer);
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// 100,000 slots: the time to open them, and of a batch drawn from them.
fn large(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (path, settings) = (folder.join("large.buf"), settings(100_000, 1_024, Durability::Sync));
    let pixels = vec![7; SIDE * SIDE * 3];
    let began = Instant::now();
    let mut buffer = open(&path, &settings)?;
    println!("create 100,000 slots: {:?}", began.elapsed());
    let began = Instant::now();
    for _ in 0..100_000 {
        if buffer.room() == 0 {
            buffer.commit()?;
        }
        offer(&mut buffer, &pixels)?;
    }
    buffer.commit()?;
    println!("fill 100,000 slots, groups of 1,024: {:?}", began.elapsed());
    drop(buffer);
    for _ in 0..3 {
        let began = Instant::now();
        let buffer = open(&path, &settings)?;
        println!("open 100,000 slots: {:?}", began.elapsed());
        drop(buffer);
    }
    let reader = open(&path, &settings)?.reader();
    for count in [64, 256] {
        let mut times: Vec<Duration> = (0..200)
            .map(|batch| {
                let began = Instant::now();
                let batch = reader.sample(count, &mut Seed(1).random("batch", batch));
                assert_eq!(batch.ids.len(), count);
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("sample {count} of 100,000: median {:?}, p99 {:?}", times[100], times[198]);
    }
    Ok(())
}

/// Numbers of a feature: those of `resnet18-w16`.
const WIDTH: usize = 128;

/// Cost of a decision by features in a full buffer, storing included, and of renewing one feature: of a stream in which
/// every picture comes eight times in a row, and of one in which none comes twice.
fn comparing() {
    for repeats in [8, 1] {
        // Filling 100,000 slots takes a minute: once is enough.
        for slots in [256, 10_000, 100_000].into_iter().filter(|&slots| slots < 100_000 || repeats > 1) {
            let (_, mut policy) = policies::new(PolicyKind::MinRed, Seed(0));
            let feature = |n: u64| -> Vec<f32> {
                let mut kind = Seed(1).random("kind", n / repeats);
                let mut noise = Seed(2).random("noise", n);
                (0..WIDTH).map(|_| (kind.normal() + 0.1 * noise.normal()) as f32).collect()
            };
            if let Some(features) = policy.features() {
                features.adopt(slots, &[], None);
                features.enter_space(FeatureSpace { kind: FeatureKind::Published, width: WIDTH, version: 1 });
            }
            let mut next = 0;
            let mut offer = |feature: &[f32]| {
                next += 1;
                let offer = Offer::new(FrameId(next), next - 1, slots).with_feature(Some(feature));
                if let Some(slot) = policy.place(&offer)
                    && let Some(features) = policy.features()
                {
                    features.stored(slot, FrameId(next));
                    return 1;
                }
                0
            };
            // The first ones have few others to compare with: filling costs half of as many decisions.
            let began = Instant::now();
            (0..slots as u64).for_each(|n| _ = offer(&feature(n)));
            let filling = began.elapsed();
            let count = if slots > 50_000 { 500 } else { 2_000 };
            let (mut spent, mut placed) = (Duration::ZERO, 0);
            for n in 0..count {
                let feature = feature(slots as u64 + n);
                let began = Instant::now();
                placed += offer(&feature);
                spent += began.elapsed();
            }
            println!(
                "MinRed, {slots} slots of {WIDTH} numbers, each picture {repeats} times: {:?} a decision ({placed} of \
                 {count} placed), filled in {filling:?}",
                spent / count as u32
            );
        }
    }
}

/// Cost of a decision.
fn placing() {
    for kind in [PolicyKind::Reservoir, PolicyKind::Fifo] {
        for slots in [256, 10_000, 100_000] {
            let (_, mut policy) = policies::new(kind, Seed(0));
            let (began, count) = (Instant::now(), 200_000);
            let placed = (0..count)
                .filter(|&n| policy.place(&Offer::new(FrameId(n + 1), slots as u64 + n, slots)).is_some())
                .count();
            println!(
                "{kind:?}, {slots} slots: {:?} a decision ({placed} of {count} placed)",
                began.elapsed() / count as u32
            );
        }
    }
}
