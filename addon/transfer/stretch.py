"""A stretch of a fill: a run of the blob's bytes as one connection brings it, on its way to the thread that writes it.

Bytes come through mitmproxy's layers (`Stretch.receive`), or past them, decrypted into basins (`Stretch.room` and
`Stretch.put`). A basin that was written is filled again, since fresh memory is to be fetched page by page.
"""

import asyncio
from typing import Any, Protocol

from mitmproxy import http

from addon.registry import ranges
from addon.registry.digest import Digest
from addon.registry.ranges import Span
from addon.store.errors import DigestMismatch
from addon.transfer.upstream import UpstreamError

_BASIN, _MOST_BASINS = 256 * 1024, 16
_basins: list[Any] = []
# What is put there is not wanted.
_refuse = memoryview(bytearray(_BASIN))


class Whole(Protocol):
    """The fill that a stretch is part of."""

    @property
    def digest(self) -> Digest:
        """The blob."""

    @property
    def full(self) -> bool:
        """Whether so much waits to be written that nothing more is welcome."""

    def arrived(self, count: int) -> None:
        """So many bytes have been received, and wait to be written."""

    async def ready(self) -> None:
        """Return when more is welcome."""


class Stretch:
    """A run of the blob as one connection brings it; the `Receiver` of its exchanges."""

    def __init__(self, fill: Whole, start: int, stop: int | None) -> None:
        self.position = start
        """The offset of the next byte to arrive."""
        self.stop = stop
        """The offset behind its last byte; None where only the end of the body tells."""
        self.overrun = False
        """Whether more came than there should be."""
        self._fill = fill
        self._skip = 0
        self._waiting: list[bytes | memoryview] = []
        self._basin: memoryview | None = None
        self._waiting_from = start

    @property
    def arrived(self) -> bool:
        """Whether all of it is there, as far as its length tells."""
        return self.stop is not None and self.position >= self.stop

    @property
    def written(self) -> bool:
        """Whether all of it is there, and was taken to be written."""
        return self.arrived and not self._waiting

    def check(self) -> None:
        """See to it that all of it came, and no more.

        Raises:
            UpstreamError: there is less.
            DigestMismatch: there is more, so that it is not the blob.
        """
        if self.overrun:
            raise DigestMismatch(f"{self._fill.digest}: more than {self.stop} bytes came")
        if self.stop is not None and not self.arrived:
            raise UpstreamError(f"upstream ended at {self.position} of {self.stop} bytes")

    def skip(self, count: int) -> None:
        """Drop the next ``count`` bytes: they come again, from an upstream that starts over."""
        self._skip = count

    def receive(self, chunk: bytes) -> None:
        """See `Receiver.receive`."""
        if self._skip:
            dropped = min(self._skip, len(chunk))
            self._skip -= dropped
            chunk = chunk[dropped:]
        if self.stop is not None and self.position + len(chunk) > self.stop:
            chunk = chunk[: self.stop - self.position]
            self.overrun = True
        if chunk:
            self._waiting.append(chunk)
            self.position += len(chunk)
            self._fill.arrived(len(chunk))

    def room(self) -> memoryview | None:
        """See `Basin.room`."""
        if self._fill.full:
            return None
        if self._skip:
            return _refuse[: self._skip]
        if self.arrived:
            return _refuse
        if not self._basin:
            self._basin = memoryview(_basins.pop() if _basins else bytearray(_BASIN))
        return self._basin if self.stop is None else self._basin[: self.stop - self.position]

    def put(self, count: int) -> None:
        """See `Basin.put`."""
        if self._skip:
            self._skip -= count
        elif self.arrived:
            self.overrun = True
        else:
            assert self._basin
            self._waiting.append(self._basin[:count])
            self._basin = self._basin[count:]
            self.position += count
            self._fill.arrived(count)

    async def ready(self) -> None:
        """See `Basin.ready`."""
        await self._fill.ready()

    def take(self) -> tuple[int, list[bytes | memoryview]]:
        """What waits to be written, and the offset where it belongs."""
        offset, chunks = self._waiting_from, self._waiting
        # A basin goes with what is in it, and comes back with `give_back`.
        self._waiting, self._waiting_from, self._basin = [], self.position, None
        return offset, chunks


def give_back(chunks: list[bytes | memoryview]) -> None:
    """Chunks have been written, and their basins may be filled again."""
    basins = {id(chunk.obj): chunk.obj for chunk in chunks if isinstance(chunk, memoryview)}
    _basins.extend(list(basins.values())[: _MOST_BASINS - len(_basins)])


class Nobody:
    """Receives the body of an answer that is about to be dropped."""

    def receive(self, chunk: bytes) -> None:
        """See `Receiver.receive`."""

    def room(self) -> memoryview | None:
        """See `Basin.room`."""
        return None

    def put(self, count: int) -> None:
        """See `Basin.put`."""

    async def ready(self) -> None:
        """See `Basin.ready`: never; the connection is closed instead."""
        await asyncio.Event().wait()


def check_coding(response: http.Response) -> None:
    """See to it that a body is the blob's own bytes.

    Raises:
        UpstreamError: it came content-encoded, although nobody asked for that.
    """
    coding = response.headers.get("content-encoding", "").lower()
    if coding not in ("", "identity"):
        raise UpstreamError(f"upstream sent the blob {coding[:20]}-encoded")


def checked(response: http.Response, start: int, size: int | None) -> tuple[Span, int | None]:
    """See to it that a part of the blob is the one that was asked for.

    Args:
        response: a 206.
        start: the offset that was asked for.
        size: the blob's length in bytes, where it is known.

    Returns:
        Which bytes come, and how long the blob is, where that is known.

    Raises:
        UpstreamError: it is another part, or part of another blob.
    """
    found = ranges.parse_content_range(response.headers.get("content-range"))
    if found is None:
        raise UpstreamError("upstream answered a range without saying which")
    span, total = found
    if span.start != start or (size is not None and total is not None and total != size):
        of = "?" if total is None else total
        raise UpstreamError(f"upstream answered with bytes {span.start}-{span.stop - 1}/{of} of another blob")
    return span, total if total is not None else size
