"""What the store knows of its blobs, in SQLite beside them.

Several processes read and write it at once. A power cut may cost its last rows, but none that was written durably: each
of the others is something that can be found out again, from upstream or from the blob itself. A damaged catalogue makes
room for a new one instead of stopping a start.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from addon.store.errors import StoreError
from addon.store.layout import open_file

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
CREATE INDEX IF NOT EXISTS blobs_by_priority ON blobs (priority, used);
BEGIN IMMEDIATE;
INSERT OR REPLACE INTO numbers (name, value) SELECT 'stored_bytes', coalesce(sum(size), 0) FROM blobs;
CREATE TRIGGER IF NOT EXISTS blob_added AFTER INSERT ON blobs BEGIN
    UPDATE numbers SET value = value + NEW.size WHERE name = 'stored_bytes';
END;
CREATE TRIGGER IF NOT EXISTS blob_changed AFTER UPDATE OF size ON blobs BEGIN
    UPDATE numbers SET value = value + NEW.size - OLD.size WHERE name = 'stored_bytes';
END;
CREATE TRIGGER IF NOT EXISTS blob_removed AFTER DELETE ON blobs BEGIN
    UPDATE numbers SET value = value - OLD.size WHERE name = 'stored_bytes';
END;
COMMIT;
"""
_VERSION = 1
# Nobody holds the table for long: who waits so many seconds waits for something that is stuck.
_PATIENCE_SECONDS = 10
_PRIMARY = 0xFF
"""The part of SQLite's error codes that says what kind of error it is."""


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
        self._anew = threading.Lock()
        self._times = 0
        self._open: list[sqlite3.Connection] = []
        self._closed = False
        self._adopt(self._begin())

    def _begin(self) -> sqlite3.Connection:
        with self._failing():
            first, self.renewed = _open(self.path)
            """Whether it knows nothing of what was before, since it is new, or took the place of one that was damaged;
            everybody who opens it finds it so, until it is settled."""
            try:
                self._file = self.path.stat()
            except OSError:
                first.close()
                raise
            return first

    def is_there(self) -> bool:
        """Whether what is open is what lies at its path."""
        try:
            return os.path.samestat(self.path.stat(), self._file)
        except OSError:
            return False

    def reopen(self, settle: Callable[[], None]) -> None:
        """Begin anew, if somebody has removed the database, or put another one in its place.

        Args:
            settle: tells it what it has to know before anybody else asks it.

        Raises:
            StoreError: the disk failed.
        """
        with self._anew:
            if self.is_there():
                return
            file, own = self._file, dict(self._own.__dict__)
            first = self._begin()
            try:
                # For this thread alone.
                self._own.db, self._own.times = first, self._times
                settle()
            except BaseException:
                first.close()
                self._file = file
                self._own.__dict__.clear()
                self._own.__dict__.update(own)
                raise
            self._close(own.get("db"))
            # What another thread is in the midst of ends with the old one, which that closes when it comes again.
            self._times += 1
            self._adopt(first)

    def settle(self) -> None:
        """Whatever a new one had to be told has been written to it.

        Raises:
            StoreError: the disk failed.
        """
        if self.renewed:
            with self.writing(durable=True) as db:
                db.execute(f"PRAGMA user_version = {_VERSION}")

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
                    db.execute("COMMIT")
                except BaseException:
                    # A full disk may have rolled it back already.
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
            finally:
                if durable:
                    db.execute("PRAGMA synchronous = NORMAL")

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
            if getattr(e, "sqlite_errorcode", 0) & _PRIMARY == sqlite3.SQLITE_READONLY:
                # Opened while the disk was read-only, it would stay so.
                self._drop_own()
            raise StoreError(f"cannot use {self.path}: {e}") from e

    def _connection(self) -> sqlite3.Connection:
        if getattr(self._own, "times", None) != self._times:
            self._drop_own()
            with self._anew:
                if not self.is_there():
                    # Another one might not be settled.
                    raise OSError("somebody has removed it")
                self._adopt(_connect(self.path))
        db: sqlite3.Connection = self._own.db
        return db

    def _drop_own(self) -> None:
        """Close this thread's connection."""
        db: sqlite3.Connection | None = self._own.__dict__.get("db")
        self._own.__dict__.clear()
        self._close(db)

    def _close(self, db: sqlite3.Connection | None) -> None:
        with self._lock:
            if db is not None and db in self._open:
                self._open.remove(db)
                db.close()

    def _adopt(self, db: sqlite3.Connection) -> None:
        with self._lock:
            if self._closed:
                db.close()
            self._open.append(db)
        self._own.db, self._own.times = db, self._times


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
        return _prepared(path)
    except sqlite3.DatabaseError as e:
        if isinstance(e, sqlite3.OperationalError):
            raise
        # Not a database any more. What it said can be found out again, so it makes room instead of stopping the start.
        path.replace(path.with_suffix(".damaged"))
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _prepared(path)


def _prepared(path: Path) -> tuple[sqlite3.Connection, bool]:
    # SQLite would make it readable for everybody; what it puts beside it has the same mode.
    os.close(open_file(path, os.O_RDWR | os.O_CREAT))
    db = _connect(path)
    try:
        return db, _prepare(db)
    except BaseException:
        db.close()
        raise


def _prepare(db: sqlite3.Connection) -> bool:
    """Make its tables, where they are missing; True where it is not settled."""
    db.execute("PRAGMA journal_mode = WAL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise sqlite3.OperationalError(f"a newer Pulltap made it (its version is {version})")
    db.executescript(_SCHEMA)
    # Damage behind the first page would else be found by each question anew. (quick_check of SQLite 3.40 finds some in
    # any table without rowid.)
    (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    return bool(version == 0)


def _connect(path: Path) -> sqlite3.Connection:
    # It is there: SQLite is not to make another one in the place of one that was removed meanwhile.
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=_PATIENCE_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        # A power cut may take the last rows along, but none that was written durably: with OFF, a checkpoint could.
        db.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        db.close()
        raise
    return db
