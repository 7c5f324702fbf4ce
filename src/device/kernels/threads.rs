//! Where a kernel's work runs: on the calling thread, or spread over rayon's pool.
//!
//! Reductions are split into a number of parts that depends on nothing but the number of threads, and are summed in the
//! order of the parts: the same threads give the same bits.

use std::cell::Cell;

use rayon::prelude::*;

use crate::device::turns::give_turn;

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread alone: for a query, which shall not queue behind a training step's work in the pool.
    Caller,
    /// The pool of rayon that the caller is in, or the global one.
    Pool,
}

impl Threads {
    /// How many threads compute.
    pub fn count(self) -> usize {
        match self {
            Threads::Caller => 1,
            Threads::Pool => rayon::current_num_threads().max(1),
        }
    }

    /// Does work of many kernels on one of the threads that compute them. From a thread outside the pool each kernel would wake
    /// it and wait for it: some 340 times in a gradient step of the narrow preset.
    pub fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Threads::Caller => work(),
            Threads::Pool => rayon::scope(|_| work()),
        }
    }

    /// Calls `work(index, chunk)` for every chunk of `length` values of `target`; the last one may be shorter.
    pub(super) fn for_each_chunk(self, target: &mut [f32], length: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        match self {
            Threads::Caller => target.chunks_mut(length).enumerate().for_each(|(i, chunk)| work(i, chunk)),
            Threads::Pool => target.par_chunks_mut(length).enumerate().for_each(|(i, chunk)| {
                give_turn();
                work(i, chunk);
            }),
        }
    }

    /// As [`Threads::for_each_chunk`] over two slices in step, chunk `i` of the one beside chunk `i` of the other.
    pub(super) fn for_each_pair(
        self,
        (first, first_length): (&mut [f32], usize),
        (second, second_length): (&mut [f32], usize),
        work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        match self {
            Threads::Caller => {
                let pairs = first.chunks_mut(first_length).zip(second.chunks_mut(second_length));
                pairs.enumerate().for_each(|(i, (a, b))| work(i, a, b));
            }
            Threads::Pool => {
                let pairs = first.par_chunks_mut(first_length).zip(second.par_chunks_mut(second_length));
                pairs.enumerate().for_each(|(i, (a, b))| {
                    give_turn();
                    work(i, a, b);
                });
            }
        }
    }

    /// Does each piece of work, in any order.
    pub(super) fn for_each<T: Send>(self, pieces: Vec<T>, work: impl Fn(T) + Send + Sync) {
        match self {
            Threads::Caller => pieces.into_iter().for_each(work),
            Threads::Pool => pieces.into_par_iter().for_each(|piece| {
                give_turn();
                work(piece);
            }),
        }
    }
}

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends this thread's scratch memory: `length` values of unspecified content, kept for the next call. A nested call
/// gets memory of its own.
pub(super) fn with_scratch<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.take();
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    let result = work(&mut buffer[..length]);
    SCRATCH.set(buffer);
    result
}
