"""Fills that go on with what an earlier attempt left."""

import asyncio

from addon.store.disk import Store
from addon.transfer.fill import first_request
from addon.transfer.followed import State

from .filling import CONTENT, ORIGIN, Start, cut, ingests, ranged, read, sized, stored


async def left_behind(start: Start, content: bytes) -> None:
    """An earlier attempt brought so much."""
    filling = start().begin()
    filling.send(content)
    filling.exchange.finish("cut")
    await filling.over()


async def test_a_fill_goes_on_behind_what_an_earlier_one_left(store: Store, start: Start) -> None:
    await left_behind(start, CONTENT[:1000])
    filling = start()
    assert first_request(store.kept(filling.fill.digest, ORIGIN), None, 1) == (1000, None)
    filling.begin(206, ranged(CONTENT, 1000, len(CONTENT) - 1))
    assert (filling.fill.resumed, filling.fill.size) == (1000, len(CONTENT))
    reading = asyncio.create_task(read(filling.fill.body(None)))
    filling.send(CONTENT[1000:])
    filling.exchange.finish()
    await filling.over()
    assert await reading == CONTENT
    assert stored(store, filling.fill.digest) == CONTENT


async def test_what_an_earlier_one_left_is_skipped_where_upstream_starts_over(store: Store, start: Start) -> None:
    await left_behind(start, CONTENT[:1000])
    filling = start().begin(200, sized(CONTENT))
    filling.send(*cut(CONTENT, 300))
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT


async def test_what_an_earlier_one_left_is_no_blob_before_upstream_was_asked(store: Store, start: Start) -> None:
    await left_behind(start, CONTENT + b"and more")
    filling = start()
    last = len(CONTENT) - 1
    assert first_request(store.kept(filling.fill.digest, ORIGIN), len(CONTENT), 1) == (last, None)
    filling.begin(206, ranged(CONTENT, last, last), size=len(CONTENT))
    filling.send(CONTENT[-1:])
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT


async def test_what_an_earlier_one_left_is_longer_than_the_blob(store: Store, start: Start) -> None:
    await left_behind(start, CONTENT + b"and more")
    filling = start().begin(200, sized(CONTENT))
    assert filling.fill.resumed == 0
    filling.send(CONTENT)
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT


async def test_bad_bytes_of_an_earlier_attempt_cost_one_attempt(store: Store, start: Start) -> None:
    await left_behind(start, b"\0" * 1000)
    filling = start().begin(206, ranged(CONTENT, 1000, len(CONTENT) - 1))
    filling.send(CONTENT[1000:])
    filling.exchange.finish()
    await filling.over()
    assert filling.fill.state is State.BROKEN
    assert not ingests(store)


async def test_what_is_put_is_skipped_where_upstream_starts_over(store: Store, start: Start) -> None:
    await left_behind(start, CONTENT[:1000])
    filling = start().begin(200, sized(CONTENT))
    filling.put(*cut(CONTENT, 300))
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT
