"""Bodies that go on with something else where their fill is interrupted."""

import asyncio

import pytest

from addon.registry.ranges import Span
from addon.transfer.body import Body, BodyBroken
from addon.transfer.followed import GrowingBody, State
from addon.transfer.passing import Continued

from ..doubles import BOUND, Pieces
from .filling import CONTENT, Filling, Start, broken, read, sized


def interrupt(filling: Filling, *, interrupted: bool = True) -> None:
    """The fill ends, as far as those see it who read along."""
    filling.fill.state, filling.fill.reason, filling.fill.interrupted = State.BROKEN, "the disk is full", interrupted
    filling.fill.changed()


async def nothing(_body: GrowingBody) -> Body:
    raise AssertionError("it was not interrupted")


async def test_a_fill_that_ends_needs_nothing_else(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    reading = asyncio.create_task(read(Continued(filling.fill.body(None), nothing)))
    filling.send(CONTENT)
    filling.exchange.finish()
    assert await reading == CONTENT
    await filling.over()


async def test_it_goes_on_with_what_is_found(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    filling.send(CONTENT[:1000])
    await filling.until(1000)
    rest = Pieces(CONTENT[1000:2000], CONTENT[2000:])
    asked = []

    async def go_on(body: GrowingBody) -> Body:
        asked.append((body.fill, body.position, body.stop))
        await asyncio.sleep(0)
        return rest

    body = Continued(filling.fill.body(Span(10, len(CONTENT))), go_on)
    buffer = memoryview(bytearray(256 * 1024))
    assert body.read_into(buffer) == 990
    waiting = asyncio.create_task(body.wait())
    await asyncio.sleep(0)
    interrupt(filling)
    await asyncio.wait_for(waiting, BOUND)
    assert asked == [(filling.fill, 1000, len(CONTENT))]
    assert filling.fill.followers == 0
    assert body.read_into(buffer) == 1000
    assert await read(body) == CONTENT[2000:]
    assert rest.closed == 1
    await filling.cancel()


async def test_what_is_there_comes_first(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    filling.send(CONTENT[:1000])
    await filling.until(1000)
    body = Continued(filling.fill.body(None), nothing)
    interrupt(filling)
    await body.wait()
    assert body.read() == CONTENT[:1000]
    body.close()
    await filling.cancel()


async def test_it_may_be_interrupted_again(start: Start) -> None:
    first, second = start().begin(200, sized(CONTENT)), start(CONTENT * 2).begin(200, sized(CONTENT))
    second.send(CONTENT[:5000])
    await second.until(5000)

    async def go_on(body: GrowingBody) -> Body:
        if body.fill is first.fill:
            rest = second.fill.body(None)
            rest.position = body.position
            return rest
        assert body.position == 5000
        return Pieces(CONTENT[5000:])

    body = Continued(first.fill.body(None), go_on)
    interrupt(first)
    interrupt(second)
    assert await read(body) == CONTENT
    assert (first.fill.followers, second.fill.followers) == (0, 0)
    for filling in (first, second):
        await filling.cancel()


async def test_what_upstream_broke_is_broken(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = Continued(filling.fill.body(None), nothing)
    interrupt(filling, interrupted=False)
    assert await broken(body) == (b"", "the disk is full")
    await filling.cancel()


async def test_what_goes_on_may_break(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))

    async def go_on(_body: GrowingBody) -> Body:
        return Pieces(b"a piece", BodyBroken("upstream closed the connection"))

    body = Continued(filling.fill.body(None), go_on)
    interrupt(filling)
    assert await broken(body) == (b"a piece", "upstream closed the connection")
    await filling.cancel()


async def test_nothing_is_found(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))

    async def go_on(_body: GrowingBody) -> Body:
        raise BodyBroken("the disk is full, and no route to host")

    body = Continued(filling.fill.body(None), go_on)
    interrupt(filling)
    assert (await broken(body))[1] == "the disk is full, and no route to host"
    assert filling.fill.followers == 0
    await filling.cancel()


@pytest.mark.parametrize("found", [True, False])
async def test_it_is_closed_while_something_is_looked_for(start: Start, *, found: bool) -> None:
    filling = start().begin(200, sized(CONTENT))
    rest, looking, go = Pieces(CONTENT), asyncio.Event(), asyncio.Event()

    async def go_on(body: GrowingBody) -> Body:
        looking.set()
        await go.wait()
        assert body.reader.stat()
        if not found:
            raise BodyBroken("no route to host")
        return rest

    body = Continued(filling.fill.body(None), go_on)
    waiting = asyncio.create_task(body.wait())
    interrupt(filling)
    await asyncio.wait_for(looking.wait(), BOUND)
    body.close()
    go.set()
    with pytest.raises(BodyBroken):
        await waiting
    assert rest.closed == int(found)
    assert filling.fill.followers == 0
    await filling.cancel()
