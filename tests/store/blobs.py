"""Blobs for the store's tests."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from addon.registry.digest import Digest
from addon.store.disk import Store

ORIGIN = "registry-1.docker.io"


def digest_of(content: bytes, algorithm: str = "sha256") -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, content).hexdigest())


def put(store: Store, content: bytes, algorithm: str = "sha256") -> Digest:
    """Take a blob in, as a fill does."""
    digest = digest_of(content, algorithm)
    ingest = store.ingest(digest, ORIGIN)
    ingest.write(0, [content])
    ingest.verify(len(content))
    ingest.commit()
    return digest


def read(store: Store, digest: Digest) -> bytes | None:
    """A stored blob, whole."""
    reader = store.open(digest)
    if reader is None:
        return None
    content = reader.read(0, reader.size + 1)
    reader.close()
    return content


def open_files() -> int:
    """How many file descriptors this process has."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


def failing(number: int) -> Callable[..., object]:
    """In the place of a call to the system, one that fails so."""

    def fail(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail
