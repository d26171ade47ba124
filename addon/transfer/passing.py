"""The rest of a body whose fill was interrupted: by a disk that takes no more, or by the end of another process.

A client that reads along has nothing to do with either. `Continued` is its body: where the fill breaks off, it goes on
with what somebody finds for it, a fill that took over, the stored blob, or `Passing`, which brings the rest straight
from upstream, past the store.

Passing keeps the promise that nobody is given a complete blob that is bad: it hashes what follows together with what
was given before, and holds the end back until the digest is known.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mitmproxy import http

from addon.auth.tokens import TokenUnavailable
from addon.registry.digest import Digest
from addon.store.blob import BlobReader
from addon.store.errors import DigestMismatch
from addon.transfer.body import PIECE, Body, BodyBroken
from addon.transfer.fill import ATTEMPTS, Fill, pause
from addon.transfer.followed import GrowingBody
from addon.transfer.source import Source
from addon.transfer.stretch import Nobody, Stretch, check_coding, checked
from addon.transfer.upstream import Exchange, Receiver, UpstreamError
from addon.transfer.writing import BOUND

if TYPE_CHECKING:
    from hashlib import _Hash

logger = logging.getLogger(__name__)

GoOn = Callable[[GrowingBody], Awaitable[Body]]
"""Finds the rest of a body that was interrupted; raises BodyBroken where there is none."""


class Continued(Body):
    """The body of a fill, and what follows where that is interrupted."""

    def __init__(self, body: GrowingBody, go_on: GoOn) -> None:
        self._body: Body = body
        self._go_on = go_on
        self._going_on = False
        self._closed = False

    @property
    def ended(self) -> bool:
        """See `Body.ended`."""
        return self._body.ended

    def read(self) -> bytes:
        """See `Body.read`."""
        return self._body.read()

    def read_into(self, buffer: memoryview) -> int:
        """See `Body.read_into`."""
        return self._body.read_into(buffer)

    async def wait(self) -> None:
        """See `Body.wait`."""
        try:
            await self._body.wait()
        except BodyBroken:
            broken = self._body
            if not isinstance(broken, GrowingBody) or not broken.fill.interrupted:
                raise
            self._going_on = True
            try:
                rest = await self._go_on(broken)
            finally:
                self._going_on = False
                if self._closed:
                    broken.close()
            if self._closed:
                rest.close()
                raise
            self._body = rest
            broken.close()
            await self.wait()

    def close(self) -> None:
        """See `Body.close`."""
        self._closed = True
        if not self._going_on:
            self._body.close()


class Passing(Body):
    """A span of a blob straight from upstream, for one client."""

    def __init__(
        self,
        digest: Digest,
        source: Source,
        start: int,
        stop: int | None,
        *,
        size: int | None = None,
        hasher: "_Hash | None" = None,
    ) -> None:
        """Begin to fetch it.

        Args:
            digest: the blob.
            source: whom to ask.
            start: the offset of the first byte.
            stop: the offset behind the last one; None for the end of a blob whose length nobody knows.
            size: the blob's length in bytes, where it is known.
            hasher: the hash of all that is before ``start``, where the span's end is the blob's; None checks nothing.
        """
        self.digest = digest
        self._source = source
        self._hasher = hasher
        self._position = start
        self._stop = stop
        self._size = size
        self._stretch = Stretch(self, start, stop)
        self._pieces: deque[bytes | memoryview] = deque()
        self._held = 0
        """Bytes that have arrived and were not read yet."""
        self._over = False
        """Whether nothing more arrives."""
        self._broken = "upstream closed the connection"
        """Why that is not all; empty where it is."""
        self._bad = False
        """Whether all of it has arrived, and is not the blob."""
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._fetch(), name=f"pass {digest.short}")

    @classmethod
    async def behind(cls, body: GrowingBody, source: Source) -> "Passing":
        """What follows where this body was interrupted.

        Raises:
            OSError: the disk failed, or too many files are open.
        """
        fill, hasher = body.fill, None
        if body.stop == fill.size:
            # It ends with the blob, so that the digest tells whether all of it is right.
            reader = body.reader.again(body.position)
            known = fill.written if isinstance(fill, Fill) else None
            try:
                hasher = await asyncio.to_thread(_hash_before, body.position, reader, known, fill.digest)
            finally:
                reader.close()
        return cls(fill.digest, source, body.position, body.stop, size=fill.size, hasher=hasher)

    # Where it comes from: see `addon.transfer.stretch.Whole`.

    @property
    def full(self) -> bool:
        """See `Whole.full`."""
        return self._held >= BOUND

    def arrived(self, count: int) -> None:
        """See `Whole.arrived`."""
        self._held += count
        self._changed.set()

    async def ready(self) -> None:
        """See `Whole.ready`."""
        while self.full:
            self._room.clear()
            await self._room.wait()

    async def _fetch(self) -> None:
        failures = 0
        try:
            while True:
                before = self._stretch.position
                try:
                    await self._fetch_once()
                    break
                except (UpstreamError, TokenUnavailable) as e:
                    self._broken = str(e)
                    failures = 1 if self._stretch.position > before else failures + 1
                    if failures >= ATTEMPTS or self._stop is None:
                        return
                await asyncio.sleep(pause(failures))
            self._broken = ""
        except DigestMismatch as e:
            self._broken = str(e)
        finally:
            self._over = True
            self._changed.set()

    async def _fetch_once(self) -> None:
        unfit = ""
        start = self._stretch.position

        def choose(response: http.Response) -> Receiver | None:
            nonlocal unfit
            if response.status_code not in (200, 206):
                return None
            try:
                self._check(response, start)
            except UpstreamError as e:
                unfit = str(e)
                return Nobody()
            self._stretch.skip(start if response.status_code == 200 else 0)
            return self._stretch

        response, exchange = await self._source.get(start, self._stop, choose)
        try:
            if unfit or response.status_code not in (200, 206):
                raise UpstreamError(unfit or f"{exchange.flow.request.host} answered {response.status_code}")
            await self._end(exchange)
        finally:
            await exchange.abort()

    def _check(self, response: http.Response, start: int) -> None:
        """See to it that an answer goes on with the same blob.

        Raises:
            UpstreamError: it does not.
        """
        check_coding(response)
        announced = response.headers.get("content-length", "")
        if response.status_code == 206:
            checked(response, start, self._size)
        elif self._size is not None and announced.isdigit() and int(announced) != self._size:
            raise UpstreamError(f"upstream now has {announced} bytes instead of {self._size}")

    async def _end(self, exchange: Exchange) -> None:
        try:
            await exchange.end()
        except UpstreamError:
            if not self._stretch.arrived:
                raise
        self._stretch.check()

    # Where it goes.

    @property
    def ended(self) -> bool:
        """See `Body.ended`."""
        if self._stop is not None:
            return self._position >= self._stop
        return self._over and not self._broken and not self._held and self._right()

    def read(self) -> bytes:
        """See `Body.read`."""
        if not self._pieces:
            self._pieces.extend(self._stretch.take()[1])
        if not self._pieces or self._bad:
            return b""
        piece = bytes(self._pieces[0][:PIECE])
        if self._stop is not None and self._position + len(piece) >= self._stop:
            piece = self._last(piece)
        elif self._hasher is not None:
            self._hasher.update(piece)
        self._taken(len(piece))
        return piece

    def _last(self, piece: bytes) -> bytes:
        """The last piece, if all of them together are the blob; else nothing."""
        if self._hasher is not None:
            self._hasher.update(piece)
        return piece if self._right() else b""

    def _right(self) -> bool:
        """Whether all of it, which has arrived by now, is the blob, as far as that can be told."""
        if not self._bad and self._hasher is not None and self._hasher.hexdigest() != self.digest.encoded:
            self._bad = True
            logger.warning("blob %s passes through, but what upstream sent is not the blob", self.digest.short)
        return not self._bad

    def _taken(self, count: int) -> None:
        if not count:
            return
        if rest := self._pieces.popleft()[count:]:
            self._pieces.appendleft(rest)
        self._position += count
        self._held -= count
        if not self.full:
            self._room.set()

    async def wait(self) -> None:
        """See `Body.wait`."""
        while not self.ended:
            if self._bad:
                raise BodyBroken(f"{self.digest}: upstream sent something else")
            if self._held:
                return
            if self._over:
                raise BodyBroken(self._broken)
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """See `Body.close`."""
        self._task.cancel()


def _hash_before(position: int, reader: BlobReader, known: "tuple[int, _Hash] | None", digest: Digest) -> "_Hash":
    """The hash of all that is before a position.

    Args:
        position: the offset of the first byte that is not in it.
        reader: reads what is before it.
        known: an offset, and the hash of all that is before that.
        digest: the blob.

    Raises:
        OSError: the disk failed.
    """
    offset, hasher = 0, digest.hasher()
    if known is not None and known[0] <= position:
        offset, hasher = known[0], known[1].copy()
    while offset < position:
        piece = reader.read(offset, min(PIECE, position - offset))
        if not piece:
            raise OSError(f"the ingest ends at {offset}, before {position}")
        hasher.update(piece)
        offset += len(piece)
    return hasher
