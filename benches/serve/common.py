"""What the measurements of a running daemon share: starting one, filling it, asking at a fixed rate."""

import http.client
import json
import pathlib
import random
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BINARY = ROOT / "target/release/lumpd"


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def picture(number, side=32):
    """A PNG file of blocks of colour, another one for each number."""
    dice = random.Random(number)
    step = side // 4
    blocks = [[bytes(dice.randrange(256) for _ in range(3)) for _ in range(4)] for _ in range(4)]
    rows = b"".join(b"\0" + b"".join(blocks[y // step][x // step] for x in range(side)) for y in range(side))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Daemon:
    """`lumpd run` on a folder of its own; ended with the block."""

    def __init__(self, *settings, arguments=()):
        self.folder = tempfile.TemporaryDirectory(prefix="lumpd-bench-")
        self.state = pathlib.Path(self.folder.name) / "state"
        self.socket = self.state / "lumpd.sock"
        command = [str(BINARY), "run", "--state-dir", str(self.state), "--listen", "127.0.0.1:0", *arguments]
        for setting in ("log.filter=warn", "serve.requests_per_second=0", *settings):
            command += ["--set", setting]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.address = line.strip().rsplit("//", 1)[-1]
        while not self.ready():
            assert self.process.poll() is None, "the daemon has ended: see above"
            time.sleep(0.1)

    def ready(self):
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None, kind="application/octet-stream", connection=None):
        link = connection or Unix(self.socket)
        link.request(method, path, body, {"Content-Type": kind} if body else {})
        answer = link.getresponse()
        content = answer.read()
        if connection is None:
            link.close()
        return answer.status, content

    def get(self, path):
        return json.loads(self.ask("GET", path)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.folder.cleanup()


def fill(daemon, images, threads=16):
    """Posts so many different images, and waits until the bank has what was stored."""
    def post(numbers):
        link = Unix(daemon.socket)
        for number in numbers:
            while daemon.ask("POST", "/v1/images", picture(number), connection=link)[0] == 429:
                time.sleep(0.05)
        link.close()
    workers = [threading.Thread(target=post, args=(range(at, images, threads),)) for at in range(threads)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    stored = daemon.get("/v1/status")["buffer"]["used"]
    while (rows := daemon.get("/v1/map?limit=1")["rows"]) < stored * 0.98:
        time.sleep(0.5)
    return rows


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def at_rate(daemon, per_second, seconds, request, threads=24):
    """Asks at fixed times, whether or not earlier answers have come (open loop); latencies count from the time when a request
    was due. `request(connection)` returns the status."""
    start, count = time.perf_counter() + 0.2, int(per_second * seconds)
    due, lock, latencies, failures = iter(range(count)), threading.Lock(), [], []

    def work():
        link = Unix(daemon.socket)
        while True:
            with lock:
                number = next(due, None)
            if number is None:
                return link.close()
            when = start + number / per_second
            time.sleep(max(0, when - time.perf_counter()))
            status = request(link)
            (latencies if status == 200 else failures).append(time.perf_counter() - when if status == 200 else status)
    workers = [threading.Thread(target=work) for _ in range(threads)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    return latencies, failures


def line(name, latencies, failures):
    shown = {share: f"{1000 * quantile(latencies, share):.1f}" for share in (0.5, 0.99, 0.999)}
    print(f"{name:<28} {len(latencies):6} answers  median {shown[0.5]:>6} ms  p99 {shown[0.99]:>6} ms  p99.9 {shown[0.999]:>6} ms"
          f"  failures {len(failures)}", flush=True)
    return quantile(latencies, 0.99)
