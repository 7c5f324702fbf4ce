//! What the writer of a store and its readers have in common.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::index::Index;
use super::layout::Geometry;

/// A commit that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Images it stored.
    pub stored: usize,
    /// Whether it is on the disk, and not only in the system's cache.
    pub durable: bool,
    /// Version of the contents that readers see from now on.
    pub version: u64,
}

/// What a start found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Images that came back.
    pub live: usize,
    /// Images of a commit that had not ended, of which not everything had reached the disk. They were never
    /// acknowledged.
    pub unfinished: usize,
    /// Slots whose header was neither valid nor empty.
    pub damaged: usize,
    /// Both superblocks were damaged: the counters start again from what the slots say.
    pub counters_lost: bool,
}

/// Planted faults, by which the crash simulator proves that it would find them.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlantedBug {
    EarlySlotReuse,
    NoPayloadCrc,
    SkipSync,
    InPlaceWrite,
    WatermarkTooNew,
    RecoveryWithoutSync,
    RecoveryVouchesForUnfinished,
    AckBeforeSync,
    FreedSlotsNotWiped,
    RemovedPixelsNotErased,
}

/// What the writer and the readers share.
#[derive(Debug)]
pub(super) struct Shared<B> {
    pub backing: B,
    pub geometry: Geometry,
    index: RwLock<Index>,
    /// Physical slots that a reader found damaged and took out of the index; the writer wipes them.
    dropped: Mutex<Vec<u32>>,
    pub stopped: OnceLock<String>,
    #[cfg(test)]
    pub planted: Option<PlantedBug>,
}

impl<B> Shared<B> {
    pub fn new(backing: B, geometry: Geometry) -> Self {
        Self {
            backing,
            geometry,
            index: RwLock::new(Index::new(geometry.slots())),
            dropped: Mutex::default(),
            stopped: OnceLock::new(),
            #[cfg(test)]
            planted: None,
        }
    }

    /// The damaged slots that nobody has wiped yet.
    pub fn dropped(&self) -> MutexGuard<'_, Vec<u32>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A panic of another thread under the lock cannot leave the index half-changed in a way that matters: all checks
    /// are made before the first change.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}
