"""Images made from nothing: layers are tar files of seeded noise, pushed straight into the backing registry.

No tool is needed to make them, so they cost milliseconds and are the same bytes in every run.
"""

import gzip
import hashlib
import io
import json
import platform
import random
import tarfile
from dataclasses import dataclass

from .backing import Backing

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ("Accept", ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)))
"""The header without which distribution does not show an image of these types."""
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_OCI_TAR_LAYER = "application/vnd.oci.image.layer.v1.tar"
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

_PIECE = 16 << 20  # randbytes makes less than 256 MiB at a time

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""This machine's, in the words of image configs."""


@dataclass(frozen=True)
class Blob:
    """A descriptor: media type, digest, size in bytes."""

    media_type: str
    digest: str
    size: int

    def descriptor(self, **more: object) -> dict[str, object]:
        """As manifests write it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **more}


@dataclass(frozen=True)
class Image:
    """A pushed image. For an index, config and layers are those of this machine's platform."""

    repository: str
    tag: str
    manifest: Blob
    """What the tag points to."""
    config: Blob
    layers: tuple[Blob, ...]
    platform: Blob
    """The manifest of this machine's platform; the same as `manifest` where there is no index."""

    @property
    def reference(self) -> str:
        """Such as library/small:latest."""
        return f"{self.repository}:{self.tag}"

    @property
    def manifest_path(self) -> str:
        """Where a registry has the manifest, by tag."""
        return f"/v2/{self.repository}/manifests/{self.tag}"

    def blob_path(self, blob: Blob) -> str:
        """Where a registry has a blob of it."""
        return f"/v2/{self.repository}/blobs/{blob.digest}"

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All that a pull fetches as a blob."""
        return (self.config, *self.layers)


def push_image(
    backing: Backing,
    repository: str,
    tag: str,
    sizes: tuple[int, ...],
    *,
    seed: int = 0,
    docker: bool = False,
    tar: bool = False,
    algorithm: str = "sha256",
    architecture: str = ARCHITECTURE,
) -> Image:
    """Push an image whose layers hold `sizes` bytes of noise; the blobs are a little larger.

    The same seed and size make the same layer, in any repository. `algorithm` is for the layers' digests;
    `docker` takes Docker's media types in place of OCI's, and `tar` makes OCI layers that are no gzip.
    """
    types = (DOCKER_MANIFEST, _DOCKER_CONFIG, _DOCKER_LAYER) if docker else (OCI_MANIFEST, _OCI_CONFIG, _OCI_LAYER)
    layers: list[Blob] = []
    diff_ids: list[str] = []
    for number, size in enumerate(sizes):
        archive = _layer(number, size, seed)
        diff_ids.append(f"sha256:{hashlib.sha256(archive).hexdigest()}")
        # Noise does not get smaller, so do not try.
        content = archive if tar else gzip.compress(archive, 0, mtime=0)
        media_type = _OCI_TAR_LAYER if tar else types[2]
        layers.append(push_blob(backing, repository, content, media_type, algorithm))
    description = {
        "created": "2026-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/true"], "Labels": {"seed": str(seed)}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(sizes))],
    }
    config = push_blob(backing, repository, json.dumps(description).encode(), types[1])
    manifest = push_manifest(
        backing,
        repository,
        tag,
        {
            "schemaVersion": 2,
            "mediaType": types[0],
            "config": config.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
        },
    )
    return Image(repository, tag, manifest, config, tuple(layers), manifest)


def push_index(backing: Backing, repository: str, tag: str, sizes: tuple[int, ...], *, seed: int = 0) -> Image:
    """Push an image for two platforms, this machine's and another, under one tag, as official images are."""
    other = "arm64" if ARCHITECTURE != "arm64" else "amd64"
    images = [
        push_image(backing, repository, f"{tag}-{name}", sizes, seed=seed + at, architecture=name)
        for at, name in enumerate((ARCHITECTURE, other))
    ]
    manifests = [
        image.manifest.descriptor(platform={"architecture": name, "os": "linux"})
        for image, name in zip(images, (ARCHITECTURE, other), strict=True)
    ]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    mine = images[0]
    return Image(
        repository,
        tag,
        push_manifest(backing, repository, tag, index),
        mine.config,
        mine.layers,
        mine.manifest,
    )


def push_blob(
    backing: Backing,
    repository: str,
    content: bytes,
    media_type: str = "application/octet-stream",
    algorithm: str = "sha256",
) -> Blob:
    """Push one blob."""
    digest = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
    status, headers, body = backing.ask("POST", f"/v2/{repository}/blobs/uploads/")
    assert status == 202, body
    target = headers["location"].removeprefix(f"http://127.0.0.1:{backing.port}")
    octets = {"Content-Type": "application/octet-stream"}
    status, _, body = backing.ask("PUT", f"{target}&digest={digest}", content, octets)
    assert status == 201, body
    return Blob(media_type, digest, len(content))


def push_manifest(backing: Backing, repository: str, reference: str, manifest: dict[str, object]) -> Blob:
    """Push a manifest or an index."""
    content = json.dumps(manifest, indent=2).encode()
    media_type = str(manifest["mediaType"])
    status, _, body = backing.ask(
        "PUT", f"/v2/{repository}/manifests/{reference}", content, {"Content-Type": media_type}
    )
    assert status == 201, body
    return Blob(media_type, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


def _layer(number: int, size: int, seed: int) -> bytes:
    """A tar file with one file of noise."""
    source = random.Random(f"{seed}/{number}/{size}")
    noise = b"".join(source.randbytes(min(_PIECE, size - at)) for at in range(0, size, _PIECE))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        folder = tarfile.TarInfo("noise")
        folder.type = tarfile.DIRTYPE
        folder.mode = 0o755
        tar.addfile(folder)
        entry = tarfile.TarInfo(f"noise/{seed}-{number}")
        entry.size = size
        tar.addfile(entry, io.BytesIO(noise))
    return archive.getvalue()
