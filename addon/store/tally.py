"""What the store has been good for: counts that outlive a restart, and are those of all processes together."""

import enum
from collections import Counter
from threading import Lock

from addon.store.catalog import Catalog


class Count(enum.StrEnum):
    """What is counted. Bytes are those of bodies."""

    HITS = "hits"
    HIT_BYTES = "hit_bytes"
    MISSES = "misses"
    COLLAPSED = "collapsed"
    UPSTREAM_BYTES = "upstream_bytes"
    BYPASSED = "bypassed"
    """Blob requests that passed because the store was in trouble."""
    BAD = "bad"
    """Stored blobs that turned out to be bad."""


class Tally:
    """The counts; any thread may use it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._pending: Counter[Count] = Counter()
        self._lock = Lock()

    def add(self, count: Count, more: int = 1) -> None:
        """Count; written down by the next `flush`."""
        with self._lock:
            self._pending[count] += more

    def flush(self) -> None:
        """Write down what was counted since the last time.

        Raises:
            StoreError: the catalogue cannot be used; the counts wait for the next time.
        """
        with self._lock:
            pending, self._pending = self._pending, Counter()
        if not pending:
            return
        try:
            with self._catalog.writing() as db:
                db.executemany(
                    "INSERT INTO numbers (name, value) VALUES (?, ?)"
                    " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                    [(str(count), more) for count, more in pending.items()],
                )
        except BaseException:
            with self._lock:
                self._pending.update(pending)
            raise

    def totals(self) -> dict[Count, int]:
        """All counts, those of other processes as far as they have written them down.

        Raises:
            StoreError: the catalogue cannot be used.
        """
        self.flush()
        with self._catalog.reading() as db:
            rows = dict(db.execute("SELECT name, value FROM numbers").fetchall())
        return {count: int(rows.get(str(count), 0)) for count in Count}
