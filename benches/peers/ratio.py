#!/usr/bin/env python3
"""lumpd and PyTorch in turn on this machine: the median of the ratios of the pairs.

    ratio.py --pairs 5 train --batch 64 --size 32 --dtype f32 --peer-dtype bf16
    ratio.py embed --batch 64 --size 32 --dtype bf16 --peer-dtype bf16 --python ~/venv/bin/python

Each pair is one run of `lumpd bench` and one of `torch_step.py` (or of another `--peer`), one after the other; a ratio is the images
a second of the first over those of the second, above 1 where lumpd is faster. bf16 on the peer's side is autocast and
channels_last, its best mode. The last line is JSON with all pairs.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def mebibytes(report):
    return "unknown" if report["peak_bytes"] is None else f"{report['peak_bytes'] / 2**20:.0f} MiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=["train", "embed"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", default="64")
    parser.add_argument("--size", default="32")
    parser.add_argument("--steps", default="10")
    parser.add_argument("--warmup", default="3")
    parser.add_argument("--threads", default="0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="of lumpd")
    parser.add_argument("--peer-dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--lumpd", default=str(HERE.parents[1] / "target/release/lumpd"))
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--peer", default=str(HERE / "torch_step.py"))
    o = parser.parse_args()

    # The views are made within the step on both sides.
    augment = ["--augment"] if o.subject == "train" else []
    same = ["--batch", o.batch, "--size", o.size, "--steps", o.steps, "--warmup", o.warmup, "--threads", o.threads]
    same += ["--device", o.device, *augment]
    ours = [o.lumpd, "bench", o.subject, "--preset", "resnet18", "--dtype", o.dtype, "--json", *same]
    channels_last = ["--channels-last"] if o.peer_dtype == "bf16" else []
    theirs = [o.python, o.peer, o.subject, "--dtype", o.peer_dtype, *channels_last, *same]

    pairs = []
    for index in range(o.pairs):
        a, b = run(ours), run(theirs)
        ratio = a["images_per_second"] / b["images_per_second"]
        pairs.append(dict(lumpd=a["images_per_second"], peer=b["images_per_second"], ratio=ratio,
                          lumpd_peak_bytes=a["peak_bytes"], peer_peak_bytes=b["peak_bytes"]))
        print(f"pair {index + 1}: lumpd {a['images_per_second']:.1f}, peer {b['images_per_second']:.1f} images a second, "
              f"ratio {ratio:.2f}; peak {mebibytes(a)} and {mebibytes(b)}", flush=True)
    print(json.dumps(dict(
        subject=o.subject, batch=int(o.batch), size=int(o.size), dtype=o.dtype, peer_dtype=o.peer_dtype, peer=b["peer"],
        ratio_median=statistics.median(pair["ratio"] for pair in pairs), pairs=pairs,
    )))


if __name__ == "__main__":
    main()
