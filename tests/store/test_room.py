import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from addon.registry.manifest import MANIFEST, Descriptor
from addon.registry.reference import Reference
from addon.store.blob import BlobReader
from addon.store.disk import Store
from addon.store.errors import NoRoom

from .blobs import ORIGIN, digest_of, read
from .rooms import SIZE, Stores, begin, content, put, stored


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path / "store")
    yield stores
    stores.close()


# The store's size.


def test_without_limits_nothing_goes(make: Stores) -> None:
    store = make()
    digests = {put(store, n) for n in range(5)}
    assert store.room.reserve(1 << 20) == []
    assert stored(store) == digests


def test_what_fits_drives_nothing_out(make: Stores) -> None:
    store = make(5)
    digests = {put(store, n) for n in range(5)}
    assert store.room.reserve() == []
    assert stored(store) == digests
    assert store.room.usage().total == 5 * SIZE


def test_no_more_goes_than_has_to(make: Stores) -> None:
    store = make(5)
    digests = [put(store, n) for n in range(8)]
    assert stored(store) == set(digests[3:])
    assert [entry.digest for entry in store.room.reserve(1)] == digests[3:4]


def test_what_is_used_stays(make: Stores) -> None:
    store = make(3)
    digests = [put(store, n) for n in range(3)]
    store.inventory.used(digests[0])
    new = put(store, 3)
    assert stored(store) == {digests[0], digests[2], new}
    store.inventory.used(digests[2])
    assert [entry.digest for entry in store.room.victims()] == [digests[0], new, digests[2]]


def test_what_was_popular_once_goes_in_the_end(make: Stores) -> None:
    store = make(3)
    digests = [put(store, n) for n in range(3)]
    for _ in range(3):
        store.inventory.used(digests[0])
    for n in range(3, 20):
        digests.append(put(store, n))
        store.inventory.used(digests[-2])
    assert stored(store) == set(digests[-3:])


def test_a_large_blob_goes_before_a_small_one(make: Stores) -> None:
    store = make(30)
    small, large = put(store, 0, SIZE), put(store, 1, 20 * SIZE)
    assert [entry.digest for entry in store.room.victims()] == [large, small]


def test_a_blob_that_is_larger_than_the_store(make: Stores) -> None:
    store = make(2)
    digest = put(store, 0)
    with pytest.raises(NoRoom, match="a blob of 20001 bytes is larger than the store may be"):
        begin(store, 1, 2 * SIZE + 1)
    assert stored(store) == {digest}


def test_a_store_is_made_small(make: Stores) -> None:
    store = make()
    digests = [put(store, n) for n in range(6)]
    assert [entry.digest for entry in store.room.shrink(2 * SIZE)] == digests[:4]
    assert store.room.shrink(2 * SIZE) == []
    assert store.room.usage().total == 2 * SIZE
    store.room.shrink(0)
    assert stored(store) == set()


def test_a_limit_that_was_lowered_is_kept_from_the_next_look_on(make: Stores) -> None:
    first = make()
    digests = [put(first, n) for n in range(6)]
    second = make(2)
    assert {entry.digest for entry in second.room.reserve()} == set(digests[:4])


# What does not go.


def test_what_is_being_read_stays(make: Stores) -> None:
    store = make(3)
    digests = [put(store, n) for n in range(3)]
    reader = store.open(digests[0])
    assert reader
    put(store, 3)
    assert stored(store) == {digests[0], digests[2], digest_of(content(3))}
    assert reader.read(0, SIZE) == content(0)
    reader.close()
    put(store, 4)
    assert digests[0] not in stored(store)


READ = """
import sys
from pathlib import Path
from addon.registry.digest import Digest
from addon.store.disk import Store
store = Store(Path(sys.argv[1]))
reader = store.open(Digest.parse(sys.argv[2]))
print(reader.size, flush=True)
sys.stdin.readline()
"""


def test_what_another_process_reads_stays(make: Stores) -> None:
    store = make(2)
    digests = [put(store, n) for n in range(2)]
    command = [sys.executable, "-c", READ, str(store.root), str(digests[0])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"%d\n" % SIZE
        put(store, 2)
        assert stored(store) == {digests[0], digest_of(content(2))}
        process.communicate(b"\n")
    put(store, 3)
    assert digests[0] not in stored(store)


def test_what_is_being_filled_stays_and_counts(make: Stores) -> None:
    store = make(4)
    digests = [put(store, n) for n in range(2)]
    filling = begin(store, 9, 2 * SIZE)
    filling.write(0, [content(9, 2 * SIZE)[:SIZE]])
    assert store.room.usage().total == 4 * SIZE
    new = put(store, 2)
    assert stored(store) == {digests[1], new}
    filling.write(SIZE, [bytes(SIZE)])
    filling.verify(2 * SIZE)
    filling.commit()
    assert stored(store) == {digests[1], new, filling.digest}


def test_there_is_no_room_beside_what_is_being_filled(make: Stores) -> None:
    store = make(4)
    filling = begin(store, 9, 3 * SIZE)
    filling.write(0, [b"9"])
    with pytest.raises(NoRoom, match="may go does not suffice: the rest is pinned or on its way in"):
        put(store, 2, 2 * SIZE)
    filling.abort()
    put(store, 2, 2 * SIZE)


def test_room_is_made_before_anything_is_written(make: Stores) -> None:
    store = make(2)
    digests = [put(store, n) for n in range(2)]
    ingest = begin(store, 2)
    assert stored(store) == set(digests)
    ingest.write(0, [b"2"])
    assert stored(store) == {digests[1]}
    ingest.abort()


def test_a_pinned_image_stays(make: Stores) -> None:
    store = make(3)
    config, layer = put(store, 0), put(store, 1)
    descriptors = [{"mediaType": "x", "digest": str(each), "size": SIZE} for each in (config, layer)]
    manifest = json.dumps({"mediaType": MANIFEST, "config": descriptors[0], "layers": descriptors[1:]}).encode()
    store.put(digest_of(manifest), manifest, ORIGIN)
    store.images.saw(ORIGIN, "library/alpine", "3", Descriptor(digest_of(manifest), len(manifest), MANIFEST))
    store.images.pin(Reference(ORIGIN, "library/alpine", "3"))
    pinned = {config, layer, digest_of(manifest)}
    size = SIZE - len(manifest)
    new = put(store, 2, size)
    for n in (3, 4):
        new = put(store, n, size)
        assert stored(store) == {*pinned, new}
        assert [entry.digest for entry in store.room.victims()] == [new]
    with pytest.raises(NoRoom, match="the rest is pinned"):
        put(store, 5, size + 1)
    assert stored(store) == {*pinned, new}
    store.images.unpin(Reference(ORIGIN, "library/alpine", "3"))
    put(store, 5, size + 1)
    assert read(store, digest_of(content(5, size + 1)))


def test_there_is_no_room_where_all_is_being_read(make: Stores) -> None:
    store = make(2)
    readers = [store.open(put(store, n)) for n in range(2)]
    with pytest.raises(NoRoom, match="would be 10000 bytes beyond its limit, and what could go is being read"):
        put(store, 2)
    assert len(stored(store)) == 2
    assert [path.name for path in store.layout.ingests.iterdir()] == []
    for reader in readers:
        assert reader
        reader.close()
    put(store, 2)


# What goes first.


def test_quarantine_goes_before_leftovers_and_leftovers_before_blobs(make: Stores) -> None:
    store = make(5)
    digest = put(store, 0)
    for number in range(2):
        bad = put(store, 10 + number)
        store.layout.blob(bad).write_bytes(bytes(SIZE))
        assert not store.verify(bad)
    newer, older = sorted(store.layout.quarantine.iterdir())[::-1]
    os.utime(older, (1, 1))
    left = store.ingest(digest_of(content(20)), ORIGIN)
    left.announce(SIZE)
    left.write(0, [bytes(SIZE)])
    left.keep()
    assert store.room.usage().quarantine == 2 * SIZE
    assert store.room.usage().ingests == SIZE
    assert store.room.reserve(SIZE) == []
    assert store.room.reserve(2 * SIZE) == []
    assert list(store.layout.quarantine.iterdir()) == [newer]
    assert store.kept(left.digest, ORIGIN) == SIZE
    assert store.room.reserve(4 * SIZE) == []
    assert list(store.layout.quarantine.iterdir()) == []
    assert store.kept(left.digest, ORIGIN) == 0
    assert stored(store) == {digest}
    assert [entry.digest for entry in store.room.reserve(4 * SIZE + 1)] == [digest]


def test_what_vanishes_from_quarantine_meanwhile_is_no_trouble(make: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(1)
    (store.layout.quarantine / "bad").write_bytes(bytes(SIZE))
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter([*iterdir(path), path / "gone"]))
    assert store.room.reserve(SIZE) == []
    assert not (store.layout.quarantine / "bad").exists()


# What is in the way.


def test_what_cannot_be_removed_is_passed_by(make: Stores) -> None:
    store = make(3)
    digests = [put(store, n) for n in range(3)]
    store.path(digests[0]).unlink()
    store.path(digests[0]).mkdir()
    assert [entry.digest for entry in store.room.reserve(SIZE)] == [digests[1]]
    with pytest.raises(NoRoom, match=r"what could go cannot be removed .*Is a directory"):
        store.room.reserve(3 * SIZE)
    # The row of what went is gone all the same.
    assert [entry.digest for entry in store.inventory.entries()] == [digests[0]]


def test_rows_of_what_went_are_gone_whatever_happens(make: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(3)
    digests = [put(store, n) for n in range(3)]
    unlink = Path.unlink

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        if path == store.path(digests[1]):
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.room.reserve(2 * SIZE)
    assert stored(store) == set(digests[1:])


def test_a_link_in_a_blobs_place_goes_and_what_it_leads_to_stays(make: Stores, tmp_path: Path) -> None:
    store = make()
    digest = put(store, 0)
    target = tmp_path / "target"
    store.path(digest).rename(target)
    store.path(digest).symlink_to(target)
    assert store.remove([digest]) == [digest]
    assert not store.path(digest).is_symlink()
    assert target.read_bytes() == content(0)


def test_one_that_takes_its_place_meanwhile_and_is_read_stays(make: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make()
    digest = put(store, 0)
    flock = fcntl.flock
    readers: list[BlobReader | None] = []

    def replaced_before(fd: int, operation: int) -> None:
        if not readers and operation & fcntl.LOCK_EX:
            fresh = store.root / "fresh"
            fresh.write_bytes(content(0))
            fresh.replace(store.path(digest))
            readers.append(None)
            readers[0] = store.open(digest)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", replaced_before)
    assert store.remove([digest]) == []
    assert readers[0]
    assert store.path(digest).exists()
    readers[0].close()
    assert store.remove([digest]) == [digest]


# How much work it is.


def test_room_in_a_large_store_is_made_with_little_work(make: Stores) -> None:
    assert work(make(), 20_000) < 2 * work(make(), 200)


def work(store: Store, rows: int) -> int:
    """How many steps SQLite takes to make room in a store of so many blobs."""
    catalog = store.inventory._catalog
    with catalog.writing() as db:
        db.execute("DELETE FROM blobs")
        db.executemany(
            "INSERT INTO blobs (digest, size, changed, stored, used, uses, priority, verified)"
            " VALUES (?, 10, 0, 0, 0, 0, ?, 0)",
            ((f"sha256:{number:064x}", number * 7 % 1000) for number in range(rows)),
        )
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with catalog.reading() as db:
        db.set_progress_handler(step, 1)
        assert len(store.room.shrink(rows * 10 - 1000)) == 100
        db.set_progress_handler(None, 1)
    return steps
