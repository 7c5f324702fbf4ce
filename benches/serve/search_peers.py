#!/usr/bin/env python3
"""Exact search of 100,000 x 512, one thread, top 10: FAISS flat (inner product) and usearch exact, beside `cargo bench --bench knn`.

    pip install faiss-cpu usearch numpy
    python3 benches/serve/search_peers.py
"""

import time

import faiss
import numpy
from usearch.index import MetricKind, search

ROWS, WIDTH, TOP = 100_000, 512, 10
dice = numpy.random.default_rng(0)
bank = dice.standard_normal((ROWS, WIDTH), dtype=numpy.float32)
bank /= numpy.linalg.norm(bank, axis=1, keepdims=True)
queries = dice.standard_normal((64, WIDTH), dtype=numpy.float32)
queries /= numpy.linalg.norm(queries, axis=1, keepdims=True)


def measured(name, run, count):
    run(0)
    took = []
    for number in range(count):
        began = time.perf_counter()
        run(number)
        took.append(time.perf_counter() - began)
    print(f"{name:<32} median {1000 * sorted(took)[len(took) // 2]:7.2f} ms, least {1000 * min(took):7.2f} ms", flush=True)


faiss.omp_set_num_threads(1)
index = faiss.IndexFlatIP(WIDTH)
index.add(bank)
measured("FAISS flat, 1 query", lambda n: index.search(queries[n % 64:n % 64 + 1], TOP), 30)
measured("FAISS flat, 64 queries", lambda n: index.search(queries, TOP), 4)
measured("usearch exact, 1 query", lambda n: search(bank, queries[n % 64], TOP, MetricKind.IP, exact=True, threads=1), 30)
measured("usearch exact, 64 queries", lambda n: search(bank, queries, TOP, MetricKind.IP, exact=True, threads=1), 4)
