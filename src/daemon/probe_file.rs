//! Probes on the disk: the evaluation's numbered slots in a store of the replay room.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::evaluate::{Probe, ProbeStorage, StorageError};
use crate::replay::{FileBacking, FrameStore, Purpose, ReplayError, SlotMeta, StoreReader, Wanted};
use crate::stream::{FrameId, SourceId};

/// Emptied slots that wait for their erasure: each round of it costs a few syncs.
const MOST_EMPTIED: usize = 32;

/// The probe file. A slot that is emptied is almost always filled again at once, so it is only erased when enough have
/// stayed empty; after a crash such a probe is found again and sorted out by its rank.
pub struct ProbeFile {
    store: FrameStore<FileBacking>,
    reader: StoreReader,
    emptied: BTreeSet<usize>,
    dirty: bool,
}

impl ProbeFile {
    /// Opens the file, or makes it with all its room on the disk. `side`: pixels of a side of the images.
    ///
    /// # Errors
    /// As the replay buffer's file.
    pub fn open_or_create(path: &Path, slots: usize, spares: usize, side: usize) -> Result<Self, ReplayError> {
        let wanted = Wanted { purpose: Purpose::Probes, policy: 0, slots, spares, side, channels: 3 };
        let (store, recovery) = FrameStore::open_or_create(path, &wanted)?;
        if recovery.damaged > 0 {
            tracing::warn!(damaged = recovery.damaged, path = %path.display(), "damaged probes were dropped");
        }
        let reader = store.reader();
        Ok(Self { store, reader, emptied: BTreeSet::new(), dirty: false })
    }

    /// The highest frame number in it.
    pub fn newest(&self) -> Option<FrameId> {
        self.reader.statistics().newest
    }

    /// Where each probe came from.
    pub fn sources(&self) -> BTreeMap<FrameId, SourceId> {
        self.reader.metas().into_iter().map(|meta| (meta.id, meta.source)).collect()
    }

    /// Makes everything put since the last commit durable.
    ///
    /// # Errors
    /// As a commit of the replay buffer.
    pub fn commit(&mut self) -> Result<(), ReplayError> {
        if self.emptied.len() > MOST_EMPTIED {
            let slots: Vec<usize> = std::mem::take(&mut self.emptied).into_iter().collect();
            self.store.remove(&slots)?;
        } else if self.dirty {
            self.store.commit()?;
        }
        self.dirty = false;
        Ok(())
    }
}

impl ProbeStorage for ProbeFile {
    fn slots(&self) -> usize {
        self.store.geometry().slots()
    }

    fn put(&mut self, slot: usize, probe: &Probe<'_>) -> Result<(), StorageError> {
        if self.store.room() == 0 {
            self.store.commit()?;
        }
        let &Probe { frame, source, wall_time_ns, image } = probe;
        let meta = SlotMeta { id: frame, source, source_sequence: 0, wall_time_ns, content_hash: [0; 16], tag: 0 };
        self.store.put(slot, meta, image)?;
        self.emptied.remove(&slot);
        self.dirty = true;
        Ok(())
    }

    fn remove(&mut self, slot: usize) -> Result<(), StorageError> {
        self.emptied.insert(slot);
        Ok(())
    }

    fn image(&self, slot: usize) -> Result<Vec<u8>, StorageError> {
        let frame = self.store.frame(slot).filter(|_| !self.emptied.contains(&slot)).ok_or("the slot is empty")?;
        let stored = self.reader.get(frame).ok_or("the image is damaged or not committed yet")?;
        Ok(stored.pixels)
    }

    fn entries(&self) -> Vec<(usize, FrameId)> {
        let frames = self.reader.snapshot().frames;
        frames.into_iter().filter(|(slot, _)| !self.emptied.contains(slot)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &tempfile::TempDir) -> ProbeFile {
        ProbeFile::open_or_create(&folder.path().join("probes.buf"), 4, 2, 8).unwrap()
    }

    fn put(file: &mut ProbeFile, slot: usize, frame: u64) {
        let image = [frame as u8; 192];
        file.put(slot, &Probe { frame: FrameId(frame), source: SourceId(1), wall_time_ns: 5, image: &image }).unwrap();
    }

    #[test]
    fn committed_probes_are_there_after_a_restart_and_replaced_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(&folder);
        for frame in 1..=3 {
            put(&mut file, frame as usize, frame);
        }
        file.remove(2).unwrap();
        assert!(file.image(2).is_err());
        put(&mut file, 2, 9);
        file.commit().unwrap();
        assert_eq!(file.image(2).unwrap(), [9; 192]);
        drop(file);
        let file = open(&folder);
        assert_eq!(file.entries(), [(1, FrameId(1)), (2, FrameId(9)), (3, FrameId(3))]);
        assert_eq!(file.newest(), Some(FrameId(9)));
    }
}
