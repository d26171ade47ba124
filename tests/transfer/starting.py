"""Fills as requests start them."""

import asyncio

from addon.registry.digest import Digest
from addon.transfer.fills import Fills, Joined, Refused, Wanted
from addon.transfer.followed import State

from ..doubles import BOUND, FakeSource, digest_of
from .filling import CONTENT, ORIGIN

DIGEST = digest_of(CONTENT)
SIZED = {"Content_Length": str(len(CONTENT))}


def wanted(credential: str = "anonymous", repository: str = "library/alpine", digest: Digest = DIGEST) -> Wanted:
    return Wanted(ORIGIN, repository, digest, credential)


def starting(
    fills: Fills, source: FakeSource, wanted: Wanted, size: int | None = None
) -> asyncio.Task[Joined | Refused]:
    return asyncio.create_task(fills.start(wanted, source, size))


async def joined(starting: asyncio.Task[Joined | Refused]) -> Joined:
    outcome = await asyncio.wait_for(starting, BOUND)
    assert isinstance(outcome, Joined)
    return outcome


async def settled(fills: Fills) -> None:
    """Wait until no fill is under way."""
    async with asyncio.timeout(BOUND):
        while fills._running:
            await asyncio.wait(fills._running)
            await asyncio.sleep(0)


async def attempted(fills: Fills, content: bytes) -> None:
    """An earlier attempt brought so much."""
    source = FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    question.begin(200)
    question.send(content)
    question.finish("cut")
    fill = (await joined(start)).fill
    await settled(fills)
    assert fill.state is State.BROKEN
