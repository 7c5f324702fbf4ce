"""A client of lumpd's API, with the standard library alone.

    >>> from lumpd import Lumpd
    >>> daemon = Lumpd("/var/lib/lumpd/lumpd.sock")          # or Lumpd("http://127.0.0.1:7717", token="...")
    >>> for near in daemon.query(open("image.jpg", "rb").read(), k=5).neighbours:
    ...     print(near.score, near.id, near.task, near.label)

Embeddings of different encoders cannot be compared: every answer names the one it comes from.
"""

from __future__ import annotations

import array
import base64
import http.client
import json
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

__all__ = ["Embedding", "Event", "Image", "LumpdError", "Lumpd", "Neighbour", "Neighbours", "Task"]


class LumpdError(Exception):
    """A problem as the daemon says it (RFC 9457). `code` is stable: programs may act on it."""

    def __init__(self, status: int, code: str, detail: str, field: str | None, remedy: str | None):
        super().__init__(f"{detail}; {remedy}" if remedy else detail)
        self.status, self.code, self.detail, self.field, self.remedy = status, code, detail, field, remedy


@dataclass(frozen=True)
class Image:
    """A stored image."""

    id: int
    task: int | None
    captured_at: str
    source: str
    label: str | None


@dataclass(frozen=True)
class Neighbour(Image):
    """A stored image and how near it is."""

    score: float


@dataclass(frozen=True)
class Neighbours:
    """The nearest stored images, best first. `next`: the offset of the next page."""

    encoder: str
    encoder_version: int
    neighbours: list[Neighbour]
    next: int | None


@dataclass(frozen=True)
class Embedding:
    """An image as one version of the encoder sees it; of length 1."""

    encoder: str
    encoder_version: int
    vector: array.array


@dataclass(frozen=True)
class Task:
    """A stretch of the stream that looks alike."""

    id: int
    name: str
    frames: int
    current: bool
    returns: int
    exemplars: list[int]


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    sequence: int
    at: str
    kind: str
    message: str
    data: dict[str, Any]


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def _named(subject: bytes | int | Embedding) -> dict[str, Any]:
    """An image as one of the fields of a JSON object."""
    if isinstance(subject, bytes):
        return {"image": base64.b64encode(subject).decode()}
    if isinstance(subject, int):
        return {"id": subject}
    return {"vector": list(subject.vector), "encoder": subject.encoder}


def _of(kind: type, fields: dict[str, Any]) -> Any:
    """Of a dataclass, without what a newer daemon says beyond it."""
    return kind(**{name: fields[name] for name in kind.__dataclass_fields__})


class Lumpd:
    """A daemon, by the path of its socket or its address."""

    def __init__(self, where: str, token: str | None = None, timeout: float = 60.0):
        self.where, self.token, self.timeout = where, token, timeout

    def _connection(self, timeout: float | None = None) -> http.client.HTTPConnection:
        timeout = self.timeout if timeout is None else timeout
        if self.where.startswith(("http://", "https://")):
            parts = urlsplit(self.where)
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            return kind(parts.netloc, timeout=timeout)
        return _Unix(self.where, timeout)

    def _headers(self, more: dict[str, str] | None = None) -> dict[str, str]:
        return {**({"Authorization": f"Bearer {self.token}"} if self.token else {}), **(more or {})}

    def request(self, method: str, path: str, body: bytes | None = None, kind: str | None = None,
                accept: str = "application/json", **parameters: Any) -> tuple[bytes, dict[str, str]]:
        """One request: the body of the answer and its headers, names in lower case."""
        given = {name: value for name, value in parameters.items() if value is not None}
        target = path + ("?" + urlencode(given) if given else "")
        connection = self._connection()
        try:
            connection.request(method, target, body, self._headers({"Accept": accept, **({"Content-Type": kind} if kind else {})}))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise self._problem(answer.status, content)
        return content, {name.lower(): value for name, value in answer.getheaders()}

    @staticmethod
    def _problem(status: int, content: bytes) -> LumpdError:
        try:
            problem = json.loads(content)
            return LumpdError(status, problem["code"], problem["detail"], problem.get("field"), problem.get("remedy"))
        except (ValueError, KeyError):
            return LumpdError(status, "not-lumpd", f"the answer of status {status} is not lumpd's", None, None)

    def _get(self, path: str, **parameters: Any) -> Any:
        return json.loads(self.request("GET", path, **parameters)[0])

    def _pages(self, path: str, what: str, **parameters: Any) -> Iterator[Any]:
        """What all pages of a list have, one after the other."""
        after = None
        while True:
            page = self._get(path, limit=1000, after=after, **parameters)
            yield from page[what]
            after = page["next"]
            if after is None:
                return

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if body is None:
            return json.loads(self.request(method, path)[0])
        given = {name: value for name, value in body.items() if value is not None}
        return json.loads(self.request(method, path, json.dumps(given).encode(), "application/json")[0])

    # How it is doing

    def status(self) -> dict[str, Any]:
        return self._get("/v1/status")

    def sources(self) -> list[dict[str, Any]]:
        return self._get("/v1/sources")["sources"]

    def history(self, since: str | None = None) -> list[dict[str, Any]]:
        """The daemon's numbers over the last hour, oldest first."""
        return self._get("/v1/history", since=since)["samples"]

    def forgetting(self) -> dict[str, Any] | None:
        """What each task has lost since it ended; None before the first measurement."""
        return self._get("/v1/forgetting")

    def forgetting_history(self) -> list[dict[str, Any]] | None:
        return self._get("/v1/forgetting/history")

    def accuracy(self) -> dict[str, Any] | None:
        return self._get("/v1/accuracy")

    def events(self, after: int | None = None) -> Iterator[Event]:
        """What happens from now on (or after an event), for ever; ends when the daemon stops."""
        connection = self._connection(timeout=30.0)
        path = "/v1/events" + (f"?after={after}" if after is not None else "")
        try:
            connection.request("GET", path, headers=self._headers({"Accept": "text/event-stream"}))
            answer = connection.getresponse()
            if answer.status != 200:
                raise self._problem(answer.status, answer.read())
            # The daemon says something every ten seconds: a longer silence is a broken connection, and raises TimeoutError.
            while line := answer.readline():
                if line.startswith(b"data:"):
                    yield _of(Event, json.loads(line[5:]))
        finally:
            connection.close()

    # Questions about an image: its bytes, the id of a stored one, or an embedding

    def query(self, subject: bytes | int | Embedding, k: int | None = None, offset: int | None = None,
              task: int | None = None, source: str | None = None, label: str | None = None,
              since: str | None = None, until: str | None = None) -> Neighbours:
        which = {"k": k, "offset": offset, "task": task, "source": source, "label": label, "since": since, "until": until}
        answer = self._ask("/v1/query", subject, which)
        near = [_of(Neighbour, fields) for fields in answer["neighbours"]]
        return Neighbours(answer["encoder"], answer["encoder_version"], near, answer["next"])

    def query_batch(self, subjects: Iterable[bytes | int | Embedding], k: int | None = None, task: int | None = None,
                    source: str | None = None, label: str | None = None, since: str | None = None,
                    until: str | None = None) -> list[Neighbours]:
        """The neighbours of up to 64 images, all by one version of the encoder."""
        which = {"k": k, "task": task, "source": source, "label": label, "since": since, "until": until}
        answer = self._send("POST", "/v1/query/batch", {"subjects": [_named(one) for one in subjects], **which})
        encoder, version = answer["encoder"], answer["encoder_version"]
        return [Neighbours(encoder, version, [_of(Neighbour, fields) for fields in near], None) for near in answer["results"]]

    def classify(self, subject: bytes | int | Embedding, k: int | None = None, temperature: float | None = None) -> dict[str, Any]:
        return self._ask("/v1/classify", subject, {"k": k, "temperature": temperature})

    def _ask(self, path: str, subject: bytes | int | Embedding, fields: dict[str, Any]) -> Any:
        if isinstance(subject, bytes):
            return json.loads(self.request("POST", path, subject, "application/octet-stream", **fields)[0])
        return self._send("POST", path, {**_named(subject), **fields})

    def embed(self, *subjects: bytes | int) -> list[Embedding]:
        """The embeddings of up to 64 images, all by one version of the encoder."""
        named = [_named(one) for one in subjects]
        content, headers = self.request("POST", "/v1/embed/batch", json.dumps({"subjects": named}).encode(),
                                        "application/json", accept="application/octet-stream")
        numbers = array.array("f", content)
        if sys.byteorder == "big":
            numbers.byteswap()
        width = len(numbers) // len(subjects)
        version = int(headers["lumpd-encoder-version"])
        return [Embedding(headers["lumpd-encoder"], version, numbers[at * width:(at + 1) * width]) for at in range(len(subjects))]

    def embeddings(self, **filter: Any) -> Iterator[tuple[int, Embedding]]:
        """Every stored image's id and embedding, page by page: `task`, `source`, `label`, `since`, `until`. Where another version
        of the encoder is published meanwhile, the later ones are its: each says which."""
        after = None
        while True:
            page = self._get("/v1/embeddings", limit=1000, after=after, **filter)
            for row in page["rows"]:
                yield row["id"], Embedding(page["encoder"], page["encoder_version"], array.array("f", row["vector"]))
            after = page["next"]
            if after is None:
                return

    def map(self, limit: int | None = None) -> dict[str, Any]:
        """The embedding in two dimensions: its first two principal components."""
        return self._get("/v1/map", limit=limit)

    # The memory

    def buffer(self) -> dict[str, Any]:
        return self._get("/v1/buffer")

    def send(self, image: bytes, source: str | None = None, label: str | None = None) -> int | None:
        """One more frame for the stream; its id once it is as durable as the configuration promises."""
        answer = json.loads(self.request("POST", "/v1/images", image, "application/octet-stream", source=source, label=label)[0])
        return answer["id"]

    def image(self, id: int) -> Image:
        return _of(Image, self._get(f"/v1/images/{id}"))

    def thumbnail(self, id: int) -> bytes:
        """A PNG file."""
        return self.request("GET", f"/v1/images/{id}/thumbnail")[0]

    def images(self, **filter: Any) -> Iterator[Image]:
        """The stored images, page by page: `task`, `source`, `label`, `since`, `until`, `order="newest"`."""
        return (_of(Image, fields) for fields in self._pages("/v1/images", "images", **filter))

    def forget(self, *ids: int) -> int:
        """Removes images for good, up to 100 at once; how many were stored."""
        return json.loads(self.request("DELETE", "/v1/images", ids=",".join(map(str, ids)))[0])["forgotten"]

    def label(self, label: str, *ids: int) -> int:
        return self._send("PUT", "/v1/labels", {"label": label, "ids": list(ids)})["changed"]

    def unlabel(self, *ids: int) -> int:
        return json.loads(self.request("DELETE", "/v1/labels", ids=",".join(map(str, ids)))[0])["changed"]

    def labels(self) -> dict[str, int]:
        """The labels in use, and how many images carry each."""
        return {one["label"]: one["images"] for one in self._pages("/v1/labels", "labels")}

    def labelled(self, label: str) -> list[int]:
        return list(self._pages(f"/v1/labels/{quote(label, safe='')}", "ids"))

    # Tasks and training

    def tasks(self) -> list[Task]:
        return [_of(Task, fields) for fields in self._pages("/v1/tasks", "tasks")]

    def begin_task(self, name: str | None = None, source: str | None = None) -> Task:
        """Ends the open task by hand: the next frame is the first of a new one."""
        return _of(Task, self._send("POST", "/v1/tasks", {"name": name, "source": source}))

    def name_task(self, id: int, name: str) -> Task:
        return _of(Task, self._send("PATCH", f"/v1/tasks/{id}", {"name": name}))

    def merge_tasks(self, a: int, b: int) -> Task:
        return _of(Task, self._send("POST", "/v1/tasks/merge", {"tasks": [a, b]}))

    def pause(self) -> None:
        self._send("POST", "/v1/training/pause")

    def resume(self) -> None:
        self._send("POST", "/v1/training/resume")

    def checkpoint(self) -> int:
        """Writes a checkpoint; its gradient step."""
        return self._send("POST", "/v1/checkpoints")["step"]

    def export_bank(self) -> bytes:
        """A safetensors file of every embedding."""
        return self.request("GET", "/v1/export/bank")[0]

    def export_encoder(self) -> bytes:
        """A safetensors file of the encoder, under torchvision's names."""
        return self.request("GET", "/v1/export/encoder")[0]
