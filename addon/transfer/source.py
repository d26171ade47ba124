"""Where a blob's bytes come from: its registry, asked as often as it takes, on behalf of one client.

A connection that was lost, or a segment of a large blob, is asked for at the address where the registry's redirect led
the last time. When that address has expired, the registry is asked for a fresh one.
"""

from typing import Protocol

from mitmproxy import connection, http

from addon.auth.grants import Grant, Grants
from addon.settings import authority
from addon.transfer.addresses import Reach
from addon.transfer.target import Target
from addon.transfer.upstream import Choose, Exchange, Upstream, UpstreamError, collect

_EXPIRED = (400, 401, 403, 404, 410)


class Source(Protocol):
    """What a fill asks for its bytes."""

    async def get(self, start: int, stop: int | None, choose: Choose) -> tuple[http.Response, Exchange]:
        """Ask for the bytes from ``start`` up to ``stop`` (None: to the end); all of them is asked without a range.

        Raises:
            UpstreamError: no answer came.
            TokenUnavailable: the token service cannot help now.
        """


class BlobSource:
    """One blob, or manifest, of one registry, as one client may have it."""

    def __init__(self, upstream: Upstream, grants: Grants, target: Target, grant: Grant, flow: http.HTTPFlow) -> None:
        self._upstream = upstream
        self._grants = grants
        self._target = target
        self._client: connection.Client = flow.client_conn
        self._path = flow.request.path
        self._agent = flow.request.headers.get("user-agent", "pulltap")
        self._located: http.Request | None = None
        self._reach = Reach.ANYWHERE
        self._name = f"{target.route.repository} {target.route.reference[:19]}"
        self.grant = grant
        """With which the registry was asked last."""

    async def get(self, start: int, stop: int | None, choose: Choose) -> tuple[http.Response, Exchange]:
        """See `Source.get`."""
        span = "" if stop is None else f"{stop - 1}"
        wanted = {"Range": f"bytes={start}-{span}"} if start or stop is not None else {}
        if self._located is not None:
            again = self._located.copy()
            again.headers.pop("range", None)
            again.headers.update(wanted)
            purpose = f"pulltap: fill {self._name}"
            try:
                response, exchange = await self._upstream.ask(again, self._client, purpose, choose, self._reach)
            except UpstreamError:
                self._located = None
                raise
            if response.status_code in (200, 206):
                return response, exchange
            # Whatever is wrong there, the registry may lead elsewhere the next time.
            self._located = None
            if response.status_code not in _EXPIRED:
                return response, exchange
        response, exchange = await self._ask("GET", wanted, f"pulltap: fill {self._name}", choose)
        led = (exchange.request.host, exchange.request.port) != (self._target.host, self._target.port)
        if response.status_code in (200, 206) and led:
            self._located, self._reach = exchange.request.copy(), exchange.reach
        return response, exchange

    async def head(self) -> http.Response:
        """Ask whether the blob would be given, without following a redirect to where its bytes are.

        Raises:
            UpstreamError: no answer came.
            TokenUnavailable: the token service cannot help now.
        """
        response, _ = await self._ask("HEAD", {}, f"pulltap: may {self._name} be read?", collect, follow=False)
        return response

    async def manifest(self, accept: str) -> http.Response:
        """Ask for a manifest, where this is the source of one.

        Args:
            accept: the value of ``Accept``.

        Raises:
            UpstreamError: no answer came.
            TokenUnavailable: the token service cannot help now.
        """
        response, _ = await self._ask("GET", {"Accept": accept}, f"pulltap: manifest {self._name}", collect)
        return response

    async def _ask(
        self, method: str, headers: dict[str, str], purpose: str, choose: Choose, *, follow: bool = True
    ) -> tuple[http.Response, Exchange]:
        send = self._upstream.fetch if follow else self._upstream.ask
        secure = self._target.scheme == "https"
        if self.grant.injected:
            # Out of the cache, as a rule; a long fill outlives the token that it began with.
            self.grant = await self._grants.grant(self._target.registry, self._target.route, None, secure=secure)
        while True:
            request = self._request(method, headers)
            response, exchange = await send(request, self._client, purpose, choose)
            if response.status_code != 401:
                return response, exchange
            challenges = response.headers.get_all("www-authenticate")
            renewed = await self._grants.renew(
                self._target.registry, self._target.route, self.grant, challenges, secure=secure
            )
            if renewed is None:
                return response, exchange
            self.grant = renewed

    def _request(self, method: str, more: dict[str, str]) -> http.Request:
        name = authority(self._target.scheme, self._target.host, self._target.port)
        request = http.Request.make(method, f"{self._target.scheme}://{name}/")
        # As the client wrote it, which need not be by a URL's grammar.
        request.path = self._path
        request.headers.clear()
        # A blob is stored in its own bytes, not in a coding that a client may accept.
        request.headers.update(
            {"Host": name, "User-Agent": self._agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        )
        request.headers.update(more)
        if self.grant.authorization:
            request.headers["Authorization"] = self.grant.authorization
        return request
