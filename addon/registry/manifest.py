"""Manifests and indexes, read for what they name.

Source: OCI Image Specification 1.1, manifest.md, image-index.md and descriptor.md; Docker's manifest version 2,
schema 2, and its manifest list have the same fields.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from addon.registry.digest import Digest

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# Layers that no registry holds: they are fetched from where their vendor says.
_ELSEWHERE = ("foreign", "nondistributable")
# An index is anybody's to write, and its platforms are shown in terminals.
_PLATFORM = re.compile(r"[a-zA-Z0-9._-]{1,32}", re.ASCII)
# The specification's int64.
_LARGEST_SIZE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of a blob, or an index of a manifest."""

    digest: Digest
    size: int
    """Bytes."""
    media_type: str = ""
    platform: str = ""
    """``os/architecture``, or ``os/architecture/variant``; empty where the index does not tell."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest, or an index, whose ``blobs`` are then empty."""

    media_type: str
    blobs: tuple[Descriptor, ...] = ()
    """The config, then the layers that a registry holds."""
    manifests: tuple[Descriptor, ...] = ()
    """What an index lists."""

    def for_platform(self, platform: str) -> Descriptor | None:
        """What an index lists for a platform; one without a variant stands for any, if it is not listed itself."""
        fits: tuple[Callable[[str], bool], ...] = (
            lambda listed: listed == platform,
            lambda listed: listed.startswith(f"{platform}/"),
            # linux/arm64 is v8, whether or not somebody says so.
            lambda listed: f"{listed}/v8" == platform,
        )
        return next((each for fit in fits for each in self.manifests if fit(each.platform)), None)


def parse(content: bytes) -> Manifest:
    """Read a manifest or an index.

    Raises:
        ValueError: it is neither.
    """
    try:
        fields = json.loads(content)
        listed = tuple(_descriptor(entry) for entry in fields.get("manifests") or [])
        named = [fields.get("config"), *(fields.get("layers") or [])]
        blobs = tuple(_descriptor(entry) for entry in named if entry)
        media_type = fields.get("mediaType")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(f"not a manifest: {e}") from None
    if bool(listed) == bool(blobs):
        # Clients disagree about one that names both (CVE-2021-41190), and so do registries.
        raise ValueError(f"not a manifest: it names {'both blobs and' if listed else 'neither blobs nor'} manifests")
    here = tuple(blob for blob in blobs if not any(word in blob.media_type for word in _ELSEWHERE))
    if not isinstance(media_type, str):
        # OCI lets it be left out.
        media_type = INDEX if listed else MANIFEST
    return Manifest(media_type, here, listed)


def _descriptor(entry: Any) -> Descriptor:
    size = entry["size"]
    if type(size) is not int or not 0 <= size <= _LARGEST_SIZE:
        raise ValueError(f"a size is {size!r}"[:80])
    platform = entry.get("platform") or {}
    parts = [str(platform.get(key) or "") for key in ("os", "architecture", "variant")]
    return Descriptor(
        Digest.parse(entry["digest"]),
        size,
        str(entry.get("mediaType") or ""),
        "/".join(part for part in parts if part) if all(map(_PLATFORM.fullmatch, filter(None, parts))) else "",
    )
