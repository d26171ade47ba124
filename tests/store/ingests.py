"""Ingests for the store's tests."""

import signal
from pathlib import Path

from addon.store.blob import BlobReader
from addon.store.ingest import Ingest
from addon.store.place import Place

from .blobs import digest_of
from .processes import process

CONTENT = bytes(range(256)) * 40
DIGEST = digest_of(CONTENT)
SIZE = len(CONTENT)


class Folder:
    """Where ingests of `CONTENT` are made, and where they are to end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ingests = root / "ingest"
        self.final = root / "blobs" / DIGEST.encoded
        for folder in (self.ingests, self.final.parent):
            folder.mkdir(exist_ok=True)
        self.place = Place(self.ingests / "one")

    def ingest(self) -> Ingest:
        return Ingest(self.place, self.final, DIGEST)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.ingests.iterdir())

    def kept(self) -> bytes | None:
        """What the next attempt goes on with."""
        return self.place.plain.read_bytes() if self.place.plain.exists() else None


def absorb(ingest: Ingest) -> None:
    while ingest.absorb():
        pass


def everything(reader: BlobReader) -> bytes:
    return reader.read(0, SIZE + 1)


OWNER = """
import sys
import signal
from pathlib import Path
from tests.store.ingests import CONTENT, Folder
ingest = Folder(Path(sys.argv[1])).ingest()
for part in sys.argv[2:]:
    start, stop = map(int, part.split("-"))
    ingest.write(start, [CONTENT[start:stop]])
print("ready", flush=True)
sys.stdin.readline()
ingest.keep()
"""
"""Writes parts of the blob, and keeps them once it is told so; arguments: the folder, and each part."""


def killed(folder: Folder, *parts: str) -> None:
    """Leave what an owner leaves that has written these parts, and is killed."""
    with process(OWNER, folder.root, *parts) as owner:
        owner.kill()
        assert owner.wait() == -signal.SIGKILL
