"""What arrives, on its way to the disk: in batches, with an end to what waits, and to what is waited for."""

import asyncio

import pytest

from addon.store.disk import Store
from addon.transfer import fill
from addon.transfer import stretch as stretches
from addon.transfer import writing as module
from addon.transfer.followed import State
from addon.transfer.writing import BATCH, BOUND, DiskTrouble

from .. import doubles
from .filling import CONTENT, Gate, Start, broken, cut, ingests, sized, stored


async def test_upstream_waits_for_the_disk(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(BOUND + 2 * BATCH)
    filling = start(content).begin(200, sized(content))
    gate = Gate(filling.fill, "write", monkeypatch)
    assert filling.stretch
    filling.send(content[:BATCH])
    await gate.entered()
    filling.send(content[BATCH : BATCH + BOUND])
    ready = asyncio.create_task(filling.stretch.ready())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not ready.done(), "upstream is read although so much waits for the disk"
    gate.open.set()
    await asyncio.wait_for(ready, doubles.BOUND)
    filling.send(content[BATCH + BOUND :])
    filling.exchange.finish()
    await filling.over()
    assert filling.fill.state is State.VERIFIED


async def test_who_waits_for_the_disk_is_let_go_when_the_fill_breaks(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = start().begin()
    gate = Gate(filling.fill, "write", monkeypatch)
    filling.send(bytes(BOUND))
    assert filling.stretch
    ready = asyncio.create_task(filling.stretch.ready())
    await gate.entered()
    filling.exchange.finish("gone")
    await asyncio.wait_for(ready, doubles.BOUND)
    gate.open.set()
    await filling.over()


# What comes past mitmproxy's layers.


async def test_what_is_put_is_the_blob(store: Store, start: Start) -> None:
    content = CONTENT * 60
    filling = start(content).begin(200, sized(content))
    # The layers bring what came with the head, and the end.
    filling.send(content[:1000])
    filling.put(*cut(content[1000:-1], 70_001))
    filling.send(content[-1:])
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == content


async def test_more_is_put_than_announced(store: Store, start: Start) -> None:
    filling = start().begin(size=len(CONTENT))
    filling.put(CONTENT, b"more")
    filling.exchange.finish()
    await filling.over()
    assert filling.fill.reason == f"{filling.fill.digest}: more than {len(CONTENT)} bytes came"
    assert not ingests(store)


async def test_there_is_no_room_while_so_much_waits_for_the_disk(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(BOUND + 2 * BATCH)
    filling = start(content).begin(200, sized(content))
    gate = Gate(filling.fill, "write", monkeypatch)
    assert filling.stretch
    filling.put(content[:BOUND])
    await gate.entered()
    assert filling.stretch.room() is None
    gate.open.set()
    await asyncio.wait_for(filling.stretch.ready(), doubles.BOUND)
    filling.put(content[BOUND:])
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == content


async def test_basins_are_filled_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    basins: list[bytearray] = []
    monkeypatch.setattr(stretches, "_basins", basins)
    content = CONTENT * 60
    filling = start(content).begin(200, sized(content))
    filling.put(content[:-1])
    filling.send(content[-1:])
    filling.exchange.finish()
    await filling.over()
    used = [id(basin) for basin in basins]
    assert used
    filling = start(CONTENT).begin(200, sized(CONTENT))
    filling.put(CONTENT)
    assert len(basins) == len(used) - 1
    filling.exchange.finish()
    await filling.over()
    assert {id(basin) for basin in basins} == set(used)


# A disk that does not come to an end.


async def test_a_disk_that_is_slow_breaks_the_fill_and_not_what_is_being_written(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "SLOW_SECONDS", 0.01)
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)
    gate = Gate(filling.fill, "write", monkeypatch)
    filling.send(CONTENT[:1000])
    # Those who read along are told while the disk is still at it.
    assert await broken(body) == (b"", "the disk is slow: it takes more than 0.01 s for 1000 bytes")
    assert filling.fill.interrupted
    assert [type(error) for error in filling.troubles] == [DiskTrouble]
    assert filling.task
    assert not filling.task.done(), "the file was closed under the thread that writes it"
    gate.open.set()
    await filling.over()
    assert gate.fault is None
    # It came late, and is not lost.
    assert [path.read_bytes() for path in ingests(store)] == [CONTENT[:1000]]


async def test_a_disk_that_does_not_give_back_what_was_written(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEP_TIMES", 0.002)
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)
    gate = Gate(filling.fill, "absorb", monkeypatch)
    filling.send(CONTENT[:1000])
    assert (await broken(body))[1] == "the disk is slow: it does not give back within 0.01 s what was written"
    assert filling.fill.interrupted
    gate.open.set()
    await filling.over()
