"""When a stored blob is verified, and what becomes of a bad one."""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from addon.registry.digest import ALGORITHMS, Digest
from addon.store import disk as module
from addon.store.blob import BlobReader
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.inventory import Stamp
from addon.store.tally import Count

from .blobs import digest_of, open_files, put, read

CONTENT = b"a layer"
DIGEST = digest_of(CONTENT)


# Whether it is verified.


def verified(store: Store, digest: Digest = DIGEST) -> bool:
    """Whether the stored blob may be given out at once."""
    reader = store.open(digest)
    assert reader is not None
    reader.close()
    return reader.verified


def forget(store: Store, digest: Digest) -> None:
    """Let the file be there without a row, as when another program put it there."""
    store.inventory.drop([digest])


def test_what_was_taken_in_is_verified(store: Store) -> None:
    put(store, CONTENT)
    assert verified(store)
    again = Store(store.root)
    assert verified(again)
    again.close()


def test_a_file_without_a_row_is_verified_before_its_first_use(store: Store) -> None:
    store.path(DIGEST).write_bytes(CONTENT)
    assert not verified(store)
    # Only because it was looked at, it is no better.
    assert not verified(store)
    assert store.verify(DIGEST)
    assert verified(store)


def test_nobody_says_of_what_has_gone_that_it_is_bad(store: Store) -> None:
    put(store, CONTENT)
    store.remove([DIGEST])
    assert store.verify(DIGEST) is None


def test_nor_does_reconciling_make_it_verified(store: Store) -> None:
    store.path(DIGEST).write_bytes(CONTENT)
    store.reconcile()
    assert [entry.digest for entry in store.inventory.entries()] == [DIGEST]
    assert not verified(store)


def later(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def longer(path: Path) -> None:
    status = path.stat()
    path.write_bytes(CONTENT + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(("change", "good"), [(later, True), (longer, False)])
def test_a_file_that_somebody_touched_is_verified(store: Store, change: Callable[[Path], None], good: bool) -> None:
    put(store, CONTENT)
    assert verified(store)
    change(store.path(DIGEST))
    assert not verified(store)
    # Nor does another process take it for verified.
    again = Store(store.root)
    assert not verified(again)
    again.close()
    assert store.verify(DIGEST) is good
    assert (store.open(DIGEST) is not None) is good


def test_what_is_changed_while_it_is_verified_is_verified_again(store: Store) -> None:
    store.path(DIGEST).write_bytes(CONTENT)
    assert store.verify(DIGEST, lambda _: later(store.path(DIGEST)))
    assert not verified(store)


def test_a_blob_is_stored_though_its_row_is_not(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_digest: Digest, _stamp: Stamp) -> None:
        raise StoreError("cannot use the catalogue")

    monkeypatch.setattr(store.inventory, "verified", failing)
    put(store, CONTENT)
    assert [record.getMessage() for record in caplog.records] == ["cannot use the catalogue"]
    assert store.path(DIGEST).read_bytes() == CONTENT
    # It is verified before its first use.
    assert not verified(store)


def test_a_blob_is_good_though_that_cannot_be_written_down(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store.path(DIGEST).write_bytes(CONTENT)

    def failing(_digest: Digest, _stamp: Stamp) -> None:
        raise StoreError("the disk is read-only")

    with monkeypatch.context() as patched:
        patched.setattr(store.inventory, "verified", failing)
        assert store.verify(DIGEST)
    assert "is good, but that is not written down: the disk is read-only" in caplog.text
    assert read(store, DIGEST) == CONTENT


# Verifying.


def test_what_is_not_there_is_not_good(store: Store) -> None:
    before = open_files()
    assert not store.verify(DIGEST)
    store.path(DIGEST).mkdir()
    assert not store.verify(DIGEST)
    assert open_files() == before


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_bad_blob_goes_to_quarantine(store: Store, caplog: pytest.LogCaptureFixture, algorithm: str) -> None:
    before = open_files()
    digest = put(store, CONTENT, algorithm)
    other = put(store, b"other")
    bad = b"A layer"
    store.path(digest).write_bytes(bad)
    assert not store.verify(digest)
    assert store.open(digest) is None
    assert [entry.digest for entry in store.inventory.entries()] == [other]
    (aside,) = store.layout.quarantine.iterdir()
    assert aside.name.startswith(f"{algorithm}-{digest.encoded}.")
    assert aside.read_bytes() == bad
    (message,) = [record.getMessage() for record in caplog.records]
    for said in (digest, "turned bad", digest_of(bad, algorithm), aside):
        assert str(said) in message
    assert store.tally.totals()[Count.BAD] == 1
    assert open_files() == before
    # It can be fetched anew, turn bad again, and both are there to be looked at.
    put(store, CONTENT, algorithm)
    assert read(store, digest) == CONTENT
    store.path(digest).write_bytes(bad)
    assert not store.verify(digest)
    assert len(list(store.layout.quarantine.iterdir())) == 2


def test_a_blob_that_cannot_be_read_goes_to_quarantine(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = open_files()
    put(store, CONTENT)

    def failing(_reader: BlobReader, _offset: int, _buffer: memoryview) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(BlobReader, "read_into", failing)
    assert not store.verify(DIGEST)
    assert store.open(DIGEST) is None
    assert "it cannot be read: Input/output error" in caplog.text
    assert len(list(store.layout.quarantine.iterdir())) == 1
    assert open_files() == before


def test_without_a_quarantine_a_bad_blob_goes_all_the_same(store: Store) -> None:
    put(store, CONTENT)
    store.path(DIGEST).write_bytes(b"A layer")
    store.layout.quarantine.rmdir()
    assert not store.verify(DIGEST)
    assert store.open(DIGEST) is None
    assert store.inventory.entries() == []


def test_a_bad_blob_that_cannot_be_moved_is_given_to_nobody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    status = store.path(put(store, CONTENT)).stat()
    store.path(DIGEST).write_bytes(b"A layer")
    # As when the disk turns a bit: nothing shows.
    os.utime(store.path(DIGEST), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert verified(store)

    def failing(_path: Path, _target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing)
        with pytest.raises(OSError, match="Read-only"):
            store.verify(DIGEST)
    assert not verified(store)
    assert open_files() == before


def test_what_was_fetched_anew_meanwhile_does_not_go(store: Store) -> None:
    store.path(DIGEST).write_bytes(b"A layer")

    def fetch(_count: int) -> None:
        store.path(DIGEST).unlink()
        put(store, CONTENT)

    assert not store.verify(DIGEST, fetch)
    assert verified(store)
    assert read(store, DIGEST) == CONTENT
    assert list(store.layout.quarantine.iterdir()) == []


def test_what_was_removed_meanwhile_is_not_set_aside(store: Store) -> None:
    store.path(DIGEST).write_bytes(b"A layer")
    assert not store.verify(DIGEST, lambda _: store.path(DIGEST).unlink())
    assert list(store.layout.quarantine.iterdir()) == []


def test_verifying_can_be_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        pass

    monkeypatch.setattr(module, "_READ", 1000)
    before = open_files()
    content = bytes(2500)
    digest = put(store, content)
    forget(store, digest)
    read_so_far: list[int] = []
    assert store.verify(digest, read_so_far.append)
    assert read_so_far == [1000, 1000, 500]

    def progress(_count: int) -> None:
        raise Enough

    forget(store, digest)
    with pytest.raises(Enough):
        store.verify(digest, progress)
    assert not verified(store, digest)
    assert read(store, digest) == content
    assert open_files() == before
