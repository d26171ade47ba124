"""The blobs of a run: noise from a seed, on disk once, in the places where each side looks for it."""

import hashlib
import os
import random
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = "bench/blobs"
_PIECE = 16 << 20  # randbytes makes less than 256 MiB at a time


@dataclass(frozen=True)
class Blob:
    """A blob and its file."""

    digest: str
    size: int
    """Bytes."""
    file: Path

    @property
    def path(self) -> str:
        """Where a registry has it."""
        return f"/v2/{REPOSITORY}/blobs/{self.digest}"

    @property
    def encoded(self) -> str:
        """The digest without its algorithm."""
        return self.digest.partition(":")[2]


class Blobs:
    """Makes each blob once; the folder is the content of the upstream."""

    def __init__(self, folder: Path) -> None:
        self.content = folder / "content"
        self._place = self.content / f"v2/{REPOSITORY}/blobs"
        self._place.mkdir(parents=True)
        self._made: dict[tuple[int, int], Blob] = {}

    def blob(self, size: int, seed: int = 0) -> Blob:
        """A blob of so many bytes; the same for the same seed."""
        key = (size, seed)
        if key not in self._made:
            source = random.Random(f"{seed}/{size}")  # noqa: S311 (noise, no secret)
            hasher = hashlib.sha256()
            fresh = self._place / "fresh"
            with fresh.open("wb") as file:
                for at in range(0, size, _PIECE):
                    piece = source.randbytes(min(_PIECE, size - at))
                    hasher.update(piece)
                    file.write(piece)
            digest = f"sha256:{hasher.hexdigest()}"
            self._made[key] = Blob(digest, size, fresh.rename(self._place / digest))
        return self._made[key]

    def blobs(self, number: int, size: int) -> list[Blob]:
        """Several different ones."""
        return [self.blob(size, seed) for seed in range(number)]


def give_to_registry(root: Path, blob: Blob) -> None:
    """Put a blob where the distribution registry keeps it."""
    docker = root / "docker/registry/v2"
    data = docker / "blobs/sha256" / blob.encoded[:2] / blob.encoded / "data"
    link = docker / "repositories" / REPOSITORY / "_layers/sha256" / blob.encoded / "link"
    if not data.exists():
        data.parent.mkdir(parents=True)
        link.parent.mkdir(parents=True)
        os.link(blob.file, data)
        link.write_text(blob.digest)
