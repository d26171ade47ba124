"""A blob that grows while clients are given it: what a fill of ours and one of another process have in common."""

import asyncio
import enum
from abc import ABC, abstractmethod
from weakref import WeakSet

from addon.registry.digest import Digest
from addon.registry.ranges import Span
from addon.store.blob import BlobReader
from addon.transfer.body import PIECE, Body, BodyBroken
from addon.transfer.source import Source


class State(enum.Enum):
    """Where a fill stands."""

    RUNNING = enum.auto()
    VERIFIED = enum.auto()
    """All bytes are there, and are the blob; it may not be in the store yet."""
    BROKEN = enum.auto()


class Followed(ABC):
    """A blob on its way, and those who read along."""

    def __init__(self, digest: Digest, reader: BlobReader) -> None:
        self.digest = digest
        self.size: int | None = None
        """The blob's length in bytes, once upstream or a manifest told it."""
        self.state = State.RUNNING
        self.reason = ""
        """Why it broke."""
        self.interrupted = False
        """Whether it broke although upstream did nothing wrong, so that whoever reads along may go on elsewhere."""
        self.repositories: set[str] = set()
        """Where upstream gave the blob, or confirmed it, while it was being filled."""
        self.over = False
        """Whether it is in the store by now, or nowhere, so that nobody can begin to read along."""
        self._reader = reader
        self._bodies: WeakSet[GrowingBody] = WeakSet()
        self._changed = asyncio.Event()

    @property
    @abstractmethod
    def received(self) -> int:
        """How many bytes are on disk, without a gap, by now."""

    @property
    def readable(self) -> int:
        """How many bytes may be given to clients by now: the last one only once it is known to be the blob."""
        if self.state is State.VERIFIED or self.size is None:
            return self.received
        return min(self.received, self.size - 1)

    @property
    def followers(self) -> int:
        """How many bodies follow it."""
        return len(self._bodies)

    @abstractmethod
    def joined(self, source: Source) -> None:
        """Somebody else reads along, on whose behalf upstream may be asked where the one who began it is refused."""

    async def change(self) -> None:
        """Wait for more bytes, or for the end."""
        await self._changed.wait()

    def changed(self) -> None:
        """Tell all who wait."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def whole(self) -> BlobReader | None:
        """A reader of the whole blob, as soon as it is known to be the blob."""
        return self._reader.again(self.received) if self.state is State.VERIFIED else None

    def body(self, span: Span | None) -> "GrowingBody":
        """A body that follows this fill; ``span`` is None for all of the blob.

        Raises:
            OSError: too many files are open.
            ValueError: it is over.
        """
        if span is None and self.size is not None:
            span = Span(0, self.size)
        body = GrowingBody(self, self._reader.again(self.received), span)
        self._bodies.add(body)
        return body

    def left(self, body: "GrowingBody") -> None:
        """A follower needs no more of it."""
        self._bodies.discard(body)

    def close(self) -> None:
        """It is over. Those who read along have the file open for themselves; nobody else is to seem to read it."""
        self.over = True
        self._reader.close()


class GrowingBody(Body):
    """A span of a blob that is being filled."""

    def __init__(self, fill: Followed, reader: BlobReader, span: Span | None) -> None:
        self.fill = fill
        self.reader = reader
        self.position = span.start if span else 0
        """The offset of the next byte to be read."""
        self.stop = span.stop if span else None
        """The offset behind the last one; None for the blob's end, which is not known yet."""

    @property
    def ended(self) -> bool:
        """See `Body.ended`."""
        if self.stop is not None:
            return self.position >= self.stop
        return self.fill.state is State.VERIFIED and self.position >= self.fill.received

    def read(self) -> bytes:
        """See `Body.read`."""
        if not (there := self._there()):
            return b""
        piece = self.reader.read(self.position, min(PIECE, there))
        self._was_read(len(piece))
        return piece

    def read_into(self, buffer: memoryview) -> int:
        """See `Body.read_into`."""
        if not (there := self._there()):
            return 0
        count = self.reader.read_into(self.position, buffer[:there])
        self._was_read(count)
        return count

    def _was_read(self, count: int) -> None:
        if not count:
            # Somebody has cut it. Waiting would not bring it back.
            raise OSError(f"the ingest ends at {self.position}, before {self.fill.received}")
        self.position += count

    def _there(self) -> int:
        """How many bytes can be had now."""
        stop = self.fill.readable if self.stop is None else min(self.stop, self.fill.readable)
        return max(0, stop - self.position)

    async def wait(self) -> None:
        """See `Body.wait`."""
        while not self.ended and self.position >= self.fill.readable:
            if self.fill.state is State.BROKEN:
                raise BodyBroken(self.fill.reason)
            await self.fill.change()

    def close(self) -> None:
        """See `Body.close`."""
        self.reader.close()
        self.fill.left(self)
