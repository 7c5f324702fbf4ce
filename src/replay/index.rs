//! What readers see: the committed images, found by slot, by frame, or by a uniform draw.

use std::collections::HashMap;

use crate::stream::FrameId;

use super::layout::{Counters, SlotMeta};

/// One committed image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub physical: u32,
    pub payload_crc: u32,
    pub meta: SlotMeta,
}

/// The index of the committed images, rebuilt from the slot headers at every start.
#[derive(Debug)]
pub(super) struct Index {
    entries: Vec<Option<Entry>>,
    /// Logical slots in use, ascending: a draw depends on what is stored and not on how it came there.
    live: Vec<u32>,
    by_frame: HashMap<FrameId, u32>,
    /// Counts changes, in this process only.
    pub version: u64,
    pub counters: Counters,
}

impl Index {
    pub fn new(slots: usize) -> Self {
        Self {
            entries: vec![None; slots],
            live: Vec::new(),
            by_frame: HashMap::new(),
            version: 0,
            counters: Counters::default(),
        }
    }

    pub fn slots(&self) -> usize {
        self.entries.len()
    }

    pub fn live(&self) -> &[u32] {
        &self.live
    }

    pub fn entry(&self, logical: u32) -> Option<&Entry> {
        self.entries.get(logical as usize)?.as_ref()
    }

    /// O(1).
    pub fn find(&self, id: FrameId) -> Option<(u32, &Entry)> {
        self.at(*self.by_frame.get(&id)?)
    }

    /// A slot with its entry.
    pub fn at(&self, logical: u32) -> Option<(u32, &Entry)> {
        Some((logical, self.entry(logical)?))
    }

    pub fn live_entries(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.live.iter().filter_map(|&logical| self.at(logical))
    }

    /// Puts an entry into a slot and returns the one it replaces. O(1) in a full store and where slots fill in order.
    pub fn insert(&mut self, logical: u32, entry: Entry) -> Option<Entry> {
        let old = self.take(logical);
        self.entries[logical as usize] = Some(entry);
        self.by_frame.insert(entry.meta.id, logical);
        if old.is_none()
            && let Err(at) = self.live.binary_search(&logical)
        {
            self.live.insert(at, logical);
        }
        self.version += 1;
        old
    }

    /// Empties a slot. O(live).
    pub fn remove(&mut self, logical: u32) -> Option<Entry> {
        let old = self.take(logical)?;
        if let Ok(at) = self.live.binary_search(&logical) {
            self.live.remove(at);
        }
        self.version += 1;
        Some(old)
    }

    fn take(&mut self, logical: u32) -> Option<Entry> {
        let old = self.entries.get_mut(logical as usize)?.take()?;
        // A frame stored twice is found in the slot it was last put.
        if self.by_frame.get(&old.meta.id) == Some(&logical) {
            self.by_frame.remove(&old.meta.id);
        }
        Some(old)
    }
}
