"""A blob that nobody has had yet: the ways to it, what a client may get, and what may be left behind.

reply = wanted.get()
wanted.expect(reply, Outcome.CUT)
wanted.assert_next_pull_works()
"""

import enum
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..standin import Hub, hurry
from .clients.raw import Raw, Reply
from .programs import eventually
from .proxies import Pulltap

HURRY = Path(hurry.__file__)
"""Makes Pulltap impatient, as a script for mitmproxy."""
STORED = "pulltap; fwd=miss; stored"
HIT = "pulltap; hit"
BYPASS = "pulltap; fwd=bypass"
_good: set[tuple[Path, int]] = set()
# Files that were compared with their names, and when they were last changed.


class Outcome(enum.Enum):
    """What a client may get of a body that has begun."""

    WHOLE = enum.auto()
    """All of it, and the right bytes: nothing was noticed."""
    CUT = enum.auto()
    """The right bytes, as far as they go, and a connection that ends before they do."""
    BAD = enum.auto()
    """Wrong bytes, and a connection that ends before they do, so that nobody takes them for the blob."""


@dataclass(frozen=True)
class Wanted:
    """One blob, one stand-in, one Pulltap."""

    hub: Hub
    proxy: Pulltap
    repository: str
    digest: str
    content: bytes

    @classmethod
    def new(cls, hub: Hub, proxy: Pulltap, size: int, repository: str = "library/wanted") -> "Wanted":
        """A blob of so many bytes."""
        content = os.urandom(size)
        return cls(hub, proxy, repository, hub.push_blob(repository, content).digest, content)

    @property
    def raw(self) -> Raw:
        """A client."""
        return Raw(self.proxy.port, self.proxy.ca)

    @property
    def url(self) -> str:
        """Where clients ask for it."""
        return self.hub.url(f"/v2/{self.repository}/blobs/{self.digest}")

    @property
    def path(self) -> Path:
        """Where it lies once it is stored."""
        return self.proxy.store / "blobs" / self.digest.replace(":", "/")

    def get(self, *headers: tuple[str, str]) -> Reply:
        """Ask for it, and read all that comes."""
        return self.raw.request("GET", self.url, headers)

    def expect(self, reply: Reply, outcome: Outcome) -> None:
        """That is what the client got, and the store is as sound as before."""
        assert (reply.status, reply.whole) == (200, outcome is Outcome.WHOLE), reply.body[:300]
        if outcome is not Outcome.BAD:
            assert reply.body == self.content[: len(reply.body)]
        if outcome is Outcome.WHOLE:
            assert len(reply.body) == len(self.content)
        else:
            assert not self.path.exists()
        self.assert_nothing_bad()

    def assert_nothing_bad(self) -> None:
        """What is stored is what its name says; what was kept for the next attempt is how this blob begins."""
        eventually(lambda: not [path for path in self._ingests() if path.suffix == ".lease"], "the end of its fill")
        for path in self.proxy.store.glob("blobs/*/*"):
            if (stamp := (path, path.stat().st_mtime_ns)) not in _good:
                assert hashlib.new(path.parent.name, path.read_bytes()).hexdigest() == path.name
                _good.add(stamp)
        for path in self._ingests():
            kept = path.read_bytes()
            assert kept
            assert self.content.startswith(kept)

    def assert_next_pull_works(self, *headers: tuple[str, str]) -> None:
        """Once upstream is well, the blob is had, and nothing but the blob is left."""
        self.hub.faults.clear()
        self.proxy.restore_names()
        self.assert_nothing_bad()
        status = HIT if self.path.exists() else STORED
        reply = self.get(*headers)
        assert (reply.status, reply.header("Cache-Status"), reply.body == self.content) == (200, status, True)
        eventually(self.path.exists, "the commit")
        self.assert_nothing_bad()
        assert self._ingests() == []

    def _ingests(self) -> list[Path]:
        """What there is of it on its way in."""
        return list((self.proxy.store / "pulltap" / "ingest").glob(self.digest.replace(":", "-") + "*"))
