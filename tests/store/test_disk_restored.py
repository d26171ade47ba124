"""A store that somebody removes while it is in use."""

import shutil
from collections.abc import Callable

import pytest

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.errors import StoreError

from .blobs import ORIGIN, digest_of, open_files, put, read

CONTENT = b"a layer"
DIGEST = digest_of(CONTENT)
ROW = ("ghcr.io", "team/app")


def all_of_it(store: Store) -> None:
    shutil.rmtree(store.root)


def all_but_its_folder(store: Store) -> None:
    for entry in store.root.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def blobs(store: Store) -> None:
    shutil.rmtree(store.layout.blobs)


def what_is_ours(store: Store) -> None:
    shutil.rmtree(store.layout.ours)


def ingests(store: Store) -> None:
    store.layout.ingests.rmdir()


def catalog(store: Store) -> None:
    store.layout.catalog.unlink()


def verified(store: Store, digest: Digest) -> bool | None:
    reader = store.open(digest)
    if reader is None:
        return None
    reader.close()
    return reader.verified


@pytest.mark.parametrize("lose", [all_of_it, all_but_its_folder, blobs, what_is_ours, ingests, catalog])
def test_what_is_gone_is_made_anew(store: Store, lose: Callable[[Store], None]) -> None:
    put(store, CONTENT)
    store.provenance.record(*ROW, DIGEST)
    lose(store)
    there, known = store.path(DIGEST).exists(), store.layout.catalog.exists()
    store.restore()
    again = Store(store.root)
    if there:
        assert read(store, DIGEST) == read(again, DIGEST) == CONTENT
        assert not again.provenance.unclaimed(DIGEST)
        assert again.provenance.belongs(*ROW, DIGEST) is known
        assert verified(again, DIGEST) is known
    else:
        assert store.open(DIGEST) is None
    again.close()
    other = put(store, b"other")
    store.check_writable()
    assert read(store, other) == b"other"
    assert str(other) in store.inventory.digests()


def test_one_that_is_there_is_left_as_it_is(store: Store) -> None:
    put(store, CONTENT)
    store.provenance.record(*ROW, DIGEST)
    before = open_files(), sorted(store.root.rglob("*"))
    for _ in range(3):
        store.restore()
    assert (open_files(), sorted(store.root.rglob("*"))) == before
    assert verified(store, DIGEST)
    assert store.provenance.belongs(*ROW, DIGEST)


def test_without_its_disk_nothing_is_made(store: Store) -> None:
    shutil.rmtree(store.root)
    # What is below it is on another one.
    store._device += 1
    with pytest.raises(StoreError, match=f"the disk of {store.root} is not there"):
        store.restore()
    assert not store.root.exists()


def test_where_something_else_is_by_now_nothing_is_made(store: Store) -> None:
    shutil.rmtree(store.root)
    store.root.mkdir(mode=0o700)
    (store.root / "Documents").mkdir()
    with pytest.raises(StoreError, match="is no store: it holds 'Documents'"):
        store.restore()
    assert [entry.name for entry in store.root.iterdir()] == ["Documents"]


def test_what_was_on_its_way_is_over(store: Store) -> None:
    before = open_files()
    ingest = store.ingest(DIGEST, ORIGIN)
    ingest.write(0, [CONTENT])
    shutil.rmtree(store.root)
    with pytest.raises(OSError, match="No such file"):
        ingest.commit()
    ingest.abort()
    assert open_files() == before
    store.restore()
    assert read(store, put(store, CONTENT)) == CONTENT
