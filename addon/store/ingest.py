"""A blob on its way into the store.

The ingest file is locked as long as its owner lives (``flock``, which the kernel drops with the process), so that
another process can tell what is left over from what is being written. What is left over of a fill that broke is kept
for the next attempt, which goes on behind it.

Bytes may arrive out of order, from several connections. They are hashed in order all the same: what comes at `offset`
at once, what was written ahead of it when its turn has come (`Ingest.absorb`), read back from the page cache. While
there are holes in it, the file has a name that `sweep` removes, since nobody could tell a hole from a blob's zeros.
"""

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from addon.registry.digest import Digest
from addon.store.blob import BlobReader
from addon.store.errors import DigestMismatch

HOLES = ".holes"
"""The end of the name of an ingest file that has holes."""
KEPT_SECONDS = 3 * 24 * 3600
"""How long the rest of a broken fill waits for the next attempt."""
_STEP = 64 * 1024 * 1024
_READ = 1024 * 1024


class Ingest:
    """An ingest file: write, verify, then commit, keep or abort.

    One thread at a time may call it, except for `offset` and `reader`, which any thread may use while it grows.
    """

    def __init__(self, path: Path, final: Path, digest: Digest) -> None:
        """Create the file, or go on with what an earlier attempt left there.

        Raises:
            BlockingIOError: somebody who lives is writing it.
            OSError: the folder cannot be written, or the process has too many files open.
        """
        self._path = self._plain = path
        self._final = final
        self._hasher = digest.hasher()
        self._fd = _claim(path)
        self.digest = digest
        self.offset = 0
        """How many bytes are written and hashed, and can be read, so far."""
        self.kept = os.fstat(self._fd).st_size
        """How many bytes an earlier attempt left; they are hashed by `absorb`."""
        self._ahead = {0: self.kept} if self.kept else {}

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
            OSError: the disk is full or failing; the ingest is then to be kept or aborted.
        """
        if offset == self.offset and offset not in self._ahead:
            for chunk in chunks:
                self._put(self.offset, chunk)
                self._hasher.update(chunk)
                self.offset += len(chunk)
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
        stop = self._ahead.pop(self.offset, self.offset)
        end = min(stop, self.offset + _STEP)
        while self.offset < end:
            chunk = os.pread(self._fd, min(_READ, end - self.offset), self.offset)
            if not chunk:
                raise OSError(f"{self._path} ends at {self.offset}, before {stop}")
            self._hasher.update(chunk)
            self.offset += len(chunk)
        if self.offset < stop:
            self._ahead[self.offset] = stop
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
        # The point of no return: from here on every reader sees the whole blob, or, after a crash, none of it.
        self._path.replace(self._final)
        folder = os.open(self._final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._close()

    def keep(self) -> None:
        """Leave what is there, up to the first hole, for the next attempt; does nothing once it is over.

        Raises:
            OSError: the disk failed; the ingest is then to be aborted.
        """
        if self._fd < 0:
            return
        end = self._ahead.get(self.offset, self.offset)
        if not end or self._plain.name.endswith(HOLES):
            # There is nothing to go on with, or another process is at it under the name that would be looked for.
            self.abort()
            return
        os.ftruncate(self._fd, end)
        if self._path != self._plain:
            try:
                # Unlike a rename, this takes nobody else's place.
                self._plain.hardlink_to(self._path)
            except FileExistsError:
                self.abort()
                return
            self._path.unlink()
        self._close()

    def abort(self) -> None:
        """Drop the ingest file; does nothing once committed, kept or aborted."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            self._close()

    def _put(self, offset: int, chunk: bytes | memoryview) -> None:
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def _spread(self) -> None:
        if self._path == self._plain:
            self._path = self._plain.with_name(f"{self._plain.name}.{uuid.uuid4().hex}{HOLES}")
            self._plain.rename(self._path)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        # The readers share the open file, and with it the lock.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _claim(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two lines above, a sweep may have removed the file, or its owner committed it.
            if os.path.samestat(os.fstat(fd), path.lstat()):
                return fd
        except FileNotFoundError:
            pass
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def sweep(path: Path) -> None:
    """Remove an ingest file that is of no use, unless somebody who lives is writing it.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as e:
        if e.errno == errno.ELOOP:
            # No ingest of ours, and in the way of one.
            path.unlink(missing_ok=True)
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(fd)
        old = time.time() - status.st_mtime > KEPT_SECONDS
        if path.name.endswith(HOLES) or old or not status.st_size:
            path.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)
