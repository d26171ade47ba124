"""Where the files of an ingest lie, and what becomes of those that nobody writes any more.

What a fill that broke has left is kept for the next attempt. What an owner that was killed has left is made into that,
up to its first hole, unless the machine went down as well: then nobody knows what of it was on disk.
"""

import contextlib
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from addon.store.lease import Follower, Lease, boot

HOLES = ".holes"
"""The end of the name of an ingest file that has holes."""
LEASE = ".lease"
"""The end of the name of an ingest's lease."""
KEPT_SECONDS = 3 * 24 * 3600
"""How long the rest of a broken fill waits for the next attempt."""
# Between making a lease and writing into it, at most.
_TAKEN_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of a blob's ingest lie, while it has one."""

    plain: Path
    """What was received, without holes."""

    @property
    def holes(self) -> Path:
        """The same while there are holes in it."""
        return self.plain.with_name(self.plain.name + HOLES)

    @property
    def lease(self) -> Path:
        """The lease of whoever writes it."""
        return self.plain.with_name(self.plain.name + LEASE)

    def kept(self) -> int:
        """How many bytes the next attempt will find, unless another one comes first."""
        if (size := _size(self.plain)) or not _size(self.holes):
            return size
        try:
            follower = Follower(self.lease)
        except OSError:
            return 0
        try:
            # Up to its first hole, `recover` makes of it what a broken fill leaves.
            left = follower.progress()
            return left.offset if left.boot == boot() and not left.withdrawn and not follower.held() else 0
        except OSError:
            return 0
        finally:
            follower.close()


def recover(place: Place, lease: Lease) -> None:
    """Make what an owner that was killed has left usable, or remove it; for whoever holds the lease."""
    left = lease.left
    if lease.lost or (left is not None and (left.withdrawn or left.boot != boot())):
        # That is not the blob; or its owner went down with the machine, before it could see to it that it was on disk.
        for path in (place.plain, place.holes):
            _remove(path)
    elif left is None or not left.offset or _is_strange(place.holes):
        _remove(place.holes)
    elif place.holes.exists():
        os.truncate(place.holes, left.offset)
        place.holes.replace(place.plain)


def sweep(folder: Path, *, everything: bool = False) -> int:
    """Remove from the folder of ingests what is of no use, but nothing that somebody who lives is writing.

    Args:
        folder: the folder.
        everything: whether also to remove what the next attempt could go on with.

    Returns:
        How many bytes it freed.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """
    plain = {path.with_name(path.name.removesuffix(LEASE).removesuffix(HOLES)) for path in folder.iterdir()}
    return sum(_sweep(Place(path), everything=everything) for path in sorted(plain))


def _sweep(place: Place, *, everything: bool) -> int:
    with contextlib.suppress(FileNotFoundError):
        status = place.lease.lstat()
        if stat.S_ISREG(status.st_mode) and not status.st_size and time.time() - status.st_mtime < _TAKEN_SECONDS:
            # Somebody is just taking it, and is not to find it taken.
            return 0
    if _is_strange(place.lease):
        # No lease of ours, and in the way of one.
        _remove(place.lease)
    try:
        lease = Lease(place.lease)
    except (BlockingIOError, IsADirectoryError):
        return 0
    try:
        before = _size(place.plain) + _size(place.holes)
        recover(place, lease)
        with contextlib.suppress(FileNotFoundError):
            status = place.plain.lstat()
            if lease.left is not None and stat.S_ISREG(status.st_mode):
                # As `Ingest.keep` does: without its lease, nobody will know whether it was on disk before a power cut.
                sync(place.plain)
            old = time.time() - status.st_mtime > KEPT_SECONDS
            if everything or old or not status.st_size or not stat.S_ISREG(status.st_mode):
                _remove(place.plain)
        return before - _size(place.plain)
    finally:
        lease.release()


def _remove(path: Path) -> None:
    """Remove what is there, unless it is a folder, which is nobody's ingest."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        if not path.is_dir():
            raise


def _is_strange(path: Path) -> bool:
    """Whether there is something that is no file."""
    return path.is_symlink() or (path.exists() and not path.is_file())


def _size(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def sync(path: Path, flags: int = 0) -> None:
    """Make a file durable, or with other flags of `os.open` something else.

    Raises:
        OSError: the disk failed.
    """
    fd = os.open(path, flags | os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
