//! Exact cosine search: every row is compared, so the answer is the answer.
//!
//! One query is bound by memory bandwidth (512 numbers a row: 2 KiB). Of several queries each takes a tile of rows while it
//! is in the cache. A row's similarity is summed in an order that does not depend on where the row lies, so that a bank
//! gives the same bits however it came about.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::stream::{FrameId, SourceId};

use super::bank::{Block, normalised};
use super::{Bank, Entry, KnnError};

/// Partial sums of one dot product. The compiler makes vectors of them: four registers of 128 bits, two of 256.
const LANES: usize = 16;

/// Rows compared with one query before the next query's turn: 64 KiB at 512 numbers a row.
const TILE_ROWS: usize = 32;

/// Multiplications from which a search is spread over the thread pool: 262,144 rows of 512. Below it one thread answers in
/// tens of milliseconds, which beats waiting for a pool that training may be using.
const PARALLEL_WORK: usize = 1 << 27;

/// A frame of the bank, and how near it is to the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    pub frame: FrameId,
    pub source: SourceId,
    /// Nanoseconds since the Unix epoch.
    pub wall_time_ns: i64,
    /// Cosine of the two embeddings, -1 to 1; never NaN.
    pub similarity: f32,
}

impl Bank {
    /// The `k` frames nearest to `query` among those that `keep` admits, the nearest first, equals by their number.
    ///
    /// `query`: (width), of any length but zero. Fewer than `k` where the bank holds no more.
    ///
    /// # Errors
    /// [`KnnError::Width`], or [`KnnError::NoDirection`] for a query of zeros or with a number that is not finite.
    pub fn nearest(
        &self,
        query: &[f32],
        k: usize,
        keep: impl Fn(&Entry) -> bool + Sync,
    ) -> Result<Vec<Neighbour>, KnnError> {
        self.check_width(query.len())?;
        Ok(self.search(query, k, keep)?.pop().unwrap_or_default())
    }

    /// [`Bank::nearest`] of several queries at once, in their order. `queries`: (m, width), row after row.
    ///
    /// # Errors
    /// As [`Bank::nearest`]; one bad query fails the batch and is named.
    pub fn search(
        &self,
        queries: &[f32],
        k: usize,
        keep: impl Fn(&Entry) -> bool + Sync,
    ) -> Result<Vec<Vec<Neighbour>>, KnnError> {
        let width = self.width();
        if width == 0 || !queries.len().is_multiple_of(width) {
            return Err(KnnError::Width { expected: width, found: queries.len() });
        }
        let queries = queries
            .chunks_exact(width)
            .enumerate()
            .map(|(at, query)| normalised(query).ok_or(KnnError::NoDirection { query: at }))
            .collect::<Result<Vec<_>, _>>()?;
        let k = k.min(self.len());
        if k == 0 {
            return Ok(vec![Vec::new(); queries.len()]);
        }
        let best = if self.len().saturating_mul(width).saturating_mul(queries.len()) < PARALLEL_WORK {
            let mut best = empty(queries.len(), k);
            self.blocks().iter().for_each(|block| scan(block, &queries, &keep, &mut best));
            best
        } else {
            self.search_in_parallel(&queries, k, &keep)
        };
        Ok(best.into_iter().map(Best::sorted).collect())
    }

    fn search_in_parallel(&self, queries: &[Vec<f32>], k: usize, keep: &(impl Fn(&Entry) -> bool + Sync)) -> Vec<Best> {
        let start = || empty(queries.len(), k);
        let parts = self.blocks().par_iter().fold(start, |mut best, block| {
            scan(block, queries, keep, &mut best);
            best
        });
        // The order of merging does not show: the best k of a total order are the same whoever is asked first.
        parts.reduce(start, |mut left, right| {
            left.iter_mut().zip(right).for_each(|(left, right)| left.merge(right));
            left
        })
    }
}

fn empty(queries: usize, k: usize) -> Vec<Best> {
    (0..queries).map(|_| Best { k, heap: BinaryHeap::with_capacity(k) }).collect()
}

fn scan(block: &Block, queries: &[Vec<f32>], keep: &impl Fn(&Entry) -> bool, best: &mut [Best]) {
    let width = queries[0].len();
    let tiles = block.entries.chunks(TILE_ROWS).zip(block.vectors.chunks(TILE_ROWS * width));
    for (entries, rows) in tiles {
        for (query, best) in queries.iter().zip(best.iter_mut()) {
            scan_tile(entries, rows, query, keep, best);
        }
    }
}

fn scan_tile(entries: &[Entry], rows: &[f32], query: &[f32], keep: &impl Fn(&Entry) -> bool, best: &mut Best) {
    for (entry, row) in entries.iter().zip(rows.chunks_exact(query.len())) {
        best.offer(entry, dot(query, row), keep);
    }
}

/// Dot product of two vectors of one length: sixteen partial sums, added as a tree. One row at a time: rows that come from
/// memory in one run are prefetched; two runs at once were measured to take more than twice as long.
fn dot(query: &[f32], row: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((query, query_tail), (row, row_tail)) = (query.as_chunks::<LANES>(), row.as_chunks::<LANES>());
    for (query, row) in query.iter().zip(row) {
        sums = std::array::from_fn(|lane| sums[lane] + query[lane] * row[lane]);
    }
    for ((sum, q), r) in sums.iter_mut().zip(query_tail).zip(row_tail) {
        *sum += q * r;
    }
    tree_sum(sums)
}

fn tree_sum(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// The best `k` neighbours offered so far, the worst of them on top.
struct Best {
    k: usize,
    heap: BinaryHeap<Candidate>,
}

impl Best {
    /// `keep` is asked last: it may be a look-up, and most rows fail the comparison before it.
    fn offer(&mut self, entry: &Entry, similarity: f32, keep: &impl Fn(&Entry) -> bool) {
        let candidate = Candidate { entry: *entry, similarity: similarity.clamp(-1.0, 1.0) };
        if self.heap.len() < self.k {
            if keep(entry) {
                self.heap.push(candidate);
            }
        } else if self.heap.peek().is_some_and(|worst| candidate < *worst) && keep(entry) {
            self.heap.pop();
            self.heap.push(candidate);
        }
    }

    fn merge(&mut self, other: Self) {
        other.heap.iter().for_each(|candidate| self.offer(&candidate.entry, candidate.similarity, &|_| true));
    }

    fn sorted(self) -> Vec<Neighbour> {
        let of = |candidate: Candidate| Neighbour {
            frame: candidate.entry.frame,
            source: candidate.entry.source,
            wall_time_ns: candidate.entry.wall_time_ns,
            similarity: candidate.similarity,
        };
        self.heap.into_sorted_vec().into_iter().map(of).collect()
    }
}

/// Ordered from the nearest to the farthest, equals by the frame's number.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    entry: Entry,
    similarity: f32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        other.similarity.total_cmp(&self.similarity).then(self.entry.frame.cmp(&other.entry.frame))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Seed;
    use crate::knn::NewRow;

    fn bank(width: usize, vectors: &[Vec<f32>]) -> Bank {
        let rows: Vec<_> = vectors
            .iter()
            .enumerate()
            .map(|(i, embedding)| NewRow {
                frame: FrameId(i as u64),
                source: SourceId(i as u32 % 3),
                wall_time_ns: 0,
                embedding,
            })
            .collect();
        Bank::new("a".into(), width).with_changes(&[], &rows).unwrap()
    }

    fn normal_vectors(seed: u64, n: usize, width: usize) -> Vec<Vec<f32>> {
        let mut random = Seed(seed).random("vectors", 0);
        (0..n).map(|_| (0..width).map(|_| random.normal() as f32).collect()).collect()
    }

    /// What the search must compute, written as it is defined.
    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    fn frames(neighbours: &[Neighbour]) -> Vec<u64> {
        neighbours.iter().map(|neighbour| neighbour.frame.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_search_agrees_with_its_definition(seed in 0u64..1 << 32, n in 1usize..600, width in 1usize..70, k in 1usize..40) {
            let vectors = normal_vectors(seed, n, width);
            let query = &normal_vectors(seed ^ 1, 1, width)[0];
            let keep = |entry: &Entry| !entry.frame.0.is_multiple_of(3);
            let found = bank(width, &vectors).nearest(query, k, keep).unwrap();
            let mut expected: Vec<f64> =
                (0..n).filter(|i| !i.is_multiple_of(3)).map(|i| cosine(query, &vectors[i])).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            expected.truncate(k);
            prop_assert_eq!(found.len(), expected.len());
            for (neighbour, expected) in found.iter().zip(expected) {
                prop_assert!((f64::from(neighbour.similarity) - expected).abs() < 1e-6);
                let own = cosine(query, &vectors[neighbour.frame.0 as usize]);
                prop_assert!((f64::from(neighbour.similarity) - own).abs() < 1e-6);
                prop_assert!(!neighbour.frame.0.is_multiple_of(3));
            }
        }
    }

    #[test]
    fn equals_come_in_the_order_of_their_numbers() {
        let vectors = vec![vec![2.0, 0.0]; 700];
        let rows: Vec<_> = (0..700u64)
            .rev()
            .map(|i| NewRow { frame: FrameId(i), source: SourceId(0), wall_time_ns: 0, embedding: &vectors[0] })
            .collect();
        let bank = Bank::new("a".into(), 2).with_changes(&[], &rows).unwrap();
        assert_eq!(frames(&bank.nearest(&[1.0, 0.0], 4, |_| true).unwrap()), [0, 1, 2, 3]);
    }

    #[test]
    fn a_batch_the_pool_and_a_shuffled_bank_give_the_same_bits() {
        let (vectors, queries) = (normal_vectors(1, 1500, 37), normal_vectors(2, 9, 37));
        let whole = bank(37, &vectors);
        let batch = whole.search(&queries.concat(), 25, |_| true).unwrap();
        let one_by_one: Vec<_> = queries.iter().map(|query| whole.nearest(query, 25, |_| true).unwrap()).collect();
        assert_eq!(batch, one_by_one);
        let unit: Vec<_> = queries.iter().map(|query| normalised(query).unwrap()).collect();
        let pooled = whole.search_in_parallel(&unit, 25, &|_: &Entry| true);
        assert_eq!(batch, pooled.into_iter().map(Best::sorted).collect::<Vec<_>>());
        // The same rows at other places: taken out and put back.
        let out: Vec<FrameId> = (0..1500).step_by(7).map(FrameId).collect();
        let back: Vec<_> = out
            .iter()
            .rev()
            .map(|&frame| NewRow {
                frame,
                source: SourceId(frame.0 as u32 % 3),
                wall_time_ns: 0,
                embedding: &vectors[frame.0 as usize],
            })
            .collect();
        let moved = whole.with_changes(&out, &[]).unwrap().with_changes(&[], &back).unwrap();
        assert_eq!(batch, moved.search(&queries.concat(), 25, |_| true).unwrap());
    }

    #[test]
    fn a_query_without_direction_or_of_another_width_is_named() {
        let bank = bank(2, &[vec![1.0, 0.0]]);
        let error = bank.search(&[1.0, 0.0, 0.0, 0.0], 1, |_| true).unwrap_err();
        assert!(matches!(error, KnnError::NoDirection { query: 1 }), "{error}");
        assert!(matches!(bank.nearest(&[f32::NAN, 1.0], 1, |_| true), Err(KnnError::NoDirection { query: 0 })));
        assert!(matches!(bank.nearest(&[1.0; 4], 1, |_| true), Err(KnnError::Width { expected: 2, found: 4 })));
    }

    #[test]
    fn fewer_than_k_are_all_there_is() {
        assert!(bank(2, &[]).nearest(&[1.0, 0.0], 5, |_| true).unwrap().is_empty());
        let two = bank(2, &[vec![1.0, 0.0], vec![0.0, 1.0]]);
        assert_eq!(frames(&two.nearest(&[0.0, 1.0], usize::MAX, |_| true).unwrap()), [1, 0]);
        assert!(two.nearest(&[0.0, 1.0], 0, |_| true).unwrap().is_empty());
        assert!(two.nearest(&[0.0, 1.0], 3, |_| false).unwrap().is_empty());
    }
}
