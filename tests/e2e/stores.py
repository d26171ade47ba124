"""A proxy's store, seen from outside: where its blobs lie, whether they are right, and what breaks them."""

import contextlib
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from ..standin import ACCEPT, Blob, Hub, Image
from .clients import Via
from .clients.raw import Raw
from .programs import eventually
from .proxies import Pulltap


def stored(proxy: Pulltap, blob: Blob) -> Path:
    """Where a blob lies, or would lie."""
    return proxy.store / "blobs" / blob.digest.replace(":", "/")


def quarantined(proxy: Pulltap, blob: Blob) -> list[Path]:
    """What lay there, and was bad."""
    return list((proxy.store / "pulltap" / "quarantine").glob(f"{blob.digest.replace(':', '-')}*"))


def is_whole(path: Path) -> bool:
    """Whether there is a file that is what its name says."""
    return path.is_file() and not path.is_symlink() and hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def is_open(proxy: Pulltap, path: Path) -> bool:
    """Whether the proxy has a file open."""
    for link in Path(f"/proc/{proxy.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if link.readlink() == path:
                return True
    return False


def wait_until_stored(proxy: Pulltap, *blobs: Blob) -> None:
    """Block until blobs that were given to clients are stored, and their fills over."""
    for blob in blobs:
        path = stored(proxy, blob)
        eventually(lambda path=path: path.exists() and not is_open(proxy, path), "the end of a fill")  # type: ignore[misc]


def indexed(store: Path) -> dict[str, dict[str, Any]]:
    """What index.json lists, by name."""
    content = json.loads((store / "index.json").read_text())
    return {entry["annotations"]["org.opencontainers.image.ref.name"]: entry for entry in content["manifests"]}


def flip(path: Path) -> bytes:
    """Flip one bit, as a disk does: nothing but the bytes shows it. The bad bytes."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0x10
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(content[middle : middle + 1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    return bytes(content)


def pull(hub: Hub, via: Via, image: Image) -> list[str]:
    """Pull as clients do; where each blob came from."""
    raw = Raw(via.port, via.ca)
    assert raw.request("GET", hub.url(image.manifest_path), [ACCEPT]).status == 200
    if image.platform != image.manifest:
        by_digest = f"/v2/{image.repository}/manifests/{image.platform.digest}"
        assert raw.request("GET", hub.url(by_digest), [ACCEPT]).status == 200
    found = []
    for blob in image.blobs:
        reply = raw.request("GET", hub.url(image.blob_path(blob)))
        assert reply.body == hub.content(blob)
        found.append(reply.header("Cache-Status") or "")
    return found


def fill(hub: Hub, proxy: Pulltap, *images: Image) -> None:
    """Pull, and wait until all of it is stored."""
    for image in images:
        pull(hub, proxy, image)
        wait_until_stored(proxy, image.manifest, image.platform, *image.blobs)


def small(hub: Hub, name: str, *sizes: int, seed: int = 0, index: bool = False) -> Image:
    """An image of two small layers, unless other sizes are wanted; its bytes are no other's, unless a seed is given."""
    seed = seed or zlib.crc32(name.encode())
    return hub.push(f"library/{name}", sizes=sizes or (1000, 200_000), seed=seed, index=index)
