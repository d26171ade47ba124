"""A store with limits, and blobs that fill it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.ingest import Ingest
from addon.store.room import Limits

from .blobs import ORIGIN, digest_of

SIZE = 10_000


def content(number: int, size: int = SIZE) -> bytes:
    return b"%d" % number + bytes(size - len(b"%d" % number))


def begin(store: Store, number: int, size: int = SIZE) -> Ingest:
    ingest = store.ingest(digest_of(content(number, size)), ORIGIN)
    ingest.announce(size)
    return ingest


def finish(ingest: Ingest, number: int, size: int = SIZE) -> Digest:
    ingest.write(0, [content(number, size)])
    ingest.verify(size)
    ingest.commit()
    return ingest.digest


def put(store: Store, number: int, size: int = SIZE) -> Digest:
    """Take a blob in, as a fill does whose size is known."""
    ingest = begin(store, number, size)
    try:
        return finish(ingest, number, size)
    finally:
        ingest.abort()


def stored(store: Store) -> set[Digest]:
    found = {digest for digest, _ in store.layout.stored()}
    assert {entry.digest for entry in store.inventory.entries()} == found
    return found


def occupied(root: Path) -> int:
    """Bytes of all blobs, and of what is on its way in or left over."""
    total = 0
    # In this order, none that is committed meanwhile is counted twice.
    for folder in ("blobs/sha256", "pulltap/ingest", "pulltap/quarantine"):
        for path in (root / folder).iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += 0 if path.name.endswith(".lease") else path.stat().st_size
    return total


@contextlib.contextmanager
def locked(store: Store) -> Iterator[None]:
    """Within it, no other process makes room."""
    fd = os.open(store.layout.ours / "room.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Stores:
    """Opens the same store, as one process or several; all are closed with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: list[Store] = []

    def __call__(self, blobs: float | None = None, *, max_size: int | None = None, min_free: int = 0) -> Store:
        """With room for so many blobs of the usual size, or so many bytes."""
        if blobs is not None:
            max_size = int(blobs * SIZE)
        self._open.append(Store(self.root, Limits(min_free=min_free, **({"max_size": max_size} if max_size else {}))))
        return self._open[-1]

    def close(self) -> None:
        for store in self._open:
            store.close()
