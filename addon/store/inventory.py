"""What is stored: how large each blob is, when it was used, and when its bytes were last seen to be right.

A blob's row is written when its bytes have just been verified. As long as its file has the length and the time of
modification that the row tells, nobody wrote to it since; `addon.store.disk.Store.open` looks at that each time. A file
without a row (another program put it there, or the catalogue was lost) is verified before it is first used.

Uses are collected in memory, and written down now and then: a hit costs no write. With them go the priorities, by which
it is found out what is to go (`addon.store.eviction`).
"""

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache

from addon.registry.digest import Digest
from addon.store.catalog import Catalog
from addon.store.eviction import POLICY, GreedyDual

# Blobs whose row is known without asking SQLite; one is some 300 bytes.
_REMEMBERED = 20_000
# Rows that are asked for at once.
_PAGE = 32
_SELECT = "SELECT digest, size, stored, used, uses, priority, verified FROM blobs"
_AGE = "eviction_age"
"""Of the table of numbers: see `addon.store.eviction`."""
_INSERT = (
    "INSERT INTO blobs (digest, size, changed, stored, used, uses, priority, verified) VALUES (?, ?, ?, ?, ?, 0, ?, ?)"
)


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
    """How often it was given to somebody, those not counted for whom it was fetched."""
    priority: float
    """What the eviction policy makes of its uses: the lowest one goes first."""
    verified: float


class Inventory:
    """The table of stored blobs; any thread may use it. All methods that ask or write raise StoreError."""

    def __init__(self, catalog: Catalog, clock: Callable[[], float] = time.time, policy: GreedyDual = POLICY) -> None:
        self._catalog = catalog
        self._clock = clock
        self._policy = policy
        self.changes = 0
        """How often blobs came or went in this process: by it one sees whether something is to be looked at anew."""
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
        """The file with this stamp has just been seen to hold the blob; this process knows that whatever it raises.

        Raises:
            StoreError: it could not be written down.
        """
        with self._lock:
            self._stamps[digest] = stamp
        now = self._clock()
        with self._catalog.writing() as db:
            known = db.execute("SELECT 1 FROM blobs WHERE digest = ?", (str(digest),)).fetchone()
            db.execute(
                f"{_INSERT} ON CONFLICT (digest) DO UPDATE"
                " SET size = excluded.size, changed = excluded.changed, verified = excluded.verified",
                (str(digest), stamp.size, stamp.changed, now, now, self._first_priority(db, stamp.size), now),
            )
        self._changed(known is None)

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
        try:
            with self._catalog.writing() as db:
                age = _age(db)
                for digest, (more, last) in pending.items():
                    row = db.execute("SELECT uses, size FROM blobs WHERE digest = ?", (str(digest),)).fetchone()
                    if row is None:
                        continue
                    uses, size = row[0] + more, row[1]
                    db.execute(
                        "UPDATE blobs SET uses = ?, used = max(used, ?), priority = max(priority, ?) WHERE digest = ?",
                        (uses, last, self._policy.priority(age, uses + 1, size), str(digest)),
                    )
        except BaseException:
            with self._lock:
                for digest, (uses, last) in pending.items():
                    more, latest = self._pending.get(digest, (0, last))
                    self._pending[digest] = uses + more, latest
            raise

    def drop(self, digests: Iterable[Digest]) -> None:
        """These are stored no longer."""
        gone = list(digests)
        self._forget(gone)
        with self._catalog.writing() as db:
            db.executemany("DELETE FROM blobs WHERE digest = ?", [(str(digest),) for digest in gone])
        self._changed(len(gone))

    def evicted(self, entries: Collection[Entry]) -> None:
        """These had to go to make room, so that what is left is older than it was."""
        if not entries:
            return
        self._forget(entry.digest for entry in entries)
        # One that came back meanwhile has been verified later.
        gone = [(str(entry.digest), entry.verified) for entry in entries]
        with self._catalog.writing() as db:
            db.executemany("DELETE FROM blobs WHERE digest = ? AND verified <= ?", gone)
            db.execute(
                "INSERT INTO numbers (name, value) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
                (_AGE, max(entry.priority for entry in entries)),
            )
        self._changed(len(gone))

    def _forget(self, digests: Iterable[Digest]) -> None:
        with self._lock:
            for digest in digests:
                self._stamps.pop(digest, None)
                self._pending.pop(digest, None)

    def _changed(self, count: int) -> None:
        """So many blobs came or went, which others can see by now."""
        with self._lock:
            self.changes += count

    def reconcile(self, found: Mapping[Digest, tuple[int, float]], since: float) -> None:
        """Take in what is stored without a row, and drop the rows of what is stored no longer.

        Args:
            found: the size in bytes of each stored file, and the time of its last modification.
            since: when the look at the files began; what was stored later is not touched.
        """
        known = self.digests()
        there = {str(digest): status for digest, status in found.items()}
        gone = [(digest, since) for digest in known - there.keys()]
        with self._catalog.writing() as db:
            age = _age(db)
            # Never verified, and its stamp fits no file.
            strange = [
                (digest, size, -1, used, used, self._policy.priority(age, 1, size), 0)
                for digest, (size, used) in there.items()
                if digest not in known
            ]
            db.executemany(f"{_INSERT} ON CONFLICT DO NOTHING", strange)
            db.executemany("DELETE FROM blobs WHERE digest = ? AND verified < ?", gone)
        self._changed(len(strange) + len(gone))

    def digests(self) -> set[str]:
        """All that is stored."""
        with self._catalog.reading() as db:
            return {digest for (digest,) in db.execute("SELECT digest FROM blobs")}

    def stalest(self, besides: Collection[Digest] = ()) -> Entry | None:
        """The stored blob, besides these, whose bytes were not looked at for longest."""
        with self._catalog.reading() as db:
            rows = db.execute(f"{_SELECT} ORDER BY verified, digest LIMIT ?", (len(besides) + 1,)).fetchall()
        return next((entry for entry in map(_entry, rows) if entry.digest not in besides), None)

    def total(self) -> int:
        """Bytes of all blobs together."""
        with self._catalog.reading() as db:
            # Triggers keep it, so that not every fill has to add up all rows.
            (total,) = db.execute("SELECT value FROM numbers WHERE name = 'stored_bytes'").fetchone()
        return int(total)

    def size_of(self, digests: Iterable[Digest]) -> int:
        """Bytes of those of these blobs that are stored."""
        total = 0
        with self._catalog.reading() as db:
            for digest in set(digests):
                row = db.execute("SELECT size FROM blobs WHERE digest = ?", (str(digest),)).fetchone()
                total += row[0] if row else 0
        return total

    def entries(self) -> list[Entry]:
        """All stored blobs, those first that were not used for longest."""
        with self._catalog.reading() as db:
            rows = db.execute(f"{_SELECT} ORDER BY used, digest").fetchall()
        return [_entry(row) for row in rows]

    def by_priority(self) -> Iterator[Entry]:
        """All stored blobs, in the order in which they are to go; what goes or changes meanwhile is no trouble."""
        last: tuple[float, float, str] = (float("-inf"), 0.0, "")
        while True:
            with self._catalog.reading() as db:
                rows = db.execute(
                    f"{_SELECT} WHERE (priority, used, digest) > (?, ?, ?) ORDER BY priority, used, digest LIMIT ?",
                    (*last, _PAGE),
                ).fetchall()
            entries = [_entry(row) for row in rows]
            yield from entries
            if not entries:
                return
            last = entries[-1].priority, entries[-1].used, str(entries[-1].digest)

    def _first_priority(self, db: sqlite3.Connection, size: int) -> float:
        return self._policy.priority(_age(db), 1, size)


def _age(db: sqlite3.Connection) -> float:
    row = db.execute("SELECT value FROM numbers WHERE name = ?", (_AGE,)).fetchone()
    return float(row[0]) if row else 0.0


def _entry(row: tuple[str, int, float, float, int, float, float]) -> Entry:
    return Entry(Digest.parse(row[0]), *row[1:])
