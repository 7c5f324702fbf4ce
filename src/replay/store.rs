//! The writer of a store: images go to free slots, become visible and durable together at a commit, and free the slots
//! they replace only then.
//!
//! A live image is never overwritten, so that a crash at any moment leaves either the old copy or the new one. Writes
//! fail without harm (a full disk); a sync that fails stops the store, because nobody can tell what it lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::stream::FrameId;

use super::ReplayError;
use super::backing::Backing;
use super::file::{Wanted, free_bytes};
use super::index::Entry;
use super::layout::{
    Counters, GEOMETRY_OFFSETS, Geometry, HEADER, SlotHeader, SlotMeta, Superblock, payload_crc, superblock_offset,
};
use super::reader::StoreReader;
use super::recover;
#[cfg(test)]
use super::shared::PlantedBug;
use super::shared::{Committed, Recovery, Shared};

/// A fixed number of slots for images of one shape. The caller says which slot an image goes to; what is there is
/// replaced.
///
/// One writer; any number of [`StoreReader`]s, who see committed images only and are not kept waiting by the disk.
#[derive(Debug)]
pub struct FrameStore<B: Backing> {
    pub(super) shared: Arc<Shared<B>>,
    /// Physical slots that may be written, their headers wiped.
    pub(super) free: VecDeque<u32>,
    /// Physical slots that will be free once their headers are wiped.
    pub(super) to_wipe: Vec<u32>,
    /// Written and not committed, by logical slot.
    pending: BTreeMap<u32, Entry>,
    /// Physical slots replaced within this group.
    superseded: Vec<u32>,
    /// Writes of this group, tried ones too.
    group: usize,
    superblock: Superblock,
    /// What the next superblock will say.
    pub(super) counters: Counters,
    last_write: u64,
    durable_write: u64,
    /// Whether everything written has been synced.
    pub(super) synced: bool,
    scratch: Vec<u8>,
}

impl<B: Backing> FrameStore<B> {
    /// Lays out an empty store over `backing`.
    ///
    /// # Errors
    /// [`ReplayError::NoSpace`] where the room cannot be reserved, [`ReplayError::Io`] otherwise.
    pub fn create(backing: B, geometry: Geometry) -> Result<Self, ReplayError> {
        let length = geometry.file_length();
        backing.set_length(length).map_err(|source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ReplayError::NoSpace {
                path: backing.path().into(),
                needed: length,
                free: free_bytes(backing.path()).unwrap_or(0),
            },
            _ => io_error(&backing, "reserve room for", source),
        })?;
        let written = GEOMETRY_OFFSETS.iter().try_for_each(|&offset| backing.write_at(offset, &geometry.encode()));
        written.and_then(|()| backing.sync()).map_err(|source| io_error(&backing, "write the geometry of", source))?;
        let found = recover::Found::empty(&geometry);
        let mut store = Self::assemble(Shared::new(backing, geometry), found);
        store.flush()?;
        Ok(store)
    }

    /// Opens the store in `backing` and brings back everything that was committed.
    ///
    /// # Errors
    /// Where the file is no store, or not the one that is wanted. Damaged slots are no error: they are counted.
    pub fn open(backing: B, wanted: &Wanted) -> Result<(Self, Recovery), ReplayError> {
        let geometry = recover::geometry(&backing, wanted)?;
        Self::recover(Shared::new(backing, geometry))
    }

    /// The scan and what follows it: nothing is changed before all was read, and all that was read is made durable
    /// before anything older is wiped. After the kill of a process the newest copies may be in the system's cache only.
    fn recover(shared: Shared<B>) -> Result<(Self, Recovery), ReplayError> {
        let found = recover::scan(&shared)?;
        let recovery = found.recovery;
        #[cfg(test)]
        let skip = shared.planted == Some(PlantedBug::RecoveryWithoutSync);
        #[cfg(not(test))]
        let skip = false;
        if !skip {
            shared.backing.sync().map_err(|source| io_error(&shared.backing, "sync", source))?;
        }
        let mut store = Self::assemble(shared, found);
        #[cfg(test)]
        if store.shared.planted == Some(PlantedBug::RecoveryVouchesForUnfinished) {
            store.durable_write = store.last_write;
        }
        // A full disk does not keep the store from opening: what cannot be wiped now is wiped at the next commit.
        if let Err(error) = store.wipe() {
            tracing::warn!(%error, "stale slots stay until the next commit");
        }
        Ok((store, recovery))
    }

    fn assemble(shared: Shared<B>, found: recover::Found) -> Self {
        let geometry = shared.geometry;
        {
            let mut index = shared.index_mut();
            for (logical, entry) in found.live {
                index.insert(logical, entry);
            }
            index.counters = found.counters;
        }
        Self {
            shared: Arc::new(shared),
            free: found.free.into(),
            to_wipe: found.stale,
            pending: BTreeMap::new(),
            superseded: Vec::new(),
            group: 0,
            superblock: found.superblock,
            counters: found.counters,
            last_write: found.last_write,
            // Not `last_write`, although all that counts is on the disk by now: unfinished writes are not wiped there
            // yet.
            durable_write: found.superblock.durable_write,
            synced: true,
            scratch: vec![0; HEADER + geometry.shape.bytes()],
        }
    }

    /// A handle for another thread.
    pub fn reader(&self) -> StoreReader<B> {
        StoreReader::new(Arc::clone(&self.shared))
    }

    pub fn geometry(&self) -> &Geometry {
        &self.shared.geometry
    }

    /// Frames offered, stored, replaced and so on, with those of the group that is not committed yet.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Writes that the group still has room for.
    pub fn room(&self) -> usize {
        self.geometry().spares().saturating_sub(self.group)
    }

    /// The frame in a slot, committed or not.
    pub fn frame(&self, slot: usize) -> Option<FrameId> {
        let logical = u32::try_from(slot).ok()?;
        match self.pending.get(&logical) {
            Some(entry) => Some(entry.meta.id),
            None => self.shared.index().entry(logical).map(|entry| entry.meta.id),
        }
    }

    /// Writes an image, (side, side, channels) bytes, into a slot. Visible, durable and acknowledged with the next
    /// commit only. Returns the frame it replaces.
    ///
    /// # Errors
    /// [`ReplayError::GroupFull`] asks for a commit; after [`ReplayError::Io`] the image is not stored and the store
    /// goes on.
    pub fn put(&mut self, slot: usize, meta: SlotMeta, payload: &[u8]) -> Result<Option<FrameId>, ReplayError> {
        self.check()?;
        let logical = self.check_slot(slot)?;
        let expected = self.geometry().shape.bytes();
        if payload.len() != expected {
            return Err(ReplayError::ImageSize { expected, found: payload.len() });
        }
        let physical = self.take_free(logical)?;
        let entry = Entry { physical, payload_crc: payload_crc(&self.geometry().identity, physical, payload), meta };
        self.write_slot(logical, &entry, payload)?;
        let replaced = self.frame(slot);
        if let Some(old) = self.pending.insert(logical, entry) {
            self.superseded.push(old.physical);
        }
        #[cfg(test)]
        self.reuse_early(logical);
        self.counters.last_frame = self.counters.last_frame.max(meta.id.0);
        Ok(replaced)
    }

    pub(super) fn check_slot(&self, slot: usize) -> Result<u32, ReplayError> {
        let slots = self.geometry().slots();
        u32::try_from(slot).ok().filter(|_| slot < slots).ok_or(ReplayError::NoSuchSlot { slot, slots })
    }

    fn take_free(&mut self, logical: u32) -> Result<u32, ReplayError> {
        #[cfg(test)]
        if self.shared.planted == Some(PlantedBug::InPlaceWrite)
            && let Some(entry) = self.shared.index().entry(logical)
        {
            return Ok(entry.physical);
        }
        let _ = logical;
        let full = ReplayError::GroupFull { frames: self.geometry().spares() };
        if self.room() == 0 {
            return Err(full);
        }
        let physical = self.free.pop_front().ok_or(full)?;
        self.group += 1;
        Ok(physical)
    }

    fn write_slot(&mut self, logical: u32, entry: &Entry, payload: &[u8]) -> Result<(), ReplayError> {
        self.last_write += 1;
        self.synced = false;
        let Geometry { identity, shape, .. } = self.shared.geometry;
        let &Entry { physical, payload_crc, meta } = entry;
        let (write, seen) = (self.last_write, self.counters.seen);
        let header = SlotHeader { logical, write, seen, shape, payload_crc, meta };
        self.scratch[..HEADER].copy_from_slice(&header.encode(&identity, physical));
        self.scratch[HEADER..].copy_from_slice(payload);
        let offset = self.geometry().slot_offset(physical);
        self.shared.backing.write_at(offset, &self.scratch).map_err(|source| {
            // A whole header over half an image must not survive: it would hide the older copy of this slot.
            self.to_wipe.push(physical);
            io_error(&self.shared.backing, "write a slot of", source)
        })
    }

    /// Makes everything written since the last commit durable, visible to readers, and safe to acknowledge. Readers go
    /// on while the disk syncs.
    ///
    /// # Errors
    /// After [`ReplayError::Io`] (a write failed) nothing is lost and the commit can be tried again; after
    /// [`ReplayError::Stopped`] (a sync failed) only a restart helps.
    pub fn commit(&mut self) -> Result<Committed, ReplayError> {
        self.check()?;
        let idle = self.synced && self.counters == self.superblock.counters && self.shared.dropped().is_empty();
        if idle {
            return Ok(Committed { stored: 0, durable: true, version: self.shared.index().version });
        }
        self.flush()
    }

    /// The same for readers, without waiting for the disk: the end of the process loses nothing, a power cut may lose
    /// what came after the last [`commit`](Self::commit), older copies of the same slots included.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn publish(&mut self) -> Result<Committed, ReplayError> {
        self.check()?;
        self.wipe()?;
        self.write_superblock()?;
        Ok(self.publish_pending(false))
    }

    pub(super) fn flush(&mut self) -> Result<Committed, ReplayError> {
        self.check()?;
        #[cfg(test)]
        if self.shared.planted == Some(PlantedBug::AckBeforeSync) {
            let _ = self.shared.backing.sync();
        }
        self.wipe()?;
        self.write_superblock()?;
        self.sync()?;
        Ok(self.publish_pending(true))
    }

    fn write_superblock(&mut self) -> Result<(), ReplayError> {
        let next = Superblock {
            sequence: self.superblock.sequence + 1,
            durable_write: self.watermark(),
            last_write: self.last_write,
            counters: self.counters,
        };
        self.synced = false;
        let bytes = next.encode(&self.geometry().identity);
        self.write(superblock_offset(next.sequence), &bytes, "write a superblock of")?;
        self.superblock = next;
        Ok(())
    }

    /// Never the last write of the commit it travels with (see [`Superblock::durable_write`]).
    fn watermark(&self) -> u64 {
        #[cfg(test)]
        if self.shared.planted == Some(PlantedBug::WatermarkTooNew) {
            return self.last_write;
        }
        self.durable_write
    }

    pub(super) fn sync(&mut self) -> Result<(), ReplayError> {
        #[cfg(test)]
        if matches!(self.shared.planted, Some(PlantedBug::SkipSync | PlantedBug::AckBeforeSync)) {
            return Ok(());
        }
        let written = self.last_write;
        if let Err(error) = self.shared.backing.sync() {
            let cause = self.shared.stopped.get_or_init(|| error.to_string());
            tracing::error!(path = %self.shared.backing.path().display(), %error, "a sync failed: the store stops");
            return Err(ReplayError::Stopped { cause: cause.clone() });
        }
        self.durable_write = written;
        self.synced = true;
        Ok(())
    }

    fn publish_pending(&mut self, durable: bool) -> Committed {
        let pending = std::mem::take(&mut self.pending);
        let stored = pending.len();
        self.group = 0;
        self.to_wipe.append(&mut self.superseded);
        // Only now: the wipes of copies that these damaged ones had replaced are on the disk.
        let dropped = std::mem::take(&mut *self.shared.dropped());
        self.counters.damaged += dropped.len() as u64;
        self.to_wipe.extend(dropped);
        let version = {
            let mut index = self.shared.index_mut();
            for (logical, entry) in pending {
                self.to_wipe.extend(index.insert(logical, entry).map(|old| old.physical));
            }
            index.counters = self.counters;
            index.version
        };
        #[cfg(test)]
        if self.shared.planted == Some(PlantedBug::InPlaceWrite) {
            self.to_wipe.clear();
        }
        if let Err(error) = self.wipe() {
            // The images are safe; the slots they replaced stay out of use until the wipe succeeds.
            tracing::warn!(%error, "replaced slots stay until the next commit");
        }
        Committed { stored, durable, version }
    }

    /// Zeroes the headers of slots that are no longer in use, so that they cannot come back should the newer copy rot,
    /// and frees them. They are wiped before the next superblock that could vouch for them is written.
    fn wipe(&mut self) -> Result<(), ReplayError> {
        while let Some(&physical) = self.to_wipe.last() {
            self.synced = false;
            #[cfg(test)]
            let skip = self.shared.planted == Some(PlantedBug::FreedSlotsNotWiped);
            #[cfg(not(test))]
            let skip = false;
            if !skip {
                self.write(self.geometry().slot_offset(physical), &[0; HEADER], "wipe a slot of")?;
            }
            self.to_wipe.pop();
            self.free.push_back(physical);
        }
        Ok(())
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8], operation: &'static str) -> Result<(), ReplayError> {
        let backing = &self.shared.backing;
        backing.write_at(offset, bytes).map_err(|source| io_error(backing, operation, source))
    }

    pub(super) fn check(&self) -> Result<(), ReplayError> {
        match self.shared.stopped.get() {
            Some(cause) => Err(ReplayError::Stopped { cause: cause.clone() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl<B: Backing> FrameStore<B> {
    /// [`open`](Self::open) with a fault.
    pub(super) fn open_with(
        backing: B,
        wanted: &Wanted,
        planted: Option<PlantedBug>,
    ) -> Result<(Self, Recovery), ReplayError> {
        let geometry = recover::geometry(&backing, wanted)?;
        let mut shared = Shared::new(backing, geometry);
        shared.planted = planted;
        Self::recover(shared)
    }

    /// The fault of freeing a slot before the commit that replaces it.
    fn reuse_early(&mut self, logical: u32) {
        if self.shared.planted == Some(PlantedBug::EarlySlotReuse)
            && let Some(old) = self.shared.index().entry(logical).map(|entry| entry.physical)
            && !self.free.contains(&old)
        {
            self.free.push_front(old);
        }
    }
}

fn io_error(backing: &impl Backing, operation: &'static str, source: std::io::Error) -> ReplayError {
    ReplayError::Io { operation, path: backing.path().into(), source }
}
