"""Those who read along with a blob that grows."""

import asyncio
import gc
import os

import pytest

from addon.registry.ranges import Span

from .. import doubles
from .filling import CONTENT, Start, broken, read, sized


async def test_followers_come_early_and_late_and_want_different_parts(start: Start) -> None:
    size = len(CONTENT)
    spans = [None, Span(0, 1), Span(1, 2), Span(100, size), Span(size - 1, size), Span(0, size)]
    filling = start().begin(200, sized(CONTENT))
    early = [asyncio.create_task(read(filling.fill.body(span))) for span in spans]
    assert filling.fill.followers == len(spans)
    filling.send(CONTENT[:5000])
    await filling.until(5000)
    later = [asyncio.create_task(read(filling.fill.body(span))) for span in spans]
    filling.send(CONTENT[5000:])
    await filling.until(size)
    filling.exchange.finish()
    await filling.over()
    last = [asyncio.create_task(read(filling.fill.body(span))) for span in spans]
    wanted = [CONTENT if span is None else CONTENT[span.start : span.stop] for span in spans]
    for tasks in (early, later, last):
        assert await asyncio.gather(*tasks) == wanted


async def test_followers_of_a_blob_whose_size_is_not_known(start: Start) -> None:
    filling = start().begin()
    reading = [asyncio.create_task(read(filling.fill.body(span))) for span in (None, Span(0, 10), Span(9000, 9001))]
    filling.send(CONTENT)
    filling.exchange.finish()
    await filling.over()
    assert await asyncio.gather(*reading) == [CONTENT, CONTENT[:10], CONTENT[9000:9001]]


async def test_a_change_wakes_all_who_wait(start: Start) -> None:
    filling = start().begin()
    waiting = [asyncio.create_task(filling.fill.change()) for _ in range(5)]
    await asyncio.sleep(0)
    filling.send(b"x")
    await asyncio.wait_for(asyncio.gather(*waiting), doubles.BOUND)
    filling.exchange.finish("gone")
    await filling.over()


async def test_the_whole_blob_can_be_read_once_it_is_verified(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    filling.send(CONTENT)
    await filling.until(len(CONTENT))
    assert filling.fill.whole() is None
    filling.exchange.finish()
    await filling.over()
    reader = filling.fill.whole()
    assert reader
    assert reader.read(0, reader.size) == CONTENT
    reader.close()


async def test_a_follower_that_leaves_is_no_follower(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    bodies = [filling.fill.body(None) for _ in range(2)]
    assert filling.fill.followers == 2
    bodies.pop().close()
    assert filling.fill.followers == 1
    bodies.clear()
    gc.collect()
    assert filling.fill.followers == 0, "one whose body was never sent is counted for ever"
    await filling.cancel()


async def test_it_is_read_into_a_buffer(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    body, buffer = filling.fill.body(Span(10, 3000)), memoryview(bytearray(2000))
    assert body.read_into(buffer) == 0
    filling.send(CONTENT[:500])
    await filling.until(500)
    assert body.read_into(buffer) == 490
    assert buffer[:490] == CONTENT[10:500]
    filling.send(CONTENT[500:])
    await filling.until(len(CONTENT))
    assert body.read_into(buffer) == 2000
    assert buffer == CONTENT[500:2500]
    assert body.read_into(buffer) == 500
    assert body.read_into(buffer) == 0
    assert body.ended
    body.close()
    await filling.cancel()


async def test_what_broke_is_given_as_far_as_it_is_there(start: Start) -> None:
    filling = start().begin(200, {})
    inside, beyond = filling.fill.body(Span(0, 500)), filling.fill.body(None)
    filling.send(CONTENT[:1000])
    filling.exchange.finish("upstream closed the connection")
    await filling.over()
    assert await read(inside) == CONTENT[:500]
    assert await broken(beyond) == (CONTENT[:1000], "upstream closed the connection")


async def test_a_file_that_somebody_has_cut(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)
    filling.send(CONTENT[:1000])
    await filling.until(1000)
    os.truncate(filling.fill._ingest._path, 0)
    with pytest.raises(OSError, match="the ingest ends at 0, before 1000"):
        body.read()
    with pytest.raises(OSError, match="the ingest ends at 0, before 1000"):
        body.read_into(memoryview(bytearray(10)))
    body.close()
    await filling.cancel()


async def test_nobody_begins_to_read_what_is_over(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)
    filling.send(CONTENT)
    filling.exchange.finish()
    await filling.over()
    for _ in range(2):
        filling.fill.close()
    assert filling.fill.over
    with pytest.raises(ValueError, match="closed"):
        filling.fill.body(None)
    # Those who have begun have it open for themselves.
    assert await read(body) == CONTENT
