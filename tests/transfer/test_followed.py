"""Those who read along with a blob that grows."""

import asyncio
import gc

from addon.registry.ranges import Span

from .. import doubles
from .filling import CONTENT, Start, read, sized


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
