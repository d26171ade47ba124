"""A fill: one blob on its way from upstream into the store, while any number of clients read along.

The bytes that arrive on the event loop are collected, and handed in batches to a thread that writes and hashes them
(both release the interpreter's lock). Behind `BOUND` bytes that wait to be written, upstream is not read: a slow disk
slows the upstream down, and memory stays bounded.

A fill belongs to no client. It ends in the store, or in an error that breaks the bodies of all who read along. Its last
byte is held back until length and digest are found right, so that nobody is given a complete blob that is bad.
"""

import asyncio
import enum
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from addon.registry.digest import Digest
from addon.registry.ranges import Span
from addon.store.blob import BlobReader
from addon.store.errors import StoreError
from addon.store.ingest import Ingest
from addon.transfer.body import PIECE, BodyBroken
from addon.transfer.upstream import Exchange, UpstreamError

logger = logging.getLogger(__name__)

BATCH = 512 * 1024
"""Bytes that are written in one go, if that many wait: a hop to the writing thread costs as much as 64 KiB of work."""
BOUND = 4 * 1024 * 1024
"""Bytes that may wait to be written."""
_IDLE_SECONDS = 0.005


class State(enum.Enum):
    """Where a fill stands."""

    RUNNING = enum.auto()
    VERIFIED = enum.auto()
    """All bytes are there, and are the blob; it may not be in the store yet."""
    BROKEN = enum.auto()


class Fill:
    """One fill; a `Receiver` for its exchange, and the source of its followers' bodies."""

    def __init__(self, ingest: Ingest, size: int | None, executor: Executor) -> None:
        self.digest: Digest = ingest.digest
        self.size = size
        """The blob's length in bytes, where upstream or a manifest told it."""
        self.state = State.RUNNING
        self.reason = ""
        """Why it broke."""
        self.repositories: set[str] = set()
        """Where upstream gave the blob, or confirmed it, while it was being filled."""
        self.followers = 0
        """How many bodies were made of it."""
        self._ingest = ingest
        # Followers may come as long as somebody knows this fill, even once the ingest is over.
        self._reader = ingest.reader()
        self._executor = executor
        self._work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._work.set_result(None)
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._ended = False
        self._changed = asyncio.Event()

    # The receiver's side.

    def receive(self, chunk: bytes) -> None:
        """See `Receiver.receive`."""
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        self._arrived.set()

    async def ready(self) -> None:
        """See `Receiver.ready`."""
        while self._waiting_bytes >= BOUND and self.state is State.RUNNING:
            await self.changed()

    async def run(self, exchange: Exchange, record: Callable[[], None]) -> None:
        """Take the blob in, to its commit or its abort; never raises.

        Args:
            exchange: the exchange that this fill receives.
            record: writes down where the blob came from; called in the writing thread before the commit.
        """
        writer = asyncio.create_task(self._write(), name=f"write {self.digest.short}")
        arrival = asyncio.create_task(exchange.end(), name=f"receive {self.digest.short}")
        try:
            # The writer ends before the upstream does only where the disk failed.
            await asyncio.wait([writer, arrival], return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                await writer
            await arrival
            self._ended = True
            self._arrived.set()
            await writer
            await self._call(self._ingest.verify, self.size)
            self.state = State.VERIFIED
            self._wake()
            await self._call(record)
            await self._call(self._ingest.commit)
        except (UpstreamError, StoreError, OSError) as e:
            self._break(str(e))
        except asyncio.CancelledError:
            self._break("the proxy is shutting down")
        finally:
            writer.cancel()
            await exchange.abort()
            # The thread may still be writing; closing the file under it would send its bytes into another one.
            await asyncio.gather(writer, arrival, self._work, return_exceptions=True)
            self._ingest.abort()
            self._wake()

    def drop(self) -> None:
        """Give up before `run`."""
        self._break("the request for it was given up")
        self._ingest.abort()
        self._wake()

    def _break(self, reason: str) -> None:
        if self.state is State.RUNNING:
            self.state = State.BROKEN
        self.reason = reason
        logger.warning("blob %s is not stored: %s", self.digest.short, reason)

    async def _write(self) -> None:
        while True:
            if not self._waiting:
                if self._ended:
                    return
                await self._arrived.wait()
            self._arrived.clear()
            if self._waiting_bytes < BATCH and not self._ended and self._ingest.offset:
                # Give a fast upstream the time to fill a batch; a slow one does not notice.
                await asyncio.sleep(_IDLE_SECONDS)
            batch, self._waiting = self._waiting, []
            if batch:
                await self._call(self._ingest.append, batch)
                self._waiting_bytes -= sum(map(len, batch))
                self._wake()

    async def _call[**P](self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        self._work = asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args, **kwargs))
        await asyncio.shield(self._work)

    # The followers' side.

    @property
    def readable(self) -> int:
        """How many bytes may be given to clients by now."""
        if self.state is State.VERIFIED or self.size is None:
            return self._ingest.offset
        return min(self._ingest.offset, self.size - 1)

    @property
    def received(self) -> int:
        """How many bytes are on disk by now."""
        return self._ingest.offset

    async def changed(self) -> None:
        """Wait for more bytes, or for the end."""
        await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def whole(self) -> BlobReader | None:
        """A reader of the whole blob, as soon as it is known to be the blob."""
        return self._reader.again(self.received) if self.state is State.VERIFIED else None

    def body(self, span: Span | None) -> "GrowingBody":
        """A body that follows this fill; ``span`` is None for all of the blob."""
        if span is None and self.size is not None:
            span = Span(0, self.size)
        self.followers += 1
        return GrowingBody(self, self._reader.again(self.received), span)


class GrowingBody:
    """A span of a blob that is being filled."""

    def __init__(self, fill: Fill, reader: BlobReader, span: Span | None) -> None:
        self._fill = fill
        self._reader = reader
        self._position = span.start if span else 0
        self._stop = span.stop if span else None

    @property
    def ended(self) -> bool:
        """See `Body.ended`."""
        if self._stop is not None:
            return self._position >= self._stop
        return self._fill.state is State.VERIFIED and self._position >= self._fill.received

    def read(self) -> bytes:
        """See `Body.read`."""
        stop = self._fill.readable if self._stop is None else min(self._stop, self._fill.readable)
        if self._position >= stop:
            return b""
        piece = self._reader.read(self._position, min(PIECE, stop - self._position))
        self._position += len(piece)
        return piece

    async def wait(self) -> None:
        """See `Body.wait`."""
        while not self.ended and self._position >= self._fill.readable:
            if self._fill.state is State.BROKEN:
                raise BodyBroken(self._fill.reason)
            await self._fill.changed()

    def close(self) -> None:
        """See `Body.close`."""
        self._reader.close()
