"""What the clients of a soak write down, and how they tell whether an answer is right."""

import re
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

TROUBLE = (429, 500, 502, 503, 504)
"""What upstream says in its trouble, or Pulltap about it."""
_LONGEST = 8


@dataclass(frozen=True)
class Wanted:
    """A blob that is there to be pulled."""

    digest: str
    size: int
    file: Path
    """Its bytes."""
    repository: str

    @property
    def target(self) -> str:
        """Where the registry has it."""
        return f"/v2/{self.repository}/blobs/{self.digest}"

    def span(self, first: int, end: int) -> bytes:
        """Some of its bytes."""
        with self.file.open("rb") as file:
            file.seek(first)
            return file.read(end - first)


@dataclass(frozen=True)
class Got:
    """An answer that was read as far as it came, or as far as it was wanted."""

    status: int
    headers: tuple[tuple[str, str], ...]
    count: int
    digest: str
    """Of the bytes."""
    body: bytes
    """The bytes themselves, where they were to be kept."""
    whole: bool

    def header(self, name: str) -> str:
        """The first value of a header, or nothing."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def bypassed(self) -> bool:
        """Whether it is upstream's own answer, which Pulltap did not verify."""
        return "fwd=bypass" in self.header("cache-status")


class Book:
    """What the clients did and saw; any thread may write into it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self.longest: list[tuple[float, str]] = []
        """The longest waits for the head of an answer: seconds, and for what; the longest comes first."""
        self.wrong: list[str] = []
        """What should never happen."""

    def count(self, name: str, more: int = 1) -> None:
        """Something happened."""
        with self._lock:
            self.counts[name] += more

    def received(self, count: int) -> None:
        """So many bytes of bodies came."""
        with self._lock:
            self.bytes += count

    def waited(self, seconds: float, what: str) -> None:
        """So long it took until the head of an answer was there."""
        with self._lock:
            self.longest = sorted([*self.longest, (seconds, what)], reverse=True)[:_LONGEST]

    def accuse(self, what: str) -> None:
        """Something happened that never should."""
        with self._lock:
            self.wrong.append(what)


def flipped(got: bytes, right: bytes) -> bool:
    """Whether upstream's fault explains the difference: it turns all bits of one byte, and of no other."""
    if len(got) != len(right):
        return False
    return [a ^ b for a, b in zip(got, right, strict=True) if a != b] == [0xFF]


def content_range(value: str) -> tuple[int, int, int] | None:
    """First byte, end and length, out of ``Content-Range``; None for anything else."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", value)
    return (int(found[1]), int(found[2]) + 1, int(found[3])) if found else None


def parts(content_type: str, body: bytes) -> list[tuple[int, int, int, bytes]]:
    """The parts of a ``multipart/byteranges``: first byte, end, length, and the bytes.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r'multipart/byteranges; *boundary="?([^"]+)"?', content_type)
    if not found:
        raise ValueError(f"no multipart/byteranges: {content_type!r}")
    pieces = (b"\r\n" + body).split(b"\r\n--" + found[1].encode())
    if len(pieces) < 3 or pieces[-1].strip() != b"--":
        raise ValueError("the parts have no end")
    ranges = []
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        line = re.search(rb"(?im)^content-range: *(.+?)\r?$", head)
        span = content_range(line[1].decode()) if line else None
        if span is None:
            raise ValueError("a part has no Content-Range")
        ranges.append((*span, content))
    return ranges


def fault_of(got: Got, wanted: Wanted, *, own: bool = False) -> str:
    """What is wrong with an answer to a GET for a blob, or a part of it; nothing, if it is as it should be.

    Of bodies, only those are looked at that are whole: a client takes nothing else for the blob.

    Args:
        got: the answer.
        wanted: what was asked for.
        own: whether the client brought a token of its own, which upstream may have voided meanwhile.
    """
    if got.status not in (200, 206):
        expected = got.status in TROUBLE or (got.status == 401 and own)
        # Of what Pulltap does not store, it says what upstream says; a link to the CDN may have expired.
        passed = got.bypassed and (got.status == 307 or (got.status == 403 and b"AccessDenied" in got.body))
        return "" if expected or passed else f"{got.status} {got.body[:200]!r}"
    if not got.whole:
        return ""
    if got.status == 200:
        right = got.digest == wanted.digest
        if right or (got.bypassed and got.body and flipped(got.body, wanted.span(0, wanted.size))):
            return ""
        return f"{got.count} bytes of {wanted.size} with the digest {got.digest}"
    if got.header("content-type").startswith("multipart/"):
        try:
            ranges = parts(got.header("content-type"), got.body)
        except ValueError as e:
            return str(e)
    else:
        span = content_range(got.header("content-range"))
        if span is None:
            return f"a 206 with the Content-Range {got.header('content-range')!r}"
        ranges = [(*span, got.body)]
    for first, end, size, content in ranges:
        right_bytes = wanted.span(first, end)
        if size != wanted.size or (content != right_bytes and not (got.bypassed and flipped(content, right_bytes))):
            return f"{len(content)} wrong bytes as the range {first}-{end - 1}/{size}"
    return ""
