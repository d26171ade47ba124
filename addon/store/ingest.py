"""A blob on its way into the store.

The ingest file is locked as long as its owner lives (``flock``, which the kernel drops with the process), so that
`sweep` can tell what is left over from what another process is writing.
"""

import fcntl
import os
from pathlib import Path

from addon.registry.digest import Digest
from addon.store.blob import BlobReader
from addon.store.errors import DigestMismatch


class Ingest:
    """An ingest file: append, verify, then commit or abort.

    One thread at a time may call it, except for `offset` and `reader`, which any thread may use while it grows.
    """

    def __init__(self, path: Path, final: Path, digest: Digest) -> None:
        self._path = path
        self._final = final
        self._hasher = digest.hasher()
        self._fd = _create(path)
        self.digest = digest
        self.offset = 0
        """How many bytes are written, and can be read, so far."""

    def append(self, chunks: list[bytes]) -> None:
        """Write and hash the next bytes.

        Raises:
            OSError: the disk is full or failing; the ingest is then to be aborted.
        """
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._fd, view) :]
            self._hasher.update(chunk)
            self.offset += len(chunk)

    def reader(self) -> BlobReader:
        """A reader of the growing file; it outlives commit and abort."""
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
        # The point of no return: from here on every reader sees the whole blob, or, after a crash, none of it.
        self._path.replace(self._final)
        folder = os.open(self._final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._close()

    def abort(self) -> None:
        """Drop the ingest file; does nothing once committed or aborted."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)


def _create(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # A sweep may come between these two lines: its lock is waited for, and what it removed is made again.
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return fd
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def sweep(path: Path) -> None:
    """Remove an ingest file, unless somebody who lives is writing it.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)
