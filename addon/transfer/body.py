"""The body of a blob answer: bytes of a stored blob, or of one that is still being filled."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from addon.registry.ranges import Span
from addon.store.blob import BlobReader

PIECE = 256 * 1024
"""Bytes read, encrypted and sent at a time: larger pieces fall out of the CPU's cache on their way through TLS."""


class BodyBroken(Exception):
    """The rest of the body will not come; what was sent is not to look complete."""


class Body(ABC):
    """What `addon.transfer.stream` sends. `close` is called exactly once by it, whatever happened."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether all of it was read."""

    @abstractmethod
    def read(self) -> bytes:
        """The next piece, of up to `PIECE` bytes, that can be had without waiting; empty where there is none just now.

        Raises:
            OSError: the disk failed.
        """

    def read_into(self, buffer: memoryview) -> int:
        """`read` into a buffer that holds `PIECE` bytes.

        Returns:
            How many bytes were read.

        Raises:
            OSError: the disk failed.
        """
        piece = self.read()
        buffer[: len(piece)] = piece
        return len(piece)

    @abstractmethod
    async def wait(self) -> None:
        """Wait until `read` has something to give, or the body has ended.

        Raises:
            BodyBroken: the rest will not come.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what is held."""


Over = Callable[["StoredBody"], None]
"""Is told of a body of a stored blob that is closed."""


class StoredBody(Body):
    """A span of a blob that is whole."""

    def __init__(self, reader: BlobReader, span: Span, over: Over | None = None) -> None:
        """Begin.

        Args:
            reader: the blob; it is closed with the body.
            span: which of its bytes.
            over: is told once the body is closed.
        """
        self.span = span
        """Which bytes of the blob."""
        self.position = span.start
        """The offset of the next one to be read."""
        self.failed = False
        """Whether the disk failed, or the blob was shorter than it should be."""
        self._reader = reader
        self._over = over

    @property
    def ended(self) -> bool:
        """See `Body.ended`."""
        return self.position >= self.span.stop

    def read(self) -> bytes:
        """See `Body.read`."""
        with self._noticing():
            piece = self._reader.read(self.position, min(PIECE, self.span.stop - self.position))
            self._was_read(len(piece))
        return piece

    def read_into(self, buffer: memoryview) -> int:
        """See `Body.read_into`."""
        with self._noticing():
            count = self._reader.read_into(self.position, buffer[: self.span.stop - self.position])
            self._was_read(count)
        return count

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.failed = True
            raise

    def _was_read(self, count: int) -> None:
        if not count and not self.ended:
            raise OSError(f"the blob ends at {self.position}, before {self.span.stop}")
        self.position += count

    async def wait(self) -> None:
        """See `Body.wait`: a whole blob is always there."""

    def close(self) -> None:
        """See `Body.close`."""
        self._reader.close()
        if self._over is not None:
            self._over(self)


class MultipartBody(Body):
    """Several spans of a blob, as ``multipart/byteranges`` (RFC 9110, section 14.6)."""

    def __init__(self, parts: Sequence[tuple[Span, Body]], size: int) -> None:
        """Make a body of bodies.

        Args:
            parts: each span with the body that gives its bytes.
            size: the blob's length in bytes.
        """
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/byteranges; boundary={boundary}"
        self._parts = [
            (
                f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n"
                f"Content-Range: {span.content_range(size)}\r\n\r\n".encode(),
                body,
            )
            for span, body in parts
        ]
        self._last = f"\r\n--{boundary}--\r\n".encode()
        self.length = sum(len(head) for head, _ in self._parts) + sum(len(span) for span, _ in parts) + len(self._last)
        """Bytes of the whole body."""
        self._head = self._parts[0][0]
        self._at = 0

    @property
    def ended(self) -> bool:
        """See `Body.ended`."""
        return self._at > len(self._parts)

    def read(self) -> bytes:
        """See `Body.read`."""
        if self._head:
            head, self._head = self._head, b""
            return head
        if self._at == len(self._parts):
            self._at += 1
            return self._last
        if self.ended:
            return b""
        body = self._parts[self._at][1]
        piece = body.read()
        if body.ended:
            self._at += 1
            self._head = self._parts[self._at][0] if self._at < len(self._parts) else b""
        return piece

    async def wait(self) -> None:
        """See `Body.wait`."""
        if not self._head and self._at < len(self._parts):
            await self._parts[self._at][1].wait()

    def close(self) -> None:
        """See `Body.close`."""
        for _, body in self._parts:
            body.close()
