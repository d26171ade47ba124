"""Which credential was seen to pull which repository.

A verdict is a fact that upstream stated a short while ago: with this credential it gave out a manifest, or a blob, of
that repository. It is the second half of the answer to "may this stored blob be served here?"; the first, whether the
digest belongs to the repository, is kept on disk (`addon.store.provenance`).

A verdict that has expired is asked for anew. Where upstream cannot be asked then, it stands for a grace, so that a
registry's bad hour does not stop what was allowed a moment before.
"""

import hashlib
import time
from collections.abc import Callable

from cachetools import TTLCache

ANONYMOUS = "anonymous"
_MOST_VERDICTS = 100_000
_SECONDS = 15 * 60


def credential_of(authorization: str | None) -> str:
    """A name for the credential that an ``Authorization`` header carries, from which it cannot be told."""
    # mitmproxy gives bytes that are no UTF-8 as surrogates.
    return hashlib.sha256(authorization.encode("utf-8", "surrogateescape")).hexdigest() if authorization else ANONYMOUS


class Verdicts:
    """Who was seen to pull what: for a quarter of an hour each, and for a grace behind it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, grace: float = 0) -> None:
        """Begin with none.

        Args:
            clock: what time it is, in seconds.
            grace: for how many seconds more a verdict may stand where upstream cannot be asked.
        """
        self._clock = clock
        self._seen: TTLCache[tuple[str, str, str], float] = TTLCache(_MOST_VERDICTS, _SECONDS + grace, timer=clock)

    def record(self, registry: str, repository: str, credential: str) -> None:
        """Upstream just gave ``credential`` something of ``repository``."""
        self._seen[registry, repository, credential] = self._clock()

    def forget(self, registry: str, repository: str, credential: str) -> None:
        """Upstream just refused ``credential`` something of ``repository``: what it said before is over."""
        self._seen.pop((registry, repository, credential), None)

    def may_pull(self, registry: str, repository: str, credential: str) -> bool:
        """Whether ``credential`` is known to be allowed to pull from ``repository``."""
        seen = self._seen.get((registry, repository, credential))
        return seen is not None and self._clock() - seen < _SECONDS

    def could_pull(self, registry: str, repository: str, credential: str) -> bool:
        """Whether that was so until a moment ago: the answer for as long as upstream cannot be asked."""
        return (registry, repository, credential) in self._seen
