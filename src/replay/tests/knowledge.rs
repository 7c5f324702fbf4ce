//! What is known of a store from outside, which is what it is held against after a power cut.

use std::collections::{BTreeMap, BTreeSet};

use crate::replay::store::FrameStore;

use super::simulator::{Simulated, UNIT, meta, pixels};

/// Bytes of a slot before its pixels.
const HEADER: usize = 128;

/// What a slot may hold after a power cut.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    acknowledged: Option<u64>,
    /// What was written, or removed, since.
    since: Vec<Option<u64>>,
    /// What the last commit replaced: its header is wiped, and that need not be on the disk before the next commit.
    replaced: Vec<u64>,
}

/// What is known from outside at one moment of a workload.
#[derive(Debug, Clone, Default)]
pub struct Knowledge {
    slots: BTreeMap<usize, Allowed>,
    /// Frames of which nothing may be left in the file.
    erased: BTreeSet<u64>,
    newest_acknowledged: u64,
    /// Found by a recovery, which writes nothing that would keep the number should that copy rot before the next commit.
    newest_found: u64,
    pub newest_written: u64,
    /// A write has failed: replaced copies may stay in the file for longer than one commit.
    pub failed: bool,
}

impl Knowledge {
    pub fn wrote(&mut self, slot: usize, frame: Option<u64>) {
        self.slots.entry(slot).or_default().since.push(frame);
        self.newest_written = self.newest_written.max(frame.unwrap_or(0));
    }

    pub fn acknowledged(&mut self) {
        for allowed in self.slots.values_mut() {
            let Some(&last) = allowed.since.last() else {
                allowed.replaced.clear();
                continue;
            };
            let before = allowed.acknowledged.into_iter().chain(allowed.since.iter().copied().flatten());
            allowed.replaced = before.filter(|frame| Some(*frame) != last).collect();
            allowed.acknowledged = last;
            allowed.since.clear();
        }
        self.newest_acknowledged = self.newest_written;
    }

    pub fn erased(&mut self, frame: u64) {
        self.erased.insert(frame);
    }

    /// The frame that a slot is acknowledged to hold.
    pub fn holds(&self, slot: usize) -> Option<u64> {
        self.slots.get(&slot)?.acknowledged
    }

    /// After a recovery what is found counts as much as what was acknowledged: it has been seen.
    pub fn recovered(&mut self, store: &FrameStore<Simulated>) {
        for slot in 0..store.geometry().slots() {
            let allowed = self.slots.entry(slot).or_default();
            let found = store.frame(slot).map(|id| id.0);
            // The recovery has wiped the other copies, but that need not be on the disk yet.
            let others = allowed.acknowledged.into_iter().chain(allowed.since.drain(..).flatten());
            allowed.replaced.extend(others);
            allowed.replaced.retain(|frame| Some(*frame) != found);
            allowed.acknowledged = found;
        }
        // Numbers of writes that were not finished are not kept: nobody was told them.
        let stored = store.reader().statistics().newest;
        self.newest_found = self.newest_found.max(stored.map_or(0, |id| id.0));
        self.newest_written = self.newest_written.max(store.counters().last_frame);
    }

    /// Holds an opened store against what is known. `rotten`: one stored copy was damaged, so that its slot may be empty.
    ///
    /// # Errors
    /// The first thing that is not as it has to be.
    pub fn check(&self, store: &FrameStore<Simulated>, rotten: bool) -> Result<(), String> {
        let reader = store.reader();
        let length = store.geometry().shape.bytes();
        let mut missing = 0;
        for slot in 0..store.geometry().slots() {
            let nothing = Allowed::default();
            let allowed = self.slots.get(&slot).unwrap_or(&nothing);
            let stored = store.frame(slot).and_then(|id| reader.get(id));
            if stored.as_ref().is_some_and(|s| s.pixels != pixels(s.meta.id.0, length) || s.meta != meta(s.meta.id.0)) {
                return Err(format!("slot {slot} serves a torn image"));
            }
            let found = stored.map(|stored| stored.meta.id.0);
            if found == allowed.acknowledged || allowed.since.contains(&found) {
                continue;
            }
            let older = found.is_none_or(|frame| allowed.replaced.contains(&frame));
            if !(rotten && older) {
                return Err(format!("slot {slot} holds {found:?} and not {allowed:?}"));
            }
            missing += 1;
        }
        let newest = if rotten { self.newest_acknowledged } else { self.newest_acknowledged.max(self.newest_found) };
        match store.counters().last_frame {
            last if last < newest => Err(format!("frame numbers fall back to {last}")),
            _ if missing > 1 => Err(format!("one damaged copy costs {missing} images")),
            _ => Ok(()),
        }
    }

    /// Whether any sector of `image` still has pixels of a frame that was erased for good.
    ///
    /// # Errors
    /// Which.
    pub fn check_erased(&self, image: &[u8], store: &FrameStore<Simulated>) -> Result<(), String> {
        let length = store.geometry().shape.bytes();
        for &frame in &self.erased {
            let erased = pixels(frame, length);
            for slot in 0..store.geometry().physical_slots() as u32 {
                let start = store.geometry().slot_offset(slot) as usize + HEADER;
                let first = UNIT - HEADER;
                for at in std::iter::once(0).chain((first..length).step_by(UNIT)) {
                    // Sixteen bytes are enough to tell pixels from anything else.
                    if image[start + at..][..16] == erased[at..at + 16] {
                        return Err(format!("pixels of the erased frame {frame} are still in the file"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Holds what readers are given while a group is open against what is committed.
    ///
    /// # Errors
    /// What they should not see.
    pub fn check_reader(&self, store: &FrameStore<Simulated>) -> Result<(), String> {
        let reader = store.reader();
        let frames: BTreeMap<usize, u64> = reader.snapshot().frames.into_iter().map(|(s, id)| (s, id.0)).collect();
        for (slot, allowed) in &self.slots {
            if frames.get(slot).copied() != allowed.acknowledged {
                return Err(format!("a reader sees {:?} in slot {slot} and not {allowed:?}", frames.get(slot)));
            }
        }
        let length = store.geometry().shape.bytes();
        match frames.values().find(|id| {
            reader.get(crate::stream::FrameId(**id)).is_none_or(|stored| stored.pixels != pixels(**id, length))
        }) {
            Some(id) => Err(format!("a reader is not given frame {id} as it was stored")),
            None => Ok(()),
        }
    }
}
