"""What the store knows of its blobs, in SQLite beside them.

Several processes read and write it at once. A crash may cost its last rows: each of them is something that can be found
out again, from upstream or from the blob itself. So a damaged catalogue makes room for a new one instead of stopping a
start.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from addon.store.errors import StoreError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS provenance (
    registry TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL, seen REAL NOT NULL,
    PRIMARY KEY (digest, registry, repository)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blobs (
    digest TEXT PRIMARY KEY, size INTEGER NOT NULL, changed INTEGER NOT NULL, stored REAL NOT NULL,
    used REAL NOT NULL, uses INTEGER NOT NULL, priority REAL NOT NULL, verified REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tags (
    registry TEXT NOT NULL, repository TEXT NOT NULL, reference TEXT NOT NULL,
    digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL, seen REAL NOT NULL,
    PRIMARY KEY (registry, repository, reference)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pins (
    registry TEXT NOT NULL, repository TEXT NOT NULL, reference TEXT NOT NULL,
    PRIMARY KEY (registry, repository, reference)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""
_VERSION = 1
# Nobody holds the table for long: who waits so many seconds waits for something that is stuck.
_PATIENCE_SECONDS = 10


class Catalog:
    """The database; any thread may use it, each by a connection of its own."""

    def __init__(self, path: Path) -> None:
        """Open the database, or make it.

        Raises:
            StoreError: the disk failed, as for all that is done with it.
        """
        self.path = path
        self._own = threading.local()
        self._lock = threading.Lock()
        self._open: list[sqlite3.Connection] = []
        self._closed = False
        with self._failing():
            first, self.renewed = _open(path)
            """Whether it took the place of one that was damaged, so that what that one said is lost."""
        self._adopt(first)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to ask; who reads waits for nobody.

        Raises:
            StoreError: the disk failed.
        """
        with self._failing():
            yield self._connection()

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction: all of what is changed within it is seen by others, or none.

        Args:
            durable: whether to wait until it would outlive a power cut.

        Raises:
            StoreError: the disk failed, or somebody else has been writing for very long.
        """
        with self._failing():
            db = self._connection()
            if durable:
                db.execute("PRAGMA synchronous = FULL")
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                except BaseException:
                    db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")
            finally:
                if durable:
                    db.execute("PRAGMA synchronous = OFF")

    def close(self) -> None:
        """Close it for all threads."""
        with self._lock:
            self._closed = True
            for db in self._open:
                db.close()
            self._open.clear()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as e:
            raise StoreError(f"cannot use {self.path}: {e}") from e

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._own, "db", None)
        return db if db is not None else self._adopt(_connect(self.path))

    def _adopt(self, db: sqlite3.Connection) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                db.close()
            self._open.append(db)
        self._own.db = db
        return db


def _open(path: Path) -> tuple[sqlite3.Connection, bool]:
    # One process at a time: SQLite does not wait for another one that is switching to WAL, and of two that find the
    # database damaged, the second would put the first one's new one aside.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        return _prepared_or_renewed(path)
    finally:
        os.close(folder)


def _prepared_or_renewed(path: Path) -> tuple[sqlite3.Connection, bool]:
    try:
        return _prepared(path), False
    except sqlite3.DatabaseError as e:
        if isinstance(e, sqlite3.OperationalError):
            raise
        # Not a database any more. What it said can be found out again, so it makes room instead of stopping the start.
        path.replace(path.with_suffix(".damaged"))
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _prepared(path), True


def _prepared(path: Path) -> sqlite3.Connection:
    # SQLite would make it readable for everybody; what it puts beside it has the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    db = _connect(path)
    try:
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise sqlite3.OperationalError(f"a newer Pulltap made it (its version is {version})")
    db.executescript(_SCHEMA)
    db.execute(f"PRAGMA user_version = {_VERSION}")
    # Damage behind the first page would else be found by each question anew. (quick_check of SQLite 3.40 finds some in
    # any table without rowid.)
    (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False)
    # A power cut may take the last rows along.
    db.execute("PRAGMA synchronous = OFF")
    return db
