//! MinRed: keeps what is least redundant.
//!
//! Of the two images of the buffer that are nearest to each other in feature space (cosine), the more redundant one makes
//! room: the one whose second neighbour is nearer too (Purushwalkam, Morgado and Gupta, "The challenges of continuous
//! self-supervised learning", ECCV 2022, section 4.2). The new image takes part: is it the redundant one, it is rejected.
//! On a stream that repeats itself this keeps many more distinct images than a reservoir does.
//!
//! The decision is a pure function of what is stored, of its features and of the new one's: features are quantised, so
//! that similarities are integers and come out the same on every machine and in any order of summation; equals are
//! decided by slot and by age. Features are renewed as versions of the encoder are published
//! ([`FeaturePolicy::refresh`]). The paper takes a running mean over versions, for its features are of augmented views and
//! of replayed images only; here the new feature replaces the old one, since those of two versions cannot be compared.
//!
//! Cost: each image keeps its two nearest neighbours, so that the closest pair is found in O(n). Placing a new one
//! compares it with all, O(n d); storing it renews the neighbours of those that had the evicted one among theirs: two in
//! the mean over all slots, each O(n d) again. A refresh costs the same. Memory: 2 d + 60 bytes a slot.

mod links;
mod rows;
mod saved;

use std::collections::{BTreeSet, HashMap};

use crate::config::Seed;
use crate::stream::FrameId;

use self::links::Links;
use self::rows::{Rows, Similarity};
use super::{FeaturePolicy, FeatureSpace, Offer, Policy, Reservoir};

/// The policy.
#[derive(Debug)]
pub struct MinRed {
    /// Decides about frames that have no features, so that a fault of the encoder does not stop the buffer.
    fallback: Reservoir,
    space: Option<FeatureSpace>,
    rows: Rows,
    links: Links,
    frames: Vec<Option<FrameId>>,
    slots: HashMap<FrameId, u32>,
    /// Version of the features of each slot, 0 where it has none.
    versions: Vec<u64>,
    vacant: BTreeSet<u32>,
    /// Slots that hold an image and no features.
    missing: BTreeSet<u32>,
    /// Where the search for old features goes on, and how many slots in a row it found up to date.
    cursor: usize,
    current: usize,
    /// What `place` computed for `stored`.
    placing: Option<Placing>,
}

/// A decision that has not been carried out.
#[derive(Debug)]
struct Placing {
    frame: FrameId,
    row: Vec<i16>,
    similarities: Vec<Similarity>,
}

impl MinRed {
    pub fn new(seed: Seed) -> Self {
        Self {
            fallback: Reservoir::new(seed),
            space: None,
            rows: Rows::default(),
            links: Links::default(),
            frames: Vec::new(),
            slots: HashMap::new(),
            versions: Vec::new(),
            vacant: BTreeSet::new(),
            missing: BTreeSet::new(),
            cursor: 0,
            current: 0,
            placing: None,
        }
    }

    /// An empty policy for so many slots; does nothing where it has them.
    fn size(&mut self, slots: usize) {
        if self.frames.len() == slots {
            return;
        }
        *self = Self {
            frames: vec![None; slots],
            versions: vec![0; slots],
            vacant: (0..slots as u32).collect(),
            rows: Rows::new(slots, self.space.map_or(0, |space| space.width)),
            links: Links::new(slots),
            space: self.space,
            fallback: self.fallback,
            ..Self::new(Seed(0))
        };
    }

    /// Features of another kind cannot be compared with those there are, which are forgotten.
    fn enter(&mut self, space: FeatureSpace) {
        let Some(before) = self.space.replace(space) else { return self.forget_features(space) };
        if before.kind != space.kind || before.width != space.width {
            self.forget_features(space);
        } else if before.version != space.version {
            // Everything is to be looked at again.
            self.current = 0;
        }
    }

    fn forget_features(&mut self, space: FeatureSpace) {
        let slots = self.frames.len();
        (self.rows, self.links) = (Rows::new(slots, space.width), Links::new(slots));
        self.versions = vec![0; slots];
        self.missing = (0..slots as u32).filter(|&slot| self.frames[slot as usize].is_some()).collect();
        self.current = 0;
        self.placing = None;
    }

    /// The slot that `row` takes, or none to reject it.
    fn choose(&self, similarities: &[Similarity]) -> Option<u32> {
        let (nearest, second) = links::two_nearest(similarities);
        let Some(nearest) = nearest else {
            // Nothing to compare with: the oldest without features makes room.
            return self.missing.iter().copied().min_by_key(|&slot| self.frames[slot as usize]);
        };
        let closest = self.links.closest_pair();
        let closer = |slot| self.links.of(slot).0.is_some_and(|link| link.similarity > nearest.similarity);
        let Some((a, b)) = closest.filter(|&(a, _)| closer(a)) else {
            // The newcomer is one of the closest pair.
            let other = self.links.of(nearest.slot).0;
            let newcomer_is_redundant = second.map(|link| link.similarity) >= other.map(|link| link.similarity);
            return (!newcomer_is_redundant).then_some(nearest.slot);
        };
        let second = |slot: u32| self.links.of(slot).1.map(|link| link.similarity);
        // Among equals the older one makes room.
        let age = |slot: u32| std::cmp::Reverse(self.frames[slot as usize]);
        Some(if (second(a), age(a)) >= (second(b), age(b)) { a } else { b })
    }

    fn set(&mut self, slot: u32, row: &[i16], similarities: &[Similarity]) {
        self.rows.set(slot, row);
        self.links.replaced(slot, similarities, &self.rows);
        self.missing.remove(&slot);
    }
}

impl Policy for MinRed {
    fn place(&mut self, offer: &Offer<'_>) -> Option<usize> {
        self.size(offer.slots);
        self.placing = None;
        let row = offer.feature.and_then(rows::quantised);
        let row = row.filter(|row| self.space.is_some_and(|space| space.width == row.len()));
        let similarities = row.as_ref().map(|row| self.rows.similarities(row));
        let slot = match (&similarities, self.vacant.first()) {
            (_, Some(&slot)) => Some(slot as usize),
            (Some(similarities), None) => self.choose(similarities).map(|slot| slot as usize),
            (None, None) => self.fallback.place(offer),
        };
        if let (Some(row), Some(similarities)) = (row, similarities) {
            self.placing = Some(Placing { frame: offer.id, row, similarities });
        }
        slot
    }

    fn features(&mut self) -> Option<&mut dyn FeaturePolicy> {
        Some(self)
    }
}

impl FeaturePolicy for MinRed {
    fn enter_space(&mut self, space: FeatureSpace) {
        self.enter(space);
    }

    fn stored(&mut self, slot: usize, frame: FrameId) {
        let slot = slot as u32;
        self.removed(slot as usize);
        self.vacant.remove(&slot);
        self.frames[slot as usize] = Some(frame);
        self.slots.insert(frame, slot);
        match self.placing.take().filter(|placing| placing.frame == frame) {
            Some(Placing { row, mut similarities, .. }) => {
                // Of the image that was there.
                similarities[slot as usize] = rows::NONE;
                self.versions[slot as usize] = self.space.map_or(0, |space| space.version);
                self.set(slot, &row, &similarities);
            }
            None => _ = self.missing.insert(slot),
        }
    }

    fn removed(&mut self, slot: usize) {
        let Some(frame) = self.frames.get_mut(slot).and_then(Option::take) else { return };
        self.slots.remove(&frame);
        let slot = slot as u32;
        self.vacant.insert(slot);
        self.missing.remove(&slot);
        self.versions[slot as usize] = 0;
        self.rows.clear(slot);
        self.links.cleared(slot, &self.rows);
    }

    fn adopt(&mut self, slots: usize, live: &[(usize, FrameId)], saved: Option<&[u8]>) {
        self.size(slots);
        if let Some(bytes) = saved
            && let Some(restored) = saved::decode(bytes, slots, self.fallback)
        {
            *self = restored;
        }
        let held: HashMap<usize, FrameId> = live.iter().copied().collect();
        for slot in 0..slots {
            if self.frames[slot] != held.get(&slot).copied() {
                self.removed(slot);
            }
        }
        for &(slot, frame) in live {
            if self.frames[slot] != Some(frame) {
                self.stored(slot, frame);
            }
        }
    }

    fn stale(&mut self, count: usize) -> Vec<FrameId> {
        let slots = self.frames.len();
        let version = self.space.map_or(0, |space| space.version);
        let mut stale: Vec<FrameId> =
            self.missing.iter().filter_map(|&slot| self.frames[slot as usize]).take(count).collect();
        // Once round at most: what is found now is not renewed yet.
        for _ in 0..slots {
            if stale.len() >= count || self.current >= slots {
                break;
            }
            self.cursor = (self.cursor + 1) % slots;
            self.current += 1;
            if (1..version).contains(&self.versions[self.cursor])
                && let Some(frame) = self.frames[self.cursor]
            {
                stale.push(frame);
                self.current = 0;
            }
        }
        stale
    }

    fn refresh(&mut self, frame: FrameId, feature: &[f32]) {
        let (Some(&slot), Some(space)) = (self.slots.get(&frame), self.space) else { return };
        let Some(row) = rows::quantised(feature).filter(|row| row.len() == space.width) else { return };
        self.versions[slot as usize] = space.version;
        let mut similarities = self.rows.similarities(&row);
        similarities[slot as usize] = rows::NONE;
        self.set(slot, &row, &similarities);
    }

    fn save(&self) -> Vec<u8> {
        saved::encode(self)
    }
}

#[cfg(test)]
mod tests;
