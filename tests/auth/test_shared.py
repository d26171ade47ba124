import asyncio
import gc
from collections import Counter

import pytest

from addon.auth.shared import Shared

from .fakes import settle


class Oracle:
    """Says how often it was asked, once it is let."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.open = asyncio.Event()
        self.failure: Exception | None = None

    async def ask(self, key: str) -> str:
        self.asked[key] += 1
        await self.open.wait()
        if self.failure:
            raise self.failure
        return f"{key}{self.asked[key]}"


@pytest.fixture
async def oracle() -> Oracle:
    return Oracle()


async def test_a_hundred_share_one_question(oracle: Oracle) -> None:
    shared = Shared(oracle.ask)
    waiting = [asyncio.create_task(shared.answer("a")) for _ in range(100)]
    await settle()
    oracle.open.set()
    assert set(await asyncio.gather(*waiting)) == {"a1"}
    assert oracle.asked == {"a": 1}


async def test_different_questions_are_asked_at_the_same_time(oracle: Oracle) -> None:
    shared = Shared(oracle.ask)
    waiting = [asyncio.create_task(shared.answer(key)) for key in "aabb"]
    await settle()
    assert oracle.asked == {"a": 1, "b": 1}
    oracle.open.set()
    assert await asyncio.gather(*waiting) == ["a1", "a1", "b1", "b1"]


async def test_an_answer_is_not_kept(oracle: Oracle) -> None:
    shared = Shared(oracle.ask)
    oracle.open.set()
    assert [await shared.answer("a"), await shared.answer("a")] == ["a1", "a2"]


async def test_all_see_a_failure_and_the_next_one_asks_again(oracle: Oracle) -> None:
    shared = Shared(oracle.ask)
    oracle.failure = OSError("gone")
    waiting = [asyncio.create_task(shared.answer("a")) for _ in range(3)]
    await settle()
    oracle.open.set()
    assert await asyncio.gather(*waiting, return_exceptions=True) == [oracle.failure] * 3
    oracle.failure = None
    assert await shared.answer("a") == "a2"


async def test_one_who_stops_waiting_does_not_take_it_from_the_others(oracle: Oracle) -> None:
    shared = Shared(oracle.ask)
    first, second = (asyncio.create_task(shared.answer("a")) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled()
    oracle.open.set()
    assert await second == "a1"
    assert oracle.asked == {"a": 1}


async def test_a_failure_that_nobody_waits_for_any_more_is_no_alarm(oracle: Oracle) -> None:
    alarms: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: alarms.append(context))
    shared = Shared(oracle.ask)
    oracle.failure = OSError("gone")
    waiting = asyncio.create_task(shared.answer("a"))
    await settle()
    waiting.cancel()
    oracle.open.set()
    await settle()
    gc.collect()
    assert alarms == []
    oracle.failure = None
    assert await shared.answer("a") == "a2"


async def test_it_works_with_tasks_that_start_at_once() -> None:
    # mitmproxy's event loop starts a task within create_task, so that it may be over before it is known.
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    oracle = Oracle()
    oracle.open.set()
    shared = Shared(oracle.ask)
    assert set(await asyncio.gather(*(shared.answer("a") for _ in range(5)))) == {"a1"}
    await settle()
    assert await shared.answer("a") == "a2"
