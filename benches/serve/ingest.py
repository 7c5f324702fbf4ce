#!/usr/bin/env python3
"""Small JPEG frames over the frame socket, training off.

    python3 benches/serve/ingest.py [FRAMES]

Needs pillow, for the JPEG files.
"""

import io
import pathlib
import subprocess
import sys
import tempfile
import time

from PIL import Image

from common import BINARY, Daemon, picture

FRAMES = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
with tempfile.TemporaryDirectory(prefix="lumpd-frames-") as folder:
    folder = pathlib.Path(folder)
    size = 0
    for number in range(FRAMES):
        file = io.BytesIO()
        Image.open(io.BytesIO(picture(number))).convert("RGB").save(file, "JPEG", quality=85)
        (folder / f"{number:06}.jpg").write_bytes(file.getvalue())
        size += len(file.getvalue())
    inlet = folder / "frames.sock"
    with Daemon("device.kind=cpu", "learn.idle_steps_per_second=0", arguments=("--unix", str(inlet))) as daemon:
        daemon.ask("POST", "/v1/training/pause")
        began = time.perf_counter()
        subprocess.run([str(BINARY), "feed", str(folder), "--to", str(inlet)], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        took = time.perf_counter() - began
        accepted = daemon.get("/v1/status")["stream"]["accepted"]
        print(f"{accepted} of {FRAMES} frames of {size // FRAMES} bytes taken in, acknowledged after the sync, in {took:.1f} s: "
              f"{accepted / took:.0f} a second")
