"""Whether the store takes anything in just now.

A disk that is full, read-only, failing or stuck, and a process with too many open files, are no client's fault: blobs
then pass through without being stored. That is told once, not for each blob; and now and then it is tried whether it is
over, so that storing goes on by itself.
"""

import asyncio
import errno
import logging
from collections.abc import Callable

from addon.store.errors import NoRoom, StoreError
from addon.transfer.writing import DiskTrouble

logger = logging.getLogger(__name__)

PROBE_SECONDS = 5.0
"""How long it takes until it is tried again."""
_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "the disk is failing",
}


def told(error: Exception) -> str:
    """An error of the store in a few words."""
    if isinstance(error, OSError):
        return _WORDS.get(error.errno or 0) or error.strerror or str(error)
    return str(error)


class Trouble:
    """The store's trouble, if it has any."""

    def __init__(self, probe: Callable[[], None]) -> None:
        """Begin without any.

        Args:
            probe: tries to store something, and raises OSError or StoreError where that fails; called in a thread.
        """
        self.reason = ""
        """Why nothing is stored; empty where all is well."""
        self.stuck = False
        """Whether the disk keeps waiting whoever asks something of it, so that better nobody does."""
        self._probe = probe
        self._task: asyncio.Task[None] | None = None

    def note(self, error: Exception) -> None:
        """Storing a blob has just failed.

        That there is no room for it says nothing about the next one, unless there is none for anything: that is tried
        first.
        """
        if not isinstance(error, NoRoom):
            self.stuck = self.stuck or isinstance(error, DiskTrouble)
            self._begin(told(error))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._until_over(), name="wait until the store is well")

    def _begin(self, reason: str) -> None:
        if not self.reason:
            logger.warning("nothing is stored, and blobs pass through, until this is over: %s", reason)
        self.reason = reason

    async def _until_over(self) -> None:
        if not self.reason and (reason := await self._failing()):
            self._begin(reason)
        if not self.reason:
            return
        while self.reason:
            await asyncio.sleep(PROBE_SECONDS)
            self.reason = await self._failing()
            self.stuck = False
        logger.warning("blobs are stored again")

    async def _failing(self) -> str:
        """Why nothing can be stored; empty where something can."""
        try:
            await asyncio.to_thread(self._probe)
        except (OSError, StoreError) as e:
            return told(e)
        return ""

    async def close(self) -> None:
        """Try no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
