"""Images in a store, as they are there once clients have pulled them."""

import json
from dataclasses import dataclass, field
from typing import Any

from addon.registry.digest import Digest
from addon.registry.manifest import INDEX, MANIFEST, Descriptor
from addon.registry.reference import Reference
from addon.store.disk import Store

from .blobs import digest_of, put

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def descriptor(content: bytes, media_type: str = LAYER, **more: Any) -> dict[str, Any]:
    """What a manifest, or an index, says of a blob."""
    return {"mediaType": media_type, "digest": str(digest_of(content)), "size": len(content), **more}


def manifest(*layers: bytes, config: bytes = b"{}", **more: Any) -> bytes:
    """A manifest of these layers."""
    fields = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(config, "application/x"), **more}
    return json.dumps(fields | {"layers": [descriptor(layer) for layer in layers]}).encode()


def index(**manifests: bytes) -> bytes:
    """An index of manifests, or of indexes, by platform: ``linux_amd64``."""
    listed = []
    for name, content in manifests.items():
        os, _, architecture = name.partition("_")
        media_type = json.loads(content)["mediaType"]
        listed.append(descriptor(content, media_type, platform={"os": os, "architecture": architecture}))
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()


def theirs(store: Store, *layers: bytes) -> None:
    """An image that another tool has put there; only its files and the index tell of it."""
    content = manifest(*layers)
    for blob in (content, b"{}", *layers):
        store.path(digest_of(blob)).write_bytes(blob)
    index = json.loads(store.layout.index.read_text())
    index["manifests"].append(descriptor(content, MANIFEST))
    store.layout.index.write_text(json.dumps(index))
    store.reconcile()


@dataclass
class Pulls:
    """Pulls into one store: what passes, and what is stored."""

    store: Store
    digests: list[Digest] = field(default_factory=list)
    """All that was pulled, in that order."""

    def passed(self, name: str, content: bytes, *, stored: bool = True, http: bool = False) -> Digest:
        """A registry gave this manifest for this name; returns its digest."""
        reference = Reference.parse(name)
        digest = digest_of(content)
        if stored:
            self.store.put(digest, content, reference.registry)
        identity = f"http://{reference.registry}" if http else reference.registry
        media_type = json.loads(content)["mediaType"]
        self.store.images.saw(
            identity, reference.repository, reference.reference, Descriptor(digest, len(content), media_type)
        )
        self.digests.append(digest)
        return digest

    def blobs(self, *contents: bytes) -> list[Digest]:
        """Clients pulled these blobs."""
        found = [
            digest if (digest := digest_of(content)) in self.digests else put(self.store, content)
            for content in contents
        ]
        self.digests += found
        return found

    def image(self, name: str, *layers: bytes, config: bytes = b"{}") -> Digest:
        """A client pulled an image of one platform; returns its manifest's digest."""
        digest = self.passed(name, manifest(*layers, config=config))
        self.blobs(config, *layers)
        return digest

    def index(self, name: str, **manifests: bytes) -> Digest:
        """A client pulled an index; returns its digest. What it lists is to be pulled as well."""
        return self.passed(name, index(**manifests))
