"""Sending a body past mitmproxy's layers: against a real socket, with and without TLS."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy import connection, ctx
from mitmproxy.net import tls as mitmproxy_tls
from mitmproxy.proxy import context, layer
from mitmproxy.proxy.layers import ClientTLSLayer, ServerTLSLayer, TCPLayer, modes
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode, HttpStream
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.proxy.layers.http._http2 import Http2Server
from mitmproxy.test import taddons, tflow
from OpenSSL import SSL

from addon.transfer import direct as module
from addon.transfer.body import PIECE, Body, BodyBroken
from addon.transfer.direct import Direct, let_clients_choose_ciphers
from addon.ui import ca

from ..doubles import BOUND, Pieces, mitmproxy_with

CONTENT = bytes(range(253)) * 20_011


@pytest.fixture
async def mitmproxy(tidy: None) -> AsyncIterator[taddons.context]:
    with mitmproxy_with() as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ca")
    ca.make(folder)
    return folder / ca.FILE


class Line:
    """Both ends of a connection to a client, and what it has got, decrypted."""

    def __init__(self, ours: asyncio.StreamWriter, theirs: asyncio.StreamReader, authority: Path | None) -> None:
        self.writer = ours
        self.reader = theirs
        self.got = bytearray()
        self.ssl: SSL.Connection | None = None
        if authority is not None:
            self.ssl, self._client = handshake(authority)

    async def take(self, count: int) -> bytes:
        """Read on until the client has so many bytes."""
        async with asyncio.timeout(BOUND):
            while len(self.got) < count and (data := await self.reader.read(1 << 20)):
                if self.ssl is None:
                    self.got += data
                    continue
                self._client.bio_write(data)
                with contextlib.suppress(SSL.WantReadError):
                    while True:
                        self.got += self._client.recv(1 << 16)
        return bytes(self.got)


def handshake(authority: Path) -> tuple[SSL.Connection, SSL.Connection]:
    """A server's and a client's end of TLS, as far as a first answer; as mitmproxy makes them."""
    ours = SSL.Context(SSL.TLS_METHOD)
    ours.use_certificate_file(str(authority))
    ours.use_privatekey_file(str(authority))
    server, client = SSL.Connection(ours, None), SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(3):
        for end, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                end.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(end.bio_read(1 << 16))
    return server, client


@pytest.fixture(params=["plain", "TLS"])
async def line(request: pytest.FixtureRequest, tidy: None, authority: Path) -> AsyncIterator[Line]:
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    reader, their_writer = await asyncio.open_connection(sock=theirs)
    yield Line(writer, reader, authority if request.param == "TLS" else None)
    for each in (writer, their_writer):
        each.close()
        with contextlib.suppress(OSError):
            await each.wait_closed()


def nobody_left() -> str:
    return ""


def sending(line: Line, body: Body, left: Callable[[], str] = nobody_left) -> asyncio.Task[None]:
    return asyncio.create_task(Direct(line.ssl, line.writer).send(body, left))


def cut(content: bytes) -> list[bytes | Exception]:
    return [content[start : start + PIECE] for start in range(0, len(content), PIECE)]


async def test_a_body_arrives_as_it_is(line: Line) -> None:
    body = Pieces(*cut(CONTENT))
    task = sending(line, body)
    assert await line.take(len(CONTENT)) == CONTENT
    await asyncio.wait_for(task, BOUND)
    assert body.ended


async def test_what_is_not_there_yet_is_waited_for(line: Line) -> None:
    body = Pieces(b"one", b"", b"two")
    body.ready.clear()
    task = sending(line, body)
    assert await line.take(3) == b"one"
    assert not task.done()
    body.ready.set()
    assert await line.take(6) == b"onetwo"
    await asyncio.wait_for(task, BOUND)


async def test_nothing_is_read_before_the_client_has_taken_what_was_sent(line: Line) -> None:
    body = Pieces(*cut(CONTENT * 8))
    task = sending(line, body)
    for _ in range(200):
        await asyncio.sleep(0)
    assert not body.ended
    # What the kernel takes, and one piece.
    assert line.writer.transport.get_write_buffer_size() <= module.ENCRYPTED
    assert await line.take(len(CONTENT) * 8) == CONTENT * 8
    await asyncio.wait_for(task, BOUND)


async def test_a_body_that_breaks(line: Line) -> None:
    with pytest.raises(BodyBroken, match="the digest is wrong"):
        await asyncio.wait_for(sending(line, Pieces(b"one", BodyBroken("the digest is wrong"))), BOUND)
    with pytest.raises(BodyBroken, match=r"reading the store failed: .*Input/output error"):
        await asyncio.wait_for(sending(line, Pieces(b"one", OSError(5, "Input/output error"))), BOUND)
    assert await line.take(6) == b"oneone"


async def test_a_client_that_has_gone(line: Line) -> None:
    body = Pieces(*cut(CONTENT * 8))
    task = sending(line, body)
    line.writer.transport.abort()
    with pytest.raises(OSError):  # noqa: PT011 - which, depends on how far it had come
        await asyncio.wait_for(task, BOUND)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(sending(line, Pieces(b"one")), BOUND)


async def test_tls_that_has_said_good_bye(line: Line) -> None:
    if line.ssl is None:
        line.writer.close()
    else:
        line.ssl.shutdown()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(sending(line, Pieces(b"one")), BOUND)
    lib = SSL._lib  # type: ignore[attr-defined]
    assert not lib.ERR_peek_error()


async def test_who_does_not_want_it_any_more_is_sent_no_more(line: Line) -> None:
    body = Pieces(*cut(CONTENT * 8))
    task = sending(line, body, lambda: "killed")
    taking = asyncio.create_task(line.take(len(CONTENT) * 8))
    with pytest.raises(BodyBroken, match="killed"):
        await asyncio.wait_for(task, BOUND)
    line.writer.close()
    assert CONTENT.startswith((await taking)[: len(CONTENT)])
    assert len(body.taken) == module.TURN


async def test_buffers_are_used_again_and_limits_are_as_before(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers: list[bytearray] = []
    monkeypatch.setattr(module, "_buffers", buffers)
    before = line.writer.transport.get_write_buffer_limits()
    for _ in range(3):
        task = sending(line, Pieces(*cut(CONTENT)))
        line.got.clear()
        assert await line.take(len(CONTENT)) == CONTENT
        await asyncio.wait_for(task, BOUND)
    assert len(buffers) == 1
    assert line.writer.transport.get_write_buffer_limits() == before


# Where there is a way past the layers.

Client = connection.Client


def stack(*kinds: str) -> tuple[Client, list[layer.Layer]]:
    """Layers as mitmproxy stacks them, outermost first."""
    around = context.Context(tflow.tclient_conn(), ctx.options)
    made: list[layer.Layer] = []
    for kind in kinds:
        match kind:
            case "regular" | "upstream":
                made.append(modes.HttpProxy(around))
            case "transparent":
                made.append(modes.TransparentProxy(around))
            case "HTTP/1" | "HTTP/2":
                http = HttpLayer(around, HTTPMode.regular)
                http.connections[around.client] = (Http1Server if kind == "HTTP/1" else Http2Server)(around)
                made.append(http)
            case "stream":
                made.append(HttpStream(around, 1))
            case "server TLS":
                made.append(ServerTLSLayer(around))
            case "client TLS":
                tls = ClientTLSLayer(around)
                tls.tls = cast(Any, SimpleNamespace())
                made.append(tls)
            case _:
                made.append(TCPLayer(around))
    return around.client, made


CONNECT = ("regular", "HTTP/1", "stream", "server TLS", "client TLS")


@pytest.mark.parametrize(
    ("kinds", "way"),
    [
        ((*CONNECT, "HTTP/1", "stream"), "TLS"),
        (("transparent", "server TLS", "client TLS", "HTTP/1", "stream"), "TLS"),
        (("regular", "HTTP/1", "stream"), "plain"),
        # HTTP/2 frames its bodies.
        ((*CONNECT, "HTTP/2", "stream"), None),
        # A client that speaks TLS to the proxy itself encrypts twice.
        (("regular", "client TLS", "HTTP/1", "stream", "server TLS", "client TLS", "HTTP/1", "stream"), None),
        # Nobody knows what other layers do.
        (("regular", "HTTP/1", "stream", "another", "HTTP/1", "stream"), None),
    ],
    ids=["CONNECT", "redirected", "plain", "HTTP/2", "TLS to the proxy", "unknown"],
)
async def test_the_way_past(mitmproxy: taddons.context, line: Line, kinds: tuple[str, ...], way: str | None) -> None:
    client, layers = stack(*kinds)
    direct = Direct.past(layers, client, line.writer)
    assert (direct and ("TLS" if direct._ssl else "plain")) == way
    # A client that comes by WireGuard has another kind of writer.
    assert Direct.past(layers, client, object()) is None


# Ciphers.


@pytest.fixture
def _options() -> Any:
    before = mitmproxy_tls.DEFAULT_OPTIONS
    yield
    mitmproxy_tls.DEFAULT_OPTIONS = before


@pytest.mark.usefixtures("_options")
def test_clients_choose_their_cipher(authority: Path) -> None:
    let_clients_choose_ciphers()
    assert not mitmproxy_tls.DEFAULT_OPTIONS & SSL.OP_CIPHER_SERVER_PREFERENCE
    assert mitmproxy_tls.DEFAULT_OPTIONS & SSL.OP_NO_COMPRESSION
    made = mitmproxy_tls._create_ssl_context(
        method=mitmproxy_tls.Method.TLS_SERVER_METHOD,
        min_version=mitmproxy_tls.Version.TLS1_2,
        max_version=mitmproxy_tls.Version.UNBOUNDED,
        cipher_list=None,
        ecdh_curve=None,
    )
    made.use_certificate_file(str(authority))
    made.use_privatekey_file(str(authority))
    for first, second in (("128", "256"), ("256", "128")):
        asks = SSL.Context(SSL.TLS_METHOD)
        names = {"128": b"TLS_AES_128_GCM_SHA256", "256": b"TLS_AES_256_GCM_SHA384"}
        asks.set_tls13_ciphersuites(names[first] + b":" + names[second])
        server, client = SSL.Connection(made, None), SSL.Connection(asks, None)
        server.set_accept_state()
        client.set_connect_state()
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        server.bio_write(client.bio_read(1 << 16))
        with contextlib.suppress(SSL.WantReadError):
            server.do_handshake()
        assert server.get_cipher_name() == names[first].decode()


def test_guard_what_others_keep_to_themselves(authority: Path) -> None:
    lib = SSL._lib  # type: ignore[attr-defined]
    for name in ("SSL_write", "BIO_read", "SSL_clear_mode", "SSL_MODE_ENABLE_PARTIAL_WRITE"):
        assert hasattr(lib, name)
    server, _ = handshake(authority)
    assert server._ssl
    assert server._from_ssl
