"""The store on disk: an OCI image layout, with what is ours in a folder of its own.

Source: OCI Image Specification, image-layout.md. ``blobs/<algorithm>/<encoded>`` holds the blobs, so that ``sha256sum``
and skopeo work on it as it is; ``pulltap/`` holds the ingest files and the provenance table.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pwd
import stat
import uuid
from pathlib import Path

from addon.registry.digest import ALGORITHMS, Digest
from addon.store.blob import BlobReader
from addon.store.errors import StoreError
from addon.store.ingest import HOLES, Ingest, sweep
from addon.store.provenance import Provenance

logger = logging.getLogger(__name__)

_LAYOUT = {"imageLayoutVersion": "1.0.0"}
_INDEX = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
# What a file system leaves in an otherwise empty mount.
_IGNORED = {"lost+found", ".DS_Store"}


class Store:
    """A folder of blobs. Several processes may use the same one."""

    def __init__(self, root: Path) -> None:
        """Open the store, or make it where there is none.

        Raises:
            StoreError: the folder holds something else, is somebody else's, or cannot be written.
        """
        self.root = root
        self._blobs = root / "blobs"
        self._ingests = root / "pulltap" / "ingest"
        self._provenance = root / "pulltap" / "provenance.db"
        try:
            self._make()
            self._sweep()
            self.provenance = Provenance(self._provenance)
        except OSError as e:
            raise StoreError(
                f"cannot use {root} as store: {e.strerror or e} ({e.filename}); name another folder in registry_store"
            ) from e

    def _make(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(self.root)
        # One after the other: `parents` would give those in between the mode that is usual.
        folders = [self._blobs, *(self._blobs / name for name in ALGORITHMS), self._ingests.parent, self._ingests]
        for folder in folders:
            _check_no_link(folder)
        layout = self.root / "oci-layout"
        if not layout.exists():
            foreign = sorted({entry.name for entry in self.root.iterdir()} - _IGNORED - {"blobs", "index.json"})
            # Looked at once more: another process may be making the store.
            if foreign and not layout.exists():
                raise StoreError(
                    f"{self.root} is no store: it holds {foreign[0]!r}, but no oci-layout; "
                    "name an empty folder, a store or an OCI image layout in registry_store"
                )
            _write_new(layout, json.dumps(_LAYOUT))
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_ours(folder)
        index = self.root / "index.json"
        if not index.exists():
            _write_new(index, json.dumps(_INDEX))
        _check_no_link(self._provenance)

    def _sweep(self) -> None:
        for path in self._ingests.iterdir():
            sweep(path)

    def path(self, digest: Digest) -> Path:
        """Where the blob lies, or would lie."""
        return self._blobs / digest.algorithm / digest.encoded

    def open(self, digest: Digest) -> BlobReader | None:
        """Open a stored blob; None where it is not stored.

        Raises:
            OSError: it is there, but cannot be read.
        """
        try:
            # Whatever else may lie there: no link is followed, and no pipe waited for.
            fd = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as e:
            if e.errno == errno.ELOOP:
                raise OSError(e.errno, "it is a symbolic link", e.filename) from None
            raise
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return None
        return BlobReader(fd, status.st_size)

    def ingest(self, digest: Digest, origin: str) -> Ingest:
        """Begin to take a blob in, or go on where an earlier attempt broke off.

        Args:
            digest: the blob.
            origin: where it comes from; what one origin began, no other goes on with.

        Raises:
            OSError: the folder cannot be written, or the process has too many files open.
        """
        source = hashlib.sha256(origin.encode()).hexdigest()[:16]
        name = f"{digest.algorithm}-{digest.encoded}.{source}"
        try:
            return Ingest(self._ingests / name, self.path(digest), digest)
        except BlockingIOError:
            # Another process is at it; each does its own work, and whoever commits last changes nothing.
            return Ingest(self._ingests / f"{name}.{_unique()}{HOLES}", self.path(digest), digest)

    def check_writable(self) -> None:
        """Write and remove a file where ingests are written.

        Raises:
            OSError: that does not work.
        """
        probe = self._ingests / f"probe.{_unique()}"
        try:
            with probe.open("xb", buffering=0) as file:
                file.write(b"\0")
        finally:
            probe.unlink(missing_ok=True)

    def close(self) -> None:
        """Close what is open."""
        self.provenance.close()


def _check_ours(folder: Path) -> None:
    """See to it that nobody else can change what is served out of a folder.

    Raises:
        StoreError: it belongs to somebody else, even where this is root, or everybody may write in it.
    """
    status = folder.stat()
    if status.st_uid != os.geteuid():
        owner, user = _name(status.st_uid), _name(os.geteuid())
        raise StoreError(
            f"{folder} belongs to {owner}, and this runs as {user}: run it as {owner}, "
            "or name another folder in registry_store"
        )
    if status.st_mode & stat.S_IWOTH:
        raise StoreError(f"everybody may write in {folder}, and so decide what clients get: chmod o-w {folder}")
    if status.st_mode & stat.S_IWGRP:
        logger.warning("its group may write in %s, and so decide what clients get: chmod g-w %s", folder, folder)


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _check_no_link(path: Path) -> None:
    """See to it that what is there, if anything, does not lead elsewhere.

    Raises:
        StoreError: it does.
    """
    if path.is_symlink():
        raise StoreError(f"{path} is a symbolic link: remove it, or name another folder in registry_store")


def _write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet; another process may be as far."""
    _check_no_link(path)
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(fd, text.encode())
        os.close(fd)


def _unique() -> str:
    """What tells two files apart, whichever process, container or instance of the store makes them."""
    return uuid.uuid4().hex
