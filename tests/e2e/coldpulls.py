"""Cold pulls that may be cut short at any moment, and a look at what that leaves in a store."""

import contextlib
import hashlib
import http.client
import random
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from addon.store.lease import Follower, Progress
from addon.store.place import HOLES, LEASE

from ..standin import ACCEPT, Blob, Hub, Image
from ..standin.faults import Fault
from .clients.raw import Raw
from .programs import eventually

KIB, MIB = 1024, 1024 * 1024
LARGE = 34 * MIB
"""Bytes of a layer that is fetched over several connections."""
_LOCKS = Path("/proc/locks")


@dataclass(frozen=True)
class Goods:
    """What is pulled together: an image, and a blob that no manifest names."""

    hub: Hub
    image: Image
    loose: Blob
    """It comes chunked, so that nobody knows its size before its end."""
    contents: dict[str, bytes]
    """By digest, as are these."""
    rules: dict[str, Fault]

    @classmethod
    def push(cls, hub: Hub, repository: str, sizes: tuple[int, ...], seed: int, **fault: Any) -> Self:
        """Put them into the registry; with another seed, they are other bytes. All of them come with that fault."""
        image = hub.push(repository, sizes=sizes, seed=seed)
        loose = hub.push_blob(repository, random.Random(f"loose {seed}").randbytes(2 * MIB))
        blobs = (*image.blobs, loose)
        rules = {}
        for blob in blobs:
            rule = {
                "path_contains": digits(blob),
                "framing": "chunked" if blob is loose else "",
                "times": None,
                **fault,
            }
            rules[blob.digest] = hub.faults.add(Fault(host=hub.names.cdn, **rule))
        return cls(hub, image, loose, {blob.digest: hub.content(blob) for blob in blobs}, rules)

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All that is pulled as a blob."""
        return (*self.image.blobs, self.loose)

    def url(self, blob: Blob) -> str:
        """Of a blob."""
        return self.hub.url(self.image.blob_path(blob))

    def fetch(self, raw: Raw, blob: Blob) -> bool:
        """Pull one blob; True where it came whole. Whatever came is right, or the test has failed."""
        try:
            reply = raw.request("GET", self.url(blob))
        except (OSError, http.client.HTTPException):
            return False
        content = self.contents[blob.digest]
        assert reply.status == 200, f"{reply.status} {reply.body[:200]!r}"
        assert reply.body == content[: len(reply.body)], f"wrong bytes of {blob.digest}"
        assert not reply.whole or len(reply.body) == len(content), f"{blob.digest} ends too early"
        return reply.whole

    def pull(self, raw: Raw, pool: Executor) -> bool:
        """Pull the manifest, then all blobs at once; True where all came whole."""
        try:
            manifest = raw.request("GET", self.hub.url(self.image.manifest_path), [ACCEPT])
        except (OSError, http.client.HTTPException):
            return False
        if not manifest.whole:
            return False
        assert manifest.status == 200
        return all(list(pool.map(lambda blob: self.fetch(raw, blob), self.blobs)))

    def brought(self, blob: Blob) -> int:
        """How many bytes of a blob the registry's CDN has sent."""
        return sum(each.body_sent for each in self.hub.find(host=self.hub.names.cdn, path_contains=digits(blob)))

    def asked(self, blob: Blob) -> list[str]:
        """The ranges for which the registry's CDN was asked; empty for all of the blob."""
        found = self.hub.find(host=self.hub.names.cdn, path_contains=digits(blob))
        return [each.header("Range") or "" for each in found]


class Shelf:
    """A store's folder, seen from outside."""

    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs"
        self.ours = root / "pulltap"
        self.ingests = self.ours / "ingest"

    def path(self, blob: Blob) -> Path:
        """Where a blob lies, or would lie."""
        return self.blobs / blob.digest.replace(":", "/")

    def bad(self) -> list[str]:
        """What lies under a name that is not its digest."""
        found = [path for path in self.blobs.glob("*/*") if _digest(path) != path.name]
        return [f"{path.name}: {path.stat().st_size} bytes" for path in found]

    def lease(self, blob: Blob) -> Progress | None:
        """How far a blob's fill is, or was when its proxy was killed; None where there is none."""
        try:
            found = [Follower(path) for path in self.ingests.glob(f"*{digits(blob)}*{LEASE}")]
        except FileNotFoundError:
            return None
        try:
            return found[0].progress() if found else None
        finally:
            for each in found:
                each.close()

    def received(self, blob: Blob) -> int:
        """How many bytes of a blob its fill has told of."""
        lease = self.lease(blob)
        return lease.offset if lease else 0

    def kept(self, blob: Blob) -> int:
        """How many bytes an earlier attempt has left of a blob."""
        found = [path for path in self.ingests.glob(f"*{digits(blob)}*") if not path.name.endswith((LEASE, HOLES))]
        return sum(path.stat().st_size for path in found)

    def untidy(self) -> list[str]:
        """What only a fill under way has in the folder of ingests, or one whose proxy was killed."""
        return [name for name in self._left() if name.endswith((LEASE, HOLES))]

    def owners(self) -> set[int]:
        """The processes that have a lease, where the system tells."""
        leases = set()
        for path in self.ingests.glob(f"*{LEASE}"):
            with contextlib.suppress(FileNotFoundError):
                leases.add(path.stat().st_ino)
        locks = [line.split() for line in _LOCKS.read_text().splitlines()] if _LOCKS.exists() else []
        return {int(pid) for _, _, _, kind, pid, file, *_ in locks if kind == "WRITE" and _inode(file) in leases}

    def expect_settled(self, *goods: Goods) -> None:
        """See to it that all blobs are stored and right, and that nothing is left of how they came."""
        with contextlib.suppress(TimeoutError):
            eventually(lambda: not self._left(), "an empty folder of ingests")
        assert not self._left(), f"left in the folder of ingests: {self._left()}"
        assert not self.bad(), self.bad()
        missing = [blob for each in goods for blob in each.blobs if not self.path(blob).exists()]
        assert not missing, f"not stored: {missing}"
        aside = list((self.ours / "quarantine").iterdir())
        assert not aside, f"in quarantine: {aside}"

    def _left(self) -> dict[str, int]:
        """What is in the folder of ingests, and how many bytes of it; but no lease that nobody has written into yet.

        Such a one stays for a minute where its proxy was killed just then.
        """
        found = {}
        for path in self.ingests.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if (size := path.stat().st_size) or not path.name.endswith(LEASE):
                    found[path.name] = size
        return found

    def clear(self) -> None:
        """Take all blobs away, so that the next pull is a cold one."""
        for path in self.blobs.glob("*/*"):
            path.unlink()


def digits(blob: Blob) -> str:
    """Of its digest, without the algorithm."""
    return blob.digest.partition(":")[2]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, path.parent.name).hexdigest()


def _inode(file: str) -> int:
    """Of a file as ``/proc/locks`` names it."""
    return int(file.rpartition(":")[2])
