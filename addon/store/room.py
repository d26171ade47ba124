"""Room for what comes in: two limits, and what goes so that they are kept.

The store has a size that it may not exceed, and leaves a minimum of its disk free. Room is made before anything is
written: who fills a blob claims it, and the lease tells what is claimed, so that all processes reckon with what all of
them are about to write, and cannot overshoot together. Of a blob whose size nobody knows, a step is claimed at a time.

First goes what is of no use: blobs in quarantine, what broken fills left; then stored blobs, in the order that
`addon.store.eviction` gives them. What is being read (each reader holds a shared lock on its file) or is pinned stays.
One process at a time does this, so that no two make the same room twice, or stand in each other's way: whoever comes
first gets the room, and the other one none.
"""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from addon.registry.digest import Digest
from addon.store.errors import NoRoom
from addon.store.inventory import Entry, Inventory
from addon.store.layout import Layout, open_file
from addon.store.lease import Follower
from addon.store.place import HOLES, LEASE, sweep

logger = logging.getLogger(__name__)

UNLIMITED = 1 << 62
_TRIES = 3
_BLOCK = 512
"""Bytes of what `os.stat_result.st_blocks` counts."""


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


@dataclass(slots=True)
class _Excess:
    """What has to go, in bytes; where that is nothing, zero or less."""

    size: int
    """Of what is in the store."""
    disk: int
    """Of what is on the disk."""

    @property
    def most(self) -> int:
        return max(self.size, self.disk)


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
        wanted, unwritten, blobs = 0, 0, self._inventory.total()
        for _ in range(_TRIES):
            # In this order, a blob that is committed meanwhile is counted twice rather than not at all; where it seems
            # that one was, it is counted anew.
            before = blobs
            wanted, unwritten = reserved(self._layout.ingests)
            blobs = self._inventory.total()
            if blobs == before:
                break
        quarantine = sum(status.st_size for _, status in _files(self._layout.quarantine))
        free = shutil.disk_usage(self._layout.root).free
        return Usage(blobs, wanted, quarantine, free - unwritten)

    def check(self, size: int) -> None:
        """See to it that a blob of so many bytes can be stored at all.

        Raises:
            NoRoom: it is larger than the store may be.
        """
        if size > self.limits.max_size:
            raise NoRoom(f"a blob of {size} bytes is larger than the store may be ({self.limits.max_size} bytes)")

    def claim(self, wanted: int, before: int, tell: Callable[[int], None]) -> None:
        """Make room for a blob that is on its way in.

        Args:
            wanted: bytes of the blob, or of as much of it as is to be written next and all before that.
            before: what was claimed for it until now.
            tell: writes into its lease what is claimed.

        Raises:
            NoRoom: it does not fit, whatever goes. No blob went, unless others that had to go were being read.
            StoreError: the catalogue cannot be used.
            OSError: the disk failed.
        """
        with self._alone():
            tell(wanted)
            try:
                self._make(0)
            except BaseException:
                tell(before)
                raise

    def reserve(self, more: int = 0) -> list[Entry]:
        """See to it that what is claimed fits, and so many bytes more; it returns the blobs that went.

        Raises:
            NoRoom: it does not fit, whatever goes. No blob went, unless others that had to go were being read.
            StoreError: the catalogue cannot be used.
            OSError: the disk failed.
        """
        with self._alone():
            return self._make(more)

    def shrink(self, to: int) -> list[Entry]:
        """Make the store so small, in bytes; it returns the blobs that went.

        Raises:
            NoRoom: it cannot become so small. No blob went, unless others that had to go were being read.
            StoreError: the catalogue cannot be used.
            OSError: the disk failed.
        """
        with self._alone():
            over = self.usage().total - to
            return self._free(_Excess(over, 0), f"the store cannot be made as small as {to} bytes")

    def victims(self) -> Iterator[Entry]:
        """The stored blobs that may go, in the order in which they would."""
        self._inventory.flush()
        return self._unpinned(self._pinned())

    def _unpinned(self, pinned: Collection[Digest]) -> Iterator[Entry]:
        return (entry for entry in self._inventory.by_priority() if entry.digest not in pinned)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until nobody else is within."""
        with self._lock:
            path = self._layout.ours / "room.lock"
            fd = open_file(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)

    def _make(self, more: int) -> list[Entry]:
        usage = self.usage()
        over = _Excess(usage.total + more - self.limits.max_size, self.limits.min_free + more - usage.free)
        limit = "its limit" if over.size >= over.disk else "what its disk leaves it"
        return self._free(over, f"the store would be {over.most} bytes beyond {limit}")

    def _free(self, over: _Excess, trouble: str) -> list[Entry]:
        if over.most > 0:
            self._tidy(over)
        return self._evict(over, trouble) if over.most > 0 else []

    def _tidy(self, over: _Excess) -> None:
        for path, status in sorted(_files(self._layout.quarantine), key=lambda file: file[1].st_mtime):
            if over.most > 0:
                path.unlink(missing_ok=True)
                over.size -= status.st_size
                over.disk -= status.st_size
        if over.most > 0:
            freed = sweep(self._layout.ingests, everything=True)
            over.size -= freed
            over.disk -= freed

    def _evict(self, over: _Excess, trouble: str) -> list[Entry]:
        self._inventory.flush()
        pinned = self._pinned()
        if self._inventory.total() - self._inventory.size_of(pinned) < over.most:
            raise NoRoom(f"{trouble}, and what may go does not suffice: the rest is pinned or on its way in")
        gone: list[Entry] = []
        stay = "is being read"
        try:
            for entry in self._unpinned(pinned):
                if over.most <= 0:
                    break
                try:
                    freed = _unlink(self._layout.blob(entry.digest))
                except OSError as e:
                    # The next one may be removed all the same.
                    stay = f"cannot be removed ({e})"
                    continue
                if freed is not None:
                    gone.append(entry)
                    over.size -= entry.size
                    over.disk -= freed
        finally:
            self._inventory.evicted(gone)
        if gone:
            logger.info("%d blobs (%d bytes) went to make room", len(gone), sum(entry.size for entry in gone))
        if over.most > 0:
            raise NoRoom(f"{trouble}, and what could go {stay}")
        return gone


def remove(layout: Layout, digest: Digest) -> bool:
    """Remove a blob's file, unless somebody reads it; True where it is gone.

    Raises:
        OSError: the disk failed.
    """
    return _unlink(layout.blob(digest)) is not None


def _unlink(path: Path) -> int | None:
    """Remove a blob's file, unless somebody reads it.

    Returns:
        How many bytes that freed: 0 where there was none; None where it stays.

    Raises:
        OSError: the disk failed.
    """
    while True:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return 0
        except OSError as e:
            if e.errno != errno.ELOOP:
                raise
            # A link: nobody reads a blob through it.
            path.unlink(missing_ok=True)
            return 0
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(fd)
            # Behind the first line, it may have been replaced by one that is being read.
            if os.path.samestat(status, path.lstat()):
                path.unlink()
                return status.st_size
        except FileNotFoundError:
            return 0
        except BlockingIOError:
            return None
        finally:
            os.close(fd)


def reserved(folder: Path) -> tuple[int, int]:
    """What the ingests of all processes will take, and how much of that is still to be written, in bytes.

    Args:
        folder: where they lie.

    Raises:
        OSError: the folder cannot be read.
    """
    sizes: dict[str, int] = {}
    written: dict[str, int] = {}
    leases = []
    for path, status in _files(folder):
        if path.name.endswith(LEASE):
            leases.append(path)
            continue
        name = path.name.removesuffix(HOLES)
        sizes[name] = sizes.get(name, 0) + status.st_size
        # A file with holes takes less than its length, until they are filled.
        written[name] = written.get(name, 0) + min(status.st_size, status.st_blocks * _BLOCK)
    unwritten = 0
    for path in leases:
        name = path.name.removesuffix(LEASE)
        with contextlib.suppress(FileNotFoundError):
            follower = Follower(path)
            try:
                if not follower.held():
                    continue
                room = follower.progress().room
            finally:
                follower.close()
            sizes[name] = max(sizes.get(name, 0), room)
            unwritten += sizes[name] - written.get(name, 0)
    return sum(sizes.values()), unwritten


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What is in a folder where others come and go."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield path, path.lstat()
