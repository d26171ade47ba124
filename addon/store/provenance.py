"""Which digests upstream delivered, or confirmed, in which repository.

That is half of the answer to "may this be served here?", and has to outlive a restart, and a power cut: a blob is
recorded here before it is committed, durably. So a stored blob of which nothing is recorded was put there by somebody
who may write into the store (`Provenance.unclaimed`), and not by a registry whose word would count for no other.
"""

import time
from collections.abc import Callable, Iterable
from threading import Lock

from cachetools import LRUCache

from addon.registry.digest import Digest
from addon.store.catalog import Catalog

# Entries that are answered without asking SQLite; one is some 300 bytes.
_REMEMBERED = 10_000
# For so long a blob's provenance outlives the blob: much longer than any fill takes, which records it first.
_KEPT_SECONDS = 30 * 24 * 3600
# In the place of a registry where nobody knows which.
_LOST = ("", "")


class Provenance:
    """The table of (registry, repository, digest); any thread may use it. All methods raise StoreError."""

    def __init__(self, catalog: Catalog, clock: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._clock = clock
        self._known: LRUCache[tuple[str, str, str], bool] = LRUCache(_REMEMBERED)
        self._lock = Lock()

    def record(self, registry: str, repository: str, *digests: Digest) -> None:
        """Remember, durably, that upstream gave, or confirmed, these in ``repository``."""
        self._write([(str(digest), registry, repository) for digest in digests])

    def disown(self, digests: Iterable[Digest]) -> None:
        """Remember that these came from a registry, but not from which: each has to deliver them before it has them."""
        self._write([(str(digest), *_LOST) for digest in digests])

    def belongs(self, registry: str, repository: str, digest: Digest) -> bool:
        """Whether upstream is known to hold ``digest`` in ``repository``."""
        key = (str(digest), registry, repository)
        with self._lock:
            if key in self._known:
                return True
        found = self._is_there("digest = ? AND registry = ? AND repository = ?", key)
        if found:
            self._remember(key)
        return found

    def delivered_by(self, registry: str, digest: Digest) -> bool:
        """Whether ``registry`` is known to hold ``digest`` in any repository."""
        return self._is_there("digest = ? AND registry = ?", (str(digest), registry))

    def unclaimed(self, digest: Digest) -> bool:
        """Whether no registry ever delivered ``digest``: if it is stored, an operator put it there."""
        return not self._is_there("digest = ?", (str(digest),))

    def repositories(self, digest: Digest) -> list[tuple[str, str]]:
        """All (registry, repository) where ``digest`` is known to be, in order."""
        with self._catalog.reading() as db:
            query = (
                "SELECT registry, repository FROM provenance WHERE digest = ? AND registry <> ''"
                " ORDER BY registry, repository"
            )
            return db.execute(query, (str(digest),)).fetchall()

    def prune(self) -> int:
        """Forget where blobs came from that have been gone for a month; it returns how many rows went."""
        with self._catalog.writing() as db:
            gone = db.execute(
                "DELETE FROM provenance WHERE seen < ? AND digest NOT IN (SELECT digest FROM blobs)",
                (self._clock() - _KEPT_SECONDS,),
            ).rowcount
        if gone:
            with self._lock:
                self._known.clear()
        return int(gone)

    def _write(self, keys: list[tuple[str, str, str]]) -> None:
        now = self._clock()
        with self._catalog.writing(durable=True) as db:
            db.executemany(
                "INSERT INTO provenance (digest, registry, repository, seen) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET seen = excluded.seen",
                [(*key, now) for key in keys],
            )
        for key in keys:
            self._remember(key)

    def _is_there(self, condition: str, values: tuple[str, ...]) -> bool:
        with self._catalog.reading() as db:
            query = f"SELECT 1 FROM provenance WHERE {condition} LIMIT 1"  # noqa: S608 - conditions are written above
            return db.execute(query, values).fetchone() is not None

    def _remember(self, key: tuple[str, str, str]) -> None:
        with self._lock:
            self._known[key] = True
