//! The bank: immutable embeddings in blocks that successive banks share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::stream::{FrameId, SourceId};

use super::KnnError;

/// Rows of one block: the unit that two banks share, and that a change copies. At 512 numbers a row it is half a MiB.
const BLOCK_ROWS: usize = 256;

/// What an answer says about a row beside its similarity. Task and label are looked up when they are asked for: both may
/// change while the embedding stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub frame: FrameId,
    pub source: SourceId,
    /// Nanoseconds since the Unix epoch.
    pub wall_time_ns: i64,
}

/// A row to be added.
#[derive(Debug, Clone, Copy)]
pub struct NewRow<'a> {
    pub frame: FrameId,
    pub source: SourceId,
    /// Nanoseconds since the Unix epoch.
    pub wall_time_ns: i64,
    /// The encoder's pooled features; any length but zero, normalised here.
    pub embedding: &'a [f32],
}

#[derive(Debug)]
pub(super) struct Block {
    pub(super) entries: Vec<Entry>,
    /// L2-normalised rows, one after the other.
    pub(super) vectors: Vec<f32>,
}

impl Block {
    fn empty(width: usize) -> Self {
        Self { entries: Vec::with_capacity(BLOCK_ROWS), vectors: Vec::with_capacity(BLOCK_ROWS * width) }
    }

    /// The rest, with room to be filled again.
    fn without(&self, gone: &HashSet<FrameId>, width: usize) -> Self {
        let mut copy = Self::empty(width);
        for (entry, vector) in self.entries.iter().zip(self.vectors.chunks_exact(width)) {
            if !gone.contains(&entry.frame) {
                copy.push(*entry, vector);
            }
        }
        copy
    }

    fn push(&mut self, entry: Entry, vector: &[f32]) {
        self.entries.push(entry);
        self.vectors.extend_from_slice(vector);
    }
}

impl Clone for Block {
    /// With room to be filled: a block is copied only to be added to.
    fn clone(&self) -> Self {
        let rows = self.entries.len().max(1);
        let mut copy = Self::empty(self.vectors.len() / rows);
        copy.entries.extend_from_slice(&self.entries);
        copy.vectors.extend_from_slice(&self.vectors);
        copy
    }
}

/// The embeddings of one encoder version: immutable, each frame once, every row of length one.
///
/// Rows lie in blocks that successive banks share. A frame whose embedding has no direction (zeros, or not finite) can have
/// no cosine: it is left out of every search and counted in [`Bank::without_direction`].
///
/// Memory: rows x (4 x width + 24) bytes, and up to one block more.
#[derive(Debug, Clone)]
pub struct Bank {
    encoder: Arc<str>,
    width: usize,
    blocks: Vec<Arc<Block>>,
    without_direction: BTreeSet<FrameId>,
}

impl Bank {
    /// An empty bank of the encoder version named `encoder`, whose embeddings have `width` numbers.
    pub fn new(encoder: Arc<str>, width: usize) -> Self {
        Self { encoder, width, blocks: Vec::new(), without_direction: BTreeSet::new() }
    }

    /// A new bank of the same encoder version without the frames of `removed` and with those of `added`; one that is already
    /// there is replaced, and of two rows of one frame the later counts. Copies only the blocks it changes.
    ///
    /// # Errors
    /// [`KnnError::Width`] if an embedding is not as wide as the bank.
    pub fn with_changes(&self, removed: &[FrameId], added: &[NewRow<'_>]) -> Result<Self, KnnError> {
        for row in added {
            self.check_width(row.embedding.len())?;
        }
        let gone: HashSet<FrameId> = removed.iter().copied().chain(added.iter().map(|row| row.frame)).collect();
        let mut next = Self {
            encoder: self.encoder.clone(),
            width: self.width,
            blocks: self.blocks.iter().filter_map(|block| self.kept(block, &gone)).collect(),
            without_direction: self.without_direction.difference(&gone.into_iter().collect()).copied().collect(),
        };
        next.append(added);
        Ok(next)
    }

    /// The block itself where nothing of it goes, so that it stays shared; nothing where all of it goes.
    fn kept(&self, block: &Arc<Block>, gone: &HashSet<FrameId>) -> Option<Arc<Block>> {
        if !block.entries.iter().any(|entry| gone.contains(&entry.frame)) {
            return Some(block.clone());
        }
        let rest = block.without(gone, self.width);
        (!rest.entries.is_empty()).then(|| Arc::new(rest))
    }

    fn append(&mut self, added: &[NewRow<'_>]) {
        let last: HashMap<FrameId, usize> = added.iter().enumerate().map(|(at, row)| (row.frame, at)).collect();
        let mut open = 0;
        for (at, row) in added.iter().enumerate() {
            if last[&row.frame] != at {
                continue;
            }
            let Some(vector) = normalised(row.embedding) else {
                self.without_direction.insert(row.frame);
                continue;
            };
            while self.blocks.get(open).is_some_and(|block| block.entries.len() >= BLOCK_ROWS) {
                open += 1;
            }
            let entry = Entry { frame: row.frame, source: row.source, wall_time_ns: row.wall_time_ns };
            self.block_to_fill(open).push(entry, &vector);
        }
    }

    /// Block `at`, no longer shared with another bank; a new one behind the last.
    fn block_to_fill(&mut self, at: usize) -> &mut Block {
        if at == self.blocks.len() {
            self.blocks.push(Arc::new(Block::empty(self.width)));
        }
        Arc::make_mut(&mut self.blocks[at])
    }

    pub(super) fn check_width(&self, found: usize) -> Result<(), KnnError> {
        if found == self.width { Ok(()) } else { Err(KnnError::Width { expected: self.width, found }) }
    }

    pub(super) fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    /// The encoder version that made these embeddings.
    pub fn encoder(&self) -> &str {
        &self.encoder
    }

    /// Numbers in an embedding.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Frames that can be found.
    pub fn len(&self) -> usize {
        self.blocks.iter().map(|block| block.entries.len()).sum()
    }

    /// Whether no frame can be found.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Frames that are here and cannot be found, because this encoder gives them no direction.
    pub fn without_direction(&self) -> usize {
        self.without_direction.len()
    }

    /// Whether the frame is here, findable or not.
    pub fn contains(&self, frame: FrameId) -> bool {
        self.without_direction.contains(&frame) || self.get(frame).is_some()
    }

    /// A frame's normalised embedding. Scans the numbers of all frames: 100,000 take some 50 microseconds.
    pub fn get(&self, frame: FrameId) -> Option<(Entry, &[f32])> {
        self.blocks.iter().find_map(|block| {
            let at = block.entries.iter().position(|entry| entry.frame == frame)?;
            Some((block.entries[at], &block.vectors[at * self.width..][..self.width]))
        })
    }

    /// Every findable frame with its normalised embedding, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Entry, &[f32])> {
        // A width of zero has no rows: every embedding of no numbers is without a direction.
        let width = self.width.max(1);
        self.blocks.iter().flat_map(move |block| block.entries.iter().copied().zip(block.vectors.chunks_exact(width)))
    }
}

/// `vector` at length one, or none where it has no direction. In f64, so that neither 1e-30 nor 1e30 is lost in its square.
pub(super) fn normalised(vector: &[f32]) -> Option<Vec<f32>> {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return None;
    }
    Some(vector.iter().map(|&x| (f64::from(x) / length) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    fn row(frame: u64, embedding: &[f32]) -> NewRow<'_> {
        NewRow { frame: FrameId(frame), source: SourceId(3), wall_time_ns: 10 * frame as i64, embedding }
    }

    fn frames(bank: &Bank) -> Vec<u64> {
        let mut frames: Vec<u64> = bank.iter().map(|(entry, _)| entry.frame.0).collect();
        frames.sort_unstable();
        frames
    }

    #[test]
    fn changes_make_a_new_bank_and_leave_the_old_one() {
        let old = Bank::new("a".into(), 2).with_changes(&[], &[row(1, &[3.0, 4.0]), row(2, &[1.0, 0.0])]).unwrap();
        let new = old.with_changes(&[FrameId(2), FrameId(99)], &[row(3, &[0.0, -2.0]), row(1, &[0.0, 1.0])]).unwrap();
        assert_eq!(frames(&old), [1, 2]);
        assert_eq!(old.get(FrameId(1)).unwrap().1, [0.6, 0.8]);
        assert_eq!(frames(&new), [1, 3]);
        assert_eq!(new.get(FrameId(1)).unwrap().1, [0.0, 1.0], "a frame that comes again is replaced");
        assert_eq!(new.get(FrameId(3)).unwrap().0.wall_time_ns, 30);
        assert!(new.get(FrameId(2)).is_none());
    }

    #[test]
    fn a_small_change_copies_a_small_part() {
        let rows: Vec<[f32; 2]> = (0..10 * BLOCK_ROWS).map(|i| [1.0, i as f32]).collect();
        let added: Vec<_> = rows.iter().enumerate().map(|(i, vector)| row(i as u64, vector)).collect();
        let old = Bank::new("a".into(), 2).with_changes(&[], &added).unwrap();
        let new = old.with_changes(&[FrameId(5)], &[row(90_000, &[1.0, 1.0])]).unwrap();
        let shared = new.blocks.iter().filter(|block| old.blocks.iter().any(|other| Arc::ptr_eq(block, other))).count();
        assert_eq!((old.blocks.len(), new.blocks.len(), shared), (10, 10, 9), "the vacancy is filled where it arose");
        assert_eq!(new.len(), old.len());
    }

    #[test]
    fn an_embedding_without_direction_is_counted_and_never_found() {
        let vectors = [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0], [1e-30, 1e-30], [1e30, 1e30]];
        let added: Vec<_> = vectors.iter().enumerate().map(|(i, vector)| row(i as u64, vector)).collect();
        let bank = Bank::new("a".into(), 2).with_changes(&[], &added).unwrap();
        assert_eq!((frames(&bank), bank.without_direction()), (vec![3, 4], 3));
        assert!(bank.contains(FrameId(0)) && !bank.contains(FrameId(9)));
        assert!(bank.iter().all(|(_, vector)| (vector[0] - 0.5f32.sqrt()).abs() < 1e-6));
        let repaired = bank.with_changes(&[FrameId(1)], &[row(0, &[0.0, 1.0])]).unwrap();
        assert_eq!((frames(&repaired), repaired.without_direction()), (vec![0, 3, 4], 1));
    }

    #[test]
    fn of_two_rows_of_one_frame_the_later_counts() {
        let bank = Bank::new("a".into(), 1).with_changes(&[], &[row(1, &[1.0]), row(1, &[-1.0])]).unwrap();
        assert_eq!((bank.len(), bank.get(FrameId(1)).unwrap().1), (1, &[-1.0][..]));
    }

    #[test]
    fn a_wrong_width_is_refused() {
        let error = Bank::new("a".into(), 3).with_changes(&[], &[row(1, &[1.0])]).unwrap_err();
        assert!(matches!(error, KnnError::Width { expected: 3, found: 1 }), "{error}");
    }

    #[test]
    fn many_random_changes_hold_what_a_map_holds() {
        let mut random = Seed(5).random("changes", 0);
        let (mut bank, mut twin) = (Bank::new("a".into(), 1), BTreeSet::new());
        for _ in 0..60 {
            let removed: Vec<FrameId> = (0..random.below(80)).map(|_| FrameId(random.below(900))).collect();
            let added: Vec<u64> = (0..random.below(100)).map(|_| random.below(900)).collect();
            let rows: Vec<_> = added.iter().map(|&frame| row(frame, &[1.0])).collect();
            bank = bank.with_changes(&removed, &rows).unwrap();
            removed.iter().for_each(|frame| _ = twin.remove(&frame.0));
            twin.extend(added);
            assert_eq!(frames(&bank), twin.iter().copied().collect::<Vec<_>>());
        }
    }
}
