"""Fills that break: what their followers get, and what is left on disk."""

import asyncio
import errno

import pytest

from addon.registry.ranges import Span
from addon.store.disk import Store
from addon.store.errors import NoRoom
from addon.transfer.followed import State

from ..doubles import digest_of
from .filling import CONTENT, Gate, Start, broken, ingests, read, sized, stored


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
async def test_the_wrong_bytes(store: Store, start: Start, *, known: bool) -> None:
    filling = start().begin(200, sized(CONTENT) if known else {})
    bodies = [filling.fill.body(None), filling.fill.body(Span(len(CONTENT) - 1, len(CONTENT)))]
    filling.send(b"\0" + CONTENT[:-1])
    filling.exchange.finish()
    await filling.over()
    (most, why), (last, _) = [await broken(body) for body in bodies] if known else [await broken(bodies[0])] * 2
    assert len(most) == len(CONTENT) - known
    assert last == b"" or not known
    assert f"received have the digest sha256:{digest_of(bytes(1) + CONTENT[:-1]).encoded}" in why
    assert stored(store, filling.fill.digest) is None
    assert not ingests(store), "bad bytes are kept for the next attempt"
    assert filling.recorded == 0
    bodies[1].close()


async def test_more_bytes_than_announced(store: Store, start: Start) -> None:
    filling = start().begin(size=len(CONTENT))
    body = filling.fill.body(None)
    filling.send(CONTENT + b"more")
    filling.exchange.finish()
    await filling.over()
    content, why = await broken(body)
    assert content == CONTENT[:-1]
    assert why == f"{filling.fill.digest}: more than {len(CONTENT)} bytes came"
    assert stored(store, filling.fill.digest) is None
    assert not ingests(store)


async def test_fewer_bytes_than_the_digest_wants(store: Store, start: Start) -> None:
    filling = start().begin()
    filling.send(CONTENT[:-1])
    filling.exchange.finish()
    await filling.over()
    assert filling.fill.state is State.BROKEN
    assert stored(store, filling.fill.digest) is None


async def test_a_body_of_unknown_size_that_is_cut_breaks_the_fill(store: Store, start: Start) -> None:
    filling = start().begin()
    body = filling.fill.body(None)
    filling.send(CONTENT[:1000])
    filling.exchange.finish("upstream closed the connection")
    await filling.over()
    assert await broken(body) == (CONTENT[:1000], "upstream closed the connection")
    assert not filling.source.asked
    (rest,) = ingests(store)
    assert rest.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("at", ["write", "absorb", "verify", "record", "commit"])
async def test_a_disk_that_fails(store: Store, start: Start, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if at == "record":
        filling.recording = full
    else:
        monkeypatch.setattr(filling.fill._ingest, at, full)
    if at == "write":
        # Not even the beginning can be kept.
        monkeypatch.setattr(filling.fill._ingest, "keep", full)
    filling.send(CONTENT)
    filling.exchange.finish()
    await filling.over()
    assert filling.fill.reason == "[Errno 28] No space left on device"
    assert [str(error) for error in filling.troubles] == ["[Errno 28] No space left on device"]
    assert stored(store, filling.fill.digest) is None
    if at in ("record", "commit"):
        # The bytes were verified: who reads along gets them all.
        assert await read(body) == CONTENT
        assert not filling.fill.interrupted
    else:
        assert (await broken(body))[1] == "[Errno 28] No space left on device"
        assert filling.fill.interrupted
        assert filling.fill.written
        offset, hasher = filling.fill.written
        assert hasher.hexdigest() == digest_of(CONTENT[:offset]).encoded
    assert (at == "write") is not bool(ingests(store))


async def test_a_blob_for_which_there_is_no_room(store: Store, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)

    def full(*_: object) -> None:
        raise NoRoom("the store has no room")

    monkeypatch.setattr(filling.fill._ingest, "write", full)
    held = list[list[str]]()
    monkeypatch.setattr(filling.fill, "_trouble", lambda _: held.append([path.name for path in ingests(store)]))
    filling.send(CONTENT)
    assert await broken(body) == (b"", "the store has no room")
    await filling.over()
    assert filling.fill.interrupted
    assert held == [[]], "what it took was still in the way when others were told"


async def test_what_upstream_does_is_no_trouble_of_the_stores(start: Start) -> None:
    for error, content in (("gone", b"x"), ("", CONTENT[::-1])):
        filling = start().begin(200, {})
        filling.send(content)
        filling.exchange.finish(error)
        await filling.over()
        assert filling.fill.state is State.BROKEN
        assert not filling.fill.interrupted
        assert not filling.troubles


async def test_a_disk_that_fails_ends_the_exchange(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    filling = start().begin(200, sized(CONTENT))

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(filling.fill._ingest, "write", failing)
    filling.send(CONTENT[:1])
    await filling.over()
    assert filling.exchange.aborted
    assert filling.fill.state is State.BROKEN


@pytest.mark.parametrize("at", ["write", "absorb", "verify", "commit"])
async def test_a_fill_that_is_cancelled_waits_for_its_thread(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)
    gate = Gate(filling.fill, at, monkeypatch)
    filling.send(CONTENT)
    filling.exchange.finish()
    await gate.entered()
    assert filling.task
    filling.task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not filling.task.done(), "the file was closed under the thread that writes it"
    gate.open.set()
    await filling.over()
    assert gate.fault is None
    if at == "commit":
        assert stored(store, filling.fill.digest) == CONTENT
        body.close()
    else:
        assert stored(store, filling.fill.digest) is None
        assert (await broken(body))[1] == "the proxy is shutting down"


async def test_a_fault_of_ours_leaves_nobody_waiting(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)

    def faulty(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(filling.fill._ingest, "write", faulty)
    filling.send(CONTENT)
    with pytest.raises(ZeroDivisionError):
        await filling.over()
    assert (await broken(body))[1] == "of a fault of ours"
    assert not ingests(store)
