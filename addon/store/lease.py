"""The right to fill one blob, which one process at a time has, and where the others see how far it is.

A lease is a small file that its owner locks (``flock``): the kernel drops the lock with the process, however that ends.
In the file stands how many bytes of the blob can be read by now. Whoever finds it locked follows; whoever finds it
unlocked knows that its owner is gone, and takes over what there is.

The record is a line of the struct `_RECORD`, written at once and guarded by a checksum, since readers do not lock.
"""

import fcntl
import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from addon.store.layout import open_file

# Bytes that can be read (-1: withdrawn); the blob's size (-1: not known); bytes there is room for; which boot of the
# machine wrote that.
_RECORD = struct.Struct("<qqq16s")
_SUM = struct.Struct("<I")
_LENGTH = _RECORD.size + _SUM.size


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fill is."""

    offset: int
    """Bytes that can be read."""
    size: int | None
    """Bytes of the whole blob, where that is known."""
    boot: bytes = b""
    """Which boot of the machine it is from: what was written before a power cut may not be there."""
    withdrawn: bool = False
    """Whether the bytes turned out to be those of no blob: nobody is to go on with them."""
    room: int = 0
    """Bytes up to which it may grow: the store has room for them, whether they are written by now or not."""


class Lease:
    """A lease that this process holds."""

    def __init__(self, path: Path) -> None:
        """Take it.

        Raises:
            BlockingIOError: somebody who lives has it.
            OSError: the folder cannot be written, its file system has no locks, or too many files are open.
        """
        self._path = path
        self._size: int | None = None
        self._offset = 0
        self._room = 0
        # Nobody else finds a lease that is made, but says nothing yet: that would look as if its owner had gone down.
        with _one_at_a_time(path.parent):
            self._fd, found = _claim(path)
            try:
                self.left = _read(self._fd)
                """What its last owner said, if that one was killed."""
                self.lost = found and self.left is None
                """Whether it had an owner that said something which is not there: it went down with the machine."""
                if self.left is not None:
                    self._begin_anew()
            except OSError:
                # What the last owner said stays, for the next attempt.
                os.close(self._fd)
                raise
            try:
                self.publish(0)
            except OSError:
                self.release()
                raise

    def announce(self, size: int) -> None:
        """Tell how long the blob is, in bytes; with the next `publish`, others know."""
        self._size = size

    def claim(self, room: int) -> None:
        """Tell up to how many bytes it may grow; see `addon.store.room.Room.claim`.

        Raises:
            OSError: the disk is full or failing.
        """
        self._room = room
        self.publish(self._offset)

    def publish(self, offset: int) -> None:
        """Tell how many bytes can be read.

        Raises:
            OSError: the disk is full or failing.
        """
        self._offset = offset
        record = _RECORD.pack(offset, -1 if self._size is None else self._size, self._room, boot())
        os.pwrite(self._fd, record + _SUM.pack(zlib.crc32(record)), 0)

    def withdraw(self) -> None:
        """Tell that the bytes are not the blob's.

        Raises:
            OSError: the disk is full or failing.
        """
        self.publish(-1)

    def _begin_anew(self) -> None:
        """Put another file in the place of a killed owner's.

        Its followers are not to take this for the same fill going on: its bytes may come anew.
        """
        # At once: whoever looks finds the one or the other.
        new = self._path.with_name(f"{self._path.stem}.{uuid.uuid4().hex}{self._path.suffix}")
        fd, _ = _claim(new)
        try:
            new.replace(self._path)
        except OSError:
            new.unlink(missing_ok=True)
            os.close(fd)
            raise
        killed, self._fd = self._fd, fd
        os.close(killed)

    def release(self) -> None:
        """Give it back, and leave nothing of it; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                # As long as it is locked, nobody else can have it; behind this line, nobody can find it.
                self._path.unlink(missing_ok=True)
            finally:
                os.close(fd)


class Follower:
    """A look at somebody else's lease."""

    _fd = -1

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            FileNotFoundError: nobody has it.
            OSError: the folder cannot be read, or too many files are open.
        """
        self._fd = open_file(path, os.O_RDONLY)
        self._last = Progress(0, None)

    def progress(self) -> Progress:
        """How far its owner is, or was when it ended.

        Raises:
            OSError: the disk failed.
        """
        # One that is just being written is read again the next time.
        self._last = _read(self._fd) or self._last
        return self._last

    def held(self) -> bool:
        """Whether its owner lives, and has not given it back.

        Raises:
            OSError: the file system has no locks.
        """
        return _held(self._fd)

    def close(self) -> None:
        """Give the file descriptor back; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


@cache
def boot() -> bytes:
    """What tells one boot of this machine from another, in 16 bytes; zeros where the system does not say."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def _read(fd: int) -> Progress | None:
    content = os.pread(fd, _LENGTH, 0)
    if len(content) < _LENGTH or _SUM.pack(zlib.crc32(content[: _RECORD.size])) != content[_RECORD.size :]:
        return None
    offset, size, room, booted = _RECORD.unpack(content[: _RECORD.size])
    return Progress(max(offset, 0), size if size >= 0 else None, booted, offset < 0, room)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other processes from taking a lease in the same folder meanwhile, which takes nobody long."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _claim(path: Path) -> tuple[int, bool]:
    """Lock the file, made where there is none; its file descriptor, and whether it was there."""
    while True:
        try:
            fd, found = open_file(path, os.O_RDWR), True
        except FileNotFoundError:
            try:
                fd, found = open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), False
            except FileExistsError:
                continue
        try:
            # Between the lines above and the locking, its owner may have given it back.
            if _lock(fd) and os.path.samestat(os.fstat(fd), path.lstat()):
                claimed, fd = fd, -1
                return claimed, found
        except FileNotFoundError:
            pass
        finally:
            if fd >= 0:
                os.close(fd)


def _lock(fd: int) -> bool:
    """Lock it; False where only those who look whether it is locked had it, for that moment."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if _held(fd):
            raise
        return False
    return True


def _held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
