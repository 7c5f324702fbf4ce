//! The front door: a policy in front of a store.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::{Durability, ReplaySettings, Seed, durable};
use crate::stream::{FrameId, SourceId};

use super::ReplayError;
use super::backing::FileBacking;
use super::file::Wanted;
use super::layout::{Purpose, SlotMeta};
use super::policies::{self, FeaturePolicy, Offer, Policy};
use super::reader::StoreReader;
use super::shared::{Committed, Recovery};
use super::store::FrameStore;

/// Channels of the encoder's input.
const CHANNELS: usize = 3;
/// Between two times that a policy's features are written while frames come in. They are a cache: what a crash takes is
/// computed anew from the stored images.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Largest file of features that is read: 2^20 slots of 2,048 numbers.
const MOST_SAVED_BYTES: u64 = 5 << 30;

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
    /// Where the features of a policy are kept.
    features: PathBuf,
    /// When features were last written; none where they are as they were.
    unsaved_since: Option<Instant>,
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
        let features = features_path(path);
        let durability = settings.durability;
        let mut buffer = Self { store, policy, durability, features, unsaved_since: None };
        buffer.adopt(true);
        Ok((buffer, recovery))
    }

    /// Tells a policy that keeps features what is stored.
    fn adopt(&mut self, read_saved: bool) {
        let Some(features) = self.policy.features() else { return };
        let saved = if read_saved { read_bounded(&self.features) } else { None };
        let (slots, live) = (self.store.geometry().slots(), self.store.reader().snapshot().frames);
        features.adopt(slots, &live, saved.as_deref());
    }

    /// Images that it can hold.
    pub fn slots(&self) -> usize {
        self.store.geometry().slots()
    }

    /// Where the policy looks at features: what keeps them, to be told of new ones. A frame's own go with its offer.
    pub fn features(&mut self) -> Option<&mut dyn FeaturePolicy> {
        self.policy.features()
    }

    /// A stored frame's feature as it is computed now. Does nothing where the policy keeps none.
    pub fn refresh_feature(&mut self, frame: FrameId, feature: &[f32]) {
        if let Some(features) = self.policy.features() {
            features.refresh(frame, feature);
            self.unsaved_since.get_or_insert_with(Instant::now);
        }
    }

    fn save_features(&mut self) {
        let Some(features) = self.policy.features() else { return };
        self.unsaved_since = None;
        if let Err(error) = durable::replace(&self.features, &features.save()) {
            tracing::warn!(path = %self.features.display(), %error, "features could not be written; they will be computed anew");
        }
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
        self.offer_with(record, None)
    }

    /// The same, with the feature by which the policy compares frames, of any length but zero.
    ///
    /// # Errors
    /// As [`offer`](Self::offer).
    pub fn offer_with(&mut self, record: &Record<'_>, feature: Option<&[f32]>) -> Result<Decision, ReplayError> {
        let before = self.store.counters;
        let slots = self.store.geometry().slots();
        let place = self.policy.place(&Offer::new(record.id, before.seen, slots).with_feature(feature));
        self.store.counters.seen += 1;
        self.store.counters.last_frame = before.last_frame.max(record.id.0);
        let Some(slot) = place else {
            return Ok(Decision::Rejected);
        };
        match self.store.put(slot, record.meta(), record.pixels) {
            Ok(evicted) => {
                self.store.counters.accepted += 1;
                self.store.counters.evicted += u64::from(evicted.is_some());
                if let Some(features) = self.policy.features() {
                    features.stored(slot, record.id);
                    self.unsaved_since.get_or_insert_with(Instant::now);
                }
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
        let damaged = self.store.counters().damaged;
        let committed = match self.durability {
            Durability::Sync => self.store.commit(),
            Durability::None => self.store.publish(),
        }?;
        if self.store.counters().damaged != damaged {
            self.adopt(false);
        }
        if self.unsaved_since.is_some_and(|since| since.elapsed() > SAVE_INTERVAL) {
            self.save_features();
        }
        Ok(committed)
    }

    /// Commits to the disk whatever `durability` says: before a stop, and with a checkpoint.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn sync(&mut self) -> Result<Committed, ReplayError> {
        let committed = self.store.commit()?;
        if self.unsaved_since.is_some() {
            self.save_features();
        }
        Ok(committed)
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
        let removed = self.store.remove(&slots)? > 0;
        if let Some(features) = self.policy.features() {
            slots.iter().for_each(|&slot| features.removed(slot));
            self.save_features();
        }
        Ok(removed)
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

/// `NAME.features` beside the buffer.
fn features_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".features");
    name.into()
}

fn read_bounded(path: &Path) -> Option<Vec<u8>> {
    let length = std::fs::metadata(path).ok()?.len();
    if length > MOST_SAVED_BYTES { None } else { std::fs::read(path).ok() }
}

impl Record<'_> {
    /// What is stored beside the pixels.
    pub fn meta(&self) -> SlotMeta {
        let &Self { id, source, source_sequence, wall_time_ns, content_hash, .. } = self;
        SlotMeta { id, source, source_sequence, wall_time_ns, content_hash, tag: 0 }
    }
}
