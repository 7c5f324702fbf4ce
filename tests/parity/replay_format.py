#!/usr/bin/env python3
"""Writes the fixtures of the replay buffer's format, by src/replay/FORMAT.md alone.

    python3 tests/parity/replay_format.py tests/parity

makes replay-1.0.buf and replay-1.1.buf, which `cargo test --lib replay::tests::format` opens: three stored images of
8 x 8 pixels in five slots with two spares, an older copy of one of them, and an unfinished write. Needs nothing but
Python. A released format's fixture is never written anew.
"""

import struct
import sys
import zlib
from pathlib import Path

PAGE = 4096
SIDE, CHANNELS = 8, 3
SLOTS, SPARES = 5, 2
IDENTITY = bytes(range(0x10, 0x20))
PAYLOAD = SIDE * SIDE * CHANNELS
STRIDE = (128 + PAYLOAD + PAGE - 1) // PAGE * PAGE
LENGTH = 4 * PAGE + (SLOTS + SPARES) * STRIDE
RESERVOIR, REPLAY = 1, 1


def crc(identity, place, data):
    return zlib.crc32(identity + struct.pack("<Q", place) + data)


def sealed(block, identity, place):
    """The block with the checksum of all before it as its last four bytes."""
    return block[:-4] + struct.pack("<I", crc(identity, place, block[:-4]))


def geometry(minor):
    block = bytearray(256)
    block[0:9] = b"\x89RPLY\r\n\x1a\n"
    struct.pack_into("<HHHH", block, 16, 1, minor, REPLAY, RESERVOIR)
    struct.pack_into("<QQQ", block, 24, 0, 0, 0)
    block[48:64] = IDENTITY
    struct.pack_into("<QQQ", block, 64, SLOTS, SLOTS + SPARES, STRIDE)
    struct.pack_into("<II", block, 88, PAYLOAD, 128)
    struct.pack_into("<HHBB", block, 96, SIDE, SIDE, CHANNELS, 1)
    struct.pack_into("<Q", block, 104, LENGTH)
    return sealed(bytes(block), bytes(16), 2**64 - 3)


def superblock(sequence, durable, last, frame, seen, accepted, evicted, damaged, forgotten, resized):
    block = bytearray(256)
    block[0:8] = b"LUMPSUPR"
    block[8:24] = IDENTITY
    numbers = (sequence, durable, last, frame, seen, accepted, evicted, damaged, forgotten, resized)
    struct.pack_into("<10Q", block, 24, *numbers)
    return sealed(bytes(block), IDENTITY, 2**64 - 1 if sequence % 2 else 2**64 - 2)


def pixels(frame):
    return bytes((frame * 31 + i) % 256 for i in range(PAYLOAD))


def slot(physical, logical, write, frame, whole=True):
    payload = pixels(frame)
    header = bytearray(128)
    header[0:4] = b"SLOT"
    header[4:6] = bytes([1, 1])
    struct.pack_into("<QQII", header, 8, logical, write, 3, 7)
    struct.pack_into("<Qq", header, 32, 100 + frame, 1_700_000_000_000_000_000 + frame)
    header[48:64] = bytes([frame]) * 16
    struct.pack_into("<HHBB", header, 64, SIDE, SIDE, CHANNELS, 1)
    struct.pack_into("<II", header, 72, PAYLOAD, crc(IDENTITY, physical, payload))
    struct.pack_into("<QQ", header, 80, frame, frame)
    header = sealed(bytes(header), IDENTITY, physical)
    if not whole:
        payload = payload[: PAYLOAD // 2].ljust(PAYLOAD, b"\0")
    return header + payload


def store(minor):
    resized = 4 if minor >= 1 else 0
    data = bytearray(LENGTH)
    data[0:256] = data[3 * PAGE : 3 * PAGE + 256] = geometry(minor)
    data[PAGE : PAGE + 256] = superblock(7, 3, 4, 9, 9, 4, 1, 2, 1, resized)
    data[2 * PAGE : 2 * PAGE + 256] = superblock(6, 2, 3, 8, 8, 3, 0, 2, 1, resized)
    slots = [
        slot(0, 0, 1, 1),
        slot(1, 3, 2, 2),  # replaced by the next
        slot(5, 3, 3, 5),
        slot(6, 4, 4, 9),
        slot(2, 0, 5, 10, whole=False),  # of a commit that did not end
    ]
    for physical, content in zip([0, 1, 5, 6, 2], slots):
        at = 4 * PAGE + physical * STRIDE
        data[at : at + len(content)] = content
    return bytes(data)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for minor in (0, 1):
        path = folder / f"replay-1.{minor}.buf"
        if path.exists():
            print(f"{path} is there and stays as it is")
        else:
            path.write_bytes(store(minor))
