//! The policy as bytes, little-endian: what it knows, so that a restart goes on where it was.
//!
//! ```text
//!  0  magic "LUMPMIN1"        8
//!  8  kind of the features    u8    1 frozen, 2 published
//!  9  zero                    3
//! 12  width                   u32
//! 16  slots                   u64
//! 24  version                 u64
//! 32  entries                 u64
//! 40  entries, each: slot u32, frame u64, version of its features u64 (0: none),
//!     two neighbours of (slot u32, similarity i32; 2^32 - 1 for none), row width x i16
//! -4  CRC-32 of all before    u32
//! ```

use crate::config::Seed;
use crate::replay::policies::{FeatureKind, FeatureSpace, Reservoir};
use crate::stream::FrameId;

use super::MinRed;
use super::links::{Link, Links, Pair};
use super::rows::Rows;

const MAGIC: &[u8; 8] = b"LUMPMIN1";
const HEAD: usize = 40;
const NO_SLOT: u32 = u32::MAX;
/// Widest features: far above any encoder's.
const WIDEST: usize = 1 << 16;

pub(super) fn encode(policy: &MinRed) -> Vec<u8> {
    let space = policy.space.unwrap_or(FeatureSpace { kind: FeatureKind::Frozen, width: 0, version: 0 });
    let held = || policy.frames.iter().enumerate().filter_map(|(slot, frame)| Some((slot as u32, (*frame)?)));
    let mut out = Vec::with_capacity(HEAD + held().count() * (36 + 2 * space.width) + 4);
    out.extend(MAGIC);
    out.extend([space.kind.number(), 0, 0, 0]);
    out.extend((space.width as u32).to_le_bytes());
    for number in [policy.frames.len() as u64, space.version, held().count() as u64] {
        out.extend(number.to_le_bytes());
    }
    for (slot, frame) in held() {
        out.extend(slot.to_le_bytes());
        out.extend(frame.0.to_le_bytes());
        out.extend(policy.versions[slot as usize].to_le_bytes());
        let (first, second) = policy.links.of(slot);
        for link in [first, second] {
            let link = link.unwrap_or(Link { slot: NO_SLOT, similarity: 0 });
            out.extend(link.slot.to_le_bytes());
            out.extend(link.similarity.to_le_bytes());
        }
        out.extend(policy.rows.row(slot).iter().flat_map(|value| value.to_le_bytes()));
    }
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out
}

/// None where the bytes are damaged or of another number of slots: the features are then computed anew.
pub(super) fn decode(bytes: &[u8], slots: usize, fallback: Reservoir) -> Option<MinRed> {
    let (bytes, crc) = bytes.split_last_chunk::<4>()?;
    let mut fields = Fields(bytes);
    let whole = crc32fast::hash(bytes) == u32::from_le_bytes(*crc) && fields.take::<8>()? == *MAGIC;
    let [kind, ..] = fields.take::<4>()?;
    let kind = FeatureKind::from_number(kind)?;
    let width = fields.u32()? as usize;
    let (held, version, entries) = (fields.u64()?, fields.u64()?, fields.u64()?);
    // Lengths are checked before anything is allocated by them.
    let expected = (36 + 2 * width as u64).checked_mul(entries)?;
    if !whole || held != slots as u64 || entries > held || width > WIDEST || expected != fields.0.len() as u64 {
        return None;
    }
    let mut policy = MinRed { fallback, ..MinRed::new(Seed(0)) };
    policy.size(slots);
    policy.space = (width > 0).then_some(FeatureSpace { kind, width, version });
    (policy.rows, policy.links) = (Rows::new(slots, width), Links::new(slots));
    let mut row = vec![0; width];
    for _ in 0..entries {
        let (slot, frame, version) = (fields.u32()?, FrameId(fields.u64()?), fields.u64()?);
        let links = (fields.link(slots)?, fields.link(slots)?);
        for value in &mut row {
            *value = i16::from_le_bytes(fields.take()?);
        }
        policy.put(slot, frame, version, links, &row)?;
    }
    policy.links_are_of_rows().then_some(policy)
}

impl MinRed {
    fn put(&mut self, slot: u32, frame: FrameId, version: u64, links: Pair, row: &[i16]) -> Option<()> {
        if self.frames.get(slot as usize)?.is_some() || self.slots.insert(frame, slot).is_some() {
            return None;
        }
        self.frames[slot as usize] = Some(frame);
        self.vacant.remove(&slot);
        if version == 0 || row.is_empty() {
            self.missing.insert(slot);
            return Some(());
        }
        self.versions[slot as usize] = version;
        self.rows.set(slot, row);
        self.links.restore(slot, links);
        Some(())
    }

    fn links_are_of_rows(&self) -> bool {
        (0..self.frames.len() as u32).all(|slot| {
            let (first, second) = self.links.of(slot);
            [first, second].iter().flatten().all(|link| self.rows.has(link.slot) && link.slot != slot)
        })
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// A neighbour, none, or (as no value at all) a slot that does not exist.
    fn link(&mut self, slots: usize) -> Option<Option<Link>> {
        let (slot, similarity) = (self.u32()?, i32::from_le_bytes(self.take()?));
        match slot {
            NO_SLOT => Some(None),
            slot if (slot as usize) < slots => Some(Some(Link { slot, similarity })),
            _ => None,
        }
    }
}
