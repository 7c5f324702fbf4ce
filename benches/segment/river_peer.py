"""ADWIN, KSWIN and Page-Hinkley of the river package on the streams of `lumpd bench segment`.

    lumpd bench segment --data DIR --seeds 20 --export peer
    python3 -m venv venv && venv/bin/pip install numpy river
    venv/bin/python benches/segment/river_peer.py peer [--seeds 20] [--rows pairs,half] [--detectors adwin]

All three watch one number at a time, so eight of each watch the leading principal components of the frozen features (of the first
256 frames since the last alarm), and any of the eight raises the alarm. Each is calibrated like lumpd's: its one parameter is
set, by bisection, so that the change-free runs of the export have one false alarm in 50,000 frames. Alarms within 512 frames after a change find it. Near-duplicates are not skipped here.
"""

import argparse
import json
import time

import numpy as np
from river import drift

REFERENCE = 256
WATCHED = 8
ASKED = 50_000


def adwin(level):
    return [drift.ADWIN(delta=10**-level) for _ in range(WATCHED)]


def kswin(level):
    return [drift.KSWIN(alpha=10**-level, window_size=100, stat_size=30, seed=i) for i in range(WATCHED)]


def page_hinkley(level):
    return [drift.PageHinkley(min_instances=30, delta=0.25, threshold=level, alpha=1.0) for _ in range(WATCHED)]


DETECTORS = {"adwin": (adwin, 1.0, 40.0), "kswin": (kswin, 1.0, 12.0), "page-hinkley": (page_hinkley, 5.0, 400.0)}


def coordinates(reference, frames):
    mean = reference.mean(0)
    _, values, axes = np.linalg.svd(reference - mean, full_matrices=False)
    scale = values[:WATCHED] / np.sqrt(len(reference) - 1)
    return ((frames - mean) @ axes[:WATCHED].T) / np.maximum(scale, 1e-9)


def segment(features, make, level):
    """Indices of the alarms; every one begins a new reference."""
    alarms, start = [], 0
    while start + REFERENCE < len(features):
        rest = coordinates(features[start : start + REFERENCE], features[start:])
        watchers, alarm = make(level), None
        for index, row in enumerate(rest):
            for watcher, value in zip(watchers, row):
                watcher.update(float(value))
            if index >= REFERENCE and any(watcher.drift_detected for watcher in watchers):
                alarm = index
                break
        if alarm is None:
            break
        alarms.append(start + alarm)
        start += alarm + 1
    return alarms


def calibrate(runs, make, low, high, steps=5):
    """The lowest level at which the change-free runs have no more alarms than one in ASKED frames."""
    allowed = sum(len(run) for run in runs) / ASKED
    for _ in range(steps):
        middle = 0.5 * (low + high)
        alarms = 0
        for run in runs:
            alarms += len(segment(run, make, middle))
            if alarms > allowed:
                break
        low, high = (middle, high) if alarms > allowed else (low, middle)
    return high


def score(alarms, changes, margin=512):
    used, delays = set(), []
    for change in changes:
        hit = next((a for a in alarms if a not in used and change <= a < change + margin), None)
        if hit is not None:
            used.add(hit)
            delays.append(hit - change)
    return len(delays), len(alarms) - len(delays), len(changes) - len(delays), delays


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", default="pairs,half,domains,gradual,gtsrb-order,gtsrb-3,gtsrb-12")
    parser.add_argument("--detectors", default=",".join(DETECTORS))
    parser.add_argument("--quiet-runs", type=int, default=15, help="change-free runs of 8,000 frames to calibrate on")
    arguments = parser.parse_args()
    with open(f"{arguments.folder}/streams.json") as file:
        description = json.load(file)
    features = np.memmap(f"{arguments.folder}/features.f32", dtype="<f4", mode="r").reshape(-1, description["dimensions"])
    quiet = [np.asarray(features[run]) for run in description["quiet"][: arguments.quiet_runs]]
    for name in arguments.detectors.split(","):
        make, low, high = DETECTORS[name]
        start = time.time()
        level = calibrate(quiet, make, low, high)
        print(f"{name}: level {level:.2f}, calibrated in {time.time() - start:.0f} s", flush=True)
        for row in arguments.rows.split(","):
            found = false = missed = 0
            delays = []
            for stream in description["streams"]:
                if stream["row"] != row or stream["seed"] >= arguments.seeds:
                    continue
                ramp = 512 if row == "gradual" else 0
                changes = [change - ramp // 2 for change in stream["changes"]]
                alarms = segment(np.asarray(features[stream["frames"]]), make, level)
                tp, fp, fn, late = score(alarms, changes, 512 + ramp)
                found, false, missed, delays = found + tp, false + fp, missed + fn, delays + late
            f1 = 2 * found / max(1, 2 * found + false + missed)
            p50, p90 = (np.quantile(delays, q) for q in (0.5, 0.9)) if delays else (float("nan"), float("nan"))
            print(f"  {row:<12} F1 {f1:.3f}  found {found}, false {false}, missed {missed}, delay {p50:.0f}/{p90:.0f}", flush=True)


if __name__ == "__main__":
    main()
