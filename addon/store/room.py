"""Room for what comes in: two limits, and what goes so that they are kept.

The store has a size that it may not exceed, and leaves a minimum of its disk free. Room is made before anything is
written: who is about to fill a blob announces its size in the lease, so that all processes reckon with what all of them
are about to write, and cannot overshoot together.

First goes what is of no use: blobs in quarantine, what broken fills left; then stored blobs, those of least use first.
What is being read (each reader holds a shared lock on its file) or is pinned stays.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from threading import Lock

from addon.registry.digest import Digest
from addon.store import ingest
from addon.store.errors import NoRoom
from addon.store.inventory import Entry, Inventory
from addon.store.layout import Layout

logger = logging.getLogger(__name__)

UNLIMITED = 1 << 62
# Of the limit: as much more goes each time, so that not every fill has to look for what may go.
_MORE = 0.02


@dataclass(frozen=True, slots=True)
class Limits:
    """How large the store may become."""

    max_size: int = UNLIMITED
    """Bytes of all that is in it."""
    min_free: int = 0
    """Bytes of its disk that stay free."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the store takes, in bytes."""

    blobs: int
    ingests: int
    """What is on its way in, as long as it will be, and what broken fills left."""
    quarantine: int
    free: int
    """What is free on its disk, less what is still to be written of what is on its way in."""

    @property
    def total(self) -> int:
        """All that is in the store."""
        return self.blobs + self.ingests + self.quarantine


class Room:
    """Makes room; any thread may use it."""

    def __init__(
        self, layout: Layout, inventory: Inventory, limits: Limits, pinned: Callable[[], Collection[Digest]]
    ) -> None:
        """Begin.

        Args:
            layout: the store's folders.
            inventory: what is stored.
            limits: what is kept.
            pinned: says which blobs are not to go.
        """
        self.limits = limits
        self._layout = layout
        self._inventory = inventory
        self._pinned = pinned
        self._lock = Lock()

    def usage(self) -> Usage:
        """What the store takes now.

        Raises:
            StoreError: the catalogue cannot be read.
            OSError: the disk failed.
        """
        wanted, written = ingest.reserved(self._layout.ingests)
        quarantine = sum(path.lstat().st_size for path in self._layout.quarantine.iterdir())
        free = shutil.disk_usage(self._layout.root).free
        return Usage(self._inventory.total(), wanted, quarantine, free - (wanted - written))

    def check(self, size: int) -> None:
        """See to it that a blob of so many bytes can be stored at all.

        Raises:
            NoRoom: it is larger than the store may be.
        """
        if size > self.limits.max_size:
            raise NoRoom(f"a blob of {size} bytes is larger than the store may be ({self.limits.max_size} bytes)")

    def reserve(self, more: int) -> list[Entry]:
        """See to it that what is announced fits, and so many bytes more; it returns the blobs that went.

        Raises:
            NoRoom: it does not fit, whatever goes; no blob went.
            StoreError: the catalogue cannot be used.
            OSError: the disk failed.
        """
        with self._lock:
            usage = self.usage()
            over_size = usage.total + more - self.limits.max_size
            over_disk = self.limits.min_free + more - usage.free
            over = max(over_size, over_disk)
            if over <= 0:
                return []
            what = "its limit" if over_size >= over_disk else "the disk"
            return self._free(over, f"the store has no room within {what} ({usage.total} bytes are in it)")

    def shrink(self, to: int) -> list[Entry]:
        """Make the store so small, in bytes; it returns the blobs that went.

        Raises:
            NoRoom: it cannot become so small; no blob went.
            StoreError: the catalogue cannot be used.
            OSError: the disk failed.
        """
        with self._lock:
            over = self.usage().total - to
            return self._free(over, f"the store cannot be made as small as {to} bytes") if over > 0 else []

    def victims(self) -> Iterator[Entry]:
        """The stored blobs that may go, in the order in which they would."""
        pinned = self._pinned()
        return (entry for entry in self._inventory.entries() if entry.digest not in pinned)

    def _free(self, over: int, trouble: str) -> list[Entry]:
        over -= self._tidy(over)
        candidates = list(self.victims()) if over > 0 else []
        if sum(entry.size for entry in candidates) < over:
            raise NoRoom(f"{trouble}, and what may go does not suffice: the rest is pinned or on its way in")
        wanted = over + int(_MORE * self.limits.max_size) if self.limits.max_size < UNLIMITED else over
        gone: list[Entry] = []
        freed = 0
        for entry in candidates:
            if freed >= wanted:
                break
            if remove(self._layout, entry.digest):
                gone.append(entry)
                freed += entry.size
        self._inventory.drop(entry.digest for entry in gone)
        if freed < over:
            raise NoRoom(f"{trouble}, and what could go is being read")
        logger.info("%d blobs (%d bytes) went to make room", len(gone), freed)
        return gone

    def _tidy(self, over: int) -> int:
        freed = 0
        for path in sorted(self._layout.quarantine.iterdir(), key=lambda path: path.lstat().st_mtime):
            if freed < over:
                freed += path.lstat().st_size
                path.unlink(missing_ok=True)
        return freed + (ingest.sweep(self._layout.ingests, everything=True) if freed < over else 0)


def remove(layout: Layout, digest: Digest) -> bool:
    """Remove a blob's file, unless somebody reads it; True where it is gone.

    Raises:
        OSError: the disk failed.
    """
    path = layout.blob(digest)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
