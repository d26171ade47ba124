"""A disk of which one can say what a power cut would have left on it.

The store lies on an ext4, whose image is a file on an XFS. What the system has not written to that image yet is in
memory alone, and would be lost. XFS copies a file as it is at one moment (``cp --reflink``), also while it is written
to: such a copy of the image is what a power cut at that moment would leave. When it is mounted, its journal is
replayed, as it would be at the next start of the machine.
"""

import contextlib
import ctypes
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .programs import CommandFailed, environment, missing, need, run, workplace

_XFS_BYTES, _EXT4_BYTES = 3 << 30, 1 << 30
_LIBC = ctypes.CDLL(None, use_errno=True)
_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_PAGE = 4096


class Disk:
    """The ext4, and the moments of it that were recorded."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "disk"
        """Where it is mounted."""
        self._folder = folder
        self._environment = environment(folder)
        self._moments = 0
        below, above = folder / "xfs.img", folder / "xfs" / "ext4.img"
        _make_file(below, _XFS_BYTES)
        self._run("mkfs.xfs", "-q", "-m", "reflink=1", str(below))
        try:
            self._mount(below, folder / "xfs")
        except CommandFailed as error:
            missing(f"no file system can be mounted here: {error}")
        _make_file(above, _EXT4_BYTES)
        self._run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(above))
        self._mount(above, self.root)

    def record(self) -> Path:
        """What a power cut would leave now, as an image."""
        self._moments += 1
        image = self._folder / "xfs" / f"moment-{self._moments}.img"
        self._run("cp", "--reflink=always", str(self._folder / "xfs" / "ext4.img"), str(image))
        return image

    def write_journal(self) -> None:
        """Have the ext4 write down what it knows of its files by now, as it does every five seconds."""
        with (self.root / "tick").open("wb") as file:
            os.fsync(file.fileno())

    @contextmanager
    def after(self, image: Path) -> Iterator[Path]:
        """The disk after a power cut, mounted."""
        folder = self._folder / image.stem
        self._mount(image, folder)
        try:
            yield folder
        finally:
            # A test that has failed may still hold open what it looked at.
            self._run("umount", "--lazy", str(folder))
            folder.rmdir()

    def close(self) -> None:
        """Take it away."""
        for name in ("disk", "xfs"):
            self._run("umount", "--lazy", str(self._folder / name))

    def _mount(self, image: Path, folder: Path) -> None:
        folder.mkdir()
        self._run("mount", "-o", "loop", str(image), str(folder))

    def _run(self, program: str, *arguments: str) -> None:
        run([need(program, root=True), *arguments], self._environment)


def _make_file(path: Path, size: int) -> None:
    with path.open("xb") as file:
        file.truncate(size)


@contextmanager
def disk() -> Iterator[Disk]:
    """A disk for a while."""
    with workplace("power") as folder:
        made = Disk(folder)
        try:
            yield made
        finally:
            made.close()


def write_back(path: Path, choice: random.Random) -> None:
    """Have some of a file's pages written to its disk, as the system does whenever it likes, in whatever order."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY)
        try:
            pages = os.fstat(fd).st_size // _PAGE
            first = choice.randint(0, pages)
            size = choice.randint(0, pages - first) * _PAGE
            assert _LIBC.sync_file_range(fd, ctypes.c_int64(first * _PAGE), ctypes.c_int64(size), _WRITE) == 0
        finally:
            os.close(fd)
