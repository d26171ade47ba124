"""Fills that go on with what an earlier attempt left."""

import asyncio

from addon.store.disk import Store
from addon.transfer.fill import first_request
from addon.transfer.fills import Fills, Refused
from addon.transfer.followed import State

from ..doubles import FakeSource
from .filling import CONTENT, ORIGIN, Start, cut, ingests, ranged, read, sized, stored
from .starting import SIZED, attempted, joined, settled, starting, wanted


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


# As requests start them.


async def test_an_attempt_goes_on_behind_the_one_before(fills: Fills, store: Store) -> None:
    await attempted(fills, CONTENT[:1000])
    source = FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    assert str(question) == "GET /blob 1000-"
    question.answer(206, CONTENT[1000:], Content_Range=f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}")
    assert await read((await joined(start)).fill.body(None)) == CONTENT
    await settled(fills)
    assert not ingests(store)


async def test_a_refused_attempt_leaves_the_one_before(fills: Fills) -> None:
    await attempted(fills, CONTENT[:1000])
    source = FakeSource()
    start = starting(fills, source, wanted())
    (await source.question()).answer(401)
    assert isinstance(await start, Refused)
    start = starting(fills, source, wanted())
    assert str(await source.question(1)) == "GET /blob 1000-"
    start.cancel()


async def test_what_is_longer_than_the_blob_is_dropped(fills: Fills) -> None:
    await attempted(fills, CONTENT + b"more")
    source = FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    assert str(question) == f"GET /blob {len(CONTENT) + 4}-"
    question.answer(416)
    again = await source.question(1)
    assert str(again) == "GET /blob"
    again.answer(200, CONTENT, **SIZED)
    assert await read((await joined(start)).fill.body(None)) == CONTENT


async def test_a_bad_blob_is_not_served_to_the_next(fills: Fills) -> None:
    source = FakeSource()
    start = starting(fills, source, wanted())
    (await source.question()).answer(200, CONTENT[::-1], **SIZED)
    await joined(start)
    await settled(fills)
    start = starting(fills, source, wanted())
    again = await source.question(1)
    assert str(again) == "GET /blob"
    again.answer(200, CONTENT, **SIZED)
    outcome = await joined(start)
    assert outcome.started
    assert await read(outcome.fill.body(None)) == CONTENT
