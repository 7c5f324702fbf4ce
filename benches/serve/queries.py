#!/usr/bin/env python3
"""Queries while it trains and while it does not: 100 a second against a bank of 10,000, open loop.

    python3 benches/serve/queries.py [SECONDS [SECONDS BETWEEN VERSIONS]]

Versions are published while it trains only where their interval is given: the whole bank is embedded anew for each.
"""

import random
import sys
import time

from common import Daemon, at_rate, fill, line, picture

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 30
INTERVAL = sys.argv[2] if len(sys.argv) > 2 else "100000"


def counts(daemon):
    status = daemon.get("/v1/status")
    return status["learn"]["steps"], status["encoder"]["version"]


with Daemon("replay.slots=10000", "encoder.preset=resnet18-w16", "learn.idle_steps_per_second=1000",
            "device.kind=cpu", f"publish.interval_seconds={INTERVAL}", "publish.at_task_boundary=false",
            "checkpoint.interval_seconds=100000") as daemon:
    daemon.ask("POST", "/v1/training/pause")
    began = time.perf_counter()
    rows = fill(daemon, 10_300)
    print(f"bank of {rows}, filled in {time.perf_counter() - began:.0f} s")
    pictures = [picture(1_000_000 + number) for number in range(200)]
    ask = lambda link: daemon.ask("POST", "/v1/query?k=10", random.choice(pictures), connection=link)[0]
    at_rate(daemon, 50, 3, ask)
    off = line("training off", *at_rate(daemon, 100, SECONDS, ask))
    daemon.ask("POST", "/v1/training/resume")
    time.sleep(3)
    before = counts(daemon)
    on = line("training on", *at_rate(daemon, 100, SECONDS, ask))
    steps, versions = (after - before for after, before in zip(counts(daemon), before))
    print(f"ratio of p99: {on / off:.2f}; {steps} gradient steps meanwhile ({steps / SECONDS:.1f} a second), {versions} versions published")
