"""Other processes that use the same store, as far as this one can tell: locks are those of open files."""

import os
from pathlib import Path

from addon.registry.digest import Digest
from addon.store.disk import Store


class Owner:
    """Another process that fills a blob."""

    def __init__(self, root: Path, digest: Digest, origin: str) -> None:
        self._store = Store(root)
        self.ingest = self._store.ingest(digest, origin)
        self.content = b""
        """What it wrote without a hole."""

    def write(self, content: bytes, *, at: int | None = None) -> None:
        """Write what comes next, or behind a hole."""
        self.ingest.write(len(self.content) if at is None else at, [content])
        if at is None:
            self.content += content

    def fill(self, hole: bytes) -> None:
        """Write what was missing; what was behind it is there, too, then."""
        self.write(hole)
        while self.ingest.absorb():
            pass

    def commit(self) -> None:
        """It has all of the blob."""
        self.ingest.verify(None)
        self.ingest.commit()

    def die(self) -> None:
        """Be killed: the kernel closes what it has open."""
        os.close(self.ingest._lease._fd)
        os.close(self.ingest._fd)
        self.ingest._lease._fd = self.ingest._fd = -1

    def close(self) -> None:
        """End as it should."""
        self.ingest.abort()
        self._store.close()
