"""Reading along while another process fills a blob."""

import os

from addon.store.blob import BlobReader
from addon.store.ingest import Place
from addon.store.lease import Follower, Progress

# Its file is renamed once at most, when it gets its first hole.
_TRIES = 3


class Following:
    """A look at the ingest of another process. It ends in the store, or nowhere."""

    def __init__(self, follower: Follower, fd: int) -> None:
        self._follower = follower
        self._reader = BlobReader(fd, 0)

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
        if follower.held():
            for _ in range(_TRIES):
                for path in (place.plain, place.holes):
                    try:
                        return cls(follower, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
                    except FileNotFoundError:
                        continue
        follower.close()
        return None

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
