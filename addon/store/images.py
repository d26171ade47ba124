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
# For so long a tag is known whose manifest is stored no longer.
_KEPT_SECONDS = 30 * 24 * 3600
# What builders say of what is signed or attested beside an image.
_NO_PLATFORM = "unknown/unknown"
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
        self.changes = 0
        """How often a tag came, went or moved in this process."""
        self._parsed: LRUCache[Digest, Manifest] = LRUCache(_REMEMBERED)
        self._lock = Lock()

    # What passed.

    def saw(self, registry: str, repository: str, reference: str, descriptor: Descriptor) -> None:
        """A registry just said that this is what a tag, or a digest, stands for."""
        key = (registry, repository, reference)
        told = (str(descriptor.digest), descriptor.media_type, descriptor.size)
        query = "SELECT digest, media_type, size FROM tags WHERE registry = ? AND repository = ? AND reference = ?"
        with self._catalog.writing() as db:
            before = db.execute(query, key).fetchone()
            db.execute(
                "INSERT OR REPLACE INTO tags (registry, repository, reference, digest, media_type, size, seen)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*key, *told, self._clock()),
            )
        self._changed(before != told)

    def forget(self, images: Iterable[Image]) -> None:
        """These are known no longer, nor are the manifests within them that passed by their digests."""
        keys = [
            (image.registry, image.repository, reference)
            for image in images
            for reference in {image.reference, *map(str, self.blobs_of(image))}
        ]
        with self._catalog.writing() as db:
            db.executemany("DELETE FROM tags WHERE registry = ? AND repository = ? AND reference = ?", keys)
        self._changed(len(keys))

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

        def named(images: list[Image]) -> list[Image]:
            return [
                image
                for image in images
                if (host_of(image.registry), image.repository) == (wanted.registry, wanted.repository)
                and wanted.reference in (image.reference, str(image.descriptor.digest))
            ]

        return named(self.all()) or named(self._passed())

    def prune(self) -> int:
        """Forget what has not passed for a month, and has no manifest here any more; it returns how many went."""
        with self._catalog.writing() as db:
            gone = db.execute(
                "DELETE FROM tags WHERE seen < ? AND digest NOT IN (SELECT digest FROM blobs)",
                (self._clock() - _KEPT_SECONDS,),
            ).rowcount
        self._changed(gone)
        return int(gone)

    def _changed(self, count: int) -> None:
        """So many tags came, went or moved, which others can see by now."""
        with self._lock:
            self.changes += count

    # What it consists of.

    def manifest(self, digest: Digest) -> Manifest | None:
        """A stored manifest; None where it is not stored, or is none."""
        if not digest.verifiable:
            return None
        with self._lock:
            if known := self._parsed.get(digest):
                return known if self._layout.blob(digest).exists() else None
        try:
            fd = os.open(self._layout.blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:  # noqa: PTH123 - Path.open follows links
                if os.fstat(fd).st_size > LARGEST:
                    # An index may name anything.
                    return None
                content = file.read(LARGEST)
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
        found = []
        for descriptor in self._leaves(image.descriptor):
            if (content := self.manifest(descriptor.digest)) is not None:
                missing = frozenset(blob.digest for blob in content.blobs if not stored(blob.digest))
                found.append(Variant(descriptor.platform, descriptor, content.blobs, missing))
        return found

    def blobs_of(self, image: Image) -> set[Digest]:
        """All blobs that are known to belong to an image, its manifests with them, stored or not."""
        return self._below([image.descriptor.digest])

    def _leaves(self, top: Descriptor) -> Iterator[Descriptor]:
        """The manifests of an image, in the order of its indexes: one may list another."""
        todo, seen = [top], {top.digest}
        while todo:
            descriptor = todo.pop()
            content = self.manifest(descriptor.digest)
            if content is None or not content.manifests:
                yield descriptor
                continue
            new = [child for child in content.manifests if child.digest not in seen]
            seen.update(child.digest for child in new)
            todo += reversed(new)

    def _below(self, tops: Iterable[Digest]) -> set[Digest]:
        """These manifests, and all that they name, as far as they are stored."""
        todo = set(tops)
        manifests, blobs = set[Digest](), set[Digest]()
        while todo:
            digest = todo.pop()
            manifests.add(digest)
            if (content := self.manifest(digest)) is not None:
                blobs.update(blob.digest for blob in content.blobs)
                todo.update(child.digest for child in content.manifests if child.digest not in manifests)
        return manifests | blobs

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
        pins = self.pins()
        if not pins:
            return set()
        names = {_key(pin) for pin in pins}
        tagged = {
            image.descriptor.digest
            for image in self._passed()
            if (host_of(image.registry), image.repository, image.reference) in names
        }
        # Whatever tags say by now, these are what they are.
        return self._below(tagged | {Digest.parse(pin.reference) for pin in pins if pin.is_digest})

    # What other tools see.

    def write_index(self, stored: Callable[[Digest], bool]) -> bool:
        """Make ``index.json`` list the images of which at least one platform is whole; True where it changed.

        What another tool has written there stays, as long as its manifest is there.
        """
        with _locked(self._layout.ours / "index.lock"):
            before = _read_index(self._layout.index)
            entries = [entry for entry in before["manifests"] if self._is_of_others(entry)]
            named = {_annotation(entry, NAME) for entry in entries}
            for image in self.all():
                if image.name not in named and self._is_whole(image, stored):
                    named.add(image.name)
                    entries.append(_entry(image))
            after = {**before, "manifests": entries}
            if after == before:
                return False
            # Whoever has the lock is alone with it.
            fresh = self._layout.ours / "index.new"
            fresh.unlink(missing_ok=True)
            fresh.touch(0o600, exist_ok=False)
            fresh.write_text(json.dumps(after, indent=2) + "\n", "utf-8")
            fresh.replace(self._layout.index)
            return True

    def blobs_of_others(self) -> set[Digest]:
        """The blobs of the images that other tools have written into ``index.json``, as far as they are stored."""
        entries = _read_index(self._layout.index)["manifests"]
        return self._below(Digest.parse(entry["digest"]) for entry in entries if self._is_of_others(entry))

    def _is_whole(self, image: Image, stored: Callable[[Digest], bool]) -> bool:
        variants = self.variants(image, stored)
        return any(not variant.missing for variant in variants if variant.platform != _NO_PLATFORM)

    def _is_of_others(self, entry: Any) -> bool:
        """Whether another tool wrote an entry of ``index.json``, and what it names is there."""
        if not isinstance(entry, dict) or _annotation(entry, OURS) is not None:
            return False
        try:
            # Not the inventory: it may not have noticed yet.
            return self._layout.blob(Digest.parse(entry["digest"])).exists()
        except (ValueError, KeyError, TypeError):
            return False


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
    """What the file says; one that is damaged says nothing."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict) and isinstance(content.get("manifests"), list):
            return content
    return dict(_EMPTY)


def _annotation(entry: dict[str, Any], name: str) -> str | None:
    annotations = entry.get("annotations")
    value = annotations.get(name) if isinstance(annotations, dict) else None
    return value if isinstance(value, str) else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
