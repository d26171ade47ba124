"""Fills where the store takes nothing in, has no room, or is being filled by another process."""

import asyncio
import errno
import itertools
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from mitmproxy.test import taddons

from addon.store.disk import Store
from addon.store.ingest import Ingest
from addon.store.room import Limits, Room
from addon.transfer import fill as fill_module
from addon.transfer import fills as module
from addon.transfer import trouble
from addon.transfer.fills import Fills, NotStorable, Overtaken
from addon.transfer.followed import State
from addon.transfer.remote import RemoteFill

from ..doubles import BOUND, FakeSource, Question, digest_of
from ..others import Owner
from .filling import CONTENT, ORIGIN, Gate, broken, ingests, read
from .starting import DIGEST, SIZED, attempted, joined, settled, starting, wanted

SIZE = len(CONTENT)


def full(*_: object, **__: object) -> Ingest:
    raise OSError(errno.ENOSPC, "No space left on device")


async def not_storable(fills: Fills, why: str, size: int | None = None, /, **headers: str) -> Question:
    """Upstream gives the blob, and it cannot be stored for that reason; what was asked."""
    source = FakeSource()
    start = starting(fills, source, wanted(), size)
    question = await source.question()
    question.begin(200, **(headers or SIZED))
    with pytest.raises(NotStorable, match=f"^{why}$"):
        await asyncio.wait_for(start, BOUND)
    assert question.exchange.aborted
    assert fills.active(ORIGIN, DIGEST) is None
    return question


async def test_a_store_that_takes_nothing(fills: Fills, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ingest", full)
    await not_storable(fills, "the disk is full")
    assert fills.trouble.reason == "the disk is full"
    # Nobody is asked in vain while that lasts.
    source = FakeSource()
    with pytest.raises(NotStorable, match="the disk is full"):
        await fills.start(wanted(), source, None)
    assert not source.asked


async def test_no_file_that_can_be_opened_leaves_no_ingest(
    fills: Fills, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def many(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as context:
        context.setattr(os, "dup", many)
        await not_storable(fills, "too many files are open")
    assert not ingests(store)
    assert fills.trouble.reason == "too many files are open"


async def test_a_disk_that_fails_before_the_fill_began(
    fills: Fills, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await attempted(fills, CONTENT + b"more")
    monkeypatch.setattr(Ingest, "go_on_from", full)
    await not_storable(fills, "the disk is full", len(CONTENT))
    assert [path.read_bytes() for path in ingests(store)] == [CONTENT + b"more"]


async def ends(fills: Fills) -> None:
    """Wait until the store is well."""
    assert fills.trouble._task
    await asyncio.wait_for(fills.trouble._task, BOUND)
    assert not fills.trouble.reason


async def test_it_is_stored_again_once_the_disk_is_well(
    fills: Fills, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trouble, "PROBE_SECONDS", 0)
    caplog.set_level(logging.WARNING)
    with monkeypatch.context() as context:
        context.setattr(store, "ingest", full)
        # That is where it is tried again.
        context.setattr(Room, "reserve", full)
        await not_storable(fills, "the disk is full")
        for _ in range(3):
            with pytest.raises(NotStorable):
                await fills.start(wanted(), FakeSource(), None)
    await ends(fills)
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is stored, and blobs pass through, until this is over: the disk is full",
        "blobs are stored again",
    ]
    source = FakeSource()
    start = starting(fills, source, wanted())
    (await source.question()).answer(200, CONTENT, **SIZED)
    assert await read((await joined(start)).fill.body(None)) == CONTENT


async def test_nobody_is_asked_for_what_the_disk_will_not_take(
    fills: Fills, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "check_writable", full)
    source = FakeSource()
    with pytest.raises(NotStorable, match="the disk is full"):
        await fills.start(wanted(), source, None)
    assert fills.trouble.reason == "the disk is full"
    assert not fills.trouble.stuck
    assert not source.asked


async def test_a_disk_that_is_stuck_keeps_nobody_waiting(
    fills: Fills, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "PROBE_SECONDS", 0)
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.01)
    released = threading.Event()
    usual = store.check_writable

    def stuck(*size: int, sync: bool = False) -> None:
        assert released.wait(BOUND)
        usual(*size, sync=sync)

    monkeypatch.setattr(store, "check_writable", stuck)
    source = FakeSource()
    for _ in range(2):
        with pytest.raises(NotStorable, match=r"the disk is slow: it takes more than 0\.01 s for an empty file"):
            await asyncio.wait_for(fills.start(wanted(), source, None), BOUND)
    assert fills.trouble.stuck
    assert not source.asked
    released.set()
    await ends(fills)
    assert not fills.trouble.stuck


async def test_a_disk_that_fills_up_on_the_way(fills: Fills, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    question.begin(200, **SIZED)
    fill = (await joined(start)).fill
    body = fill.body(None)
    monkeypatch.setattr(Ingest, "write", full)
    question.send(CONTENT)
    assert (await broken(body))[0] == b""
    assert fill.interrupted
    assert fills.trouble.reason == "the disk is full"
    await settled(fills)


async def test_nobody_waits_for_his_turn_behind_a_stuck_disk(
    store: Store, mitmproxy: taddons.context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill_module, "SLOW_SECONDS", 0.01)
    fills = Fills(store, most=1, connections=1)
    source, waiting = FakeSource(), FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    question.begin(200, **SIZED)
    fill = (await joined(start)).fill
    stuck = Gate(fill, "write", monkeypatch)
    others = [starting(fills, waiting, wanted(digest=digest_of(content))) for content in (b"one", b"two")]
    await asyncio.sleep(0)
    question.send(CONTENT[:1000])
    for other in others:
        with pytest.raises(NotStorable, match=r"the disk is slow: it takes more than 0\.01 s for 1000 bytes"):
            await asyncio.wait_for(other, BOUND)
    # Nor does anybody who comes later: the one place is not given back before the disk is.
    with pytest.raises(NotStorable, match="the disk is slow"):
        await asyncio.wait_for(fills.start(wanted(), waiting, None), BOUND)
    assert fills._running
    assert not waiting.asked
    stuck.open.set()
    await settled(fills)
    await fills.close()


# Room.


@pytest.fixture
async def small(tidy: None, store: Store, mitmproxy: taddons.context) -> AsyncIterator[Fills]:
    """Fills of a store that is half as large as the blob."""
    little = Store(store.root, Limits(max_size=SIZE // 2))
    fills = Fills(little, most=1, connections=1)
    yield fills
    await fills.close()
    fills._progress = None
    little.close()


async def test_a_blob_that_is_larger_than_the_store(small: Fills, store: Store) -> None:
    await not_storable(small, f"a blob of {SIZE} bytes is larger than the store may be \\({SIZE // 2} bytes\\)")
    assert not small.trouble.reason
    assert not ingests(store)
    source = FakeSource()
    start = starting(small, source, wanted(digest=digest_of(b"little")))
    (await source.question()).answer(200, b"little", Content_Length="6")
    assert await read((await joined(start)).fill.body(None)) == b"little"


async def test_a_blob_that_turns_out_to_be_too_large(
    small: Fills, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROBE_BYTES", 1)
    source = FakeSource()
    start = starting(small, source, wanted())
    question = await source.question()
    question.begin(200)
    fill = (await joined(start)).fill
    body = fill.body(None)
    question.send(CONTENT)
    content, why = await broken(body)
    assert content == b""
    assert "beyond its limit" in why
    assert fill.interrupted
    await settled(small)
    await ends(small)
    assert not ingests(store)


async def test_no_room_for_anything(fills: Fills, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    question.begin(200, **SIZED)
    fill = (await joined(start)).fill
    store.room.limits = Limits(min_free=1 << 60)
    question.send(CONTENT)
    await settled(fills)
    assert fill.interrupted
    async with asyncio.timeout(BOUND):
        for _ in itertools.takewhile(lambda _: not fills.trouble.reason, itertools.count()):
            await asyncio.sleep(0)
    assert "beyond what its disk leaves it" in fills.trouble.reason


# Another process.


@pytest.fixture
def other(store: Store) -> Iterator[Owner]:
    """Another process that has begun to fill the blob."""
    owner = Owner(store.root, DIGEST, ORIGIN)
    yield owner
    owner.close()


async def test_a_blob_that_another_process_fills_is_not_filled_twice(fills: Fills, store: Store, other: Owner) -> None:
    source = FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    question.begin(200, **SIZED)
    with pytest.raises(Overtaken):
        await asyncio.wait_for(start, BOUND)
    assert question.exchange.aborted
    assert not fills.trouble.reason
    assert fills.active(ORIGIN, DIGEST) is None
    remote = fills.elsewhere(ORIGIN, DIGEST)
    assert isinstance(remote, RemoteFill)
    assert fills.elsewhere(ORIGIN, DIGEST) is remote, "it is looked at by each who follows"
    assert fills.elsewhere("other.example", DIGEST) is None
    remote.repositories.add("library/alpine")
    assert fills.repositories(ORIGIN, DIGEST) == {"library/alpine"}
    body = remote.body(None)
    other.write(CONTENT)
    other.commit()
    assert await read(body) == CONTENT
    async with asyncio.timeout(BOUND):
        while fills._looking:
            await asyncio.wait(fills._looking)
    await asyncio.sleep(0)
    assert fills.elsewhere(ORIGIN, DIGEST) is None
    assert fills.repositories(ORIGIN, DIGEST) == ()
    # What was confirmed here while it was under way is written down here.
    assert store.provenance.belongs(ORIGIN, "library/alpine", DIGEST)


async def test_who_takes_over_goes_on_behind_a_process_that_was_killed(
    fills: Fills, store: Store, other: Owner
) -> None:
    other.write(CONTENT[:1000])
    remote = fills.elsewhere(ORIGIN, DIGEST)
    assert remote
    remote.repositories.add("library/debian")
    body = remote.body(None)
    assert body.read() == CONTENT[:1000]
    other.die()
    assert (await broken(body))[0] == b""
    assert remote.interrupted
    source = FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    assert str(question) == "GET /blob 1000-"
    question.answer(206, CONTENT[1000:], Content_Range=f"bytes 1000-{SIZE - 1}/{SIZE}")
    assert await read((await joined(start)).fill.body(None)) == CONTENT
    await settled(fills)
    assert not store.provenance.belongs(ORIGIN, "library/debian", DIGEST), "that one never came to its end"


async def test_closing_while_another_process_is_followed(
    store: Store, mitmproxy: taddons.context, other: Owner
) -> None:
    fills = Fills(store, most=1, connections=1)
    remote = fills.elsewhere(ORIGIN, DIGEST)
    assert remote
    body = remote.body(None)
    await asyncio.wait_for(fills.close(), BOUND)
    assert await broken(body) == (b"", "the proxy is shutting down")
    assert remote.state is State.BROKEN


async def test_too_many_files_to_follow(fills: Fills, other: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    def many(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as context:
        context.setattr(os, "dup", many)
        with pytest.raises(OSError, match="Too many open files"):
            fills.elsewhere(ORIGIN, DIGEST)
    assert fills.elsewhere(ORIGIN, DIGEST)
