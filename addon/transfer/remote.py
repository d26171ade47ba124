"""A fill of another process that shares the store, as clients of this one follow it.

Its owner tells in its lease how far it is. That is looked at every few milliseconds; the bytes come out of the same
file. Once the lease is given up, the blob is stored, or the fill has failed. Unless its bytes turned out to be bad, as
where its process was killed, those who read along go on elsewhere.
"""

import asyncio

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.following import Following
from addon.transfer.followed import Followed, State
from addon.transfer.source import Source

_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.005, 0.08


class RemoteFill(Followed):
    """A blob that another process fills."""

    def __init__(self, digest: Digest, following: Following, store: Store) -> None:
        super().__init__(digest, following.reader())
        self._following = following
        self._store = store
        self._offset = 0
        self._look()

    @property
    def received(self) -> int:
        """See `Followed.received`."""
        return self._offset

    def joined(self, source: Source) -> None:
        """See `Followed.joined`: its owner asks by itself."""

    async def run(self) -> None:
        """Look, until it is over; never raises."""
        pause = _SHORTEST_SECONDS
        try:
            while self.state is State.RUNNING:
                before = self._offset
                # Looked at before the last progress is read: behind it, nothing more comes.
                over = not self._following.under_way()
                self._look()
                if over:
                    self._end()
                if self._offset > before or over:
                    pause = _SHORTEST_SECONDS
                    self.changed()
                else:
                    pause = min(2 * pause, _LONGEST_SECONDS)
                await asyncio.sleep(pause)
        except (OSError, StoreError) as e:
            self._break(f"the store failed: {e}")
        finally:
            if self.state is State.RUNNING:
                self._break("the proxy is shutting down")
            self.changed()
            self._following.close()

    def _look(self) -> None:
        progress = self._following.progress()
        self._offset = max(self._offset, progress.offset)
        if self.size is None:
            self.size = progress.size

    def _end(self) -> None:
        stored = self._store.open(self.digest)
        if stored is not None and stored.same_file(self._reader):
            self._reader.close()
            self._reader, self._offset, self.size = stored, stored.size, stored.size
            self.state = State.VERIFIED
            return
        if stored is not None:
            stored.close()
        self.interrupted = not self._following.progress().withdrawn
        self._break("the process that filled it has given up")

    def _break(self, reason: str) -> None:
        self.state = State.BROKEN
        self.reason = reason
