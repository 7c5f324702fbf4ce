//! Exact search: one query over banks of several sizes, and a batch.
//!
//! `cargo bench --bench knn`. One query should take the time that reading the bank takes (rows x width x 4 bytes at the
//! machine's memory bandwidth).

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use lumpd::config::Seed;
use lumpd::knn::{Bank, NewRow};
use lumpd::stream::{FrameId, SourceId};

const WIDTH: usize = 512;

fn vectors(purpose: &str, n: usize) -> Vec<f32> {
    let mut random = Seed(0).random(purpose, 0);
    (0..n * WIDTH).map(|_| random.uniform() as f32 - 0.5).collect()
}

fn bank(n: usize) -> Bank {
    let vectors = vectors("bank", n);
    let rows: Vec<_> = vectors
        .chunks_exact(WIDTH)
        .enumerate()
        .map(|(i, embedding)| NewRow { frame: FrameId(i as u64), source: SourceId(0), wall_time_ns: 0, embedding })
        .collect();
    Bank::new("bench".into(), WIDTH).with_changes(&[], &rows).expect("rows of one width")
}

fn search(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("search");
    group.sample_size(20);
    let queries = vectors("queries", 64);
    for rows in [4_096, 20_000, 100_000] {
        let bank = bank(rows);
        group.bench_function(format!("{rows} x {WIDTH}, one query, k 10"), |bencher| {
            bencher
                .iter(|| bank.nearest(black_box(&queries[..WIDTH]), 10, |_| true).expect("a query with a direction"));
        });
    }
    let bank = bank(20_000);
    group.bench_function(format!("20000 x {WIDTH}, 64 queries at once, k 10"), |bencher| {
        bencher.iter(|| bank.search(black_box(&queries), 10, |_| true).expect("queries with a direction"));
    });
    group.bench_function(format!("20000 x {WIDTH}, a change of 64 frames"), |bencher| {
        let added: Vec<_> = queries
            .chunks_exact(WIDTH)
            .enumerate()
            .map(|(i, embedding)| NewRow {
                frame: FrameId(30_000 + i as u64),
                source: SourceId(0),
                wall_time_ns: 0,
                embedding,
            })
            .collect();
        let removed: Vec<_> = (0..64).map(|i| FrameId(i * 300)).collect();
        bencher.iter_batched(|| (), |()| bank.with_changes(&removed, &added), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
