"""The client against a running daemon that has taken in nothing yet: test_lumpd.py SOCKET. Run by the tests of the daemon."""

import inspect
import json
import pathlib
import re
import struct
import sys
import threading
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lumpd  # noqa: E402


def picture(number):
    """A PNG file of 32 x 32 pixels, another one for each number."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes((x * (number % 7 + 1) + y * (number % 5 + 1) + number * 31 + c * 40) % 256
                                 for x in range(32) for c in range(3)) for y in range(32))
    head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def every_route_is_covered(openapi):
    """Each resource of the API has a method here; a single image is embedded as a batch of one."""
    source = inspect.getsource(lumpd)
    for path in openapi["paths"]:
        if path.startswith("/v1/") and path != "/v1/embed":
            written = re.escape(re.sub(r"\{\w+\}", "{}", path)).replace(r"\{\}", r"\{[^}]+\}")
            assert re.search(f'"{written}"', source), f"{path} has no method in the client"


def main():
    daemon = lumpd.Lumpd(sys.argv[1])
    every_route_is_covered(json.loads(daemon.request("GET", "/openapi.json")[0]))

    events = []
    follower = threading.Thread(target=lambda: [events.append(event) for event in daemon.events(after=0)], daemon=True)
    follower.start()

    ids = [daemon.send(picture(number)) for number in range(40)]
    assert len(set(ids)) == 40 and daemon.send(picture(0)) == ids[0], "one sent again is known"
    stored = list(daemon.images())
    assert len(stored) > 20, stored
    some = stored[0].id
    assert daemon.image(some) == stored[0] and daemon.thumbnail(some).startswith(b"\x89PNG")
    assert [image.id for image in daemon.images(order="newest")] == [image.id for image in reversed(stored)]

    # The bank follows the buffer a moment later.
    while daemon.map()["rows"] < len(stored):
        time.sleep(0.1)
    near = daemon.query(picture(3), k=5)
    assert len(near.neighbours) == 5 and near.next == 5, near
    assert near.neighbours[0].score >= near.neighbours[-1].score
    assert daemon.query(picture(3), k=5, offset=5).neighbours[0].id != near.neighbours[0].id
    one, two = daemon.embed(picture(3), some)
    assert abs(sum(x * x for x in one.vector) - 1) < 1e-4 and one.encoder == near.encoder
    assert daemon.query(one, k=5).neighbours[0].id == near.neighbours[0].id
    assert daemon.query(some, k=1).neighbours[0].id != some
    batch = daemon.query_batch([picture(3), some, one], k=5)
    assert [answer.encoder for answer in batch] == [near.encoder] * 3 and len(batch[1].neighbours) == 5
    assert batch[0].neighbours[0].id == batch[2].neighbours[0].id == near.neighbours[0].id
    vectors = dict(daemon.embeddings())
    assert set(vectors) == {image.id for image in stored} and abs(sum(a * b for a, b in zip(vectors[some].vector, two.vector)) - 1) < 1e-3
    assert daemon.buffer()["used"] == len(stored)

    assert daemon.label("of a kind", some, stored[1].id) == 2
    assert daemon.labels() == {"of a kind": 2}
    assert sorted(daemon.labelled("of a kind")) == sorted([some, stored[1].id])
    assert daemon.classify(picture(3), temperature=0.2)["label"] == "of a kind"
    assert daemon.unlabel(some) == 1

    task = daemon.begin_task("by hand")
    assert task.current and task.name == "by hand"
    assert daemon.name_task(task.id, "another").name == "another"
    daemon.send(picture(100))
    first = daemon.tasks()[0]
    assert daemon.merge_tasks(first.id, task.id).id == first.id and len(daemon.tasks()) == 1

    daemon.pause()
    assert daemon.status()["learn"]["paused_since"]
    daemon.resume()
    assert daemon.checkpoint() >= 0
    assert daemon.forget(some, 10**9) == 1
    try:
        daemon.image(some)
        raise AssertionError("a forgotten image is still there")
    except lumpd.LumpdError as error:
        assert (error.status, error.code) == (404, "unknown-image") and error.remedy
    assert some not in [near.id for near in daemon.query(picture(3), k=100).neighbours]
    for file in (daemon.export_bank(), daemon.export_encoder()):
        (length,) = struct.unpack("<Q", file[:8])
        assert json.loads(file[8:8 + length])["__metadata__"]["lumpd.encoder"]
    daemon.forgetting(), daemon.forgetting_history(), daemon.accuracy(), daemon.sources(), daemon.history()
    assert {"task-opened", "tasks-merged", "training-paused", "checkpoint", "images-forgotten"} <= {event.kind for event in events}
    print("the client and the daemon agree")


main()
