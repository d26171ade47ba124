"""A proxy's store, seen from outside: where its blobs lie, whether they are right, and what breaks them."""

import contextlib
import hashlib
import os
from pathlib import Path

from ..standin import Blob
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
