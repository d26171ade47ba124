"""A mitmproxy script (`-s bad_sectors.py`): files of the store that the disk fails to read, from some byte on.

The environment's BAD_SECTORS names a file with a line for each of them, its inode and that byte's offset. Under another
name, a file stays as bad as it was.
"""

import errno
import os
from pathlib import Path

from addon.store.blob import BlobReader

VARIABLE = "BAD_SECTORS"


def load(_loader: object) -> None:
    """Stand between the store and its files (mitmproxy's hook for a script that was loaded)."""
    read, read_into = BlobReader.read, BlobReader.read_into

    def bad_read(self: BlobReader, offset: int, length: int) -> bytes:
        _check(self, offset + length)
        return read(self, offset, length)

    def bad_read_into(self: BlobReader, offset: int, buffer: memoryview) -> int:
        _check(self, offset + len(buffer))
        return read_into(self, offset, buffer)

    BlobReader.read, BlobReader.read_into = bad_read, bad_read_into  # type: ignore[method-assign]


def _check(reader: BlobReader, stop: int) -> None:
    """Fail as the disk would where one of the bytes before ``stop`` is bad.

    Raises:
        OSError: it is.
    """
    lines = Path(os.environ[VARIABLE]).read_text().splitlines()
    bad = {int(inode): int(offset) for inode, offset in map(str.split, lines)}
    if stop > bad.get(reader.stat().st_ino, stop):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
