"""A blob on its way into the store.

Who fills a blob holds its lease (`addon.store.lease`), so that other processes can follow, and can tell what is left
over from what is being written. What is left over of a fill that broke is kept for the next attempt, which goes on
behind it.

Bytes may arrive out of order, from several connections. They are hashed in order all the same: what comes at `offset`
at once, what was written ahead of it when its turn has come (`Ingest.absorb`), read back from the page cache. While
there are holes in it, the file has another name, since nobody could tell a hole from a blob's zeros; how far it was
without one, the lease tells.
"""

import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from addon.registry.digest import Digest
from addon.store.blob import BlobReader
from addon.store.errors import DigestMismatch
from addon.store.inventory import Stamp
from addon.store.layout import open_file
from addon.store.lease import Lease
from addon.store.place import Place, recover, sync

# Bytes that are hashed at once, and that are claimed at once where nobody knows how long the blob is.
_STEP = 64 * 1024 * 1024
_READ = 1024 * 1024


class Room(Protocol):
    """What an ingest needs of `addon.store.room.Room`."""

    def check(self, size: int) -> None:
        """Raises NoRoom where a blob of so many bytes can never be stored."""

    def claim(self, wanted: int, before: int, tell: Callable[[int], None]) -> None:
        """Make room for so many bytes of a blob, or raise NoRoom."""


class Ingest:
    """An ingest file: write, verify, then commit, keep or abort.

    One thread at a time may call it, except for `offset` and `reader`, which any thread may use while it grows.
    """

    def __init__(
        self,
        place: Place,
        final: Path,
        digest: Digest,
        *,
        room: Room | None = None,
        stored: Callable[[Stamp], None] = lambda _: None,
    ) -> None:
        """Create the file, or go on with what an earlier attempt left there.

        Args:
            place: where it lies until then.
            final: the blob's own place.
            digest: the blob.
            room: makes room for it; without any, there is room for everything.
            stored: is told once the blob is in its place.

        Raises:
            BlockingIOError: somebody who lives is writing it.
            OSError: the folder cannot be written, or the process has too many files open.
        """
        self._place = place
        self._path = place.plain
        self._final = final
        self._hasher = digest.hasher()
        self._room = room
        self._stored = stored
        self._claimed = 0
        self._fd = -1
        self._lease = Lease(place.lease)
        try:
            recover(place, self._lease)
            self._fd = open_file(self._path, os.O_RDWR | os.O_CREAT)
            self.kept = os.fstat(self._fd).st_size
            """How many bytes an earlier attempt left; they are hashed by `absorb`."""
        except OSError:
            self._close()
            raise
        self.digest = digest
        self.offset = 0
        """How many bytes are written and hashed, and can be read, so far."""
        self.proven = 0, self._hasher.copy()
        """Up to where the bytes are hashed, as of the end of the last step, and the hash of them."""
        self._ahead = {0: self.kept} if self.kept else {}
        self._size: int | None = None

    def announce(self, size: int) -> None:
        """Tell other processes how long the blob is, in bytes.

        Raises:
            NoRoom: it is too large to be stored at all.
            OSError: the disk is full or failing.
        """
        if self._room is not None:
            self._room.check(size)
        self._lease.announce(size)
        self._lease.publish(self.offset)
        self._size = size

    def go_on_from(self, offset: int) -> None:
        """Drop what an earlier attempt left behind ``offset``; before the first `write`.

        Raises:
            OSError: the disk failed.
        """
        os.ftruncate(self._fd, offset)
        self.kept = offset
        self._ahead = {0: offset} if offset else {}

    def write(self, offset: int, chunks: Sequence[bytes | memoryview]) -> None:
        """Write the bytes that belong at ``offset``, and hash them if it is their turn.

        Raises:
            NoRoom: the store may not grow by so much.
            OSError: the disk is full or failing. In either case the ingest is then to be kept or aborted.
        """
        self._make_room(offset, offset + sum(map(len, chunks)))
        if offset == self.offset and offset not in self._ahead:
            for chunk in chunks:
                self._put(self.offset, chunk)
                self._hasher.update(chunk)
                self.offset += len(chunk)
            self._step()
            return
        run = next((start for start, stop in self._ahead.items() if stop == offset), None)
        if run is None:
            self._spread()
            run = offset
        for chunk in chunks:
            self._put(offset, chunk)
            offset += len(chunk)
        self._ahead[run] = offset

    def absorb(self) -> bool:
        """Hash a step of what was written ahead, where its turn has come; True while there is more.

        Raises:
            OSError: the disk failed.
        """
        start, stop = self.offset, self._ahead.pop(self.offset, self.offset)
        end = min(stop, self.offset + _STEP)
        while self.offset < end:
            chunk = os.pread(self._fd, min(_READ, end - self.offset), self.offset)
            if not chunk:
                raise OSError(f"{self._path} ends at {self.offset}, before {stop}")
            self._hasher.update(chunk)
            self.offset += len(chunk)
        if self.offset < stop:
            self._ahead[self.offset] = stop
        if self.offset > start:
            self._step()
        return self.offset in self._ahead

    def reader(self) -> BlobReader:
        """A reader of the growing file; it outlives commit, keep and abort."""
        return BlobReader(os.dup(self._fd), self.offset)

    def verify(self, size: int | None) -> None:
        """Check what was written against the blob's size, where known, and its digest.

        Raises:
            DigestMismatch: it is not the blob.
        """
        if size is not None and self.offset != size:
            raise DigestMismatch(f"{self.digest}: got {self.offset} bytes of {size}")
        if self._hasher.hexdigest() != self.digest.encoded:
            raise DigestMismatch(
                f"{self.digest}: the {self.offset} bytes received have the digest "
                f"{self.digest.algorithm}:{self._hasher.hexdigest()}"
            )

    def commit(self) -> None:
        """Make the verified blob readable under its digest, durably.

        Raises:
            OSError: the disk failed; the ingest is then to be aborted.
        """
        os.fsync(self._fd)
        if not os.path.samestat(os.fstat(self._fd), self._path.lstat()):
            raise OSError(f"{self._path} was replaced by another file")
        # As readers of a stored blob do, so that those who read along keep it from being evicted.
        fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # The point of no return: from here on every reader sees the whole blob, or, after a crash, none of it.
        self._path.replace(self._final)
        sync_folder(self._final.parent)
        self._stored(stamp(self._fd))
        self._close()

    def keep(self) -> None:
        """Leave what is there, up to the first hole, for the next attempt; does nothing once it is over.

        Raises:
            OSError: the disk failed; the ingest is then to be aborted.
        """
        if self._fd < 0:
            return
        end = self._ahead.get(self.offset, self.offset)
        if not end:
            self.abort()
            return
        os.ftruncate(self._fd, end)
        # Without a lease, nobody will know whether it was written before a power cut or behind it.
        os.fsync(self._fd)
        if self._path != self._place.plain:
            self._path.replace(self._place.plain)
        self._close()

    def abort(self) -> None:
        """Drop the ingest file; does nothing once committed, kept or aborted."""
        if self._fd >= 0:
            try:
                self._path.unlink(missing_ok=True)
            finally:
                self._close()

    def withdraw(self) -> None:
        """`abort`, and let those who follow in other processes know that what they were given is not the blob.

        Raises:
            OSError: the disk failed.
        """
        if self._fd >= 0:
            self._lease.withdraw()
            self.abort()

    def _make_room(self, start: int, end: int) -> None:
        if self._room is not None and end > self._claimed:
            wanted = max(end, start + _STEP if self._size is None else self._size)
            self._room.claim(wanted, self._claimed, self._lease.claim)
            self._claimed = wanted

    def _step(self) -> None:
        self.proven = self.offset, self._hasher.copy()
        self._lease.publish(self.offset)

    def _put(self, offset: int, chunk: bytes | memoryview) -> None:
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def _spread(self) -> None:
        if self._path == self._place.plain:
            self._path.rename(self._place.holes)
            self._path = self._place.holes

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._lease.release()


def stamp(fd: int) -> Stamp:
    """The stamp of an open file."""
    status = os.fstat(fd)
    return Stamp(status.st_size, status.st_mtime_ns)


def sync_folder(folder: Path) -> None:
    """Make durable what was last done to a folder's entries.

    Raises:
        OSError: the disk failed.
    """
    sync(folder, os.O_DIRECTORY)
