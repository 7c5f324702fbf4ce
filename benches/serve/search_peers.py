#!/usr/bin/env python3
"""Exact search of 100,000 x 512, one thread, top 10: lumpd beside FAISS flat (inner product) and usearch exact, in turn.

    pip install faiss-cpu usearch numpy
    cargo bench --bench knn --no-run          # prints the path of the built benchmark
    python3 benches/serve/search_peers.py target/release/deps/knn-0123456789abcdef [ROUNDS]
"""

import re
import subprocess
import sys
import time

import faiss
import numpy
from usearch.index import MetricKind, search

ROWS, WIDTH, TOP = 100_000, 512, 10
BENCHMARK, ROUNDS = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
dice = numpy.random.default_rng(0)
bank = dice.standard_normal((ROWS, WIDTH), dtype=numpy.float32)
bank /= numpy.linalg.norm(bank, axis=1, keepdims=True)
queries = dice.standard_normal((64, WIDTH), dtype=numpy.float32)
queries /= numpy.linalg.norm(queries, axis=1, keepdims=True)
faiss.omp_set_num_threads(1)
index = faiss.IndexFlatIP(WIDTH)
index.add(bank)


def median(run, count):
    """Milliseconds."""
    run(0)
    took = []
    for number in range(count):
        began = time.perf_counter()
        run(number)
        took.append(time.perf_counter() - began)
    return 1000 * sorted(took)[len(took) // 2]


def lumpd(name):
    """Criterion's estimate, in milliseconds."""
    line = [BENCHMARK, "--bench", "--noplot", "--warm-up-time", "0.5", "--measurement-time", "2", name]
    said = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    value, unit = re.search(r"time:\s+\[\S+ \S+ (\S+) (\S+)", said).groups()
    return float(value) * {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}[unit]


one = {"lumpd": lambda: lumpd("100000"),
       "FAISS": lambda: median(lambda n: index.search(queries[n % 64:n % 64 + 1], TOP), 100),
       "usearch": lambda: median(lambda n: search(bank, queries[n % 64], TOP, MetricKind.IP, exact=True, threads=1), 50)}
rounds = []
for _ in range(ROUNDS):
    rounds.append({name: run() for name, run in one.items()})
    print("one query, ms   " + "   ".join(f"{name} {took:.2f}" for name, took in rounds[-1].items()), flush=True)
for peer in ("FAISS", "usearch"):
    ratios = sorted(took[peer] / took["lumpd"] for took in rounds)
    print(f"{peer} takes {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times as long as lumpd")
print(f"64 queries at once, ms   FAISS {median(lambda n: index.search(queries, TOP), 3):.0f}   usearch "
      f"{median(lambda n: search(bank, queries, TOP, MetricKind.IP, exact=True, threads=1), 3):.0f}")
