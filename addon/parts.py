"""The parts that a running proxy is made of, as the hooks share them."""

import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from cachetools import LRUCache, TTLCache
from mitmproxy import http

from addon.auth.access import Verdicts
from addon.auth.grants import Grant, Grants
from addon.auth.tokens import Tokens
from addon.registry.digest import Digest
from addon.settings import Settings
from addon.store.disk import Store
from addon.store.room import Limits
from addon.transfer.fills import Fills
from addon.transfer.target import Target
from addon.transfer.token_service import TokenService
from addon.transfer.upstream import Upstream

_DESCRIPTORS = 50_000
_REFUSED_SECONDS = 10 * 60
_MOST_REFUSED = 10_000


class Parts:
    """One set of parts; a change of the settings makes a new one."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Put the parts together.

        Raises:
            StoreError: the store cannot be used.
        """
        self.settings = settings
        self.store = Store(settings.store, Limits(settings.max_size))
        self.upstream = Upstream()
        self.grants = Grants(Tokens(TokenService(self.upstream).fetch, clock), clock)
        self.verdicts = Verdicts(clock, settings.access_grace)
        self.fills = Fills(self.store, most=settings.max_fills, connections=settings.fill_connections)
        self.sizes: LRUCache[tuple[str, str, Digest], int] = LRUCache(_DESCRIPTORS)
        """Lengths in bytes of a registry's repository's blobs, out of the descriptors of manifests that passed."""
        self.under_way: WeakKeyDictionary[http.HTTPFlow, tuple[Target, Grant]] = WeakKeyDictionary()
        """The registry requests that go upstream as flows of their clients, and what they carry."""
        self.unstored: WeakKeyDictionary[http.HTTPFlow, str] = WeakKeyDictionary()
        """Blob requests that go upstream because the store is in trouble, and which."""
        self._refused: TTLCache[tuple[str, str], bool] = TTLCache(_MOST_REFUSED, _REFUSED_SECONDS, timer=clock)

    def send_on(self, flow: http.HTTPFlow, target: Target, grant: Grant) -> None:
        """Let a client's request go upstream with what it was granted."""
        if grant.injected and grant.authorization:
            flow.request.headers["Authorization"] = grant.authorization
        self.under_way[flow] = target, grant

    def note_refusal(self, flow: http.HTTPFlow, target: Target, grant: Grant, response: http.Response) -> None:
        """Remember a client that sees a 401 to a token of ours, so that its next ping reaches the registry."""
        if response.status_code == 401 and grant.injected:
            self._refused[flow.client_conn.peername[0], target.identity] = True

    def was_refused(self, flow: http.HTTPFlow, target: Target) -> bool:
        """Whether this client was refused at this registry with a token of ours, within the last ten minutes."""
        return (flow.client_conn.peername[0], target.identity) in self._refused

    async def close(self) -> None:
        """Break the fills, and close the store."""
        await self.fills.close()
        self.store.close()
