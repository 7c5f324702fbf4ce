//! A store looked at while no daemon runs: what is in it, and whether it is whole. Nothing is changed.

use std::path::Path;
use std::sync::Arc;

use super::ReplayError;
use super::backing::FileBacking;
use super::layout::{Counters, Geometry, HeaderState, SlotMeta};
use super::lock::LockFile;
use super::reader::StoreReader;
use super::recover::{self, Found};
use super::shared::{Recovery, Shared};

/// A physical slot that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BadSlot {
    /// Number of the physical slot.
    pub slot: u32,
    /// Byte of the file where it begins.
    pub offset: u64,
    /// The frame that its header names; none where the header is what is damaged.
    pub frame: Option<u64>,
    pub what: &'static str,
}

/// A locked store, scanned and not recovered.
#[derive(Debug)]
pub struct Offline {
    shared: Arc<Shared<FileBacking>>,
    counters: Counters,
    recovery: Recovery,
}

impl Offline {
    /// Locks and scans the store at `path`.
    ///
    /// # Errors
    /// [`ReplayError::Locked`] while a daemon has it; a file that is no store, or not readable.
    pub fn open(path: &Path) -> Result<Self, ReplayError> {
        let io = |operation| move |source| ReplayError::Io { operation, path: path.into(), source };
        // Before the lock, which would leave a file of its own beside a store that does not exist.
        std::fs::metadata(path).map_err(io("open"))?;
        let lock = LockFile::acquire(path)?;
        let backing = FileBacking::open(path, lock).map_err(io("open"))?;
        let geometry = recover::any_geometry(&backing)?;
        let shared = Shared::new(backing, geometry);
        let Found { live, counters, recovery, .. } = recover::scan(&shared)?;
        {
            let mut index = shared.index_mut();
            live.into_iter().for_each(|(logical, entry)| _ = index.insert(logical, entry));
            index.counters = counters;
        }
        Ok(Self { shared: Arc::new(shared), counters, recovery })
    }

    pub fn geometry(&self) -> &Geometry {
        &self.shared.geometry
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What a start would find.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Reads the images.
    pub fn reader(&self) -> StoreReader {
        StoreReader::new(Arc::clone(&self.shared))
    }

    /// What is stored, with logical slots and, for each, how many frames had been offered with it.
    pub(super) fn entries(&self) -> Vec<(u32, SlotMeta, u64)> {
        let index = self.shared.index();
        let entries = index.live_entries().map(|(logical, entry)| {
            let seen = match recover::read_header(&self.shared, entry.physical) {
                HeaderState::Live(header) => header.seen,
                HeaderState::Free | HeaderState::Damaged => 0,
            };
            (logical, entry.meta, seen)
        });
        entries.collect()
    }

    /// Reads every header and all pixels: the slots whose checksum is wrong. Older copies and unfinished writes are no
    /// damage, and the next start wipes them.
    pub fn verify(&self) -> Vec<BadSlot> {
        let geometry = self.geometry();
        let bad = (0..geometry.physical_slots() as u32).filter_map(|slot| {
            let (frame, what) = match recover::read_header(&self.shared, slot) {
                HeaderState::Free => return None,
                HeaderState::Damaged => (None, "header"),
                HeaderState::Live(header) => {
                    let stored = self.shared.index().entry(header.logical).is_some_and(|entry| entry.physical == slot);
                    if !stored || recover::pixels_are_whole(&self.shared, slot, &header) {
                        return None;
                    }
                    (Some(header.meta.id.0), "pixels")
                }
            };
            Some(BadSlot { slot, offset: geometry.slot_offset(slot), frame, what })
        });
        bad.collect()
    }
}
