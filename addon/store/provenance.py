"""Which digests upstream delivered, or confirmed, in which repository.

That is half of the answer to "may this be served here?", and has to outlive a restart.
"""

from threading import Lock

from cachetools import LRUCache

from addon.registry.digest import Digest
from addon.store.catalog import Catalog

# Entries that are answered without asking SQLite; one is some 300 bytes.
_REMEMBERED = 10_000


class Provenance:
    """The table of (registry, repository, digest); any thread may use it. All methods raise StoreError."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: LRUCache[tuple[str, str, str], bool] = LRUCache(_REMEMBERED)
        self._lock = Lock()

    def record(self, registry: str, repository: str, digest: Digest) -> None:
        """Remember that upstream gave, or confirmed, ``digest`` in ``repository``."""
        key = (str(digest), registry, repository)
        if self._is_known(key):
            return
        with self._catalog.writing() as db:
            db.execute("INSERT OR IGNORE INTO provenance (digest, registry, repository) VALUES (?, ?, ?)", key)
        self._remember(key)

    def belongs(self, registry: str, repository: str, digest: Digest) -> bool:
        """Whether upstream is known to hold ``digest`` in ``repository``."""
        key = (str(digest), registry, repository)
        if self._is_known(key):
            return True
        with self._catalog.reading() as db:
            query = "SELECT 1 FROM provenance WHERE digest = ? AND registry = ? AND repository = ?"
            found = db.execute(query, key).fetchone() is not None
        if found:
            self._remember(key)
        return found

    def delivered_by(self, registry: str, digest: Digest) -> bool:
        """Whether ``registry`` is known to hold ``digest`` in any repository."""
        with self._catalog.reading() as db:
            query = "SELECT 1 FROM provenance WHERE digest = ? AND registry = ?"
            return db.execute(query, (str(digest), registry)).fetchone() is not None

    def repositories(self, digest: Digest) -> list[tuple[str, str]]:
        """All (registry, repository) where ``digest`` is known to be, in order."""
        with self._catalog.reading() as db:
            query = "SELECT registry, repository FROM provenance WHERE digest = ? ORDER BY registry, repository"
            return db.execute(query, (str(digest),)).fetchall()

    def _is_known(self, key: tuple[str, str, str]) -> bool:
        with self._lock:
            return key in self._known

    def _remember(self, key: tuple[str, str, str]) -> None:
        with self._lock:
            self._known[key] = True
