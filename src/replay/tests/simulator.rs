//! A disk that keeps a journal, so that what a power cut leaves can be made at will.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::config::Random;
use crate::replay::backing::Backing;
use crate::replay::file::Wanted;
use crate::replay::layout::{Purpose, SlotMeta};
use crate::stream::{FrameId, SourceId};

/// What a disk writes whole or not at all.
pub const UNIT: usize = 512;

#[derive(Debug, Clone)]
pub enum Operation {
    Write(usize, Vec<u8>),
    Sync,
}

#[derive(Debug, Default)]
pub struct Disk {
    /// What the running system sees.
    pub cache: Vec<u8>,
    pub journal: Vec<Operation>,
    /// The write that fails after some of its units, counted from now.
    pub fail_write: Option<usize>,
    pub fail_sync: Option<usize>,
}

/// A handle on a simulated disk; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Simulated(Arc<Mutex<Disk>>);

impl Simulated {
    pub fn new(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Disk { cache: image, ..Disk::default() })))
    }

    pub fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }
}

/// Counts down to a failure.
fn due(countdown: &mut Option<usize>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl Backing for Simulated {
    fn path(&self) -> &Path {
        Path::new("simulated")
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk().cache.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let disk = self.disk();
        let bytes = disk.cache.get(offset as usize..).and_then(|bytes| bytes.get(..into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        let (offset, fails) = (offset as usize, due(&mut disk.fail_write));
        let written = if fails { bytes.len() / 2 / UNIT * UNIT } else { bytes.len() };
        disk.cache[offset..offset + written].copy_from_slice(&bytes[..written]);
        disk.journal.push(Operation::Write(offset, bytes[..written].to_vec()));
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk();
        if due(&mut disk.fail_sync) {
            return Err(io::Error::other("the disk is broken"));
        }
        disk.journal.push(Operation::Sync);
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk().cache.resize(length as usize, 0);
        Ok(())
    }
}

/// A disk as a power cut may leave it: `durable`, then an arbitrary choice of the units of `unsynced` writes, and
/// sometimes one of these units as garbage.
pub fn power_cut(durable: &[u8], unsynced: &[(usize, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut image = durable.to_vec();
    // Every subset can come up, the two ends more often.
    let chance = match random.below(8) {
        0 => 0.0,
        1 => 1.0,
        2 => 0.1,
        3 => 0.9,
        _ => 0.5,
    };
    let mut touched = Vec::new();
    for (offset, bytes) in unsynced {
        for (at, unit) in units(*offset, bytes) {
            touched.push((at, unit.len()));
            if random.uniform() < chance {
                image[at..at + unit.len()].copy_from_slice(unit);
            }
        }
    }
    if !touched.is_empty() && random.below(4) == 0 {
        let (at, length) = touched[random.below(touched.len() as u64) as usize];
        image[at..at + length].iter_mut().for_each(|byte| *byte = random.next_u64() as u8);
    }
    image
}

/// Splits a write where the disk may.
fn units(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = offset;
    std::iter::from_fn(move || {
        let end = (at / UNIT + 1) * UNIT;
        let unit = bytes.get(at - offset..)?;
        let unit = &unit[..unit.len().min(end - at)];
        let start = std::mem::replace(&mut at, end);
        (!unit.is_empty()).then_some((start, unit))
    })
}

/// A store of a few images of four units each.
pub fn wanted() -> Wanted {
    Wanted { purpose: Purpose::Probes, policy: 0, slots: 5, spares: 3, side: 24, channels: 3 }
}

/// The pixels of frame `id`, unlike those of any other.
pub fn pixels(id: u64, length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|at| ((id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (at % 7 * 8)) as u8) ^ (at / 7) as u8)
        .collect()
}

pub fn meta(id: u64) -> SlotMeta {
    SlotMeta {
        id: FrameId(id),
        source: SourceId(id as u32 % 3),
        source_sequence: id * 2,
        wall_time_ns: -(id as i64),
        content_hash: [id as u8; 16],
        tag: id as u32 + 1,
    }
}
