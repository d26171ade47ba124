"""Which images are known: tags and digests that passed, the manifests behind them, and which images are pinned.

Manifests always come from the registry, so that a tag that moved is seen at once. What passes is written down here
all the same, with the manifest's bytes among the blobs: so the store knows what its blobs are layers of, and its
``index.json`` lists the images that are whole, for other tools to copy (OCI Image Specification, image-layout.md).
"""

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from cachetools import LRUCache

from addon.registry import manifest
from addon.registry.digest import Digest
from addon.registry.manifest import Descriptor, Manifest
from addon.registry.reference import Reference
from addon.store.catalog import Catalog
from addon.store.layout import Layout

LARGEST = 4 * 1024 * 1024
"""Bytes of a manifest, at most: registries accept no larger one."""
NAME = "org.opencontainers.image.ref.name"
"""The annotation by which skopeo and umoci find an image in ``index.json``."""
CONTAINERD_NAME = "io.containerd.image.name"
OURS = "pulltap.registry"
"""The annotation of the entries of ``index.json`` that Pulltap made."""
_REMEMBERED = 2_000
_EMPTY: dict[str, Any] = {"schemaVersion": 2, "mediaType": manifest.INDEX, "manifests": []}


@dataclass(frozen=True, slots=True)
class Image:
    """A tag, or a digest, that passed."""

    registry: str
    repository: str
    reference: str
    descriptor: Descriptor
    """Of its manifest, or of its index."""
    seen: float
    """When it passed last, in seconds since the epoch."""

    @property
    def by_digest(self) -> bool:
        """Whether it was asked for by its digest, and not by a tag."""
        return ":" in self.reference

    @property
    def name(self) -> str:
        """As people write it."""
        return str(Reference(host_of(self.registry), self.repository, self.reference))


@dataclass(frozen=True, slots=True)
class Variant:
    """An image for one platform, as far as it is stored."""

    platform: str
    """Empty where no index tells."""
    manifest: Descriptor
    blobs: tuple[Descriptor, ...]
    """What its manifest names, config first."""
    missing: frozenset[Digest]
    """Which of those are not stored."""


def host_of(identity: str) -> str:
    """The host of a registry's identity, which for plain HTTP tells more."""
    return identity.removeprefix("http://").partition(" ")[0]


class Images:
    """The tables of tags and pins; any thread may use it. All methods raise StoreError, and OSError for the disk."""

    def __init__(self, layout: Layout, catalog: Catalog, clock: Callable[[], float] = time.time) -> None:
        self._layout = layout
        self._catalog = catalog
        self._clock = clock
        self._parsed: LRUCache[Digest, Manifest] = LRUCache(_REMEMBERED)
        self._lock = Lock()

    # What passed.

    def saw(self, registry: str, repository: str, reference: str, descriptor: Descriptor) -> None:
        """A registry just said that this is what a tag, or a digest, stands for."""
        with self._catalog.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO tags (registry, repository, reference, digest, media_type, size, seen)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(registry, repository, reference),
                    *(str(descriptor.digest), descriptor.media_type, descriptor.size, self._clock()),
                ),
            )

    def forget(self, images: Iterable[Image]) -> None:
        """These are known no longer, nor are the manifests within them that passed by their digests."""
        keys = [
            (image.registry, image.repository, reference)
            for image in images
            for reference in {image.reference, *map(str, self._tree(image.descriptor.digest, 0))}
        ]
        with self._catalog.writing() as db:
            db.executemany("DELETE FROM tags WHERE registry = ? AND repository = ? AND reference = ?", keys)

    def all(self) -> list[Image]:
        """All that passed, by name; what passed by its digest, and is part of another, goes without saying."""
        passed = self._passed()
        known: set[tuple[str, str, Digest]] = set()
        for image in passed:
            if not image.by_digest:
                known.add((image.registry, image.repository, image.descriptor.digest))
            top = self.manifest(image.descriptor.digest)
            known.update((image.registry, image.repository, child.digest) for child in (top.manifests if top else ()))
        return [
            image
            for image in passed
            if not image.by_digest or (image.registry, image.repository, image.descriptor.digest) not in known
        ]

    def _passed(self) -> list[Image]:
        with self._catalog.reading() as db:
            rows = db.execute(
                "SELECT registry, repository, reference, digest, size, media_type, seen FROM tags"
                " ORDER BY registry, repository, reference"
            ).fetchall()
        return [
            Image(registry, repository, reference, Descriptor(Digest.parse(digest), size, media_type), seen)
            for registry, repository, reference, digest, size, media_type, seen in rows
        ]

    def find(self, wanted: Reference) -> list[Image]:
        """The images of that name: more than one where a registry is known by HTTP and by HTTPS."""
        return [
            image
            for image in self.all()
            if (host_of(image.registry), image.repository) == (wanted.registry, wanted.repository)
            and wanted.reference in (image.reference, str(image.descriptor.digest))
        ]

    # What it consists of.

    def manifest(self, digest: Digest) -> Manifest | None:
        """A stored manifest; None where it is not stored, or is none."""
        with self._lock:
            if known := self._parsed.get(digest):
                return known if self._layout.blob(digest).exists() else None
        try:
            fd = os.open(self._layout.blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:  # noqa: PTH123 - Path.open follows links
                content = file.read(LARGEST + 1)
        except OSError:
            return None
        hasher = digest.hasher()
        hasher.update(content)
        if hasher.hexdigest() != digest.encoded:
            return None
        try:
            parsed = manifest.parse(content)
        except ValueError:
            return None
        with self._lock:
            self._parsed[digest] = parsed
        return parsed

    def variants(self, image: Image, stored: Callable[[Digest], bool]) -> list[Variant]:
        """The platforms of an image whose manifests are stored.

        Args:
            image: the image.
            stored: tells whether a blob is stored.
        """
        top = self.manifest(image.descriptor.digest)
        if top is None:
            return []
        found = []
        for descriptor in top.manifests or (image.descriptor,):
            if (content := self.manifest(descriptor.digest)) is not None and not content.manifests:
                missing = frozenset(blob.digest for blob in content.blobs if not stored(blob.digest))
                found.append(Variant(descriptor.platform, descriptor, content.blobs, missing))
        return found

    def blobs_of(self, image: Image) -> set[Digest]:
        """All blobs that are known to belong to an image, its manifests with them, stored or not."""
        return set(self._tree(image.descriptor.digest, 0))

    def _tree(self, digest: Digest, depth: int) -> Iterator[Digest]:
        yield digest
        content = self.manifest(digest)
        if content is not None and depth <= 1:
            yield from (blob.digest for blob in content.blobs)
            for descriptor in content.manifests:
                yield from self._tree(descriptor.digest, depth + 1)

    # Pins.

    def pin(self, wanted: Reference) -> None:
        """An image's blobs are not to go to make room; it may not have passed yet."""
        with self._catalog.writing() as db:
            db.execute("INSERT OR IGNORE INTO pins (registry, repository, reference) VALUES (?, ?, ?)", _key(wanted))

    def unpin(self, wanted: Reference) -> bool:
        """They may go again; False where it was not pinned."""
        query = "DELETE FROM pins WHERE registry = ? AND repository = ? AND reference = ?"
        with self._catalog.writing() as db:
            return db.execute(query, _key(wanted)).rowcount > 0

    def pins(self) -> list[Reference]:
        """What is pinned, by name."""
        with self._catalog.reading() as db:
            rows = db.execute("SELECT registry, repository, reference FROM pins ORDER BY 1, 2, 3").fetchall()
        return [Reference(*row) for row in rows]

    def pinned(self) -> set[Digest]:
        """The blobs of all pinned images."""
        pins = set(self.pins())
        if not pins:
            return set()
        names = {(pin.registry, pin.repository, pin.reference) for pin in pins}
        return {
            digest
            for image in self.all()
            for reference in (image.reference, str(image.descriptor.digest))
            if (host_of(image.registry), image.repository, reference) in names
            for digest in self.blobs_of(image)
        }

    # What other tools see.

    def write_index(self, stored: Callable[[Digest], bool]) -> bool:
        """Make ``index.json`` list the images of which at least one platform is whole; True where it changed.

        What another tool has written there stays, as long as its manifest is stored.
        """
        with _locked(self._layout.ours / "index.lock"):
            before = _read_index(self._layout.index)
            entries = [entry for entry in before["manifests"] if not _is_ours(entry) and _is_there(entry, stored)]
            named = {(entry.get("annotations") or {}).get(NAME) for entry in entries}
            for image in self.all():
                whole = any(not variant.missing for variant in self.variants(image, stored))
                if whole and image.name not in named:
                    entries.append(_entry(image))
            after = {**before, "manifests": entries}
            if after == before:
                return False
            fresh = self._layout.ours / f"index.{uuid.uuid4().hex}"
            try:
                fresh.write_text(json.dumps(after, indent=2) + "\n", "utf-8")
                fresh.replace(self._layout.index)
            finally:
                fresh.unlink(missing_ok=True)
            return True


def _key(wanted: Reference) -> tuple[str, str, str]:
    return wanted.registry, wanted.repository, wanted.reference


def _entry(image: Image) -> dict[str, Any]:
    return {
        "mediaType": image.descriptor.media_type,
        "digest": str(image.descriptor.digest),
        "size": image.descriptor.size,
        "annotations": {NAME: image.name, CONTAINERD_NAME: image.name, OURS: image.registry},
    }


def _read_index(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict) and isinstance(content.get("manifests"), list):
            return content
    return dict(_EMPTY)


def _is_ours(entry: Any) -> bool:
    return isinstance(entry, dict) and OURS in (entry.get("annotations") or {})


def _is_there(entry: Any, stored: Callable[[Digest], bool]) -> bool:
    try:
        return stored(Digest.parse(entry["digest"]))
    except (ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
