"""The body of a blob answer: bytes of a stored blob, or of one that is still being filled."""

from typing import Protocol

from addon.registry.ranges import Span
from addon.store.blob import BlobReader

PIECE = 256 * 1024
"""Bytes read, encrypted and sent at a time: larger pieces fall out of the CPU's cache on their way through TLS."""


class BodyBroken(Exception):
    """The rest of the body will not come; what was sent is not to look complete."""


class Body(Protocol):
    """What `addon.transfer.stream` sends. `close` is called exactly once by it, whatever happened."""

    @property
    def ended(self) -> bool:
        """Whether all of it was read."""

    def read(self) -> bytes:
        """The next piece that can be had without waiting; empty where there is none just now.

        Raises:
            OSError: the disk failed.
        """

    async def wait(self) -> None:
        """Wait until `read` has something to give, or the body has ended.

        Raises:
            BodyBroken: the rest will not come.
        """

    def close(self) -> None:
        """Give back what is held."""


class StoredBody:
    """A span of a blob that is whole."""

    def __init__(self, reader: BlobReader, span: Span) -> None:
        self._reader = reader
        self._span = span
        self._position = span.start

    @property
    def ended(self) -> bool:
        """See `Body.ended`."""
        return self._position >= self._span.stop

    def read(self) -> bytes:
        """See `Body.read`."""
        if self.ended:
            return b""
        piece = self._reader.read(self._position, min(PIECE, self._span.stop - self._position))
        if not piece:
            raise OSError(f"the blob ends at {self._position}, before {self._span.stop}")
        self._position += len(piece)
        return piece

    async def wait(self) -> None:
        """See `Body.wait`: a whole blob is always there."""

    def close(self) -> None:
        """See `Body.close`."""
        self._reader.close()
