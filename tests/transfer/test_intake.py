"""Reading a body past mitmproxy's layers: an exchange against a real TLS server."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from h11._readers import ContentLengthReader
from mitmproxy import connection, http
from mitmproxy.addons import tlsconfig
from mitmproxy.proxy.layers.http import HttpClient
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Connection
from mitmproxy.test import taddons
from OpenSSL import SSL

from addon.transfer.intake import WORTH, Intake
from addon.transfer.upstream import Exchange, Upstream, UpstreamError

from ..doubles import BOUND, mitmproxy_with
from ..standin.certs import Authority
from .origin import Serve, always, answer, origin

CLIENT = connection.Client(peername=("192.0.2.1", 1), sockname=("192.0.2.2", 2))
CONTENT = bytes(range(251)) * 20_001
ROOM = 100_003


class Basin:
    """Receives a body; what the layers brought, and what was put past them, is told apart."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.received = 0
        self.most = len(CONTENT) * 2
        """How many bytes it takes before it says that it is full."""
        self.full = asyncio.Event()
        self.emptied = asyncio.Event()
        self._room = bytearray(ROOM)
        self._more = asyncio.Event()

    def receive(self, chunk: bytes) -> None:
        self.body += chunk
        self.received += len(chunk)
        self._more.set()

    def room(self) -> memoryview | None:
        return None if len(self.body) >= self.most else memoryview(self._room)

    def put(self, count: int) -> None:
        self.body += self._room[:count]
        self._more.set()

    async def has(self, count: int) -> None:
        """Wait until it has so many bytes."""
        async with asyncio.timeout(BOUND):
            while len(self.body) < count:
                await self._more.wait()
                self._more.clear()

    async def ready(self) -> None:
        if len(self.body) >= self.most:
            self.full.set()
            await self.emptied.wait()

    def empty(self) -> None:
        self.most = len(CONTENT) * 2
        self.emptied.set()

    def choose(self, _response: http.Response) -> "Basin":
        return self


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return Authority(tmp_path_factory.mktemp("ca")).server_context("registry.example")


@pytest.fixture
async def upstream(tidy: None, tmp_path: Path) -> AsyncIterator[Upstream]:
    with mitmproxy_with(tlsconfig.TlsConfig(), confdir=str(tmp_path), ssl_insecure=True, http2=False) as context:
        configure(context)
        yield Upstream()


def configure(context: taddons.context) -> None:
    """Let mitmproxy's own addon for TLS see its options."""
    context.configure(context.master.addons.get("tlsconfig"))


@pytest.fixture
def basin() -> Basin:
    return Basin()


async def ask(upstream: Upstream, url: str, basin: Basin) -> Exchange:
    request = http.Request.make("GET", url)
    async with asyncio.timeout(BOUND):
        _, exchange = await upstream.ask(request, CLIENT, "a test", basin.choose)
    return exchange


async def ended(exchange: Exchange) -> None:
    async with asyncio.timeout(BOUND):
        await exchange.end()


def in_pieces(size: int, raw: bytes = answer("200 OK", CONTENT)) -> Serve:
    """Sends these bytes so many at a time, each by itself."""

    async def serve(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(1)
        for start in range(0, len(raw), size):
            writer.write(raw[start : start + size])
            await writer.drain()

    return serve


@pytest.mark.parametrize("size", [1 << 30, 256 * 1024, 10_007, 16_384])
async def test_a_large_body_goes_past_the_layers(
    upstream: Upstream, basin: Basin, tls: ssl.SSLContext, size: int
) -> None:
    async with origin(in_pieces(size), tls) as there:
        exchange = await ask(upstream, there.url, basin)
        await ended(exchange)
    assert basin.body == CONTENT
    assert exchange.complete
    # What came with the head, and what ends it.
    assert basin.received < WORTH


async def test_a_small_body_is_not_worth_it(upstream: Upstream, basin: Basin, tls: ssl.SSLContext) -> None:
    content = CONTENT[: WORTH - 1]
    async with origin(always(answer("200 OK", content)), tls) as there:
        await ended(await ask(upstream, there.url, basin))
    assert basin.body == content
    assert basin.received == len(content)


async def test_a_body_that_is_framed_is_for_the_layers(upstream: Upstream, basin: Basin, tls: ssl.SSLContext) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    async with origin(always(raw), tls) as there:
        await ended(await ask(upstream, there.url, basin))
    assert basin.body == CONTENT
    assert basin.received == len(CONTENT)


async def test_who_is_full_is_waited_for(upstream: Upstream, basin: Basin, tls: ssl.SSLContext) -> None:
    basin.most = 2 * WORTH
    async with origin(in_pieces(65_536), tls) as there:
        exchange = await ask(upstream, there.url, basin)
        await asyncio.wait_for(basin.full.wait(), BOUND)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(basin.body) < basin.most + ROOM
        basin.empty()
        await ended(exchange)
    assert basin.body == CONTENT


@pytest.mark.parametrize("at", [1, WORTH, len(CONTENT) - 1])
async def test_a_cut_is_told_with_what_came(upstream: Upstream, basin: Basin, tls: ssl.SSLContext, at: int) -> None:
    raw = answer("200 OK", CONTENT[:at], length=len(CONTENT))
    async with origin(always(raw), tls) as there:
        exchange = await ask(upstream, there.url, basin)
        with pytest.raises(UpstreamError, match=rf"received {at} bytes, expected {len(CONTENT)}"):
            await ended(exchange)
    assert basin.body == CONTENT[:at]


async def test_a_connection_that_is_reset(upstream: Upstream, basin: Basin, tls: ssl.SSLContext) -> None:
    async def serve(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(1)
        writer.write(answer("200 OK", CONTENT[: 2 * WORTH], length=len(CONTENT)))
        await writer.drain()
        await basin.has(WORTH)
        writer.transport.abort()

    async with origin(serve, tls) as there:
        exchange = await ask(upstream, there.url, basin)
        with pytest.raises(UpstreamError):
            await ended(exchange)
    assert CONTENT.startswith(basin.body)


@pytest.mark.parametrize(("reset", "more"), [(False, 0), (False, 1000), (True, 0)])
async def test_a_connection_that_ends_before_the_layers_are_passed(
    upstream: Upstream, basin: Basin, tls: ssl.SSLContext, reset: bool, more: int
) -> None:
    basin.most = 1

    async def serve(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", CONTENT[:1000], length=len(CONTENT)))
        await basin.has(1)
        writer.write(CONTENT[1000:2000])
        await basin.full.wait()
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.write(CONTENT[2000 : 2000 + more])
        await writer.drain()
        writer.transport.abort()

    async with origin(serve, tls) as there:
        exchange = await ask(upstream, there.url, basin)
        (io,) = exchange.transports.values()
        assert isinstance(io.reader, asyncio.StreamReader)
        async with asyncio.timeout(BOUND):
            while not (io.reader.exception() if reset else vars(io.reader)["_eof"]):  # noqa: ASYNC110 (no event tells)
                await asyncio.sleep(0)
        basin.empty()
        with pytest.raises(UpstreamError):
            await ended(exchange)
    assert basin.body == CONTENT[: 2000 + more]


async def test_more_than_was_announced_is_left_alone(upstream: Upstream, basin: Basin, tls: ssl.SSLContext) -> None:
    async with origin(always(answer("200 OK", CONTENT, length=len(CONTENT) - 5)), tls) as there:
        await ended(await ask(upstream, there.url, basin))
    assert basin.body == CONTENT[:-5]


@pytest.mark.parametrize("full", [False, True])
async def test_an_abort_in_the_midst(upstream: Upstream, basin: Basin, tls: ssl.SSLContext, full: bool) -> None:
    async def serve(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", CONTENT[: 2 * WORTH], length=len(CONTENT)))
        await asyncio.Event().wait()

    if full:
        basin.most = WORTH
    async with origin(serve, tls) as there:
        exchange = await ask(upstream, there.url, basin)
        await basin.has(WORTH)
        await exchange.abort()
        await asyncio.wait_for(there.gone.wait(), BOUND)


async def test_an_error_of_another_connection_is_not_this_ones(
    upstream: Upstream, basin: Basin, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = SSL._lib  # type: ignore[attr-defined]
    put, runs, found = Basin.put, 0, set[int]()
    run = Intake.run

    async def counted(intake: Intake) -> None:
        nonlocal runs
        runs += 1
        await run(intake)

    def spoiling(basin: Basin, count: int) -> None:
        found.add(lib.ERR_peek_error())
        put(basin, count)
        lib.ERR_put_error(lib.ERR_LIB_EVP, 0, 1, b"elsewhere", 1)

    monkeypatch.setattr(Basin, "put", spoiling)
    monkeypatch.setattr(Intake, "run", counted)
    async with origin(in_pieces(65_536), tls) as there:
        await ended(await ask(upstream, there.url, basin))
    lib.ERR_clear_error()
    assert basin.body == CONTENT
    assert runs == 1
    # OpenSSL before 4 looks there for what became of this one.
    assert found == {0}


def test_guard_what_others_keep_to_themselves() -> None:
    counter = ContentLengthReader(10)
    assert counter._remaining == 10
    assert {"buf", "state", "body_reader"} <= {*Http1Connection.__annotations__}
    assert Http1Client.read_body is Http1Connection.read_body
    assert "child_layer" in HttpClient.__annotations__
    lib = SSL._lib  # type: ignore[attr-defined]
    for name in ("SSL_read", "SSL_get_error", "SSL_ERROR_WANT_READ", "ERR_clear_error"):
        assert hasattr(lib, name)
