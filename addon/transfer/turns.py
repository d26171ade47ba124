"""Turns: only so many may be at it at once, and nobody's many hold up somebody else's few."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class FairLimit:
    """Lets so many in at once; those who wait are let in by turns of their keys, first come first within one."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        await self.acquire(key)
        try:
            yield
        finally:
            self.release()

    async def acquire(self, key: str) -> None:
        """Wait for a place."""
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._queues.setdefault(key, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release()
            raise

    def turn_away(self, error: Callable[[], Exception]) -> None:
        """Let nobody wait any longer: all who do get an error."""
        for queue in self._queues.values():
            for place in queue:
                if not place.done():
                    place.set_exception(error())
        self._queues.clear()

    def release(self) -> None:
        """Give a place back: to the next in turn, where somebody waits."""
        while self._queues:
            key, queue = self._queues.popitem(last=False)
            place = queue.popleft()
            if queue:
                self._queues[key] = queue
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
