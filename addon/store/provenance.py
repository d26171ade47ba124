"""Which digests upstream delivered, or confirmed, in which repository.

That is half of the answer to "may this be served here?", and has to outlive a restart. It is kept in SQLite beside the
blobs: several processes may write it, and a crash costs nothing that a question to the registry would not bring back.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cachetools import LRUCache

from addon.registry.digest import Digest
from addon.store.errors import StoreError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS provenance (
    registry TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (digest, registry, repository)
) WITHOUT ROWID
"""
# Entries that are answered without asking SQLite; one is some 300 bytes.
_REMEMBERED = 10_000


class Provenance:
    """The table of (registry, repository, digest); any thread may use it."""

    def __init__(self, path: Path) -> None:
        """Open the table, or make it.

        Raises:
            StoreError: the disk failed, as for all methods here.
        """
        self._path = path
        self._lock = threading.Lock()
        self._known: LRUCache[tuple[str, str, str], bool] = LRUCache(_REMEMBERED)
        with self._exclusive():
            self._db = _open(path)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as e:
                raise StoreError(f"cannot use {self._path}: {e}") from e

    def record(self, registry: str, repository: str, digest: Digest) -> None:
        """Remember that upstream gave, or confirmed, ``digest`` in ``repository``."""
        key = (str(digest), registry, repository)
        with self._exclusive():
            if key in self._known:
                return
            self._db.execute("INSERT OR IGNORE INTO provenance (digest, registry, repository) VALUES (?, ?, ?)", key)
            self._known[key] = True

    def belongs(self, registry: str, repository: str, digest: Digest) -> bool:
        """Whether upstream is known to hold ``digest`` in ``repository``."""
        key = (str(digest), registry, repository)
        with self._exclusive():
            if key in self._known:
                return True
            found = self._found("SELECT 1 FROM provenance WHERE digest = ? AND registry = ? AND repository = ?", key)
            if found:
                self._known[key] = True
            return found

    def delivered_by(self, registry: str, digest: Digest) -> bool:
        """Whether ``registry`` is known to hold ``digest`` in any repository."""
        with self._exclusive():
            return self._found("SELECT 1 FROM provenance WHERE digest = ? AND registry = ?", (str(digest), registry))

    def _found(self, query: str, key: tuple[str, ...]) -> bool:
        return self._db.execute(query, key).fetchone() is not None

    def close(self) -> None:
        """Close the table."""
        with self._exclusive():
            self._db.close()


def _open(path: Path) -> sqlite3.Connection:
    # One process at a time: SQLite does not wait for another one that is switching to WAL, and of two that find the
    # table damaged, the second would put the first one's new table aside.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        return _connect_or_renew(path)
    finally:
        os.close(folder)


def _connect_or_renew(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.DatabaseError as e:
        if isinstance(e, sqlite3.OperationalError):
            raise
        # Not a database any more. What it said can be asked for again, so it makes room instead of stopping the start.
        path.replace(path.with_suffix(".damaged"))
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite would make it readable for everybody; what it puts beside it has the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    # A power cut may take the last rows along: each costs one question to the registry.
    db.execute("PRAGMA synchronous = OFF")
    db.execute(_SCHEMA)
    # Damage behind the first page would else be found by each question anew. (quick_check of SQLite 3.40 finds some in
    # any table without rowid.)
    (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
