"""What a store needs while it is used, from the start of a proxy to its end; all but the scrub."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from addon.registry.reference import Reference
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.room import Limits
from addon.store.tally import Count
from addon.transfer import upkeep as module
from addon.transfer.upkeep import Upkeep

from ..doubles import BOUND
from ..store.blobs import digest_of, put
from ..store.pulled import Pulls
from .calls import Calls, threads, until

DAY = 24 * 3600


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(module, "INDEX_SHARE", 1.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
async def upkeep(tidy: None, store: Store) -> AsyncIterator[Upkeep]:
    upkeep = Upkeep(store)
    yield upkeep
    await upkeep.stop()
    assert threads() == []


@pytest.fixture
async def flushes(monkeypatch: pytest.MonkeyPatch, store: Store) -> Calls:
    return Calls(monkeypatch, store, "flush")


async def test_uses_and_counts_are_written_down(upkeep: Upkeep, store: Store, flushes: Calls) -> None:
    digest = put(store, b"a layer")
    other = Store(store.root)
    upkeep.start()
    await flushes.more(2)
    store.inventory.used(digest)
    store.tally.add(Count.HITS)
    await until(lambda: [entry.uses for entry in other.inventory.entries()] == [1], flushes)
    await until(lambda: other.tally.totals()[Count.HITS] == 1, flushes)
    other.close()
    assert flushes.threads == {"pulltap-upkeep_0"}


async def test_the_index_is_kept(upkeep: Upkeep, store: Store, flushes: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Calls(monkeypatch, store, "write_index")
    Pulls(store).image("alpine", b"a layer")
    upkeep.start()
    await until(lambda: "library/alpine:latest" in store.layout.index.read_text(), flushes)
    # As long as nothing changes, nothing is to be found out.
    await flushes.more(2)
    before = writes.count
    await flushes.more(5)
    assert writes.count == before
    store.images.forget(store.images.all())
    upkeep.changed()
    await until(lambda: "alpine" not in store.layout.index.read_text(), flushes)


async def test_a_blob_that_comes_or_goes_changes_the_index(upkeep: Upkeep, store: Store, flushes: Calls) -> None:
    pulls = Pulls(store)
    pulls.image("alpine", b"a layer")
    upkeep.start()
    await until(lambda: "alpine" in store.layout.index.read_text(), flushes)
    store.remove([digest_of(b"a layer")])
    await until(lambda: "alpine" not in store.layout.index.read_text(), flushes)
    put(store, b"a layer")
    await until(lambda: "alpine" in store.layout.index.read_text(), flushes)


async def test_where_that_takes_long_it_is_done_less_often(
    upkeep: Upkeep, store: Store, flushes: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INDEX_SHARE", 1e-9)
    writes = Calls(monkeypatch, store, "write_index")
    upkeep.start()
    await writes.reached(1)
    for _ in range(5):
        upkeep.changed()
        await flushes.more()
    assert writes.count == 1


async def test_what_others_did_in_the_folders_is_found_at_the_start_and_now_and_then(
    upkeep: Upkeep, store: Store, flushes: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known() -> set[str]:
        return store.inventory.digests()

    reconciled = Calls(monkeypatch, store, "reconcile")
    by_hand, later = digest_of(b"by hand"), digest_of(b"later")
    gone = put(store, b"gone")
    store.path(by_hand).write_bytes(b"by hand")
    store.path(gone).unlink()
    past = time.time() - 10
    with store._catalog.writing() as db:
        db.execute("UPDATE blobs SET verified = ?", (past,))
    upkeep.start()
    await until(lambda: known() == {str(by_hand)}, flushes)
    store.path(later).write_bytes(b"later")
    await flushes.more(5)
    assert reconciled.count == 1
    assert known() == {str(by_hand)}
    monkeypatch.setattr(module, "RECONCILE_SECONDS", 0.0)
    await until(lambda: known() == {str(by_hand), str(later)}, flushes)


async def test_a_bad_blob_is_kept_for_a_week(
    upkeep: Upkeep, store: Store, flushes: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    young = store.layout.quarantine / "young"
    young.touch()
    upkeep.start()
    await flushes.more(2)
    assert young.exists()
    monkeypatch.setattr(module, "RECONCILE_SECONDS", 0.0)
    monkeypatch.setattr(module, "QUARANTINE_SECONDS", -1.0)
    await until(lambda: not young.exists(), flushes)
    assert module.SCRUB_SECONDS == 7 * DAY


async def test_the_limits_are_kept_whoever_filled_the_store(upkeep: Upkeep, store: Store, flushes: Calls) -> None:
    store.room.limits = Limits(1000)
    for n in range(3):
        content = bytes([n]) * 400
        store.path(digest_of(content)).write_bytes(content)
    upkeep.start()
    await until(lambda: store.inventory.total() == 800, flushes)
    assert sum(1 for path in store.layout.blobs.rglob("*") if path.is_file()) == 2


async def test_what_is_pinned_stays_even_beyond_the_limits(
    upkeep: Upkeep, store: Store, flushes: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    digest = Pulls(store).image("alpine", bytes(2000))
    store.images.pin(Reference.parse("alpine"))
    store.room.limits = Limits(1000)
    upkeep.start()
    await until(lambda: "beyond its limit" in caplog.text, flushes)
    assert store.path(digest).exists()
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_what_has_long_gone_is_forgotten(upkeep: Upkeep, store: Store, flushes: Calls) -> None:
    gone = digest_of(b"gone")
    store.provenance.record("ghcr.io", "a/b", gone)
    Pulls(store).passed("alpine", b'{"mediaType":"x"}', stored=False)
    with store._catalog.writing() as db:
        db.execute("UPDATE provenance SET seen = seen - ?", (31 * DAY,))
        db.execute("UPDATE tags SET seen = seen - ?", (31 * DAY,))
    upkeep.start()
    await until(lambda: store.provenance.unclaimed(gone) and not store.images.all(), flushes)


@pytest.mark.parametrize("error", [StoreError("no catalogue"), OSError("no disk")])
async def test_what_fails_is_tried_again(
    upkeep: Upkeep,
    store: Store,
    flushes: Calls,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    caplog.set_level(logging.INFO)
    flushes.error = error
    digest = put(store, b"a layer")
    store.inventory.used(digest)
    Pulls(store).image("alpine", b"a layer")
    upkeep.start()
    # All else is done all the same.
    await until(lambda: "alpine" in store.layout.index.read_text(), flushes)
    await flushes.more(3)
    assert f"upkeep of the store: {error}" in caplog.text
    assert [entry.uses for entry in store.inventory.entries() if entry.digest == digest] == [0]
    flushes.error = None
    await until(lambda: max(entry.uses for entry in store.inventory.entries()) == 1, flushes)


# Beginning and end.


def names() -> list[str]:
    return sorted(task.get_name() for task in asyncio.all_tasks() if "of the store" in task.get_name())


async def test_it_begins_once_and_leaves_nothing(upkeep: Upkeep, flushes: Calls) -> None:
    upkeep.start()
    upkeep.start()
    await flushes.more()
    assert names() == ["scrub of the store", "upkeep of the store"]
    await upkeep.stop()
    await upkeep.stop()
    assert names() == []
    assert threads() == []
    before = flushes.count
    await asyncio.sleep(0)
    assert flushes.count == before


async def test_one_that_never_began_ends_as_well(upkeep: Upkeep) -> None:
    await upkeep.stop()
    assert names() == []


async def test_it_ends_before_its_first_turn(upkeep: Upkeep) -> None:
    upkeep.start()
    await upkeep.stop()
    assert names() == []


async def test_it_does_not_wait_for_its_next_turn(
    upkeep: Upkeep, flushes: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 3600.0)
    upkeep.start()
    await flushes.reached(1)
    async with asyncio.timeout(BOUND):
        await upkeep.stop()


async def test_what_is_being_done_comes_to_its_end_and_nothing_more_begins(
    upkeep: Upkeep, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, begun, loop = threading.Event(), asyncio.Event(), asyncio.get_running_loop()
    ended = []
    reconcile = store.reconcile

    def slowly() -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(BOUND)
        reconcile()
        ended.append(True)

    monkeypatch.setattr(store, "reconcile", slowly)
    later = Calls(monkeypatch, store, "write_index")
    upkeep.start()
    await begun.wait()
    stopping = asyncio.create_task(upkeep.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    go_on.set()
    await stopping
    assert ended == [True]
    assert later.count == 0


async def test_no_thread_is_of_a_low_priority(upkeep: Upkeep, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would hold up everybody else while it waits for the processor, with Python's lock in its hands.
    found: list[int] = []
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    flush = store.flush

    def look() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        flush()

    monkeypatch.setattr(store, "flush", look)
    flushes = Calls(monkeypatch, store, "flush")
    upkeep.start()
    await flushes.more(2)
    assert set(found) == {usual}


async def test_several_processes_keep_one_store(upkeep: Upkeep, store: Store, flushes: Calls) -> None:
    other = Store(store.root)
    second = Upkeep(other)
    upkeep.start()
    second.start()
    Pulls(other).image("alpine", b"a layer")
    Pulls(store).image("busybox", b"a layer")

    def both() -> bool:
        return all(name in store.layout.index.read_text() for name in ("alpine", "busybox"))

    with contextlib.ExitStack() as ends:
        ends.callback(other.close)
        await until(both, flushes)
        await second.stop()
        assert "pulltap-upkeep_0" in threads()


def test_threads_can_be_counted() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="pulltap-test") as executor:
        assert executor.submit(threads).result() == ["pulltap-test_0"]
