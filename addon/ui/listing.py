"""What is in a store, as its commands show it: images with their platforms, and blobs."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from addon.registry.digest import Digest
from addon.registry.reference import Reference, familiar
from addon.store.disk import Store
from addon.store.images import Image, Variant, host_of
from addon.store.inventory import Entry
from addon.store.place import sweep
from addon.store.tally import Count

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


def size(count: int) -> str:
    """A number of bytes for people, in the units of registry_store_max_size."""
    for unit, length in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def counted(number: int, what: str) -> str:
    """So many of something."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def verified(good: int, bad: int, gone: int) -> str:
    """How many blobs were found good and bad, and how many went before they were looked at."""
    went = f", {gone} went meanwhile" if gone else ""
    if bad:
        return f"{counted(bad, 'blob')} bad, {good} good{went}"
    return f"{counted(good, 'blob')}, all good{went}"


def ago(seconds: float | None) -> str:
    """How long ago a time was, in seconds since the epoch."""
    if seconds is None:
        return "-"
    since = max(0, int(time.time() - seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if since >= length:
            return f"{since // length} {unit} ago"
    return f"{since} s ago"


def images(store: Store) -> list[ListedImage]:
    """All known images.

    Raises:
        StoreError: the catalogue cannot be used.
    """
    entries = {entry.digest: entry for entry in store.inventory.entries()}
    pins = set(store.images.pins())
    found = []
    for image in store.images.all():
        stored = [entries[digest] for digest in store.images.blobs_of(image) if digest in entries]
        found.append(
            ListedImage(
                image,
                tuple(store.images.variants(image, entries.__contains__)),
                sum(entry.size for entry in stored),
                max((entry.used for entry in stored), default=None),
                _is_pinned(image, pins),
            )
        )
    return found


def _is_pinned(image: Image, pins: Collection[Reference]) -> bool:
    host, digest = host_of(image.registry), str(image.descriptor.digest)
    return any(Reference(host, image.repository, name) in pins for name in (image.reference, digest))


def blobs(store: Store) -> list[ListedBlob]:
    """All stored blobs, those first that were not used for longest.

    Raises:
        StoreError: the catalogue cannot be used.
    """
    return [
        ListedBlob(
            entry,
            tuple(f"{familiar(host_of(registry))}/{repository}" for registry, repository in repositories),
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
        ValueError: a name means nothing that is stored, or an image that is pinned.
        StoreError: the catalogue cannot be used.
    """
    entries = {entry.digest: entry for entry in store.inventory.entries()}
    everything, pins = store.images.all(), set(store.images.pins())
    chosen: set[Digest] = set()
    going: list[Image] = []
    for name in names:
        if (digest := _digest(name, entries)) is not None:
            chosen.add(digest)
            continue
        found = store.images.find(Reference.parse(name))
        if not found:
            raise ValueError(f"no image {name!r} and no blob of that digest is in the store; 'store ls' lists them")
        for image in found:
            if _is_pinned(image, pins):
                raise ValueError(f"{image.name} is pinned, and stays until it is unpinned")
        going += [image for image in found if image not in going]
    theirs = {digest for image in going for digest in store.images.blobs_of(image)}
    others = {digest for image in everything if image not in going for digest in store.images.blobs_of(image)}
    # Images of which nothing else is known.
    others |= store.images.pinned() | store.images.blobs_of_others()
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


def digests(store: Store, names: Collection[str]) -> list[Digest]:
    """The stored blobs that these images and digests name; all of them where nothing is named.

    Raises:
        ValueError: a name means nothing that is stored.
        StoreError: the catalogue cannot be used.
    """
    entries = {entry.digest: entry for entry in store.inventory.entries()}
    if not names:
        return list(entries)
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


@dataclass(frozen=True, slots=True)
class Waste:
    """What is of no use, or over the limits."""

    quarantine: int
    """Bytes of bad blobs."""
    rests: int
    """Bytes of rests of broken fills, and of fills that are under way, which stay."""
    unreferenced: tuple[Entry, ...]
    """Blobs that no known image names."""
    over: int
    """Bytes by which the rest is over the limit."""
    limit: int
    """Bytes that may stay."""

    def lines(self) -> list[str]:
        """For people; none where all is of use."""
        lines = []
        if self.quarantine:
            lines.append(f"{size(self.quarantine)} of bad blobs")
        if self.rests:
            lines.append(f"up to {size(self.rests)} of rests of broken fills")
        if self.unreferenced:
            total = size(sum(entry.size for entry in self.unreferenced))
            lines.append(f"{counted(len(self.unreferenced), 'blob')} of no known image, {total}")
        if self.over:
            lines.append(f"{size(self.over)} or more of blobs, those of least use first")
        return lines


def waste(store: Store, to: int | None = None, *, unreferenced: bool = False) -> Waste:
    """What a collection would remove.

    Args:
        store: the store.
        to: how many bytes may stay, if fewer than its limit.
        unreferenced: whether blobs that no known image names are to go.

    Raises:
        StoreError: the catalogue cannot be used.
        OSError: the disk failed.
    """
    limit = store.room.limits.max_size if to is None else min(to, store.room.limits.max_size)
    usage = store.room.usage()
    unnamed: tuple[Entry, ...] = ()
    if unreferenced:
        named = {digest for image in store.images.all() for digest in store.images.blobs_of(image)}
        named |= store.images.pinned() | store.images.blobs_of_others()
        unnamed = tuple(entry for entry in store.inventory.entries() if entry.digest not in named)
    over = max(0, usage.blobs - sum(entry.size for entry in unnamed) - limit)
    return Waste(usage.quarantine, usage.ingests, unnamed, over, limit)


def collect(store: Store, plan: Waste) -> tuple[int, int]:
    """Remove it; returns the bytes in the store before and after.

    Raises:
        NoRoom: the store cannot become so small.
        StoreError: the catalogue cannot be used.
        OSError: the disk failed.
    """
    before = store.room.usage().total
    for path in store.layout.quarantine.iterdir():
        path.unlink(missing_ok=True)
    sweep(store.layout.ingests, everything=True)
    store.remove(entry.digest for entry in plan.unreferenced)
    store.room.shrink(plan.limit)
    store.room.reserve(0)
    store.provenance.prune()
    store.images.prune()
    store.write_index()
    return before, store.room.usage().total


def row(each: ListedImage) -> tuple[str, ...]:
    """An image in a table: name, platforms, how much is stored, size, last use, whether it is pinned."""
    platforms = "\n".join(variant.platform or "-" for variant in each.variants) or "-"
    stored = "\n".join(f"{len(v.blobs) - len(v.missing)}/{len(v.blobs)}" for v in each.variants) or "-"
    return each.image.name, platforms, stored, size(each.size), ago(each.used), "pinned" if each.pinned else ""


def stats(store: Store) -> dict[str, int]:
    """What is stored, and what it was good for; sizes in bytes.

    Raises:
        StoreError: the catalogue cannot be used.
        OSError: the disk failed.
    """
    usage = store.room.usage()
    entries = store.inventory.entries()
    counts = {str(count): total for count, total in store.tally.totals().items()}
    return {
        "blobs": len(entries),
        "images": len(store.images.all()),
        "blob_bytes": usage.blobs,
        "ingest_bytes": usage.ingests,
        "quarantine_bytes": usage.quarantine,
        "limit_bytes": store.room.limits.max_size,
        "free_bytes": usage.free,
        "min_free_bytes": store.room.limits.min_free,
        **counts,
    }


def stats_lines(numbers: dict[str, int]) -> list[tuple[str, str]]:
    """The same for people."""
    answered = numbers[Count.HITS] + numbers[Count.MISSES] + numbers[Count.COLLAPSED]
    share = f", {numbers[Count.HITS] / answered:.0%} of {answered}" if answered else ""
    return [
        ("blobs", f"{numbers['blobs']}, {size(numbers['blob_bytes'])}"),
        (
            "limit",
            f"{size(numbers['limit_bytes'])}, and {size(numbers['min_free_bytes'])} of the disk stay free",
        ),
        ("free", f"{size(numbers['free_bytes'])} on the disk"),
        ("images", str(numbers["images"])),
        ("on their way", size(numbers["ingest_bytes"])),
        ("quarantine", size(numbers["quarantine_bytes"])),
        ("hits", f"{numbers[Count.HITS]}{share}"),
        ("from the store", size(numbers[Count.HIT_BYTES])),
        ("misses", f"{numbers[Count.MISSES]}, and {numbers[Count.COLLAPSED]} that joined"),
        ("from upstream", size(numbers[Count.UPSTREAM_BYTES])),
        ("not stored", f"{numbers[Count.BYPASSED]} requests, while the store was in trouble"),
        ("bad blobs", str(numbers[Count.BAD])),
    ]
