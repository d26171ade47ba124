"""File systems of a test's own, and what can become of them while they are in use."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .programs import environment, need, run, workplace

MIB = 1024 * 1024


class Mount:
    """A small file system; whatever the test does to it, it is gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "disk"
        """Where it is mounted."""
        self.root.mkdir()
        self._folder = folder
        self._ballast = self.root / "ballast"

    @classmethod
    @contextmanager
    def tmpfs(cls, size: int) -> Iterator["Mount"]:
        """One in memory, of so many bytes."""
        with workplace("disk") as folder:
            mount = cls(folder)
            mount.run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount.root))
            yield mount

    @classmethod
    @contextmanager
    def ext4(cls, size: int) -> Iterator["Mount"]:
        """One in a file, of so many bytes."""
        with workplace("disk") as folder:
            mount, image = cls(folder), folder / "image"
            with image.open("xb") as file:
                file.truncate(size)
            mount.run("mkfs.ext4", "-q", "-F", str(image))
            mount.run("mount", "-o", "loop,errors=remount-ro", str(image), str(mount.root))
            yield mount

    @contextmanager
    def full(self) -> Iterator[None]:
        """Somebody else takes all that is free."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (MIB, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        yield
        self._ballast.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Whatever is opened from now on is read-only, as after an error of the disk; what is open stays open.

        (A file system that somebody writes to cannot be made so. What lies over it can.)
        """
        self.run("mount", "--bind", str(self.root), str(self.root))
        try:
            self.run("mount", "-o", "remount,bind,ro", str(self.root))
            yield
        finally:
            self.run("umount", "--lazy", str(self.root))

    @contextmanager
    def unmounted(self) -> Iterator[None]:
        """It is taken away, although it is in use, and comes back."""
        elsewhere = self._folder / "elsewhere"
        elsewhere.mkdir()
        self.run("mount", "--bind", str(self.root), str(elsewhere))
        self.run("umount", "--lazy", str(self.root))
        try:
            yield
        finally:
            self.run("mount", "--bind", str(elsewhere), str(self.root))
            self.run("umount", str(elsewhere))

    def fail(self) -> None:
        """As the kernel takes a damaged ext4 out of use: read-only for everybody, for good."""
        self.run("mount", "-o", "remount,abort", str(self.root))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Who writes waits, as on a disk that is stuck."""
        self.run("fsfreeze", "--freeze", str(self.root))
        try:
            yield
        finally:
            self.run("fsfreeze", "--unfreeze", str(self.root))

    @contextmanager
    def locked(self, *folders: Path) -> Iterator[None]:
        """Nothing may be made, renamed or removed in these folders, even by root."""
        names = [str(folder) for folder in folders]
        self.run("chattr", "+i", *names)
        try:
            yield
        finally:
            self.run("chattr", "-i", *names)

    def run(self, program: str, *arguments: str) -> None:
        """Run a command. Raises CommandFailed."""
        run([need(program, root=True), *arguments], environment(self._folder))
