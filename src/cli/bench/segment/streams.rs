//! Streams with known changes.

use super::pool::{CLASSES, Frame, Pool, Set, TEST};
use crate::config::{Random, Seed};
use crate::experiment::dataset::domains::DOMAINS;

/// Frames of a change-free run.
const RUN: usize = 8_000;
/// Frames over which one domain passes into the next.
pub const RAMP: usize = 512;

/// Frames with the places of the changes, and what each segment is.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    pub frames: Vec<Frame>,
    pub changes: Vec<u64>,
    pub kinds: Vec<usize>,
}

/// `count` images of some classes, in equal shares, in random order; none twice as long as there are enough.
pub fn classes(pool: &Pool, random: &mut Random, classes: &[usize], count: usize) -> Vec<Frame> {
    let each = count.div_ceil(classes.len());
    let mut chosen: Vec<u32> = Vec::with_capacity(each * classes.len());
    for &class in classes {
        let images = &pool.by_class[class];
        chosen.extend(random.choose(images.len(), each.min(images.len())).into_iter().map(|i| images[i]));
    }
    random.shuffle(&mut chosen);
    chosen.truncate(count);
    chosen.into_iter().map(|index| Frame { set: Set::Cifar, index, jitter: None }).collect()
}

fn domain(random: &mut Random, domain: usize, count: usize) -> Vec<Frame> {
    let chosen = random.choose(TEST, count).into_iter();
    chosen.map(|index| in_domain(domain, index)).collect()
}

fn in_domain(domain: usize, index: usize) -> Frame {
    Frame { set: Set::Domain(domain as u8), index: index as u32, jitter: None }
}

fn length(random: &mut Random, shortest: usize) -> usize {
    shortest + random.below(2 * shortest as u64) as usize
}

fn permutation(random: &mut Random, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    random.shuffle(&mut order);
    order
}

fn join(segments: Vec<(usize, Vec<Frame>)>) -> Stream {
    let mut stream = Stream::default();
    for (kind, frames) in segments {
        if !stream.frames.is_empty() {
            stream.changes.push(stream.frames.len() as u64);
        }
        stream.frames.extend(frames);
        stream.kinds.push(kind);
    }
    stream
}

/// Ten pairs of classes, every class once in the first five segments and once in the others; segments of `shortest` images
/// to three times as many.
pub fn pairs(pool: &Pool, random: &mut Random, shortest: usize) -> Stream {
    let order = [permutation(random, CLASSES), permutation(random, CLASSES)].concat();
    let segment = |i: usize, random: &mut Random| {
        let (a, b) = (order[2 * i], order[2 * i + 1]);
        let count = length(random, shortest);
        (a.min(b) * CLASSES + a.max(b), classes(pool, random, &[a, b], count))
    };
    join((0..CLASSES).map(|i| segment(i, random)).collect())
}

/// Five classes, then the other five, then five others.
pub fn halves(pool: &Pool, random: &mut Random) -> Stream {
    let mut order = Vec::new();
    let mut segments = Vec::new();
    for i in 0..10 {
        if i % 2 == 0 {
            order = permutation(random, CLASSES);
        }
        let half = if i % 2 == 0 { &order[..5] } else { &order[5..] };
        let count = length(random, 1000);
        segments.push((i, classes(pool, random, half, count)));
    }
    join(segments)
}

/// Every domain once.
pub fn domains(random: &mut Random) -> Stream {
    let order = permutation(random, DOMAINS.len());
    let segment = |which: usize, random: &mut Random| {
        let count = length(random, 1000);
        (which, domain(random, which, count))
    };
    join(order.into_iter().map(|which| segment(which, random)).collect())
}

/// Domains, each passing into the next over 512 frames centred on the change.
pub fn gradual(random: &mut Random) -> Stream {
    let mut stream = domains(random);
    for (i, &change) in stream.changes.iter().enumerate() {
        for step in 0..RAMP {
            let new = random.uniform() < (step as f64 + 0.5) / RAMP as f64;
            let image = random.below(TEST as u64) as usize;
            stream.frames[change as usize - RAMP / 2 + step] = in_domain(stream.kinds[i + usize::from(new)], image);
        }
    }
    stream
}

/// Three domains, or three pairs of classes, that come back.
pub fn recurring(pool: &Pool, random: &mut Random, of_domains: bool) -> Stream {
    let order = permutation(random, 10);
    let segment = |which: usize, random: &mut Random| {
        let count = length(random, 1000);
        let frames = if of_domains {
            domain(random, order[which], count)
        } else {
            classes(pool, random, &order[2 * which..2 * which + 2], count)
        };
        (which, frames)
    };
    join([0, 1, 0, 2, 1, 0, 2, 0, 1, 2].into_iter().map(|which| segment(which, random)).collect())
}

/// Every frame `times` times, each time with noise of its own.
pub fn repeat(random: &mut Random, stream: Stream, times: usize) -> Stream {
    let noisy = |frame: Frame, random: &mut Random| Frame { jitter: Some(random.next_u64() as u16), ..frame };
    let frames = stream.frames.iter().flat_map(|&frame| std::iter::repeat_n(frame, times)).collect::<Vec<_>>();
    Stream {
        frames: frames.into_iter().map(|frame| noisy(frame, random)).collect(),
        changes: stream.changes.into_iter().map(|change| change * times as u64).collect(),
        kinds: stream.kinds,
    }
}

/// The tracks a trainer would be fed (every fourth of a sign and phase is for its test), in the order of the manifest.
pub fn tracks_in_order(pool: &Pool) -> Stream {
    let mut seen = std::collections::BTreeMap::<(usize, usize), usize>::new();
    let kept = (0..pool.tracks.len()).filter(|&track| {
        let count = seen.entry((pool.tracks[track].phase, pool.tracks[track].class)).or_default();
        *count += 1;
        !count.is_multiple_of(4)
    });
    let kept: Vec<usize> = kept.collect();
    let blocks = (0..3).map(|phase| kept.iter().copied().filter(|&track| pool.tracks[track].phase == phase).collect());
    of_tracks(pool, blocks.collect())
}

/// All tracks, shuffled: bright, mid and dark in `parts` blocks each, no two neighbours of one phase.
pub fn tracks_shuffled(pool: &Pool, random: &mut Random, parts: usize) -> Stream {
    let mut blocks: Vec<Vec<usize>> = Vec::new();
    for phase in 0..3 {
        let mut tracks: Vec<usize> =
            (0..pool.tracks.len()).filter(|&track| pool.tracks[track].phase == phase).collect();
        random.shuffle(&mut tracks);
        blocks.extend(tracks.chunks(tracks.len().div_ceil(parts).max(1)).map(<[usize]>::to_vec));
    }
    let phase = |block: &Vec<usize>| block.first().map(|&track| pool.tracks[track].phase);
    while blocks.len() > 2 {
        random.shuffle(&mut blocks);
        if blocks.windows(2).all(|pair| phase(&pair[0]) != phase(&pair[1])) {
            break;
        }
    }
    of_tracks(pool, blocks)
}

/// The tracks of one phase over and over, each time in another order.
pub fn one_phase(pool: &Pool, random: &mut Random, phase: usize, rounds: usize) -> Stream {
    let mut tracks: Vec<usize> = (0..pool.tracks.len()).filter(|&track| pool.tracks[track].phase == phase).collect();
    let mut order = Vec::new();
    for _ in 0..rounds {
        random.shuffle(&mut tracks);
        order.extend_from_slice(&tracks);
    }
    of_tracks(pool, vec![order])
}

fn of_tracks(pool: &Pool, blocks: Vec<Vec<usize>>) -> Stream {
    let frames = |block: &[usize]| -> Vec<Frame> {
        let indices = block.iter().flat_map(|&track| pool.tracks[track].frames.iter().copied());
        indices.map(|index| Frame { set: Set::Gtsrb, index, jitter: None }).collect()
    };
    let kind = |block: &[usize]| block.first().map_or(0, |&track| pool.tracks[track].phase);
    join(blocks.iter().map(|block| (kind(block), frames(block))).collect())
}

/// Change-free runs for calibration: all classes, pairs of classes, single domains.
pub fn changeless(pool: &Pool, run: u64) -> Vec<Frame> {
    let mut random = Seed(0xca11).random("changeless", run);
    match run % 3 {
        0 => classes(pool, &mut random, &(0..CLASSES).collect::<Vec<_>>(), RUN),
        1 => {
            let order = permutation(&mut random, CLASSES);
            classes(pool, &mut random, &order[..2], RUN)
        }
        _ => {
            let which = random.below(DOMAINS.len() as u64) as usize;
            domain(&mut random, which, RUN)
        }
    }
}
