"""Manifests and indexes, read for what they name.

Source: OCI Image Specification 1.1, manifest.md, image-index.md and descriptor.md; Docker's manifest version 2,
schema 2, and its manifest list have the same fields.
"""

import json
from dataclasses import dataclass
from typing import Any

from addon.registry.digest import Digest

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# Layers that no registry holds: they are fetched from where their vendor says.
_ELSEWHERE = ("foreign", "nondistributable")


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
        """What an index lists for a platform; one without a variant stands for any."""
        for each in self.manifests:
            if each.platform == platform or each.platform.startswith(f"{platform}/"):
                return each
        # linux/arm64 is v8, whether or not somebody says so.
        return next((each for each in self.manifests if platform == f"{each.platform}/v8"), None)


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
    if not listed and not blobs:
        raise ValueError("not a manifest: it names neither blobs nor manifests")
    here = tuple(blob for blob in blobs if not any(word in blob.media_type for word in _ELSEWHERE))
    if not isinstance(media_type, str):
        # OCI lets it be left out.
        media_type = INDEX if listed else MANIFEST
    return Manifest(media_type, here, listed)


def _descriptor(entry: Any) -> Descriptor:
    size = entry["size"]
    if type(size) is not int or size < 0:
        raise ValueError(f"a size is {size!r}"[:80])
    platform = entry.get("platform") or {}
    parts = [platform.get(key) for key in ("os", "architecture", "variant")]
    return Descriptor(
        Digest.parse(entry["digest"]),
        size,
        str(entry.get("mediaType", "")),
        "/".join(str(part) for part in parts if part),
    )
