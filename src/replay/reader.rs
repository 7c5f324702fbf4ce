//! Reading while another thread writes: copies of committed images, each checked against its checksum.

use std::sync::Arc;

use serde::Serialize;

use crate::config::Random;
use crate::stream::FrameId;

use super::backing::{Backing, FileBacking};
use super::index::Entry;
use super::layout::{Geometry, HEADER, SlotMeta, payload_crc};
use super::shared::Shared;

/// A stored image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub slot: usize,
    pub meta: SlotMeta,
    /// Shape (side, side, channels).
    pub pixels: Vec<u8>,
}

/// Images packed for a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub ids: Vec<FrameId>,
    /// Shape (ids, side, side, channels).
    pub pixels: Vec<u8>,
}

/// What is stored at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with every change; compare only versions of one process.
    pub version: u64,
    /// Slot and frame, by ascending slot.
    pub frames: Vec<(usize, FrameId)>,
}

/// Numbers of a store. After a crash the counts of an unfinished commit may be missing from `accepted` and `evicted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BufferStatistics {
    pub slots: usize,
    pub used: usize,
    pub seen: u64,
    pub accepted: u64,
    pub evicted: u64,
    pub rejected: u64,
    pub forgotten: u64,
    /// Slots dropped because their checksum failed or they could not be read, since the file was made.
    pub damaged: u64,
    pub image_bytes: usize,
    pub file_bytes: u64,
    /// Lowest and highest frame number stored; none in an empty store.
    pub oldest: Option<FrameId>,
    pub newest: Option<FrameId>,
}

/// A cheap handle on a store for any thread. It sees committed images only, also after the writer has stopped.
#[derive(Debug)]
pub struct StoreReader<B: Backing = FileBacking> {
    shared: Arc<Shared<B>>,
}

impl<B: Backing> Clone for StoreReader<B> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<B: Backing> StoreReader<B> {
    pub(super) fn new(shared: Arc<Shared<B>>) -> Self {
        Self { shared }
    }

    pub fn geometry(&self) -> &Geometry {
        &self.shared.geometry
    }

    /// Images stored.
    pub fn len(&self) -> usize {
        self.shared.index().live().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `count` different images, uniformly at random; all of them, in random order, where there are no more. The same
    /// store and the same generator give the same batch. A commit waits for the copy of the batch.
    pub fn sample(&self, count: usize, random: &mut Random) -> Batch {
        loop {
            let index = self.shared.index();
            let chosen = random.choose(index.live().len(), count);
            let chosen = chosen.into_iter().filter_map(|at| index.at(index.live()[at]));
            let (batch, bad) = self.copy(chosen);
            drop(index);
            if bad.is_empty() {
                return batch;
            }
            // A whole new draw: to make up for the damaged ones only would be the same, and harder to see. Each round
            // drops at least one.
            self.drop_damaged(&bad);
        }
    }

    /// The image of a frame, in O(1). None where it is not stored, or no longer.
    pub fn get(&self, id: FrameId) -> Option<Stored> {
        let index = self.shared.index();
        let (slot, &entry) = index.find(id)?;
        let mut pixels = vec![0; self.geometry().shape.bytes()];
        let whole = self.read(&entry, &mut pixels);
        drop(index);
        if !whole {
            self.drop_damaged(&[(slot, entry)]);
            return None;
        }
        Some(Stored { slot: slot as usize, meta: entry.meta, pixels })
    }

    /// The slot of a frame, in O(1).
    pub fn slot(&self, id: FrameId) -> Option<usize> {
        self.shared.index().find(id).map(|(slot, _)| slot as usize)
    }

    /// What is known of a frame, without reading its pixels, in O(1).
    pub fn meta(&self, id: FrameId) -> Option<SlotMeta> {
        self.shared.index().find(id).map(|(_, entry)| entry.meta)
    }

    /// What is known of every stored frame, by ascending slot.
    pub fn metas(&self) -> Vec<SlotMeta> {
        self.shared.index().live_entries().map(|(_, entry)| entry.meta).collect()
    }

    /// The images of these frames, in their order, without those that are not stored.
    pub fn read_many(&self, ids: &[FrameId]) -> Batch {
        let index = self.shared.index();
        let (batch, bad) = self.copy(ids.iter().filter_map(|&id| index.find(id)));
        drop(index);
        self.drop_damaged(&bad);
        batch
    }

    /// Every image that is stored now and still when its turn comes, by ascending slot, `size` at a time.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn chunks(&self, size: usize) -> impl Iterator<Item = Batch> {
        assert!(size > 0, "chunks of nothing");
        let reader = self.clone();
        let mut left = self.snapshot().frames.into_iter().map(|(_, id)| id);
        std::iter::from_fn(move || {
            loop {
                let ids: Vec<FrameId> = left.by_ref().take(size).collect();
                if ids.is_empty() {
                    return None;
                }
                let batch = reader.read_many(&ids);
                if !batch.ids.is_empty() {
                    return Some(batch);
                }
            }
        })
    }

    /// Checks the pixels of up to `count` images, from slot `from` on; damaged ones are dropped, as a read would. Returns
    /// where to go on, 0 after the last slot, and how many were checked. Holds the index a single read at a time.
    pub fn scrub(&self, from: usize, count: usize) -> (usize, usize) {
        let (mut slot, mut checked) = (from, 0);
        let mut pixels = vec![0; self.geometry().shape.bytes()];
        while checked < count {
            let index = self.shared.index();
            let at = index.live().partition_point(|&live| (live as usize) < slot);
            let Some((logical, &entry)) = index.live().get(at).and_then(|&logical| index.at(logical)) else {
                return (0, checked);
            };
            let whole = self.read(&entry, &mut pixels);
            drop(index);
            if !whole {
                self.drop_damaged(&[(logical, entry)]);
            }
            (slot, checked) = (logical as usize + 1, checked + 1);
        }
        (slot, checked)
    }

    /// Numbers of the stored frames, ascending.
    pub fn ids(&self) -> Vec<FrameId> {
        let mut ids: Vec<FrameId> = self.shared.index().live_entries().map(|(_, entry)| entry.meta.id).collect();
        ids.sort_unstable();
        ids
    }

    /// Version of the contents: as long as it stays, so do they.
    pub fn version(&self) -> u64 {
        self.shared.index().version
    }

    /// What is stored, so that a keeper of derived data (embeddings) can renew what has changed only.
    pub fn snapshot(&self) -> Snapshot {
        let index = self.shared.index();
        let frames = index.live_entries().map(|(slot, entry)| (slot as usize, entry.meta.id)).collect();
        Snapshot { version: index.version, frames }
    }

    /// As of the last commit; O(stored images).
    pub fn statistics(&self) -> BufferStatistics {
        let index = self.shared.index();
        let counters = index.counters;
        let waiting = self.shared.dropped().len() as u64;
        let ids = || index.live_entries().map(|(_, entry)| entry.meta.id);
        BufferStatistics {
            slots: index.slots(),
            used: index.live().len(),
            seen: counters.seen,
            accepted: counters.accepted,
            evicted: counters.evicted,
            rejected: counters.seen.saturating_sub(counters.accepted),
            forgotten: counters.forgotten,
            damaged: counters.damaged + waiting,
            image_bytes: self.geometry().shape.bytes(),
            file_bytes: self.geometry().file_length(),
            oldest: ids().min(),
            newest: ids().max(),
        }
    }

    /// Copies images while the caller holds the index, and names those that are damaged.
    fn copy<'a>(&self, entries: impl Iterator<Item = (u32, &'a Entry)>) -> (Batch, Vec<(u32, Entry)>) {
        let (mut batch, mut bad) = (Batch::default(), Vec::new());
        let size = self.geometry().shape.bytes();
        for (slot, entry) in entries {
            let start = batch.pixels.len();
            batch.pixels.resize(start + size, 0);
            if self.read(entry, &mut batch.pixels[start..]) {
                batch.ids.push(entry.meta.id);
            } else {
                batch.pixels.truncate(start);
                bad.push((slot, *entry));
            }
        }
        (batch, bad)
    }

    fn read(&self, entry: &Entry, into: &mut [u8]) -> bool {
        let geometry = self.geometry();
        let offset = geometry.slot_offset(entry.physical) + HEADER as u64;
        #[cfg(test)]
        if self.shared.planted == Some(super::shared::PlantedBug::NoPayloadCrc) {
            return self.shared.backing.read_at(offset, into).is_ok();
        }
        self.shared.backing.read_at(offset, into).is_ok()
            && payload_crc(&geometry.identity, entry.physical, into) == entry.payload_crc
    }

    /// Takes damaged images out of the index and leaves their slots to the writer.
    fn drop_damaged(&self, bad: &[(u32, Entry)]) {
        if bad.is_empty() {
            return;
        }
        let mut index = self.shared.index_mut();
        for &(slot, entry) in bad {
            // Another reader may have been here, or the writer may have replaced it.
            if index.entry(slot).is_none_or(|found| found.physical != entry.physical) {
                continue;
            }
            index.remove(slot);
            self.shared.dropped().push(entry.physical);
            let (path, frame) = (self.shared.backing.path().display(), entry.meta.id.0);
            tracing::warn!(%path, slot, frame, "a stored image is damaged and was dropped");
        }
    }
}
