"""Whose turn it is."""

import asyncio

import pytest

from addon.transfer.turns import FairLimit

from ..doubles import BOUND


async def test_turns_go_by_repository() -> None:
    limit, order = FairLimit(1), list[str]()
    await limit.acquire("first")

    async def come(name: str, key: str) -> None:
        async with limit.turn(key):
            order.append(name)

    waiting = [asyncio.create_task(come(f"a{n}", "a")) for n in range(4)]
    waiting += [asyncio.create_task(come(f"b{n}", "b")) for n in range(2)]
    waiting.append(asyncio.create_task(come("c0", "c")))
    await asyncio.sleep(0)
    assert not order
    limit.release()
    await asyncio.wait_for(asyncio.gather(*waiting), BOUND)
    assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


async def test_who_gives_up_waiting_takes_no_place() -> None:
    limit = FairLimit(1)
    await limit.acquire("a")
    waiting = [asyncio.create_task(limit.acquire("a")) for _ in range(4)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    limit.release()
    # This one was given its place, and leaves before it knows.
    waiting[1].cancel()
    await asyncio.wait([waiting[1]])
    assert waiting[1].cancelled()
    await asyncio.wait_for(waiting[2], BOUND)
    limit.release()
    await asyncio.wait_for(waiting[3], BOUND)
    limit.release()
    await asyncio.wait_for(limit.acquire("a"), BOUND)


async def test_nobody_waits_any_longer() -> None:
    limit = FairLimit(1)
    await limit.acquire("a")
    waiting = [asyncio.create_task(limit.acquire(key)) for key in ("a", "a", "b")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    limit.turn_away(lambda: ZeroDivisionError("closed"))
    for task in waiting[1:]:
        with pytest.raises(ZeroDivisionError, match="closed"):
            await asyncio.wait_for(task, BOUND)
    # The place is the holder's still, and there to be had once he gives it back.
    late = asyncio.create_task(limit.acquire("a"))
    await asyncio.sleep(0)
    assert not late.done()
    limit.release()
    await asyncio.wait_for(late, BOUND)


async def test_a_place_that_was_given_is_not_taken_away() -> None:
    limit = FairLimit(1)
    await limit.acquire("a")
    waiting = asyncio.create_task(limit.acquire("a"))
    await asyncio.sleep(0)
    limit.release()
    limit.turn_away(ZeroDivisionError)
    await asyncio.wait_for(waiting, BOUND)
