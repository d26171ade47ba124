"""What a store needs while it is used: uses are written down, its index is kept, its blobs are looked at again.

It happens in threads of its own, so that no pull waits for it, and takes its time. (Their priority is that of all
others: a thread that waits for the processor with Python's lock, or the catalogue's, in its hands holds everybody up.)
Where several processes share a store, one of them at a time reads the blobs again, while each writes down what it knows
itself.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.errors import NoRoom, StoreError

logger = logging.getLogger(__name__)

TICK_SECONDS = 5.0
"""Between two times of writing down what was used, and which images are whole."""
INDEX_SHARE = 0.02
"""Of the time that may be spent on finding out which images are whole; with thousands of them, that takes seconds."""
RECONCILE_SECONDS = 600.0
"""Between two looks at what is really in the folders."""
SCRUB_SECONDS = 7 * 24 * 3600.0
"""After which a blob's bytes are compared with its digest again."""
SCRUB_RATE = 32 * 1024 * 1024
"""Bytes a second that are read for that."""
QUARANTINE_SECONDS = 7 * 24 * 3600.0
"""How long a bad blob is kept for somebody to look at."""


class _Stopped(Exception):
    """The proxy ends in the midst of a blob."""


class Upkeep:
    """The upkeep of one store, from `start` to `stop`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ending = threading.Event()
        self._dirty = True
        self._passed_over: set[Digest] = set()
        """Blobs that the scrub cannot get on with."""
        self._task: asyncio.Task[None] | None = None

    def changed(self) -> None:
        """Blobs or tags have come or gone, so that the index may say something else."""
        self._dirty = True

    def start(self) -> None:
        """Begin; idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="upkeep of the store")

    def end(self) -> None:
        """Begin nothing more, and give up soon what is being done."""
        self._ending.set()
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """`end`, and wait for it."""
        self.end()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        executor = ThreadPoolExecutor(1, thread_name_prefix="pulltap-upkeep")
        loop = asyncio.get_running_loop()
        scrub = asyncio.create_task(self._scrub(), name="scrub of the store")
        try:
            reconciled = -RECONCILE_SECONDS
            index_from, looked_at = 0.0, 0
            while True:
                work: list[Callable[[], object]] = [self._store.flush]
                if time.monotonic() - reconciled >= RECONCILE_SECONDS:
                    reconciled, self._dirty = time.monotonic(), True
                    self._passed_over = set()
                    work += [self._store.reconcile, self._tidy]
                changes = self._store.changes
                if (self._dirty or changes != looked_at) and time.monotonic() >= index_from:
                    self._dirty, looked_at = False, changes
                    work.append(self._store.write_index)
                for each in work:
                    began = time.monotonic()
                    try:
                        await loop.run_in_executor(executor, each)
                    except (StoreError, OSError) as e:
                        # The next pull finds out as well, and says so once.
                        logger.info("upkeep of the store: %s", e)
                    if each == self._store.write_index:
                        index_from = began + (time.monotonic() - began) / INDEX_SHARE
                await asyncio.sleep(TICK_SECONDS)
        finally:
            scrub.cancel()
            await asyncio.gather(scrub, return_exceptions=True)
            await asyncio.to_thread(executor.shutdown)

    def _tidy(self) -> None:
        """Remove what has had its time, and keep to the limits, whoever filled the store."""
        self._store.provenance.prune()
        self._store.images.prune()
        for path in self._store.layout.quarantine.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.lstat().st_ctime > QUARANTINE_SECONDS:
                    path.unlink()
        try:
            self._store.room.reserve(0)
        except NoRoom as e:
            logger.info("%s", e)

    async def _scrub(self) -> None:
        executor = ThreadPoolExecutor(1, thread_name_prefix="pulltap-scrub")
        try:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                try:
                    while await asyncio.get_running_loop().run_in_executor(executor, self.scrub_one):
                        pass
                except _Stopped:
                    return
                except (StoreError, OSError) as e:
                    logger.info("scrub of the store: %s", e)
                    await asyncio.sleep(RECONCILE_SECONDS)
        finally:
            await asyncio.to_thread(executor.shutdown)

    def scrub_one(self) -> bool:
        """Compare the blob with its digest that nobody looked at for longest, unless that was a short while ago.

        Returns:
            Whether there is more to do.

        Raises:
            StoreError: the catalogue cannot be used.
            OSError: the store cannot be read.
        """
        with _alone(self._store.layout.ours / "scrub.lock") as alone:
            stalest = self._store.inventory.stalest(self._passed_over) if alone else None
            if stalest is None or time.time() - stalest.verified < SCRUB_SECONDS:
                return False
            began, read = time.monotonic(), 0

            def pace(count: int) -> None:
                nonlocal read
                read += count
                if self._ending.wait(max(0.0, began + read / SCRUB_RATE - time.monotonic())):
                    raise _Stopped

            try:
                good = self._store.verify(stalest.digest, pace)
            except OSError as e:
                if e.errno in (errno.EMFILE, errno.ENFILE):
                    raise
                logger.warning("blob %s cannot be looked at: %s", stalest.digest, e.strerror)
                good = False
            if not good:
                self._dirty = True
                if not self._store.path(stalest.digest).exists():
                    # Removed by hand: its row is not to be found here for ever.
                    self._store.inventory.drop([stalest.digest])
            after = self._store.inventory.stalest(self._passed_over)
            if after and (after.digest, after.verified) == (stalest.digest, stalest.verified):
                # The next ones are looked at all the same.
                self._passed_over.add(stalest.digest)
            return True


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no other process is within the same lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
