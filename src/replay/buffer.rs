//! The front door: a policy in front of a store.

use std::path::Path;

use crate::config::{Durability, ReplaySettings, Seed};
use crate::stream::{FrameId, SourceId};

use super::ReplayError;
use super::backing::FileBacking;
use super::file::Wanted;
use super::layout::{Purpose, SlotMeta};
use super::policies::{self, Offer, Policy};
use super::reader::StoreReader;
use super::shared::{Committed, Recovery};
use super::store::FrameStore;

/// Channels of the encoder's input.
const CHANNELS: usize = 3;

/// A decoded frame.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub id: FrameId,
    pub source: SourceId,
    /// The source's own number of the frame; 0 where it has none.
    pub source_sequence: u64,
    /// Nanoseconds since the Unix epoch.
    pub wall_time_ns: i64,
    /// First 16 bytes of the BLAKE3 hash of the bytes as they were received.
    pub content_hash: [u8; 16],
    /// Shape (side, side, 3).
    pub pixels: &'a [u8],
}

/// What became of an offer, once it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Stored { slot: usize, evicted: Option<FrameId> },
    Rejected,
}

/// The bounded memory of what was seen. One thread offers and commits; others read through [`ReplayBuffer::reader`].
pub struct ReplayBuffer {
    store: FrameStore<FileBacking>,
    policy: Box<dyn Policy>,
    durability: Durability,
}

impl std::fmt::Debug for ReplayBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplayBuffer({:?})", self.store)
    }
}

impl ReplayBuffer {
    /// Opens the buffer at `path`, or makes it with all its room on the disk. `side`: pixels of a side of its images.
    ///
    /// # Errors
    /// Each [`ReplayError`] of locking, of room, and of a file that was made for something else.
    pub fn open_or_create(
        path: &Path,
        settings: &ReplaySettings,
        side: usize,
        seed: Seed,
    ) -> Result<(Self, Recovery), ReplayError> {
        let (number, policy) = policies::new(settings.policy, seed);
        let wanted = Wanted {
            purpose: Purpose::Replay,
            policy: number,
            slots: settings.slots,
            spares: settings.commit_frames,
            side,
            channels: CHANNELS,
        };
        let (store, recovery) = FrameStore::open_or_create(path, &wanted)?;
        Ok((Self { store, policy, durability: settings.durability }, recovery))
    }

    /// Bytes of the file that [`open_or_create`](Self::open_or_create) would make.
    ///
    /// # Errors
    /// [`ReplayError::OutOfBounds`].
    pub fn file_bytes(settings: &ReplaySettings, side: usize) -> Result<u64, ReplayError> {
        let wanted = Wanted {
            purpose: Purpose::Replay,
            policy: 0,
            slots: settings.slots,
            spares: settings.commit_frames,
            side,
            channels: CHANNELS,
        };
        Ok(wanted.geometry([0; 16])?.file_length())
    }

    /// Lets the policy decide about a frame and stores it if so. The decision counts, and may be acknowledged, from the
    /// next [`commit`](Self::commit) on.
    ///
    /// # Errors
    /// [`ReplayError::GroupFull`] where [`room`](Self::room) is 0: commit and offer it again. After any error the frame
    /// counts as not offered.
    pub fn offer(&mut self, record: &Record<'_>) -> Result<Decision, ReplayError> {
        let before = self.store.counters;
        let slots = self.store.geometry().slots();
        let place = self.policy.place(&Offer { id: record.id, seen: before.seen, slots });
        self.store.counters.seen += 1;
        self.store.counters.last_frame = before.last_frame.max(record.id.0);
        let Some(slot) = place else {
            return Ok(Decision::Rejected);
        };
        match self.store.put(slot, record.meta(), record.pixels) {
            Ok(evicted) => {
                self.store.counters.accepted += 1;
                self.store.counters.evicted += u64::from(evicted.is_some());
                Ok(Decision::Stored { slot, evicted })
            }
            Err(error) => {
                self.store.counters = before;
                Err(error)
            }
        }
    }

    /// Frames that can still be offered before a commit.
    pub fn room(&self) -> usize {
        self.store.room()
    }

    /// Ends the group: its images are now visible, and with `durability = "sync"` on the disk. With `"none"` a power
    /// cut may lose frames that were acknowledged; the end of the process does not.
    ///
    /// # Errors
    /// See [`FrameStore::commit`]: where [`ReplayError::is_fatal`], nothing must be acknowledged any more.
    pub fn commit(&mut self) -> Result<Committed, ReplayError> {
        match self.durability {
            Durability::Sync => self.store.commit(),
            Durability::None => self.store.publish(),
        }
    }

    /// Commits to the disk whatever `durability` says: before a stop, and with a checkpoint.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn sync(&mut self) -> Result<Committed, ReplayError> {
        self.store.commit()
    }

    /// Removes a frame for good: when it returns, its pixels are nowhere in the file, not even where it was replaced
    /// before. False where it was not stored. Commits what is pending; a few syncs.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn forget(&mut self, id: FrameId) -> Result<bool, ReplayError> {
        self.store.commit()?;
        let slot = self.store.reader().slot(id);
        self.store.erase_free()?;
        let slots: Vec<usize> = slot.into_iter().collect();
        Ok(self.store.remove(&slots)? > 0)
    }

    /// A number above all that this buffer has seen.
    pub fn next_id(&self) -> FrameId {
        FrameId(self.store.counters().last_frame + 1)
    }

    /// A handle for another thread.
    pub fn reader(&self) -> StoreReader {
        self.store.reader()
    }
}

impl Record<'_> {
    /// What is stored beside the pixels.
    pub fn meta(&self) -> SlotMeta {
        let &Self { id, source, source_sequence, wall_time_ns, content_hash, .. } = self;
        SlotMeta { id, source, source_sequence, wall_time_ns, content_hash, tag: 0 }
    }
}
