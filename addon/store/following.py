"""Reading along while another process fills a blob."""

import contextlib
import fcntl
import os

from addon.store.blob import BlobReader
from addon.store.layout import open_file
from addon.store.lease import Follower, Progress
from addon.store.place import Place

# Its file is renamed once at most, when it gets its first hole.
_TRIES = 3


class Following:
    """A look at the ingest of another process. It ends in the store, or nowhere."""

    def __init__(self, follower: Follower, fd: int) -> None:
        self._follower = follower
        self._reader = BlobReader(fd, 0)
        # As a reader of the stored blob, which it may be any moment: it is not to go before anybody here has seen that.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    @classmethod
    def of(cls, place: Place) -> "Following | None":
        """Look; None where nobody who lives is at it.

        Raises:
            OSError: the folder cannot be read, or the process has too many files open.
        """
        try:
            follower = Follower(place.lease)
        except FileNotFoundError:
            return None
        fd = None
        try:
            if follower.held():
                fd = _open(place)
        finally:
            if fd is None:
                follower.close()
        return cls(follower, fd) if fd is not None else None

    def progress(self) -> Progress:
        """How far it is.

        Raises:
            OSError: the disk failed.
        """
        return self._follower.progress()

    def under_way(self) -> bool:
        """Whether its owner is still at it; where it is not, the blob is stored by now, or never will be."""
        return self._follower.held()

    def reader(self) -> BlobReader:
        """A reader of the growing file; it outlives its end, whichever that is."""
        return self._reader.again(self.progress().offset)

    def close(self) -> None:
        """Give back what is open; idempotent."""
        self._follower.close()
        self._reader.close()


def _open(place: Place) -> int | None:
    """The file of an ingest; None where its owner has not made it yet, or is done with it."""
    for _ in range(_TRIES):
        for path in (place.plain, place.holes):
            with contextlib.suppress(FileNotFoundError):
                return open_file(path, os.O_RDONLY)
    return None
