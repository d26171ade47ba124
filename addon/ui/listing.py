"""What is in a store, as its commands show it: images with their platforms, and blobs."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from addon.registry.digest import Digest
from addon.registry.reference import Reference
from addon.store.disk import Store
from addon.store.images import Image, Variant, host_of
from addon.store.inventory import Entry

_SHORTEST_PREFIX = 7


@dataclass(frozen=True, slots=True)
class ListedImage:
    """A known image, and how much of it is stored."""

    image: Image
    variants: tuple[Variant, ...]
    size: int
    """Bytes of its stored blobs, manifests with them."""
    used: float | None
    """When one of them was used last, in seconds since the epoch; None where nothing is stored."""
    pinned: bool

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.image.name,
            "registry": host_of(self.image.registry),
            "repository": self.image.repository,
            "reference": self.image.reference,
            "digest": str(self.image.descriptor.digest),
            "size": self.size,
            "last_used": when(self.used),
            "pinned": self.pinned,
            "platforms": [
                {
                    "platform": variant.platform or None,
                    "digest": str(variant.manifest.digest),
                    "blobs": len(variant.blobs),
                    "missing": sorted(str(digest) for digest in variant.missing),
                }
                for variant in self.variants
            ],
        }


@dataclass(frozen=True, slots=True)
class ListedBlob:
    """A stored blob, and where it is from."""

    entry: Entry
    repositories: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "digest": str(self.entry.digest),
            "size": self.entry.size,
            "stored": when(self.entry.stored),
            "last_used": when(self.entry.used),
            "uses": self.entry.uses,
            "verified": when(self.entry.verified or None),
            "repositories": list(self.repositories),
        }


@dataclass(frozen=True, slots=True)
class Removal:
    """What is about to be removed."""

    images: tuple[Image, ...]
    """That will be known no longer."""
    blobs: tuple[Entry, ...]
    shared: int
    """How many blobs stay, since other images have them, too."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(entry.size for entry in self.blobs)


def when(seconds: float | None) -> str | None:
    """A time in seconds since the epoch as RFC 3339 has it."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def images(store: Store) -> list[ListedImage]:
    """All known images.

    Raises:
        StoreError: the catalogue cannot be used.
    """
    entries = {entry.digest: entry for entry in store.inventory.entries()}
    pins = {(pin.registry, pin.repository, pin.reference) for pin in store.images.pins()}
    found = []
    for image in store.images.all():
        stored = [entries[digest] for digest in store.images.blobs_of(image) if digest in entries]
        names = (image.reference, str(image.descriptor.digest))
        found.append(
            ListedImage(
                image,
                tuple(store.images.variants(image, entries.__contains__)),
                sum(entry.size for entry in stored),
                max((entry.used for entry in stored), default=None),
                any((host_of(image.registry), image.repository, name) in pins for name in names),
            )
        )
    return found


def blobs(store: Store) -> list[ListedBlob]:
    """All stored blobs, those first that were not used for longest.

    Raises:
        StoreError: the catalogue cannot be used.
    """
    return [
        ListedBlob(
            entry,
            tuple(f"{host_of(registry)}/{repository}" for registry, repository in repositories),
        )
        for entry in store.inventory.entries()
        for repositories in (store.provenance.repositories(entry.digest),)
    ]


def removal(store: Store, names: Iterable[str]) -> Removal:
    """What removing these images and digests means.

    Args:
        store: the store.
        names: images, digests, or the first characters of a digest.

    Raises:
        ValueError: a name means nothing that is stored.
        StoreError: the catalogue cannot be used.
    """
    entries = {entry.digest: entry for entry in store.inventory.entries()}
    everything = store.images.all()
    chosen: set[Digest] = set()
    going: list[Image] = []
    for name in names:
        if (digest := _digest(name, entries)) is not None:
            chosen.add(digest)
            continue
        found = store.images.find(Reference.parse(name))
        if not found:
            raise ValueError(f"no image {name!r} and no blob of that digest is in the store; 'store ls' lists them")
        going += [image for image in found if image not in going]
    theirs = {digest for image in going for digest in store.images.blobs_of(image)}
    others = {digest for image in everything if image not in going for digest in store.images.blobs_of(image)}
    return Removal(
        tuple(going),
        tuple(entries[digest] for digest in sorted((theirs - others) | chosen, key=str) if digest in entries),
        len((theirs & others) - chosen),
    )


def remove(store: Store, plan: Removal) -> list[Entry]:
    """Carry a removal out; it returns the blobs that stayed, because somebody was reading them.

    Raises:
        StoreError: the catalogue cannot be used.
        OSError: the disk failed.
    """
    store.images.forget(plan.images)
    gone = set(store.remove(entry.digest for entry in plan.blobs))
    store.write_index()
    return [entry for entry in plan.blobs if entry.digest not in gone]


def digests(store: Store, names: Iterable[str]) -> list[Digest]:
    """The stored blobs that these images and digests name.

    Raises:
        ValueError: a name means nothing that is stored.
        StoreError: the catalogue cannot be used.
    """
    entries = {entry.digest: entry for entry in store.inventory.entries()}
    found: set[Digest] = set()
    for name in names:
        if (digest := _digest(name, entries)) is not None:
            found.add(digest)
        elif images := store.images.find(Reference.parse(name)):
            found |= {digest for image in images for digest in store.images.blobs_of(image) if digest in entries}
        else:
            raise ValueError(f"no image {name!r} and no blob of that digest is in the store; 'store ls' lists them")
    return sorted(found, key=str)


def _digest(name: str, stored: Collection[Digest]) -> Digest | None:
    """The stored blob whose digest begins so; None where the name is no digest.

    Raises:
        ValueError: there is none, or more than one.
    """
    algorithm, colon, encoded = name.partition(":")
    if not colon or "/" in name or algorithm not in ("sha256", "sha512"):
        return None
    found = [digest for digest in stored if str(digest).startswith(name)] if len(encoded) >= _SHORTEST_PREFIX else []
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} stored blobs begin with {name}"
            if found
            else f"no blob {name} is in the store; 'store ls --blobs' lists them"
        )
    return found[0]
