//! Bytes like valid ones, but not quite.

use lumpd::config::Random;

/// Numbers at which parsers go wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x1_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    u64::MAX,
];

/// Longest input.
const LONGEST: usize = 1 << 20;

/// A sample, changed in one to a few places, its checksums repaired three times out of four.
pub fn mutated(samples: &[Vec<u8>], repair: fn(&mut Vec<u8>), random: &mut Random) -> Vec<u8> {
    let mut bytes = samples[random.below(samples.len() as u64) as usize].clone();
    for _ in 0..1 + random.below(4) {
        change(&mut bytes, samples, random);
    }
    bytes.truncate(LONGEST);
    if random.below(4) > 0 {
        repair(&mut bytes);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, samples: &[Vec<u8>], random: &mut Random) {
    if bytes.is_empty() {
        bytes.extend(&samples[random.below(samples.len() as u64) as usize]);
        return;
    }
    // Near the front as often as anywhere: that is where the headers are.
    let reach = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(160) };
    let at = random.below(reach as u64) as usize;
    match random.below(9) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next_u64() as u8,
        2 | 3 => {
            let edge = EDGES[random.below(EDGES.len() as u64) as usize];
            let width = 1 << random.below(4);
            let number = if random.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
            let number = if random.below(2) == 0 { &number[..width] } else { &number[8 - width..] };
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        4 => bytes.truncate(at),
        5 => {
            let end = (at + 1 + random.below(64) as usize).min(bytes.len());
            bytes.drain(at..end);
        }
        6 => {
            let part: Vec<u8> = (0..1 + random.below(32)).map(|_| random.next_u64() as u8).collect();
            bytes.splice(at..at, part);
        }
        7 => {
            let end = (at + 1 + random.below(256) as usize).min(bytes.len());
            let part = bytes[at..end].to_vec();
            let to = random.below(bytes.len() as u64) as usize;
            bytes.splice(to..to, part);
        }
        _ => {
            let other = &samples[random.below(samples.len() as u64) as usize];
            let from = random.below(other.len() as u64) as usize;
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
    }
}
