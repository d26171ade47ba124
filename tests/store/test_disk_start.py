"""What a start finds: a store that nobody used yet, one whose catalogue is lost, and trouble."""

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.layout import Layout
from addon.store.provenance import Provenance

from .blobs import digest_of, open_files, put, read
from .processes import process

CONTENT = b"a layer"
DIGEST = digest_of(CONTENT)
ROW = ("ghcr.io", "team/app")


def used(root: Path) -> None:
    """A store that has been used: a blob is in it that a registry delivered."""
    store = Store(root)
    put(store, CONTENT)
    store.provenance.record(*ROW, DIGEST)
    store.close()


def test_a_start_keeps_what_is_known(tmp_path: Path) -> None:
    used(tmp_path)
    for _ in range(2):
        store = Store(tmp_path)
        assert store.provenance.belongs(*ROW, DIGEST)
        reader = store.open(DIGEST)
        assert reader is not None
        assert reader.verified
        reader.close()
        store.close()


def test_what_was_there_before_the_first_start_an_operator_put_there(tmp_path: Path) -> None:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    Layout(tmp_path).blob(DIGEST).write_bytes(CONTENT)
    for _ in range(2):
        store = Store(tmp_path)
        assert store.provenance.unclaimed(DIGEST)
        store.close()


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, 0)


def damage(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


LOSSES = pytest.mark.parametrize("lose", [remove, cut, damage])


@LOSSES
def test_where_the_catalogue_is_lost_all_blobs_are_nobodys(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    used(tmp_path)
    lose(Layout(tmp_path).catalog)
    store = Store(tmp_path)
    # No registry's, but no operator's either: each registry has to deliver it.
    assert not store.provenance.delivered_by(ROW[0], DIGEST)
    assert not store.provenance.unclaimed(DIGEST)
    # What is new in it is known again.
    other = put(store, b"other")
    assert store.provenance.unclaimed(other)
    # And it is verified before its first use.
    reader = store.open(DIGEST)
    assert reader is not None
    assert not reader.verified
    reader.close()
    store.close()
    store = Store(tmp_path)
    assert not store.provenance.unclaimed(DIGEST)
    assert store.provenance.unclaimed(other)
    store.close()


KILLED = """
import sys
from pathlib import Path
from addon.store.disk import Store
from addon.store.provenance import Provenance

def stop(*_):
    print("ready", flush=True)
    sys.stdin.readline()

Provenance.disown = stop
Store(Path(sys.argv[1]))
"""


@LOSSES
def test_a_start_that_is_killed_leaves_it_to_the_next(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    used(tmp_path)
    lose(Layout(tmp_path).catalog)
    with process(KILLED, tmp_path) as starting:
        starting.kill()
        starting.wait()
    store = Store(tmp_path)
    assert not store.provenance.unclaimed(DIGEST)
    store.close()


@LOSSES
def test_nor_does_one_that_starts_meanwhile_take_it_for_done(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    used(tmp_path)
    lose(Layout(tmp_path).catalog)
    with process(KILLED, tmp_path):
        store = Store(tmp_path)
        assert not store.provenance.unclaimed(DIGEST)
        store.close()


# Trouble.


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    used(tmp_path)
    store = Store(tmp_path)
    with store._catalog.writing() as db:
        db.execute("PRAGMA user_version = 1000")
    store.close()
    before = open_files()
    with pytest.raises(StoreError, match=r"cannot use .*: a newer Pulltap made it"):
        Store(tmp_path)
    assert open_files() == before
    assert read_file(tmp_path) == CONTENT


def read_file(root: Path) -> bytes:
    return Layout(root).blob(DIGEST).read_bytes()


def test_a_start_that_fails_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used(tmp_path)
    before = open_files()

    def no_disown(_table: Provenance, _digests: Iterable[Digest]) -> None:
        raise StoreError("no room for rows")

    def no_stored(_layout: Layout) -> None:
        raise OSError(errno.EIO, "Input/output error", "blobs")

    def no_sweep(_folder: Path) -> None:
        raise OSError(errno.ENOLCK, "No locks available", "ingest")

    for target, failing, message in (
        ("addon.store.provenance.Provenance.disown", no_disown, "no room for rows"),
        ("addon.store.layout.Layout.stored", no_stored, "cannot use .* as store: Input/output error"),
        ("addon.store.disk.sweep", no_sweep, "cannot use .* as store: No locks available"),
    ):
        damage(Layout(tmp_path).catalog)
        with monkeypatch.context() as patched:
            patched.setattr(target, failing)
            with pytest.raises(StoreError, match=message) as failed:
                Store(tmp_path)
        assert open_files() == before
        assert failed.value.args
    # Whatever came in between, nothing was forgotten.
    store = Store(tmp_path)
    assert not store.provenance.unclaimed(DIGEST)
    assert read(store, DIGEST) == CONTENT
    store.close()


def test_what_cannot_be_written_down_in_the_end_keeps_nobody_from_closing(tmp_path: Path) -> None:
    before = open_files()
    store = Store(tmp_path)
    store.inventory.used(put(store, CONTENT))
    with store._catalog.writing() as db:
        db.execute("DROP TABLE blobs")
    store.close()
    assert open_files() == before
