import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from addon.registry.digest import Digest
from addon.store import room as module
from addon.store.errors import NoRoom
from addon.store.ingest import _STEP as STEP
from addon.store.inventory import Stamp
from addon.store.room import reserved

from .blobs import ORIGIN, digest_of
from .rooms import SIZE, Stores, begin, content, finish, locked, occupied, put, stored

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path / "store")
    yield stores
    stores.close()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes the store's disk as large as so many blobs; nothing else takes any of it."""

    def disk(blobs: float) -> None:
        def usage(path: Path) -> Disk:
            assert path == tmp_path / "store"
            total = int(blobs * SIZE)
            return Disk(total, occupied(path), total - occupied(path))

        monkeypatch.setattr(shutil, "disk_usage", usage)

    return disk


# The disk.


def test_some_of_the_disk_stays_free(make: Stores, disk: Callable[[float], None]) -> None:
    store = make(min_free=2 * SIZE)
    disk(5)
    digests = [put(store, n) for n in range(6)]
    assert stored(store) == set(digests[3:])
    disk(4)
    assert [entry.digest for entry in store.room.reserve()] == [digests[3]]
    disk(3)
    with pytest.raises(NoRoom, match="bytes beyond what its disk leaves it, and what may go does not suffice"):
        store.room.reserve(SIZE + 1)


def test_the_disk_counts_without_a_minimum_as_well(make: Stores, disk: Callable[[float], None]) -> None:
    store = make()
    disk(3)
    digests = [put(store, n) for n in range(4)]
    assert stored(store) == set(digests[1:])


def test_what_is_still_to_be_written_is_not_free(make: Stores, disk: Callable[[float], None]) -> None:
    store = make()
    disk(5)
    filling = begin(store, 9, 3 * SIZE)
    filling.write(0, [bytes(SIZE)])
    # The block that is begun may be counted or not.
    assert store.room.usage().free == pytest.approx(2 * SIZE, abs=4096)
    filling.abort()
    assert store.room.usage().free == 5 * SIZE


def test_a_hole_is_still_to_be_written(make: Stores) -> None:
    store = make()
    size = 1 << 22
    filling = store.ingest(digest_of(b"sparse"), ORIGIN)
    filling.announce(size)
    filling.write(size - 4096, [bytes(4096)])
    wanted, unwritten = reserved(store.layout.ingests)
    assert wanted == size
    assert unwritten > size // 2
    filling.abort()


def test_a_row_without_a_file_makes_no_room_on_the_disk(make: Stores, disk: Callable[[float], None]) -> None:
    store = make()
    digests = [put(store, n) for n in range(3)]
    store.path(digests[0]).unlink()
    disk(2)
    assert [entry.digest for entry in store.room.reserve(SIZE)] == digests[:2]
    assert stored(store) == {digests[2]}


# Several at once.


def test_of_an_unknown_size_a_step_is_claimed_at_a_time(make: Stores) -> None:
    store = make(max_size=2 * STEP)
    digests = {put(store, n) for n in range(2)}
    filling = store.ingest(digest_of(b"whatever"), ORIGIN)
    assert store.room.usage().ingests == 0
    for size in (SIZE, SIZE, STEP - 3 * SIZE):
        filling.write(filling.offset, [bytes(size)])
        assert store.room.usage().ingests == STEP
    other = begin(store, 9, STEP - 2 * SIZE)
    other.write(0, [b"9"])
    assert stored(store) == digests
    assert store.room.usage().total == 2 * STEP
    filling.write(filling.offset, [bytes(SIZE)])
    # The next step is claimed before its first byte is written.
    with pytest.raises(NoRoom):
        filling.write(STEP, [b"more"])
    assert store.room.usage().ingests == 2 * STEP - 2 * SIZE
    other.abort()
    filling.write(STEP, [b"more"])
    assert store.room.usage().ingests == 2 * STEP
    assert store.room.usage().total == 2 * STEP
    filling.abort()
    assert store.room.usage().ingests == 0


def test_a_blob_is_reckoned_with_until_its_row_is_there(make: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make()
    ingest = store.ingest(digest_of(content(0)), ORIGIN)
    ingest.write(0, [content(0)])
    ingest.verify(None)
    seen = []
    verified = store.inventory.verified

    def verified_late(digest: Digest, stamp: Stamp) -> None:
        seen.append(store.room.usage().total)
        verified(digest, stamp)

    monkeypatch.setattr(store.inventory, "verified", verified_late)
    ingest.commit()
    assert seen == [STEP]
    assert store.room.usage().total == SIZE


def test_whoever_comes_first_gets_the_room(make: Stores) -> None:
    store = make(3)
    first, second = begin(store, 1, 2 * SIZE), begin(store, 2, 2 * SIZE)
    second.write(0, [content(2, 2 * SIZE)])
    with pytest.raises(NoRoom):
        first.write(0, [b"1"])
    assert store.room.usage().total == 2 * SIZE
    second.verify(2 * SIZE)
    second.commit()
    finish(first, 1, 2 * SIZE)
    assert stored(store) == {first.digest}


def test_a_blob_that_is_committed_meanwhile_counts_once(make: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(3)
    digest = put(store, 0)
    ingest = begin(store, 1)
    ingest.write(0, [content(1)])
    ingest.verify(SIZE)
    real = module.reserved

    def committed_behind(folder: Path) -> tuple[int, int]:
        found = real(folder)
        if ingest.digest not in stored(store):
            ingest.commit()
        return found

    monkeypatch.setattr(module, "reserved", committed_behind)
    assert store.room.usage().total == 2 * SIZE
    assert stored(store) == {digest, ingest.digest}


def test_two_do_not_make_the_same_room_twice(make: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(3)
    digests = [put(store, n) for n in range(3)]
    waiting = threading.Event()
    flock = fcntl.flock

    def told(fd: int, operation: int) -> None:
        waiting.set()
        flock(fd, operation)

    with ThreadPoolExecutor(1) as pool:
        with locked(store):
            monkeypatch.setattr(fcntl, "flock", told)
            made = pool.submit(store.room.reserve, SIZE)
            assert waiting.wait(60)
            # What another process does that makes room.
            for digest in digests[2:]:
                store.path(digest).unlink()
            store.inventory.drop(digests[2:])
        assert made.result(60) == []
    assert stored(store) == set(digests[:2])


def test_who_looks_keeps_nobody_from_filling(make: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(1)
    flock = fcntl.flock
    looking: list[int] = []

    def looked_at(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX | fcntl.LOCK_NB and not looking:
            (lease,) = store.layout.ingests.iterdir()
            looking.append(os.open(lease, os.O_RDONLY))
            flock(looking[0], fcntl.LOCK_SH)
        elif operation == fcntl.LOCK_UN:
            os.close(looking[0])
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", looked_at)
    put(store, 0)
    assert looking


def test_who_makes_room_keeps_nobody_from_filling(make: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(1)
    flock = fcntl.flock
    leases: list[Path] = []

    def room_made(fd: int, operation: int) -> None:
        if not leases and (made := list(store.layout.ingests.iterdir())):
            leases.extend(made)
            with pytest.raises(NoRoom):
                store.room.reserve(2 * SIZE)
            assert leases[0].exists()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", room_made)
    put(store, 0)
    assert len(leases) == 1


FILL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from addon.store.disk import Store
from addon.store.room import Limits
from tests.store.rooms import SIZE, put
store = Store(Path(sys.argv[1]), Limits(max_size=8 * SIZE))
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    put(store, int(sys.argv[2]) * 1000 + number)
store.close()
"""


def test_processes_do_not_overshoot_together(make: Stores) -> None:
    store = make(8)
    root = str(Path(__file__).parents[2])
    processes = []
    for number in range(4):
        command = [sys.executable, "-P", "-c", FILL, str(store.root), str(number), root]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write(b"\n")
            process.stdin.flush()
        most = 0
        while any(process.poll() is None for process in processes):
            with locked(store):
                most = max(most, occupied(store.root))
        assert [process.returncode for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert 4 * SIZE < most <= 8 * SIZE
    # Each makes room for its own blob only.
    assert 4 * SIZE <= occupied(store.root) <= 8 * SIZE
    assert len(stored(store)) * SIZE == store.room.usage().total == occupied(store.root)
