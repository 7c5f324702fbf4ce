//! The two nearest neighbours of every slot, kept up to date.

use super::rows::{NONE, Rows, Similarity};

/// A neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub slot: u32,
    pub similarity: Similarity,
}

impl Link {
    /// Nearer, or as near and of a lower slot.
    fn is_before(self, other: Option<Self>) -> bool {
        other.is_none_or(|other| {
            self.similarity > other.similarity || (self.similarity == other.similarity && self.slot < other.slot)
        })
    }
}

/// The nearest and the second nearest.
pub(super) type Pair = (Option<Link>, Option<Link>);

/// Of every slot; a pure function of the rows, however they came about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Links(Vec<Pair>);

impl Links {
    pub(super) fn new(slots: usize) -> Self {
        Self(vec![(None, None); slots])
    }

    pub(super) fn of(&self, slot: u32) -> Pair {
        self.0[slot as usize]
    }

    pub(super) fn restore(&mut self, slot: u32, pair: Pair) {
        self.0[slot as usize] = pair;
    }

    /// The slot that is nearest to another, and that other; the lowest among equals. O(slots).
    pub(super) fn closest_pair(&self) -> Option<(u32, u32)> {
        let mut best: Option<(u32, Link)> = None;
        for (slot, pair) in self.0.iter().enumerate() {
            if let Some(link) = pair.0
                && best.is_none_or(|(_, held)| link.similarity > held.similarity)
            {
                best = Some((slot as u32, link));
            }
        }
        best.map(|(slot, link)| (slot, link.slot))
    }

    /// Slot `changed` has a new row, whose `similarities` with all others these are ([`NONE`] with itself).
    pub(super) fn replaced(&mut self, changed: u32, similarities: &[Similarity], rows: &Rows) {
        let outdated = self.dependants(changed);
        self.0[changed as usize] = two_nearest(similarities);
        for (slot, &similarity) in similarities.iter().enumerate() {
            if similarity != NONE {
                offer(&mut self.0[slot], Link { slot: changed, similarity });
            }
        }
        self.renew(&outdated, rows);
    }

    /// Slot `cleared` has no row any more.
    pub(super) fn cleared(&mut self, cleared: u32, rows: &Rows) {
        let outdated = self.dependants(cleared);
        self.0[cleared as usize] = (None, None);
        self.renew(&outdated, rows);
    }

    fn dependants(&self, of: u32) -> Vec<u32> {
        let depends = |pair: &Pair| [pair.0, pair.1].iter().flatten().any(|link| link.slot == of);
        (0_u32..).zip(&self.0).filter(|(slot, pair)| *slot != of && depends(pair)).map(|(slot, _)| slot).collect()
    }

    fn renew(&mut self, slots: &[u32], rows: &Rows) {
        for &slot in slots {
            let mut similarities = rows.similarities(rows.row(slot));
            similarities[slot as usize] = NONE;
            self.0[slot as usize] = two_nearest(&similarities);
        }
    }
}

/// The nearest two of one slot's similarities with all.
pub(super) fn two_nearest(similarities: &[Similarity]) -> Pair {
    let mut pair = (None, None);
    for (slot, &similarity) in similarities.iter().enumerate() {
        if similarity != NONE {
            offer(&mut pair, Link { slot: slot as u32, similarity });
        }
    }
    pair
}

fn offer(pair: &mut Pair, link: Link) {
    if link.is_before(pair.0) {
        *pair = (Some(link), pair.0);
    } else if link.is_before(pair.1) {
        pair.1 = Some(link);
    }
}
