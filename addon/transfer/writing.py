"""The way from memory to disk: what has arrived of a blob is collected, and handed in batches to a thread.

The thread writes and hashes; both release the interpreter's lock. Behind `BOUND` bytes that wait to be written, nothing
more is welcome. A disk that does not come to an end with them is trouble, which those who read along need not wait for.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from addon.store.errors import StoreError
from addon.store.ingest import Ingest
from addon.transfer.stretch import Stretch, give_back

BATCH = 512 * 1024
"""Bytes that are written in one go, if that many wait: a hop to the writing thread costs as much as 64 KiB of work."""
BOUND = 4 * 1024 * 1024
"""Bytes that may wait to be written."""
_IDLE_SECONDS = 0.005
# A step of an ingest that was kept is larger than what waits to be written, and may have to come from the disk.
_STEP_TIMES = 12


class DiskTrouble(StoreError):
    """The disk does not take what upstream gives; the message says why."""


class Writing:
    """All that is done with one ingest, one thing at a time."""

    def __init__(self, ingest: Ingest, executor: Executor, slow: float, changed: Callable[[], None]) -> None:
        """Begin.

        Args:
            ingest: where the bytes go.
            executor: the threads that write.
            slow: how many seconds the disk may take for what waits to be written.
            changed: is told when more of the blob can be read.
        """
        self.stretches: list[Stretch] = []
        """Those of which something is still to be written."""
        self._ingest = ingest
        self._executor = executor
        self._slow = slow
        self._changed = changed
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._ended = False
        self._work: asyncio.Future[Any] | None = None

    @property
    def full(self) -> bool:
        """Whether so much waits to be written that nothing more is welcome."""
        return self._waiting_bytes >= BOUND

    def arrived(self, count: int) -> None:
        """So many bytes have been received, and wait to be written."""
        self._waiting_bytes += count
        self._arrived.set()

    def end(self) -> None:
        """Nothing more will arrive."""
        self._ended = True
        self._arrived.set()

    async def run(self) -> None:
        """Write, until all is written and nothing more will arrive.

        Raises:
            NoRoom: the store may not grow by so much.
            DiskTrouble: the disk is too slow.
            OSError: the disk is full or failing.
        """
        while True:
            if not self._waiting_bytes:
                if self._ended:
                    break
                await self._arrived.wait()
            self._arrived.clear()
            if self._waiting_bytes < BATCH and not self._ended and self._ingest.offset:
                # Give a fast upstream the time to fill a batch; a slow one does not notice.
                await asyncio.sleep(_IDLE_SECONDS)
            for stretch in self.stretches:
                offset, chunks = stretch.take()
                if chunks:
                    await self._put(offset, chunks)
                    give_back(chunks)
            self.stretches = [stretch for stretch in self.stretches if not stretch.written]
            await self._absorb()
            self._changed()
        await self._absorb()

    async def _put(self, offset: int, chunks: list[bytes | memoryview]) -> None:
        size = sum(map(len, chunks))
        try:
            async with asyncio.timeout(self._slow):
                await self.call(self._ingest.write, offset, chunks)
        except TimeoutError:
            raise DiskTrouble(f"the disk is slow: it takes more than {self._slow} s for {size} bytes") from None
        self._waiting_bytes -= size

    async def _absorb(self) -> None:
        slow = _STEP_TIMES * self._slow
        try:
            while True:
                async with asyncio.timeout(slow):
                    if not await self.call(self._ingest.absorb):
                        return
                self._changed()
        except TimeoutError:
            raise DiskTrouble(f"the disk is slow: it does not give back within {slow} s what was written") from None

    async def call[**P, R](self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Let the thread do something; whoever is cancelled meanwhile is to wait for it by `settled`."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args, **kwargs))
        self._work = future
        return await asyncio.shield(future)

    async def settled(self) -> None:
        """Wait until the thread is done, whatever comes of it: closing the file under it would hit another one."""
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)
