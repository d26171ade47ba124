"""When a stored blob is looked at again before somebody is given it.

A client that asks again for all of a blob, shortly after it was given all of it, has probably found that its digest is
wrong. So has the disk gone wrong if it failed while a blob was read. Either is reason to compare the bytes with the
digest first: a bad blob then goes, and comes anew. A blob that was found good is not doubted again for a while, since
many who ask twice have their own reasons.
"""

import time
from collections.abc import Callable

from cachetools import TTLCache

from addon.registry.digest import Digest

GIVEN_SECONDS = 10 * 60
"""For how long a client that asks again is taken to have found something wrong."""
SETTLED_SECONDS = 10 * 60
"""For how long a blob that was found good is not doubted."""
_MOST_GIVEN, _MOST_BLOBS = 50_000, 10_000


class Doubts:
    """Who was given what, and which blobs may be bad."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._given: TTLCache[tuple[str, Digest], bool] = TTLCache(_MOST_GIVEN, GIVEN_SECONDS, timer=clock)
        self._settled: TTLCache[Digest, bool] = TTLCache(_MOST_BLOBS, SETTLED_SECONDS, timer=clock)
        self._failed: set[Digest] = set()

    def given(self, client: str, digest: Digest) -> None:
        """A client was given all of a stored blob."""
        self._given[client, digest] = True

    def failed(self, digest: Digest) -> None:
        """The disk failed while a blob was read."""
        self._failed.add(digest)

    def about(self, client: str, digest: Digest, *, whole: bool) -> bool:
        """Whether a blob is to be looked at before this client is given all of it, or a part."""
        if digest in self._failed:
            return True
        return whole and (client, digest) in self._given and digest not in self._settled

    def settle(self, digest: Digest) -> None:
        """A blob has just been looked at; it is good by now, or gone."""
        self._failed.discard(digest)
        self._settled[digest] = True
