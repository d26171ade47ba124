"""What is stored: how large each blob is, when it was used, and when its bytes were last seen to be right.

A blob's row is written when its bytes have just been verified. As long as its file has the length and the time of
modification that the row tells, nobody wrote to it since; `addon.store.disk.Store.open` looks at that each time. A file
without a row (another program put it there, or the catalogue was lost) is verified before it is first used.

Uses are collected in memory, and written down now and then: a hit costs no write.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache

from addon.registry.digest import Digest
from addon.store.catalog import Catalog

# Blobs whose row is known without asking SQLite; one is some 300 bytes.
_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Stamp:
    """By which a file is known to be the one that was verified."""

    size: int
    """Bytes."""
    changed: int
    """Time of the last modification, in nanoseconds, as `os.stat_result.st_mtime_ns` has it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored blob. Times are in seconds since the epoch."""

    digest: Digest
    size: int
    """Bytes."""
    stored: float
    used: float
    uses: int
    priority: float
    """What the eviction policy makes of its uses."""
    verified: float


class Inventory:
    """The table of stored blobs; any thread may use it. All methods that ask or write raise StoreError."""

    def __init__(self, catalog: Catalog, clock: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._clock = clock
        self._stamps: LRUCache[Digest, Stamp] = LRUCache(_REMEMBERED)
        self._pending: dict[Digest, tuple[int, float]] = {}
        self._lock = Lock()

    def is_verified(self, digest: Digest, stamp: Stamp) -> bool:
        """Whether the file with this stamp was seen to hold the blob."""
        with self._lock:
            if self._stamps.get(digest) == stamp:
                return True
        with self._catalog.reading() as db:
            row = db.execute("SELECT size, changed FROM blobs WHERE digest = ?", (str(digest),)).fetchone()
        if row is None or Stamp(*row) != stamp:
            return False
        with self._lock:
            self._stamps[digest] = stamp
        return True

    def verified(self, digest: Digest, stamp: Stamp) -> None:
        """The file with this stamp has just been seen to hold the blob."""
        now = self._clock()
        with self._catalog.writing() as db:
            db.execute(
                "INSERT INTO blobs (digest, size, changed, stored, used, uses, priority, verified)"
                " VALUES (?, ?, ?, ?, ?, 0, 0, ?)"
                " ON CONFLICT (digest) DO UPDATE"
                " SET size = excluded.size, changed = excluded.changed, verified = excluded.verified",
                (str(digest), stamp.size, stamp.changed, now, now, now),
            )
        with self._lock:
            self._stamps[digest] = stamp

    def used(self, digest: Digest) -> None:
        """The blob was given to somebody; written down by the next `flush`."""
        now = self._clock()
        with self._lock:
            uses, _ = self._pending.get(digest, (0, 0.0))
            self._pending[digest] = uses + 1, now

    def flush(self) -> None:
        """Write down what was used since the last time."""
        with self._lock:
            pending, self._pending = self._pending, {}
        if not pending:
            return
        rows = [(uses, last, str(digest)) for digest, (uses, last) in pending.items()]
        with self._catalog.writing() as db:
            db.executemany("UPDATE blobs SET uses = uses + ?, used = max(used, ?) WHERE digest = ?", rows)

    def drop(self, digests: Iterable[Digest]) -> None:
        """These are stored no longer."""
        gone = list(digests)
        with self._lock:
            for digest in gone:
                self._stamps.pop(digest, None)
                self._pending.pop(digest, None)
        keys = [(str(digest),) for digest in gone]
        with self._catalog.writing() as db:
            db.executemany("DELETE FROM blobs WHERE digest = ?", keys)

    def reconcile(self, found: Mapping[Digest, tuple[int, float]], since: float) -> None:
        """Take in what is stored without a row, and drop the rows of what is stored no longer.

        Args:
            found: the size in bytes of each stored file, and the time of its last modification.
            since: when the look at the files began; what was stored later is not touched.
        """
        known = {str(entry.digest) for entry in self.entries()}
        there = {str(digest): status for digest, status in found.items()}
        # Never verified, and its stamp fits no file.
        strange = [(digest, size, -1, used, used) for digest, (size, used) in there.items() if digest not in known]
        gone = [(digest, since) for digest in known - there.keys()]
        with self._catalog.writing() as db:
            db.executemany(
                "INSERT OR IGNORE INTO blobs (digest, size, changed, stored, used, uses, priority, verified)"
                " VALUES (?, ?, ?, ?, ?, 0, 0, 0)",
                strange,
            )
            db.executemany("DELETE FROM blobs WHERE digest = ? AND verified < ?", gone)

    def digests(self) -> set[str]:
        """All that is stored."""
        with self._catalog.reading() as db:
            return {digest for (digest,) in db.execute("SELECT digest FROM blobs")}

    def stalest(self) -> Entry | None:
        """The stored blob whose bytes were not looked at for longest."""
        with self._catalog.reading() as db:
            row = db.execute(
                "SELECT digest, size, stored, used, uses, priority, verified FROM blobs ORDER BY verified LIMIT 1"
            ).fetchone()
        return Entry(Digest.parse(row[0]), *row[1:]) if row else None

    def total(self) -> int:
        """Bytes of all blobs together."""
        with self._catalog.reading() as db:
            (total,) = db.execute("SELECT coalesce(sum(size), 0) FROM blobs").fetchone()
        return int(total)

    def entries(self) -> list[Entry]:
        """All stored blobs, those first that were not used for longest."""
        with self._catalog.reading() as db:
            rows = db.execute(
                "SELECT digest, size, stored, used, uses, priority, verified FROM blobs ORDER BY used, digest"
            ).fetchall()
        return [Entry(Digest.parse(digest), *rest) for digest, *rest in rows]
