"""Waiting for what is done in threads."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from ..doubles import BOUND


def threads() -> list[str]:
    """The upkeep's threads that are there."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pulltap-")]


class Calls:
    """Counts the calls of one of a store's methods, and lets a test wait for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.count = 0
        self.threads: set[str] = set()
        self.error: Exception | None = None
        """What the next ones fail with."""
        self._usual: Callable[..., object] = getattr(owner, name)
        self._loop = asyncio.get_running_loop()
        self._called = asyncio.Event()
        monkeypatch.setattr(owner, name, self)

    def __call__(self, *args: object) -> object:
        self.count += 1
        self.threads.add(threading.current_thread().name)
        self._loop.call_soon_threadsafe(self._called.set)
        if self.error is not None:
            raise self.error
        return self._usual(*args)

    async def more(self, count: int = 1) -> None:
        """Wait for so many calls more to have begun."""
        await self.reached(self.count + count)

    async def reached(self, count: int) -> None:
        """Wait for so many calls to have begun since the start of the test."""
        async with asyncio.timeout(BOUND):
            while self.count < count:
                self._called.clear()
                await self._called.wait()


async def until(condition: Callable[[], bool], calls: Calls) -> None:
    """Wait, one turn of the upkeep after the other, until something is so."""
    async with asyncio.timeout(BOUND):
        while not condition():
            await calls.more()
