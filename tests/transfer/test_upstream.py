"""What Pulltap asks upstream: one exchange against a real socket, and redirects."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mitmproxy import connection, http
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test import taddons

from addon.transfer import addresses
from addon.transfer import upstream as module
from addon.transfer.addresses import Reach
from addon.transfer.heads import LONGEST, bound_heads, unbound_heads
from addon.transfer.upstream import Choose, Exchange, Upstream, UpstreamError, redirected

from ..doubles import BOUND, mitmproxy_with
from .origin import Serve, always, answer, forever, origin

CLIENT = connection.Client(peername=("192.0.2.1", 1), sockname=("192.0.2.2", 2))


@pytest.fixture
async def mitmproxy(tidy: None) -> AsyncIterator[taddons.context]:
    with mitmproxy_with() as running:
        yield running


@pytest.fixture
def upstream(mitmproxy: taddons.context) -> Upstream:
    return Upstream()


class Receiving:
    """A receiver that takes all there is, for as long as it is `open`."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = asyncio.Event()
        """`ready` was called while not open."""

    def receive(self, chunk: bytes) -> None:
        self.body += chunk

    def room(self) -> memoryview | None:
        raise AssertionError("plain HTTP goes through the layers")

    def put(self, count: int) -> None:
        raise AssertionError(f"{count} bytes were put nowhere")

    async def ready(self) -> None:
        if not self.open.is_set():
            self.waiting.set()
        await self.open.wait()

    def choose(self, _response: http.Response) -> "Receiving":
        return self


async def ask(
    upstream: Upstream, url: str, choose: Choose = module.collect, **headers: str
) -> tuple[http.Response, Exchange]:
    request = http.Request.make("GET", url)
    request.headers.update(headers)
    async with asyncio.timeout(BOUND):
        return await upstream.ask(request, CLIENT, "a test", choose)


async def ended(exchange: Exchange) -> None:
    async with asyncio.timeout(BOUND):
        await exchange.end()


async def refused(upstream: Upstream, url: str, choose: Choose = module.collect) -> UpstreamError:
    with pytest.raises(UpstreamError) as raised:
        await ask(upstream, url, choose)
    return raised.value


# One exchange.


async def test_a_body_goes_to_its_receiver(upstream: Upstream) -> None:
    content = bytes(range(256)) * 8192
    into = Receiving()
    async with origin(always(answer("200 OK", content))) as there:
        response, exchange = await ask(upstream, there.url + "/blob?x=1", into.choose)
        assert response.status_code == 200
        await ended(exchange)
    assert into.body == content
    assert exchange.complete
    assert there.heads[0].startswith("GET /blob?x=1 HTTP/1.1\n")


async def test_the_head_comes_before_the_body(upstream: Upstream) -> None:
    go = asyncio.Event()

    async def serve(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", b"", length=4))
        await writer.drain()
        await go.wait()
        writer.write(b"blob")

    into = Receiving()
    async with origin(serve) as there:
        _, exchange = await ask(upstream, there.url, into.choose)
        assert not into.body
        go.set()
        await ended(exchange)
    assert into.body == b"blob"


@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized", "404 Not Found", "307 Temporary Redirect"])
async def test_a_body_that_nobody_receives_is_collected(upstream: Upstream, status: str) -> None:
    async with origin(always(answer(status, b"collected", "Location: /x"))) as there:
        response, exchange = await ask(upstream, there.url)
        await ended(exchange)
    assert (f"{response.status_code} {response.reason}", response.raw_content) == (status, b"collected")


async def test_head_has_no_body(upstream: Upstream) -> None:
    async with origin(always(answer("200 OK", length=1000))) as there:
        question = http.Request.make("HEAD", there.url)
        response, exchange = await upstream.ask(question, CLIENT, "a test")
        await ended(exchange)
    assert (response.headers["content-length"], response.raw_content) == ("1000", b"")


async def test_more_than_is_collected_is_aborted(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COLLECTED", 1000)
    async with origin(always(answer("200 OK", b"x" * 1000))) as there:
        response, _ = await ask(upstream, there.url)
    assert response.raw_content == b"x" * 1000

    async def endless(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    async with origin(endless) as there:
        error = await refused(upstream, there.url)
        assert (error.status, str(error)) == (502, "127.0.0.1 sent more than 1000 bytes where a short answer was due")
        await asyncio.wait_for(there.gone.wait(), BOUND)


async def test_upstream_that_does_not_answer(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADER_SECONDS", 0.05)

    async def silent(_head: str, writer: asyncio.StreamWriter) -> None:
        await forever(writer)

    async with origin(silent) as there:
        error = await refused(upstream, there.url)
        assert (error.status, str(error)) == (504, f"127.0.0.1:{there.port} sent nothing for 0.05 s")
        await asyncio.wait_for(there.gone.wait(), BOUND)


def stalling(begin: bytes) -> Serve:
    async def serve(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        await forever(writer)

    return serve


async def test_upstream_that_stalls(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.05)
    into = Receiving()
    async with origin(stalling(answer("200 OK", b"half", length=8))) as there:
        _, exchange = await ask(upstream, there.url, into.choose)
        with pytest.raises(UpstreamError, match=f"127.0.0.1:{there.port} sent nothing for 0.05 s"):
            await ended(exchange)
        await asyncio.wait_for(there.gone.wait(), BOUND)
    assert into.body == b"half"


async def test_upstream_that_stalls_while_its_answer_is_collected(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(module, "STALL_SECONDS", 0.05)
    async with origin(stalling(answer("200 OK", b"half", length=8))) as there:
        assert (await refused(upstream, there.url)).status == 504


async def test_who_is_slow_to_receive_does_not_make_upstream_late(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.05)
    into = Receiving()
    into.open.clear()
    asyncio.get_running_loop().call_later(0.2, into.open.set)
    async with origin(always(answer("200 OK", b"blob"))) as there:
        _, exchange = await ask(upstream, there.url, into.choose)
        await ended(exchange)
    assert into.body == b"blob"


async def test_nobody_listens(upstream: Upstream) -> None:
    async with origin(always(b"")) as there:
        pass
    error = await refused(upstream, there.url)
    assert error.status == 502
    assert str(there.port) in str(error)


@pytest.mark.parametrize(
    "raw",
    [b"", b"HTTP/1.1 200", b"this is not HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n"],
    ids=["nothing", "half a head", "no HTTP", "no length"],
)
async def test_upstream_that_does_not_speak_http(upstream: Upstream, raw: bytes) -> None:
    async with origin(always(raw)) as there:
        assert (await refused(upstream, there.url)).status == 502


@pytest.mark.parametrize(
    "raw",
    [answer("200 OK", b"half", length=8), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"],
    ids=["length", "chunked"],
)
async def test_a_body_that_is_cut(upstream: Upstream, raw: bytes) -> None:
    into = Receiving()
    async with origin(always(raw)) as there:
        _, exchange = await ask(upstream, there.url, into.choose)
        with pytest.raises(UpstreamError, match=re.escape(f"127.0.0.1:{there.port}: ")):
            await ended(exchange)
        assert (await refused(upstream, there.url)).status == 502
    assert into.body == b"half"
    assert not exchange.complete


async def test_upstream_is_not_read_before_more_is_welcome(upstream: Upstream) -> None:
    size, accepted, stuck = 64 << 20, 0, asyncio.Event()

    async def serve(_head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        writer.transport.set_write_buffer_limits(0)
        writer.write(answer("200 OK", length=size))
        while accepted < size:
            writer.write(bytes(65536))
            if writer.transport.get_write_buffer_size():
                stuck.set()
            await writer.drain()
            accepted += 65536

    into = Receiving()
    into.open.clear()
    async with origin(serve) as there:
        _, exchange = await ask(upstream, there.url, into.choose)
        async with asyncio.timeout(BOUND):
            await into.waiting.wait()
            await stuck.wait()
        for _ in range(500):
            await asyncio.sleep(0)
        # One read, of what mitmproxy reads at a time; the rest is what the kernel takes for both ends.
        assert len(into.body) <= 1 << 16
        assert accepted < size // 2
        into.open.set()
        await ended(exchange)
    assert len(into.body) == size


async def test_abort_closes_the_connection(upstream: Upstream) -> None:
    into = Receiving()
    async with origin(stalling(answer("200 OK", b"half", length=8))) as there:
        _, exchange = await ask(upstream, there.url, into.choose)
        await exchange.abort()
        await asyncio.wait_for(there.gone.wait(), BOUND)
        with pytest.raises(UpstreamError, match="aborted"):
            await ended(exchange)
        await exchange.abort()


async def test_abort_while_more_is_not_welcome(upstream: Upstream) -> None:
    into = Receiving()
    into.open.clear()
    async with origin(stalling(answer("200 OK", b"half", length=8))) as there:
        _, exchange = await ask(upstream, there.url, into.choose)
        await asyncio.wait_for(into.waiting.wait(), BOUND)
        await exchange.abort()
        await asyncio.wait_for(there.gone.wait(), BOUND)


async def test_one_who_stops_asking_closes_the_connection(upstream: Upstream) -> None:
    async with origin(stalling(b"")) as there:
        asking = asyncio.create_task(ask(upstream, there.url))
        await asyncio.wait_for(there.asked.wait(), BOUND)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(there.gone.wait(), BOUND)


async def test_what_an_exchange_is_to_be_woken_for_ends_with_it(upstream: Upstream) -> None:
    async with origin(stalling(answer("200 OK", b"half", length=8))) as there:
        _, exchange = await ask(upstream, there.url, Receiving().choose)
        exchange.wakeup_timer.add(asyncio.create_task(asyncio.sleep(3600)))
        await exchange.abort()


async def test_others_see_what_it_is_for(upstream: Upstream, mitmproxy: taddons.context) -> None:
    seen: list[tuple[str, object, str, bytes | None]] = []

    class Watch:
        def response(self, flow: http.HTTPFlow) -> None:
            assert flow.response
            assert upstream.owns(flow)
            seen.append((flow.comment, flow.client_conn.peername, flow.request.path, flow.response.raw_content))

    mitmproxy.master.addons.add(Watch())
    async with origin(always(answer("200 OK", b"collected"))) as there:
        await ask(upstream, there.url + "/x")
    assert seen == [("a test", ("192.0.2.1", 1), "/x", b"collected")]
    assert not upstream.owns(http.HTTPFlow(CLIENT, connection.Server(address=None)))


async def test_an_addon_may_answer_in_upstreams_place(upstream: Upstream, mitmproxy: taddons.context) -> None:
    class Answer:
        def request(self, flow: http.HTTPFlow) -> None:
            flow.response = http.Response.make(418, b"short and stout")

    mitmproxy.master.addons.add(Answer())
    response, exchange = await ask(upstream, "http://192.0.2.1/")
    await ended(exchange)
    assert response.status_code == 418


# Redirects.


def redirecting(to: str, status: int = 307) -> bytes:
    return answer(f"{status} Redirect", b"over there", f"Location: {to}")


async def fetch(upstream: Upstream, url: str, choose: Choose = module.collect, /, **headers: str) -> http.Response:
    request = http.Request.make("GET", url)
    request.headers.update(headers)
    async with asyncio.timeout(BOUND):
        response, exchange = await upstream.fetch(request, CLIENT, "a test", choose)
        await exchange.end()
    return response


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(("to", "path"), [("/there?a=b", "/there?a=b"), ("there", "/v2/there"), ("?x", "/v2/blob?x")])
async def test_a_relative_redirect_is_followed(upstream: Upstream, status: int, to: str, path: str) -> None:
    async def serve(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(redirecting(to, status) if head.startswith("GET /v2/blob HTTP") else answer("200 OK", b"blob"))

    into = Receiving()
    asked: list[int] = []

    def choose(response: http.Response) -> Receiving | None:
        asked.append(response.status_code)
        return into if response.status_code == 200 else None

    async with origin(serve) as there:
        response = await fetch(upstream, there.url + "/v2/blob", choose, Authorization="Bearer secret")
    assert (response.status_code, bytes(into.body), asked) == (200, b"blob", [status, 200])
    assert there.heads[1].startswith(f"GET {path} HTTP/1.1\n")
    assert "Authorization: Bearer secret" in there.heads[1]


async def test_another_host_gets_no_secrets(upstream: Upstream) -> None:
    async with (
        origin(always(answer("200 OK", b"blob"))) as cdn,
        origin(always(redirecting(f"{cdn.url}/signed?token=1#fragment"))) as registry,
    ):
        secrets = {"Authorization": "Bearer secret", "Cookie": "a=b", "Proxy-Authorization": "Basic x"}
        response = await fetch(upstream, registry.url + "/blob", **secrets, Accept_Encoding="identity")
    assert response.raw_content == b"blob"
    (first,), (second,) = registry.heads, cdn.heads
    assert all(name in first for name in secrets)
    assert second.startswith("GET /signed?token=1 HTTP/1.1\n")
    assert not [name for name in secrets if name in second]
    assert "Accept_Encoding: identity" in second
    assert f"Host: 127.0.0.1:{cdn.port}\n" in second


async def test_five_redirects_are_followed_and_no_more(upstream: Upstream) -> None:
    async def serve(head: str, writer: asyncio.StreamWriter) -> None:
        left = int(head.split()[1].removeprefix("/"))
        writer.write(redirecting(f"/{left - 1}") if left else answer("200 OK", b"blob"))

    async with origin(serve) as there:
        assert (await fetch(upstream, f"{there.url}/5")).raw_content == b"blob"
        there.heads.clear()
        with pytest.raises(UpstreamError, match=r"127\.0\.0\.1 redirects more than 5 times") as raised:
            await fetch(upstream, f"{there.url}/6")
        assert len(there.heads) == 6
    assert raised.value.status == 502


async def test_a_redirect_that_leads_nowhere_is_an_answer(upstream: Upstream) -> None:
    async with origin(always(answer("304 Not Modified"))) as there:
        assert (await fetch(upstream, there.url)).status_code == 304
    async with origin(always(answer("307 Redirect", b"where to?"))) as there:
        assert (await fetch(upstream, there.url)).raw_content == b"where to?"


async def test_a_refused_redirect_leaves_nothing_behind(upstream: Upstream) -> None:
    async with origin(always(redirecting("ftp://there/"))) as there:
        with pytest.raises(UpstreamError, match=r"127\.0\.0\.1 redirects to ftp://there, which is refused"):
            await fetch(upstream, there.url)


# Where a redirect may lead.


class Names:
    """What names stand for when they are judged; connections all go to this machine."""

    def __init__(self) -> None:
        self.judged: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.led = Reach.PUBLIC


@pytest.fixture
async def looked_up(mitmproxy: taddons.context, monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    loop = asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def getaddrinfo(host: str, port: int, **hints: Any) -> Any:
        for_judging = hints == {"type": socket.SOCK_STREAM} and host in names.judged
        found = names.judged[host] if for_judging else ["127.0.0.1"]
        names.asked.append(host)
        return [entry for address in found for entry in await look_up(address, port, **hints)]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    # The registry is on this machine, as the test sees it, and anywhere else, as the test says.
    monkeypatch.setattr(addresses, "led_by", lambda _: names.led)
    return names


def refusal(host: str, address: str) -> str:
    return re.escape(f"a redirect leads to {host} at {address}, which is no public address: it is refused")


@pytest.mark.parametrize("led", [Reach.PUBLIC, Reach.PRIVATE])
@pytest.mark.parametrize("behind", [["169.254.169.254"], ["93.184.216.34", "169.254.169.254"]])
async def test_a_redirect_to_a_link_local_address(
    upstream: Upstream, looked_up: Names, led: Reach, behind: list[str]
) -> None:
    looked_up.led, looked_up.judged = led, {"inside.example": behind}
    async with origin(always(answer("200 OK", b"secret"))) as inside:
        elsewhere = f"http://inside.example:{inside.port}/latest/meta-data"
        async with origin(always(redirecting(elsewhere))) as registry:
            with pytest.raises(UpstreamError, match=refusal("inside.example", "169.254.169.254")) as raised:
                await fetch(upstream, registry.url)
        assert raised.value.status == 502
        assert not inside.heads


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd00::1"])
async def test_a_public_registry_may_not_lead_to_a_private_address(
    upstream: Upstream, looked_up: Names, address: str
) -> None:
    looked_up.judged = {"inside.example": [address]}
    async with origin(always(answer("200 OK", b"secret"))) as inside:
        async with origin(always(redirecting(f"http://inside.example:{inside.port}/"))) as registry:
            with pytest.raises(UpstreamError, match=refusal("inside.example", address)):
                await fetch(upstream, registry.url)
        assert not inside.heads
        assert not inside.connections


@pytest.mark.parametrize("literal", ["127.0.0.1", "127.1", "2130706433", "0x7f.1"])
async def test_nor_by_an_address_in_any_notation(upstream: Upstream, looked_up: Names, literal: str) -> None:
    async with origin(always(answer("200 OK", b"secret"))) as inside:
        async with origin(always(redirecting(f"http://{literal}:{inside.port}/"))) as registry:
            # It is told from the registry by its port.
            with pytest.raises(UpstreamError, match=refusal(literal, "127.0.0.1")):
                await fetch(upstream, registry.url)
        assert not inside.connections


async def test_a_registry_at_a_private_address_may(upstream: Upstream, looked_up: Names) -> None:
    looked_up.led, looked_up.judged = Reach.PRIVATE, {"inside.example": ["10.0.0.1"]}
    async with (
        origin(always(answer("200 OK", b"blob"))) as inside,
        origin(always(redirecting(f"http://inside.example:{inside.port}/"))) as registry,
    ):
        assert (await fetch(upstream, registry.url)).raw_content == b"blob"


async def test_a_registry_may_lead_to_itself_wherever_it_is(upstream: Upstream, looked_up: Names) -> None:
    async def serve(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(redirecting("/there") if head.startswith("GET / ") else answer("200 OK", b"blob"))

    async with origin(serve) as registry:
        assert (await fetch(upstream, registry.url)).raw_content == b"blob"


async def test_a_name_that_changes_its_mind_is_told_nothing(upstream: Upstream, looked_up: Names) -> None:
    # Public when it is judged, and here when it is connected to.
    looked_up.judged = {"rebound.example": ["93.184.216.34"]}
    async with origin(always(answer("200 OK", b"secret"))) as inside:
        async with origin(always(redirecting(f"http://rebound.example:{inside.port}/"))) as registry:
            with pytest.raises(UpstreamError, match=refusal("rebound.example", "127.0.0.1")):
                await fetch(upstream, registry.url)
        await asyncio.wait_for(inside.left.wait(), BOUND)
        assert not inside.heads


async def test_it_is_judged_at_every_hop(upstream: Upstream, looked_up: Names) -> None:
    looked_up.judged = {"inside.example": ["10.0.0.1"]}
    async with origin(always(answer("200 OK", b"secret"))) as inside:

        async def serve(head: str, writer: asyncio.StreamWriter) -> None:
            inward = f"http://inside.example:{inside.port}/"
            writer.write(redirecting("/2") if head.startswith("GET / ") else redirecting(inward))

        async with origin(serve) as registry:
            with pytest.raises(UpstreamError, match=refusal("inside.example", "10.0.0.1")):
                await fetch(upstream, registry.url)
        assert not inside.heads


async def test_what_was_led_to_is_judged_again_with_each_request(upstream: Upstream, looked_up: Names) -> None:
    looked_up.judged = {"inside.example": ["10.0.0.1"]}
    async with origin(always(answer("200 OK", b"secret"))) as inside:
        request = http.Request.make("GET", f"http://inside.example:{inside.port}/")
        with pytest.raises(UpstreamError, match=refusal("inside.example", "10.0.0.1")):
            await upstream.ask(request, CLIENT, "a test", module.collect, Reach.PUBLIC)
        # What a client asked for is not judged.
        _, exchange = await upstream.ask(request, CLIENT, "a test")
        assert exchange.reach is Reach.ANYWHERE
        assert looked_up.asked.count("inside.example") == 2


async def test_a_name_that_is_none_is_mitmproxys_to_tell(
    upstream: Upstream, looked_up: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nothing)
    request = http.Request.make("GET", "http://gone.example/")
    with pytest.raises(UpstreamError, match="not known"):
        await upstream.ask(request, CLIENT, "a test", module.collect, Reach.PUBLIC)


async def test_another_addons_choice_is_not_judged(
    upstream: Upstream, looked_up: Names, mitmproxy: taddons.context
) -> None:
    looked_up.judged = {"cdn.example": ["93.184.216.34"]}

    class Mirror:
        def server_connect(self, data: ServerConnectionHookData) -> None:
            assert data.server.address
            data.server.address = ("127.0.0.1", data.server.address[1])

    mitmproxy.master.addons.add(Mirror())
    async with origin(always(answer("200 OK", b"blob"))) as cdn:
        request = http.Request.make("GET", f"http://cdn.example:{cdn.port}/")
        response, _ = await upstream.ask(request, CLIENT, "a test", module.collect, Reach.PUBLIC)
    assert response.raw_content == b"blob"


async def test_behind_an_upstream_proxy_names_are_its_business(
    upstream: Upstream, looked_up: Names, mitmproxy: taddons.context, caplog: pytest.LogCaptureFixture
) -> None:
    looked_up.judged = {"inside.example": ["10.0.0.1"]}
    async with origin(always(answer("200 OK", b"blob"))) as proxy:
        mitmproxy.options.update(mode=[f"upstream:{proxy.url}"])
        request = http.Request.make("GET", "http://inside.example/")
        response, exchange = await upstream.ask(request, CLIENT, "a test", module.collect, Reach.PUBLIC)
    assert (response.raw_content, exchange.reach) == (b"blob", Reach.ANYWHERE)
    assert "inside.example" not in looked_up.asked
    assert "crashed" not in caplog.text
    assert proxy.heads[0].startswith("GET http://inside.example/ HTTP/1.1\n")


# Answers without end.


async def test_a_head_without_end_is_given_up(upstream: Upstream) -> None:
    sent = 0

    async def endless(_head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=")
        while sent < 100 << 20:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    bound_heads()
    try:
        async with origin(endless) as there:
            error = await refused(upstream, there.url)
            await asyncio.wait_for(there.gone.wait(), BOUND)
    finally:
        unbound_heads()
    assert error.status == 502
    assert f"more than {LONGEST} bytes came where a head" in str(error)
    # What was taken, and what lay in the buffers in between.
    assert sent < 32 << 20


async def test_what_upstream_says_instead_of_http_is_told_in_short(upstream: Upstream) -> None:
    async with origin(always(b"y" * 500_000)) as there:
        assert len(str(await refused(upstream, there.url))) < 400


REQUEST = http.Request.make("GET", "https://registry.example/v2/a/blobs/b?ns=x")


@pytest.mark.parametrize(
    ("location", "to", "host"),
    [
        ("/there", ("registry.example", 443, "/there"), "registry.example"),
        ("//cdn.example/there", ("cdn.example", 443, "/there"), "cdn.example"),
        ("https://cdn.example:8443/a?b=c&d=%20#e", ("cdn.example", 8443, "/a?b=c&d=%20"), "cdn.example:8443"),
        ("https://cdn.example?a=b", ("cdn.example", 443, "/?a=b"), "cdn.example"),
        ("https://[2001:db8::1]:8443/", ("2001:db8::1", 8443, "/"), "[2001:db8::1]:8443"),
        ("https://user:password@cdn.example/", ("cdn.example", 443, "/"), "cdn.example"),
    ],
)
def test_where_a_redirect_leads(location: str, to: tuple[str, int, str], host: str) -> None:
    follow = redirected(REQUEST, location)
    assert (follow.method, follow.scheme) == ("GET", "https")
    assert (follow.host, follow.port, follow.path) == to
    assert follow.headers["Host"] == host
    assert "content-length" not in follow.headers


def test_a_relative_redirect_of_an_ipv6_address() -> None:
    follow = redirected(http.Request.make("GET", "https://[2001:db8::1]:8443/v2/a"), "b?c")
    assert (follow.host, follow.port, follow.path) == ("2001:db8::1", 8443, "/v2/b?c")
    assert follow.headers["Host"] == "[2001:db8::1]:8443"


@pytest.mark.parametrize(
    "location",
    [
        "http://registry.example/",
        "ftp://cdn.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://[/",
        "https://cdn.example:99999/",
        "https://cdn.example:port/",
        "https://cdn..example/",
        "https://cdn.example/\r\nX-Injected: 1",
        "https://cdn.example/a b",
        "https://cdn.example/\x00",
        "https://cdn.example/\x7f",
        "https://cdn\x01.example/",
        "https://cdn.example/é",
        "https://cdn.example/\udcff",
        "\thttps://cdn.example/",
    ],
)
def test_a_redirect_that_is_not_followed(location: str) -> None:
    with pytest.raises(UpstreamError, match=r"registry\.example redirects to ") as raised:
        redirected(REQUEST, location)
    assert raised.value.status == 502


def test_plain_http_may_redirect_to_plain_http_and_to_tls() -> None:
    plain = http.Request.make("GET", "http://registry.example/")
    plain.headers["Authorization"] = "Basic x"
    assert redirected(plain, "/there").headers["Authorization"] == "Basic x"
    # Another scheme is another origin, as is another port.
    for elsewhere in ("https://registry.example/", "http://registry.example:81/"):
        assert "Authorization" not in redirected(plain, elsewhere).headers


# What is kept of an exchange.


@pytest.mark.parametrize("collected", [True, False])
async def test_an_exchange_that_is_over_is_kept_without_secrets(
    mitmproxy: taddons.context, upstream: Upstream, collected: bool
) -> None:
    mitmproxy.options.add_option("registry_redact", bool, True, "for the test")
    into = Receiving()
    said = answer("200 OK", b'{"token": "t0ken"}', "Set-Cookie: a=cookie")
    async with origin(always(said)) as there:
        url = there.url + "/blob?Signature=secret"
        response, exchange = await ask(upstream, url, module.collect if collected else into.choose, Cookie="own")
        await ended(exchange)
    # Whoever goes on with it has it as it was.
    assert (exchange.request.path, exchange.request.headers["Cookie"]) == ("/blob?Signature=secret", "own")
    assert response.headers["Set-Cookie"] == "a=cookie"
    assert (response.raw_content if collected else bytes(into.body)) == b'{"token": "t0ken"}'
    assert "\nCookie: own\n" in there.heads[0]
    kept = repr(exchange.flow.get_state())
    assert exchange.flow.request.path == "/blob?Signature=REDACTED"
    for secret in ("secret", "own", "cookie", "t0ken"):
        assert f"{secret}'" not in kept.lower().replace("b'cookie'", "").replace("set-cookie'", "")


async def test_an_exchange_that_fails_is_kept_without_secrets(mitmproxy: taddons.context, upstream: Upstream) -> None:
    mitmproxy.options.add_option("registry_redact", bool, True, "for the test")
    into = Receiving()

    async def serve(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", b"x", length=4))
        await forever(writer)

    async with origin(serve) as there:
        _, exchange = await ask(upstream, there.url + "/blob?Signature=secret", into.choose)
        assert exchange.flow.request.path == "/blob?Signature=secret"
        await exchange.abort()
    assert exchange.request.path == "/blob?Signature=secret"
    assert exchange.flow.request.path == "/blob?Signature=REDACTED"
