"""Asking once for all who want to know the same thing at the same time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Shared[K, V]:
    """Questions under way. An answer is given to all who wait for it, and not kept, nor is a failure."""

    def __init__(self, ask: Callable[[K], Coroutine[Any, Any, V]]) -> None:
        self._ask = ask
        self._asked: dict[K, asyncio.Task[V]] = {}

    async def answer(self, key: K) -> V:
        """The answer to a question that is under way, else to a new one; raises what asking raises."""
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda _: self._asked.pop(key))
        # One who stops waiting must not take the answer away from the others.
        return await asyncio.shield(task)
