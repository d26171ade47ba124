"""How much of a message's head is collected before it is known to be none."""

from collections.abc import Iterator

import pytest
from mitmproxy import connection, http, options
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers.http import (
    ReceiveHttp,
    RequestHeaders,
    RequestProtocolError,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Connection, Http1Server
from mitmproxy.test import tflow

from addon.transfer import heads
from addon.transfer.heads import LONGEST, bound_heads, unbound_heads

PIECE = b"x" * 65536
TOO_MUCH = f"more than {LONGEST} bytes came where a head, or the length of a chunk, was due"


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    bound_heads()
    yield
    unbound_heads()
    assert Http1Connection._handle_event is heads._unbounded


def made[L: Http1Connection](kind: type[L]) -> L:
    made = kind(context.Context(tflow.tclient_conn(), options.Options()))  # type: ignore[call-arg]
    made.conn.state = connection.ConnectionState.OPEN
    assert list(made.handle_event(events.Start())) == []
    return made


def fed(to: Http1Connection, content: bytes) -> list[commands.Command]:
    return list(to.handle_event(events.DataReceived(to.conn, content)))


def until_it_is_too_much(to: Http1Connection) -> tuple[int, list[commands.Command]]:
    """How much is taken before something happens, and what."""
    for count in range(100):
        if said := fed(to, PIECE):
            return count * len(PIECE), said
    pytest.fail("nothing is too much")


def asking(client: Http1Client) -> None:
    request = http.Request.make("GET", "http://registry.example/v2/")
    assert list(client.handle_event(RequestHeaders(1, request, end_stream=True)))


def test_a_head_of_an_upstream() -> None:
    client = made(Http1Client)
    asking(client)
    assert fed(client, b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=") == []
    taken, said = until_it_is_too_much(client)
    assert LONGEST - 2 * len(PIECE) <= taken <= LONGEST
    close, error = said
    assert isinstance(close, commands.CloseConnection)
    assert isinstance(error, ReceiveHttp)
    assert isinstance(error.event, ResponseProtocolError)
    assert error.event.message == TOO_MUCH
    # It is over: nothing more is kept, and nothing more said.
    assert [fed(client, PIECE) for _ in range(3)] == [[], [], []]
    assert len(client.buf) <= 3 * len(PIECE)


@pytest.mark.parametrize("before", [b"", b"4\r\nblob\r\n", b"0\r\n"], ids=["length", "next length", "trailers"])
def test_a_chunk_without_end(before: bytes) -> None:
    client = made(Http1Client)
    asking(client)
    (head, *_) = fed(client, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + before)
    assert isinstance(head, ReceiveHttp)
    assert isinstance(head.event, ResponseHeaders)
    taken, said = until_it_is_too_much(client)
    assert taken <= LONGEST
    assert any(isinstance(each, ReceiveHttp) and isinstance(each.event, ResponseProtocolError) for each in said)


def test_a_head_of_a_client() -> None:
    server = made(Http1Server)
    assert fed(server, b"GET /v2/ HTTP/1.1\r\nHost: registry.example\r\nX: ") == []
    taken, (answer, close) = until_it_is_too_much(server)
    assert taken <= LONGEST
    assert isinstance(answer, commands.SendData)
    assert answer.data.startswith(b"HTTP/1.1 431 ")
    assert isinstance(close, commands.CloseConnection)


def test_requests_that_a_client_sends_ahead() -> None:
    server = made(Http1Server)
    assert fed(server, b"GET /v2/ HTTP/1.1\r\nHost: registry.example\r\n\r\n")
    taken, (close, error) = until_it_is_too_much(server)
    assert taken <= LONGEST
    assert isinstance(close, commands.CloseConnection)
    assert isinstance(error, ReceiveHttp)
    assert isinstance(error.event, RequestProtocolError)


def test_what_is_usual_passes() -> None:
    client = made(Http1Client)
    asking(client)
    head, *body = fed(client, b"HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\nX: " + PIECE + b"\r\n\r\n" + PIECE)
    assert isinstance(head, ReceiveHttp)
    assert isinstance(head.event, ResponseHeaders)
    assert len(body) == 1
    # A body that is made sense of, piece by piece, may be as long as it likes.
    assert all(len(fed(client, PIECE)) == 1 for _ in range(60))
    assert not client.buf
