"""The store on disk: an OCI image layout, with what is ours in a folder of its own."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from addon.registry.digest import Digest
from addon.store.blob import BlobReader
from addon.store.catalog import Catalog
from addon.store.errors import StoreError
from addon.store.following import Following
from addon.store.images import Images
from addon.store.ingest import Ingest
from addon.store.inventory import Inventory, Stamp
from addon.store.layout import Layout
from addon.store.place import Place, sweep
from addon.store.provenance import Provenance
from addon.store.room import Limits, Room, remove
from addon.store.tally import Count, Tally

logger = logging.getLogger(__name__)

_READ = 1024 * 1024
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Store:
    """A folder of blobs. Several processes may use the same one."""

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        """Open the store, or make it where there is none.

        Args:
            root: its folder.
            limits: how large it may become; without any, it grows.

        Raises:
            StoreError: the folder holds something else, is somebody else's, or cannot be written.
        """
        self.root = root
        self.layout = Layout(root)
        try:
            used = self.layout.ours.exists()
            self.layout.make()
            self._device = root.stat().st_dev
            sweep(self.layout.ingests)
            self._catalog = Catalog(self.layout.catalog)
            self.provenance = Provenance(self._catalog)
            try:
                self._settle(used=used)
            except BaseException:
                self._catalog.close()
                raise
        except OSError as e:
            raise StoreError(
                f"cannot use {root} as store: {e.strerror or e} ({e.filename}); name another folder in registry_store"
            ) from e
        self.inventory = Inventory(self._catalog)
        self.images = Images(self.layout, self._catalog)
        self.tally = Tally(self._catalog)
        self.room = Room(self.layout, self.inventory, limits or Limits(), self.images.pinned)
        self._indexed = self.changes

    def restore(self) -> None:
        """Make the store anew, where somebody has removed it, or a part of it, while it is in use.

        Raises:
            StoreError: the disk that it was on is not there, or the folder holds something else.
            OSError: the disk failed.
        """
        nearest = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if nearest.stat().st_dev != self._device:
            # Its blobs would go to where the disk is to be mounted again.
            raise StoreError(f"the disk of {self.root} is not there")
        self.layout.make()
        self._catalog.reopen(lambda: self._settle(used=True))

    def _settle(self, *, used: bool) -> None:
        """Let a new catalogue know what it cannot find out: that blobs in a store that was in use are somebody's."""
        if used and self._catalog.renewed:
            # Pulltap stored what is there, and nobody knows any more for which registry.
            self.provenance.disown(digest for digest, _ in self.layout.stored())
        self._catalog.settle()

    def path(self, digest: Digest) -> Path:
        """Where the blob lies, or would lie."""
        return self.layout.blob(digest)

    def open(self, digest: Digest) -> BlobReader | None:
        """Open a stored blob; None where it is not stored.

        As long as the reader is open, the blob stays, whatever else goes to make room.

        Raises:
            StoreError: the catalogue cannot be read.
            OSError: it is there, but cannot be read.
        """
        try:
            # Whatever else may lie there: no link is followed, and no pipe waited for.
            fd = os.open(self.path(digest), _FLAGS)
        except FileNotFoundError:
            return None
        except OSError as e:
            if e.errno == errno.ELOOP:
                raise OSError(e.errno, "it is a symbolic link", e.filename) from None
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                verified = self.inventory.is_verified(digest, Stamp(status.st_size, status.st_mtime_ns))
                reader, fd = BlobReader(fd, status.st_size, verified=verified), -1
                return reader
            if stat.S_ISDIR(status.st_mode):
                self._clear(digest)
        except BlockingIOError:
            # It is about to go.
            return None
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    def trusts(self, digest: Digest, reader: BlobReader) -> bool:
        """Whether what was opened is known by now to hold the blob.

        Raises:
            StoreError: the catalogue cannot be read.
        """
        status = reader.stat()
        return self.inventory.is_verified(digest, Stamp(status.st_size, status.st_mtime_ns))

    def verify(self, digest: Digest, progress: Callable[[int], None] = lambda _: None) -> bool | None:
        """Read a stored blob, and compare its bytes with its digest; a bad one goes to quarantine.

        Args:
            digest: the blob.
            progress: is told how many bytes more have been read, now and then; it may raise to give up.

        Returns:
            Whether the blob is good; None where it is not stored, so that nobody looked.

        Raises:
            StoreError: the catalogue cannot be used.
            OSError: the blob cannot be opened.
        """
        reader = self.open(digest)
        if reader is None:
            return None
        try:
            hasher = digest.hasher()
            offset = 0
            buffer = memoryview(bytearray(_READ))
            try:
                before = reader.stat()
                while count := reader.read_into(offset, buffer):
                    hasher.update(buffer[:count])
                    offset += count
                    progress(count)
            except OSError as e:
                self._set_aside(digest, reader, f"it cannot be read: {e.strerror}")
                return False
            if hasher.hexdigest() == digest.encoded:
                # Had somebody written to it meanwhile, its stamp would be another one the next time.
                try:
                    self.inventory.verified(digest, Stamp(before.st_size, before.st_mtime_ns))
                except StoreError as e:
                    # The disk may be full or read-only; the blob is good all the same.
                    logger.info("blob %s is good, but that is not written down: %s", digest.short, e)
                return True
            found = f"{digest.algorithm}:{hasher.hexdigest()}"
            self._set_aside(digest, reader, f"its {offset} bytes have the digest {found}")
            return False
        finally:
            reader.close()

    def _set_aside(self, digest: Digest, bad: BlobReader, reason: str) -> None:
        aside = self.layout.quarantine / f"{digest.algorithm}-{digest.encoded}.{time.time_ns()}"
        try:
            if not os.path.samestat(bad.stat(), self.path(digest).lstat()):
                # It was fetched anew meanwhile.
                return
        except FileNotFoundError:
            return
        # First of all: without a row, it is given to nobody, even where it cannot be moved.
        self.inventory.drop([digest])
        try:
            self.path(digest).replace(aside)
        except FileNotFoundError:
            # Somebody else removed it; or there is no quarantine.
            self.path(digest).unlink(missing_ok=True)
            return
        self.tally.add(Count.BAD)
        logger.warning("blob %s turned bad: %s; it went to %s, and is fetched anew", digest, reason, aside)

    def _clear(self, digest: Digest) -> None:
        """Put away a folder that is in the place of a blob: unlike anything else, no blob would replace it."""
        aside = self.layout.ours / f"{digest.algorithm}-{digest.encoded}.{time.time_ns()}"
        self.path(digest).replace(aside)
        logger.warning("in the place of blob %s there was a folder; it went to %s", digest, aside)

    def ingest(self, digest: Digest, origin: str) -> Ingest:
        """Begin to take a blob in, or go on where an earlier attempt broke off.

        Args:
            digest: the blob.
            origin: where it comes from; what one origin began, no other goes on with.

        Raises:
            BlockingIOError: another process is at it; see `following`.
            OSError: the folder cannot be written, or the process has too many files open.
        """

        def stored(stamp: Stamp) -> None:
            try:
                self.inventory.verified(digest, stamp)
            except StoreError as e:
                # It will be verified again before it is first used.
                logger.warning("%s", e)

        return Ingest(self._place(digest, origin), self.path(digest), digest, room=self.room, stored=stored)

    def put(self, digest: Digest, content: bytes, registry: str) -> None:
        """Store a manifest that passed, unless it is stored.

        Raises:
            DigestMismatch: it is not the one that the digest names.
            StoreError: there is no room for it, or the catalogue cannot be used.
            OSError: the disk failed.
        """
        if self._holds(digest, content):
            self.inventory.used(digest)
            return
        with contextlib.suppress(BlockingIOError):
            # Where it is taken in by another process, it need not be here.
            new = self.ingest(digest, registry)
            try:
                new.announce(len(content))
                new.go_on_from(0)
                new.write(0, [content])
                new.verify(len(content))
                # No registry gives a manifest as a blob, unless it delivers it as one.
                self.provenance.disown([digest])
                new.commit()
            finally:
                new.abort()

    def _holds(self, digest: Digest, content: bytes) -> bool:
        """Whether these bytes are stored; others in their place go to quarantine."""
        try:
            reader = self.open(digest)
        except OSError:
            # A link, or something else that cannot be read: what is stored takes its place.
            return False
        if reader is None:
            return False
        with contextlib.closing(reader), contextlib.suppress(OSError):
            if reader.read(0, reader.size + 1) == content:
                return True
        return bool(self.verify(digest))

    def kept(self, digest: Digest, origin: str) -> int:
        """How many bytes of a blob an earlier attempt left for the next."""
        return self._place(digest, origin).kept()

    def following(self, digest: Digest, origin: str) -> Following | None:
        """A look at the ingest of another process; None where none is at it.

        Raises:
            OSError: the folder cannot be read, or the process has too many files open.
        """
        return Following.of(self._place(digest, origin))

    def _place(self, digest: Digest, origin: str) -> Place:
        source = hashlib.sha256(origin.encode()).hexdigest()[:16]
        return Place(self.layout.ingests / f"{digest.algorithm}-{digest.encoded}.{source}")

    def remove(self, digests: Iterable[Digest]) -> list[Digest]:
        """Remove blobs; it returns those that are gone. One that is being read stays.

        Raises:
            StoreError: the catalogue cannot be used.
            OSError: the disk failed.
        """
        gone: list[Digest] = []
        try:
            gone += (digest for digest in digests if remove(self.layout, digest))
        finally:
            self.inventory.drop(gone)
        return gone

    def reconcile(self) -> None:
        """Make the inventory say what is in the folders: other programs, and crashes, change those as well.

        Raises:
            StoreError: the catalogue cannot be used.
            OSError: the disk failed.
        """
        since = time.time()
        found = {digest: (status.st_size, status.st_mtime) for digest, status in self.layout.stored()}
        self.inventory.reconcile(found, since)

    @property
    def changes(self) -> int:
        """Grows with each change in this process by which ``index.json`` may come to say something else."""
        return self.inventory.changes + self.images.changes

    def write_index(self) -> bool:
        """Make ``index.json`` say which images are whole; True where it changed.

        Raises:
            StoreError: the catalogue cannot be used.
            OSError: the disk failed.
        """
        indexed = self.changes
        stored = self.inventory.digests()
        changed = self.images.write_index(lambda digest: str(digest) in stored)
        self._indexed = indexed
        return changed

    def flush(self) -> None:
        """Write down what was used and counted.

        Raises:
            StoreError: the catalogue cannot be used.
        """
        self.inventory.flush()
        self.tally.flush()

    def check_writable(self, size: int = 1, *, sync: bool = False) -> None:
        """Write and remove a file of so many bytes where ingests are written; wait for the disk where ``sync`` says so.

        Raises:
            OSError: that does not work.
        """
        probe = self.layout.ingests / f"probe.{uuid.uuid4().hex}"
        with probe.open("xb") as file:
            # At once, so that whoever is killed here leaves nothing that would count as what is left of a fill.
            probe.unlink(missing_ok=True)
            file.write(bytes(size))
            file.flush()
            if sync:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Close what is open."""
        with contextlib.suppress(StoreError, OSError):
            self.flush()
            if self.changes != self._indexed:
                self.write_index()
        self._catalog.close()
