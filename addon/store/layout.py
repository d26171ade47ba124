"""The store's folders and files: made where they are missing, and refused where somebody else could change them.

Source: OCI Image Specification, image-layout.md. ``blobs/<algorithm>/<encoded>`` holds the blobs, so that ``sha256sum``
and skopeo work on it as it is; what is ours lies in ``pulltap/``.
"""

import contextlib
import errno
import json
import logging
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from addon.registry.digest import ALGORITHMS, Digest
from addon.store.errors import StoreError

logger = logging.getLogger(__name__)

_LAYOUT = {"imageLayoutVersion": "1.0.0"}
_INDEX = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
# What a file system leaves in an otherwise empty mount.
_IGNORED = {"lost+found", ".DS_Store"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie below the store's root."""

    root: Path

    @property
    def blobs(self) -> Path:
        """The blobs, by algorithm."""
        return self.root / "blobs"

    @property
    def index(self) -> Path:
        """The list of images."""
        return self.root / "index.json"

    @property
    def ours(self) -> Path:
        """All that is no part of an OCI image layout."""
        return self.root / "pulltap"

    @property
    def ingests(self) -> Path:
        """Blobs on their way in."""
        return self.ours / "ingest"

    @property
    def quarantine(self) -> Path:
        """Blobs that turned bad."""
        return self.ours / "quarantine"

    @property
    def catalog(self) -> Path:
        """The database."""
        return self.ours / "catalog.db"

    def blob(self, digest: Digest) -> Path:
        """Where a blob lies, or would lie."""
        return self.blobs / digest.algorithm / digest.encoded

    def stored(self) -> list[tuple[Digest, os.stat_result]]:
        """All files in the places of blobs.

        Raises:
            OSError: a folder cannot be read.
        """
        found = []
        for algorithm in ALGORITHMS:
            with os.scandir(self.blobs / algorithm) as entries:
                for entry in entries:
                    with contextlib.suppress(ValueError, FileNotFoundError):
                        digest = Digest.parse(f"{algorithm}:{entry.name}")
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            found.append((digest, status))
        return found

    def make(self) -> None:
        """Make what is missing, and look at what is there.

        Raises:
            StoreError: the folder holds something else, or somebody else could change it.
            OSError: the disk failed.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(self.root)
        # One after the other: `parents` would give those in between the mode that is usual.
        algorithms = (self.blobs / name for name in ALGORITHMS)
        folders = [self.blobs, *algorithms, self.ours, self.ingests, self.quarantine]
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
        _write_new(self.index, json.dumps(_INDEX))
        _check_no_link(self.catalog)


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
    """Write a file that is not there yet, or of which a power cut has left the name; another process may be as far."""
    _check_no_link(path)
    if path.exists() and path.stat().st_size:
        return
    fd = open_file(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(fd, text.encode())
    except OSError:
        # Else the next start would take it for one that is as it should be.
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def open_file(path: Path, flags: int) -> int:
    """Open a file of ours by the flags of `os.open`: through no link, and nothing but a file.

    Returns:
        Its file descriptor.

    Raises:
        FileNotFoundError: nothing is there, and the flags do not say that it be made.
        OSError: something else has its name, it cannot be opened, or the process has too many files open.
    """
    # A pipe would else be waited for.
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is no file", str(path))
