"""Blobs that are removed, and a disk that fails in the midst of that."""

import errno
from pathlib import Path

import pytest

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.layout import Layout
from addon.store.room import remove

from .blobs import put


def test_what_went_before_the_disk_failed_is_known_to_be_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [put(store, b"%d" % n) for n in range(3)]

    def failing(layout: Layout, digest: Digest) -> bool:
        if digest == digests[1]:
            raise OSError(errno.EIO, "Input/output error")
        return remove(layout, digest)

    monkeypatch.setattr("addon.store.disk.remove", failing)
    with pytest.raises(OSError, match="Input/output error"):
        store.remove(digests)
    assert {entry.digest for entry in store.inventory.entries()} == set(digests[1:])
    assert [path.name for path in sorted(Path(store.layout.blobs).rglob("*")) if path.is_file()] == sorted(
        digest.encoded for digest in digests[1:]
    )
