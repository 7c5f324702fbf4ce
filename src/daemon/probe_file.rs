//! Probes on the disk: the evaluation's numbered slots in a store of the replay room.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::unwritten::insist;
use crate::evaluate::{ProbeStorage, StorageError};
use crate::replay::{FileBacking, FrameStore, Purpose, ReplayError, SlotMeta, StoreReader, Wanted};
use crate::stream::{FrameId, SourceId};

/// How long a full disk may hold a write up before the probe store gives up. Only on file systems that copy on write do
/// writes within the reserved room need more.
const PATIENCE: Duration = Duration::from_secs(600);

/// The probe file.
pub struct ProbeFile {
    store: FrameStore<FileBacking>,
    reader: StoreReader,
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
        Ok(Self { store, reader, dirty: false })
    }

    /// The highest frame number in it.
    pub fn newest(&self) -> Option<FrameId> {
        self.reader.statistics().newest
    }

    /// Where each probe came from.
    pub fn sources(&self) -> BTreeMap<FrameId, SourceId> {
        self.reader.metas().into_iter().map(|meta| (meta.id, meta.source)).collect()
    }

    /// Erases what replaced probes left in the file.
    ///
    /// # Errors
    /// As a commit of the replay buffer.
    pub fn erase_free(&mut self) -> Result<(), ReplayError> {
        self.store.commit()?;
        self.store.erase_free()?;
        self.store.commit().map(drop)
    }

    /// Makes everything put since the last commit durable.
    ///
    /// # Errors
    /// As a commit of the replay buffer.
    pub fn commit(&mut self) -> Result<(), ReplayError> {
        if self.dirty {
            patiently(|| self.store.commit())?;
        }
        self.dirty = false;
        Ok(())
    }
}

/// As long as the disk is full, but not for ever.
fn patiently<T>(attempt: impl FnMut() -> Result<T, ReplayError>) -> Result<T, ReplayError> {
    let start = Instant::now();
    insist(|| start.elapsed() < PATIENCE, attempt)
}

impl ProbeStorage for ProbeFile {
    type Meta = SlotMeta;

    fn slots(&self) -> usize {
        self.store.geometry().slots()
    }

    fn put(&mut self, slot: usize, _: FrameId, meta: &SlotMeta, image: &[u8]) -> Result<(), StorageError> {
        if self.store.room() == 0 {
            patiently(|| self.store.commit())?;
        }
        let put = loop {
            match patiently(|| self.store.put(slot, *meta, image)) {
                // Writes that the disk refused count for the group, too.
                Err(ReplayError::GroupFull { .. }) => patiently(|| self.store.commit())?,
                other => break other,
            };
        };
        put?;
        self.dirty = true;
        Ok(())
    }

    fn remove(&mut self, slots: &[usize]) -> Result<(), StorageError> {
        patiently(|| self.store.remove(slots))?;
        self.dirty = false;
        Ok(())
    }

    fn image(&self, slot: usize) -> Result<Vec<u8>, StorageError> {
        let frame = self.store.frame(slot).ok_or("the slot is empty")?;
        let stored = self.reader.get(frame).ok_or("the image is damaged or not committed yet")?;
        Ok(stored.pixels)
    }

    fn entries(&self) -> Vec<(usize, FrameId)> {
        self.reader.snapshot().frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &tempfile::TempDir) -> ProbeFile {
        ProbeFile::open_or_create(&folder.path().join("probes.buf"), 4, 2, 8).unwrap()
    }

    fn put(file: &mut ProbeFile, slot: usize, frame: u64) {
        let (id, source) = (FrameId(frame), SourceId(1));
        let meta = SlotMeta { id, source, source_sequence: 0, wall_time_ns: 5, content_hash: [0; 16], tag: 0 };
        file.put(slot, id, &meta, &[frame as u8; 192]).unwrap();
    }

    #[test]
    fn committed_probes_are_there_after_a_restart_and_replaced_or_removed_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(&folder);
        for frame in 1..=3 {
            put(&mut file, frame as usize, frame);
        }
        put(&mut file, 2, 9);
        assert!(file.image(2).is_err(), "not committed yet");
        file.commit().unwrap();
        assert_eq!(file.image(2).unwrap(), [9; 192]);
        file.remove(&[3]).unwrap();
        drop(file);
        let file = open(&folder);
        assert_eq!(file.entries(), [(1, FrameId(1)), (2, FrameId(9))]);
        assert_eq!(file.newest(), Some(FrameId(9)));
        assert_eq!(file.sources()[&FrameId(1)], SourceId(1));
    }
}
