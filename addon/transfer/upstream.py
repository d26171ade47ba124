"""What Pulltap itself asks upstream, through mitmproxy's own HTTP core.

An `Exchange` is one request with its answer, run as mitmproxy's client replay runs a flow: upstream proxies, client
certificates and CA options apply to it, and a person debugging sees it in the flow list, with a comment that says what
it is for. Its body goes to a `Receiver`, or, where nobody wants to receive it, is collected up to a limit.

`Upstream.fetch` follows redirects; `Upstream.ask` does not. Where a redirect leads is resolved and judged before the
connection is opened, and the address that was connected to is judged again before a byte is sent, in case the name has
changed its mind in between (`addon.transfer.addresses`). Behind an upstream proxy (``--mode upstream:``), names are
resolved there, and nothing is judged here.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urljoin, urlsplit
from weakref import WeakSet

from mitmproxy import connection, ctx, http
from mitmproxy.addons.clientplayback import MockServer, ReplayHandler
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import (
    HTTPMode,
    HttpResponseHeadersHook,
    HttpResponseHook,
    ResponseData,
)
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.proxy.server_hooks import ServerConnectedHook, ServerConnectHook

from addon.settings import authority
from addon.transfer import addresses, kept
from addon.transfer.addresses import Reach
from addon.transfer.intake import Basin, Intake

HEADER_SECONDS = 30
"""How long upstream may take to answer; containerd, for one, waits no longer for us."""
STALL_SECONDS = 60
"""How long a body may pause."""
COLLECTED = 4 * 1024 * 1024
"""Bytes of a body that is collected, at most: registries accept no larger manifest."""
_HOPS = 5
_LONGEST_REASON = 300


class UpstreamError(Exception):
    """Upstream gave no usable answer; ``status`` (502 or 504) is what the client is told."""

    def __init__(self, message: str, status: int = 502) -> None:
        super().__init__(message)
        self.status = status


class Receiver(Basin, Protocol):
    """Where the body of an answer goes, piece by piece, on the event loop."""

    def receive(self, chunk: bytes) -> None:
        """Take the next bytes; is not to raise."""


Choose = Callable[[http.Response], Receiver | None]
"""Looks at an answer's head and names who receives its body; None collects it."""


def collect(_response: http.Response) -> None:
    """The choice to collect every body."""


class _Asker(MockServer):
    """The client's end of an exchange, as seen by the HTTP layer."""

    def __init__(self, exchange: "Exchange", context: layer.Context) -> None:
        super().__init__(exchange.flow, context)
        self._exchange = exchange

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, ResponseData):
            self._exchange.received(event.data)
        else:
            yield from super()._handle_event(event)


class Exchange(ReplayHandler):
    """One request to upstream and its answer."""

    def __init__(self, exchange_flow: http.HTTPFlow, choose: Choose, reach: Reach = Reach.ANYWHERE) -> None:
        super().__init__(exchange_flow, ctx.options)
        self.layer.connections[self.client] = _Asker(self, self.layer.context.fork())
        self.complete = False
        """Whether the body came to its end, as far as HTTP can tell."""
        proxied = self.layer.mode is HTTPMode.upstream
        if proxied:
            self._go_by_the_proxy(exchange_flow.request)
        self.reach = Reach.ANYWHERE if proxied else reach
        """To which addresses it may connect."""
        self._judged: connection.Address | None = None
        self.request = exchange_flow.request
        """What was sent; the flow keeps it without its secrets, once the exchange is over."""
        self._choose = choose
        self._receiver: Receiver | None = None
        self._flowing = False
        """Whether the body has begun to come, and nothing of it waits in mitmproxy's layers."""
        self._collected = bytearray()
        self._head: asyncio.Future[http.Response] = asyncio.get_running_loop().create_future()
        self._timeout = asyncio.timeout(HEADER_SECONDS)
        self._reason = ""
        self._task = asyncio.create_task(self._run(), name=f"upstream {exchange_flow.request.pretty_host}")

    def _go_by_the_proxy(self, request: http.Request) -> None:
        """Be what mitmproxy's HTTP layer expects behind an upstream proxy, whoever the client is, if there is one."""
        self.client.proxy_mode = ProxyMode.parse(ctx.options.mode[0])
        if request.scheme == "http":
            # The proxy is told by the request line; for TLS, by CONNECT.
            request.authority = authority(request.scheme, request.host, request.port)

    async def head(self) -> http.Response:
        """The answer's head; for a collected body, the whole answer.

        Raises:
            UpstreamError: there is none.
        """
        return await asyncio.shield(self._head)

    async def end(self) -> None:
        """Wait until the exchange is over, its body received.

        Raises:
            UpstreamError: it ended before its body did.
        """
        await asyncio.wait([self._task])
        if not self.complete:
            raise UpstreamError(self._reason or "upstream closed the connection")

    async def abort(self) -> None:
        """Close the connection; nothing more is received."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        address = f"{self.flow.request.host}:{self.flow.request.port}"
        try:
            async with self._timeout:
                await self.replay()
        except TimeoutError:
            waited = STALL_SECONDS if self._head.done() else HEADER_SECONDS
            self._fail(UpstreamError(f"{address} sent nothing for {waited} s", 504))
        except asyncio.CancelledError:
            self._fail(UpstreamError(self._reason or "aborted"))
        finally:
            await self._close()
            # Its tasks and it refer to each other until Python tidies up; no fill, with its open file, waits for that.
            self._choose, self._receiver = collect, None
            self.request = self.flow.request
            kept.over(self.flow)
        if self.flow.error is not None:
            timed_out = "timed out" in self.flow.error.msg
            # What upstream said instead of HTTP may be in it, all of it.
            self._fail(UpstreamError(f"{address}: {self.flow.error.msg[:_LONGEST_REASON]}", 504 if timed_out else 502))

    def _fail(self, error: UpstreamError) -> None:
        self._reason = self._reason or str(error)
        if not self._head.done():
            self._head.set_exception(error)
            # Whoever asks later gets it; nobody having asked is no fault.
            self._head.exception()

    async def _close(self) -> None:
        handlers = [io.handler for io in self.transports.values() if io.handler]
        # A connection that speaks HTTP/2 is woken for its pings.
        for task in (*handlers, *self.wakeup_timer):
            task.cancel()
        if handlers:
            await asyncio.wait(handlers)
        # What is left is what mitmproxy did not close: it was cancelled while it waited for its turn.
        for io in self.transports.values():
            if io.writer is not None:
                io.writer.close()

    def received(self, chunk: bytes) -> None:
        """Pass a piece of the body on."""
        self._wait_at_most(STALL_SECONDS)
        if self._receiver is not None:
            self._flowing = True
            self._receiver.receive(chunk)
        elif len(self._collected) + len(chunk) <= COLLECTED:
            self._collected += chunk
        else:
            self._reason = f"{self.flow.request.host} sent more than {COLLECTED} bytes where a short answer was due"
            self._task.cancel()

    async def handle_hook(self, hook: commands.StartHook) -> None:
        """See `ReplayHandler.handle_hook`; in between, the head is handed out and the body collected."""
        if isinstance(hook, HttpResponseHook) and self._receiver is None:
            assert hook.flow.response
            hook.flow.response.data.content = bytes(self._collected)
        if isinstance(hook, ServerConnectHook):
            await self._judge(hook.data.server)
        elif isinstance(hook, ServerConnectedHook):
            await self._judge_again(hook.data.server)
        await super().handle_hook(hook)
        if isinstance(hook, HttpResponseHeadersHook):
            assert hook.flow.response
            hook.flow.response.stream = True
            self._receiver = self._choose(hook.flow.response)
            if self._receiver is not None:
                self._answered(hook.flow.response)
        elif isinstance(hook, HttpResponseHook) and self.flow.error is None:
            self.complete = True
            assert hook.flow.response
            self._answered(hook.flow.response)

    async def _judge(self, server: connection.Server) -> None:
        """Refuse a name behind which there is an address that is out of reach; mitmproxy then opens no connection."""
        if self.reach is Reach.ANYWHERE or server.address is None:
            return
        host, port = server.address[:2]
        try:
            found = await addresses.resolve(host, port)
        except OSError:
            # mitmproxy finds out as well, and says so.
            found = []
        outside = next((address for address in found if not self.reach.covers(address)), None)
        if outside is not None:
            server.error = _refused(host, outside)
        self._judged = server.address

    async def _judge_again(self, server: connection.Server) -> None:
        """Refuse an address that is not what the name stood for a moment ago; another addon's choice is none of it."""
        if self._judged is None or server.address != self._judged or server.peername is None:
            return
        if not self.reach.covers(server.peername[0]):
            self._fail(UpstreamError(_refused(self._judged[0], server.peername[0])))
            self._task.cancel()
            # Nothing is sent: the connection is closed while it waits here.
            await asyncio.Event().wait()

    def _answered(self, response: http.Response) -> None:
        if not self._head.done():
            self._head.set_result(response)

    async def drain_writers(self) -> None:
        """See `ConnectionHandler.drain_writers`, which is awaited after every read from upstream."""
        await super().drain_writers()  # type: ignore[no-untyped-call]
        if self._receiver is None:
            return
        await self.ready()
        if not self._flowing:
            return
        # Only the connection's own task comes here, and it goes on reading once this returns.
        for server, io in list(self.transports.items()):
            if intake := Intake.past(self.layer, server, (io.reader, io.writer), self):
                await intake.run()
                # What TLS still has decrypted is for the layers.
                await self.server_event(events.DataReceived(server, b""))

    def room(self) -> memoryview | None:
        """See `Basin.room`."""
        assert self._receiver
        self._wait_at_most(STALL_SECONDS)
        return self._receiver.room()

    def put(self, count: int) -> None:
        """See `Basin.put`."""
        assert self._receiver
        self._receiver.put(count)

    async def ready(self) -> None:
        """See `Basin.ready`."""
        assert self._receiver
        # A slow disk is not for upstream to answer for.
        self._wait_at_most(None)
        await self._receiver.ready()
        self._wait_at_most(STALL_SECONDS)

    def _wait_at_most(self, seconds: float | None) -> None:
        when = None if seconds is None else asyncio.get_running_loop().time() + seconds
        # Once over, a timeout refuses to be moved; what still arrives then is the rest of a closed connection.
        with contextlib.suppress(RuntimeError):
            self._timeout.reschedule(when)


class Upstream:
    """Asks upstream on Pulltap's own account."""

    def __init__(self) -> None:
        self._flows: WeakSet[http.HTTPFlow] = WeakSet()

    def owns(self, some_flow: http.HTTPFlow) -> bool:
        """Whether this flow is one of ours, which our own hooks leave alone."""
        return some_flow in self._flows

    async def ask(
        self,
        request: http.Request,
        client: connection.Client,
        purpose: str,
        choose: Choose = collect,
        reach: Reach = Reach.ANYWHERE,
    ) -> tuple[http.Response, Exchange]:
        """Send one request; returns with the head, or, for a collected body, the whole answer.

        Args:
            request: an absolute request.
            client: on whose behalf, for those who look at the flow.
            purpose: what the flow's comment says.
            choose: names the receiver of the body.
            reach: to which addresses the connection may go.

        Raises:
            UpstreamError: no answer came.
        """
        exchange_flow = http.HTTPFlow(client, connection.Server(address=None))
        exchange_flow.request = request
        exchange_flow.is_replay = "request"
        exchange_flow.comment = purpose
        self._flows.add(exchange_flow)
        exchange = Exchange(exchange_flow, choose, reach)
        try:
            return await exchange.head(), exchange
        except asyncio.CancelledError:
            await exchange.abort()
            raise

    async def fetch(
        self, request: http.Request, client: connection.Client, purpose: str, choose: Choose = collect
    ) -> tuple[http.Response, Exchange]:
        """`ask`, following redirects; a further host gets no ``Authorization``, nor anything else that is a secret.

        Raises:
            UpstreamError: no answer came, or a redirect leads nowhere, or where it may not lead.
        """
        origin = (request.host, request.port)
        reach, led = Reach.ANYWHERE, None
        for _ in range(_HOPS + 1):
            response, exchange = await self.ask(request, client, purpose, choose, reach)
            if response.status_code not in (301, 302, 303, 307, 308) or not (to := response.headers.get("location")):
                return response, exchange
            if led is None:
                peer = exchange.flow.server_conn.peername
                led = addresses.led_by(peer[0] if peer else None)
            request = redirected(request, to)
            reach = Reach.ANYWHERE if (request.host, request.port) == origin else led
        raise UpstreamError(f"{request.host} redirects more than {_HOPS} times")


def _refused(host: str, address: str) -> str:
    return f"a redirect leads to {host} at {address}, which is no public address: it is refused"


_SECRETS = ("authorization", "cookie", "proxy-authorization")
# All that a URI consists of; anything else would end up in a request line (RFC 3986, appendix A).
_VISIBLE = re.compile(r"[!-~]+")


def redirected(request: http.Request, location: str) -> http.Request:
    """The request that a redirect asks for (RFC 9110, section 15.4).

    Raises:
        UpstreamError: the redirect is not to HTTP, leaves TLS, or leads to what is no address.
    """
    base = f"{request.scheme}://{authority(request.scheme, request.host, request.port)}{request.path}"
    try:
        target = urljoin(base, location)
        parts = urlsplit(target)
        usable = parts.scheme == "https" or (parts.scheme == "http" and request.scheme == "http")
        if not usable or not parts.hostname or not _VISIBLE.fullmatch(location):
            raise UpstreamError(
                f"{request.host} redirects to {parts.scheme}://{parts.hostname or ''}, which is refused"
            )
        follow = http.Request.make(request.method, target.partition("#")[0], b"", request.headers.copy())
    except ValueError as e:
        raise UpstreamError(f"{request.host} redirects to an address that is none") from e
    if (follow.scheme, follow.host, follow.port) != (request.scheme, request.host, request.port):
        for name in _SECRETS:
            follow.headers.pop(name, None)
    follow.headers.pop("content-length", None)
    follow.headers["Host"] = parts.netloc.rpartition("@")[2]
    return follow
