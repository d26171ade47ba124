"""How a body leaves through mitmproxy: the conversation, the wait for the client, and what all this leans on."""

import asyncio
import contextlib
import gc
import hashlib
import inspect
import os
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from mitmproxy import ctx, flow, http
from mitmproxy.addonmanager import AddonManager
from mitmproxy.addons import clientplayback, default_addons, next_layer, proxyserver, script, tlsconfig
from mitmproxy.proxy import context, layer, layers, mode_servers, server
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode, HttpStream
from mitmproxy.proxy.layers.tls import TLSLayer
from mitmproxy.test import taddons, tflow
from OpenSSL import SSL

from addon.registry.ranges import Span
from addon.transfer import stream
from addon.transfer.body import PIECE, Body, BodyBroken
from addon.transfer.stream import TUNNEL, BlobHttpLayer, BulkTLSLayer, RegistryTurnHook, StreamLayers, Turn, attach
from addon.transfer.target import DIRECT
from addon.transfer.upstream import COLLECTED

from ..doubles import BOUND, Pieces, mitmproxy_with
from .conversation import CONNECT, GET, HEAD, Answer, Conversation

BEGIN = ["<< requestheaders", "<< request", "<< responseheaders"]
OK = "<< send 'HTTP/1.1 200 OK'"


@pytest.fixture(autouse=True)
def mitmproxy() -> Iterator[taddons.context]:
    with mitmproxy_with() as running:
        yield running


def answering(body: Body | None, content: bytes = b"", /, **headers: str) -> Answer:
    """An addon that answers with this body attached."""

    def answer(flow: http.HTTPFlow) -> None:
        response = http.Response.make(200, content)
        if not content:
            response.headers.clear()
        for name, value in headers.items():
            response.headers[name.replace("_", "-")] = value
        if body is not None:
            attach(response, body)
        flow.response = response

    return answer


def sized(body: Pieces, size: int) -> Answer:
    return answering(body, content_length=str(size))


# The conversation.


def test_a_body_leaves_in_turns_of_four_pieces() -> None:
    body = Pieces(b"one", b"two", b"three", b"four", b"five", b"six")
    talk = Conversation(sized(body, 22)).sends(GET)
    assert talk.lines == [
        ">> GET http://registry.example/blob",
        *BEGIN,
        OK,
        "<< send 'one'",
        "<< send 'two'",
        "<< send 'three'",
        "<< send 'four'",
        "<< registry_turn",
        "<< send 'five'",
        "<< send 'six'",
        "<< response",
    ]
    assert talk.received.endswith(b"\r\n\r\nonetwothreefourfivesix")
    assert body.closed == 1
    assert not talk.flows[0].live


def test_no_piece_is_read_before_the_turn_is_over() -> None:
    body = Pieces(*[b"x"] * 9)
    talk = Conversation(sized(body, 9), "registry_turn").sends(GET)
    assert (len(body.taken), talk.lines[-1]) == (4, "<< registry_turn")
    talk.releases("registry_turn")
    assert (len(body.taken), talk.lines[-1], body.closed) == (8, "<< registry_turn", 0)
    talk.releases("registry_turn")
    assert (len(body.taken), talk.lines[-1]) == (9, "<< response")
    assert body.closed == 1


def test_a_small_body_costs_no_hook() -> None:
    body = Pieces(b"one", b"two", b"three", b"four")
    talk = Conversation(sized(body, 15)).sends(GET)
    assert talk.lines[1:] == [*BEGIN, OK, *(f"<< send '{p.decode()}'" for p in body.taken), "<< response"]
    assert body.closed == 1


def test_an_empty_body() -> None:
    body = Pieces()
    talk = Conversation(sized(body, 0)).sends(GET)
    assert talk.lines[1:] == [*BEGIN, OK, "<< response"]
    assert body.closed == 1


def test_a_body_of_unknown_size_is_sent_in_chunks() -> None:
    body = Pieces(b"one", b"three")
    talk = Conversation(answering(body, transfer_encoding="chunked")).sends(GET)
    assert talk.lines[1:] == [
        *BEGIN,
        OK,
        r"<< send '3\r\none\r\n'",
        r"<< send '5\r\nthree\r\n'",
        "<< response",
        r"<< send '0\r\n\r\n'",
    ]
    assert body.closed == 1


def test_what_is_not_there_yet_is_waited_for() -> None:
    body = Pieces(b"one", b"", b"two")
    talk = Conversation(sized(body, 6)).sends(GET)
    assert talk.lines[4:] == [OK, "<< send 'one'", "<< registry_turn", "<< send 'two'", "<< response"]


def test_one_connection_carries_many_bodies() -> None:
    bodies = [Pieces(b"one"), Pieces(b"two"), Pieces(b"three")]
    coming = iter(bodies)

    def answer(flow: http.HTTPFlow) -> None:
        answering(next(coming), transfer_encoding="chunked")(flow)

    talk = Conversation(answer)
    for body in bodies:
        talk.sends(GET)
        assert talk.received.endswith(b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body.taken[0]), body.taken[0]))
        assert body.closed == 1
    assert "<< close" not in talk.lines


@pytest.mark.parametrize("headers", [{"content_length": "12"}, {"transfer_encoding": "chunked"}])
def test_a_body_that_breaks_is_cut(headers: dict[str, str]) -> None:
    body = Pieces(b"one", BodyBroken())
    talk = Conversation(answering(body, **headers), "registry_turn").sends(GET)
    turn = talk.held["registry_turn"].args()[0]
    turn.broken = "the digest is wrong"
    talk.releases("registry_turn")
    assert talk.lines[-3:] == [">> registry_turn done", "<< error: the digest is wrong", "<< close"]
    assert b"0\r\n\r\n" not in talk.received
    assert body.closed == 1
    assert not talk.flows[0].live


def test_a_disk_that_fails_cuts_the_body() -> None:
    body = Pieces(b"one", OSError(5, "Input/output error"), b"two")
    talk = Conversation(sized(body, 6)).sends(GET)
    assert talk.lines[-3:] == [
        "<< send 'one'",
        "<< error: reading the store failed: [Errno 5] Input/output error",
        "<< close",
    ]
    assert body.closed == 1


def test_a_client_that_leaves_while_the_body_is_waited_for() -> None:
    body = Pieces(b"one", b"", b"two")
    talk = Conversation(sized(body, 6), "registry_turn").sends(GET).leaves()
    talk.releases("registry_turn")
    assert talk.lines[-4:] == [
        ">> client closed",
        "<< close",
        ">> registry_turn done",
        "<< error: Client disconnected.",
    ]
    assert body.taken == [b"one", b""]
    assert body.closed == 1


def test_a_flow_that_is_killed_while_the_body_is_waited_for() -> None:
    body = Pieces(b"one", b"", b"two")
    talk = Conversation(sized(body, 6), "registry_turn").sends(GET)
    talk.flows[0].kill()
    talk.releases("registry_turn")
    assert talk.lines[-2:] == [f"<< error: {flow.Error.KILLED_MESSAGE}", "<< close"]
    assert body.closed == 1


def test_a_flow_that_is_killed_in_its_last_hook() -> None:
    body = Pieces(b"one")
    talk = Conversation(answering(body, transfer_encoding="chunked"), "response").sends(GET)
    talk.flows[0].kill()
    talk.releases("response")
    assert talk.lines[-1] == "<< close"
    assert b"0\r\n\r\n" not in talk.received
    assert body.closed == 1


def test_a_flow_that_is_killed_before_its_head_was_sent() -> None:
    body = Pieces(b"one")
    talk = Conversation(sized(body, 3), "responseheaders").sends(GET)
    talk.flows[0].kill()
    talk.releases("responseheaders")
    assert talk.lines[-2:] == [f"<< error: {flow.Error.KILLED_MESSAGE}", "<< close"]
    assert not talk.received
    assert body.taken == []
    assert body.closed == 1, "the flow may be kept for long, and what the body holds with it"


def test_a_client_that_leaves_while_its_answer_is_looked_for() -> None:
    body = Pieces(b"one")
    talk = Conversation(sized(body, 3), "request").sends(GET).leaves()
    talk.releases("request")
    assert talk.lines[-2:] == [">> request done", "<< error: Client disconnected."]
    assert (body.taken, body.closed) == ([], 1)


@pytest.mark.parametrize("request_head", [GET, HEAD])
def test_a_response_without_a_body_of_ours_goes_the_usual_way(request_head: bytes) -> None:
    usual = Conversation(answering(None, b"usual"), kind=HttpLayer).sends(request_head)
    talk = Conversation(answering(None, b"usual")).sends(request_head)
    assert talk.lines == usual.lines
    assert talk.lines[4:] == ["<< response", OK, "<< send 'usual'"]


def test_a_body_that_nobody_sends_is_forgotten() -> None:
    body = Pieces(b"one")
    gone = weakref.ref(body)
    attach(http.Response.make(), body)
    del body
    gc.collect()
    assert gone() is None


def test_a_head_that_is_answered_from_the_store_has_no_body() -> None:
    talk = Conversation(answering(None, content_length="1000")).sends(HEAD)
    assert talk.lines[4:] == ["<< response", OK]
    assert b"content-length: 1000" in talk.received.lower()
    assert talk.sends(HEAD).lines[-1] == OK


# Tunnels.


def to_be_tunnelled(flow: http.HTTPFlow) -> None:
    flow.metadata[TUNNEL] = True


def test_a_tunnel_is_opened_at_once_and_not_looked_into() -> None:
    talk = Conversation(to_be_tunnelled).sends(CONNECT)
    assert talk.lines == [
        ">> CONNECT mail.example:25",
        "<< http_connect",
        "<< open mail.example:25",
        "<< http_connected",
        "<< send 'HTTP/1.1 200 Connection established'",
    ]
    talk.hears(b"220 mail.example ESMTP").sends(b"EHLO client")
    assert talk.lines[5:] == [
        ">> server: b'220 mail.example ESMTP'",
        "<< send '220 mail.example ESMTP'",
        ">> EHLO client",
        "<< send to the server b'EHLO client'",
    ]


def test_a_tunnel_to_nowhere() -> None:
    talk = Conversation(to_be_tunnelled)
    talk.unreachable = "no route to host"
    talk.sends(CONNECT)
    assert talk.lines[2:5] == [
        "<< open mail.example:25",
        "<< http_connect_error",
        "<< send 'HTTP/1.1 502 Bad Gateway'",
    ]
    assert talk.received.endswith(b"\r\n\r\npulltap: cannot reach mail.example: no route to host\n")


def test_a_tunnel_that_another_addon_refused() -> None:
    def refuse(flow: http.HTTPFlow) -> None:
        flow.metadata[TUNNEL] = True
        flow.response = http.Response.make(403)

    talk = Conversation(refuse).sends(CONNECT)
    assert talk.lines[2:4] == ["<< http_connect_error", "<< send 'HTTP/1.1 403 Forbidden'"]


@pytest.mark.parametrize("kind", [HttpLayer, BlobHttpLayer])
def test_any_other_connect_goes_the_usual_way(mitmproxy: taddons.context, kind: type[layer.Layer]) -> None:
    mitmproxy.options.update(connection_strategy="lazy")
    talk = Conversation(lambda _: None, kind=kind).sends(CONNECT)
    assert talk.lines[1:] == [
        "<< http_connect",
        "<< http_connected",
        "<< send 'HTTP/1.1 200 Connection established'",
    ]


# The wait between two turns.


@pytest.fixture
async def client_turn(mitmproxy: taddons.context) -> AsyncIterator[tuple[Turn, asyncio.StreamReader]]:
    """A turn for a client whose end of the connection the test holds."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    their_reader, their_writer = await asyncio.open_connection(sock=theirs)
    client = tflow.tclient_conn()
    handler = server.SimpleConnectionHandler(reader, writer, ctx.options, client.proxy_mode, {})
    handler.transports = {client: server.ConnectionIO(None, reader, writer)}
    ctx.master.addons.get("proxyserver").connections[client.id] = handler
    yield Turn(Pieces(b"one"), client, str), their_reader
    writer.close()
    their_writer.close()


def writer_of(turn: Turn) -> asyncio.StreamWriter:
    writer = ctx.master.addons.get("proxyserver").connections[turn.client.id].transports[turn.client].writer
    assert isinstance(writer, asyncio.StreamWriter)
    return writer


async def test_a_turn_is_over_when_the_client_has_taken_what_was_written(
    client_turn: tuple[Turn, asyncio.StreamReader],
) -> None:
    turn, client = client_turn
    size = 8 << 20
    writer_of(turn).write(bytes(size))
    wait = asyncio.create_task(StreamLayers().registry_turn(turn))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not wait.done(), "the turn was over before the client had taken its bytes"
    await client.readexactly(size)
    await asyncio.wait_for(wait, BOUND)
    assert not turn.broken


async def test_a_turn_is_over_when_there_is_more_to_send(client_turn: tuple[Turn, asyncio.StreamReader]) -> None:
    turn, _ = client_turn
    assert isinstance(turn.body, Pieces)
    turn.body.ready.clear()
    wait = asyncio.create_task(StreamLayers().registry_turn(turn))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not wait.done()
    turn.body.ready.set()
    await asyncio.wait_for(wait, BOUND)
    assert not turn.broken


async def test_a_turn_tells_why_the_body_broke(client_turn: tuple[Turn, asyncio.StreamReader]) -> None:
    turn, _ = client_turn
    turn.body = Pieces(BodyBroken("the digest is wrong"))
    await StreamLayers().registry_turn(turn)
    assert turn.broken == "the digest is wrong"


async def test_a_turn_of_a_client_that_has_gone(client_turn: tuple[Turn, asyncio.StreamReader]) -> None:
    turn, _ = client_turn
    writer = writer_of(turn)
    writer.transport.abort()
    await asyncio.wait_for(_closed(writer), BOUND)
    await StreamLayers().registry_turn(turn)
    assert turn.broken == "client disconnected"
    turn.broken = ""
    ctx.master.addons.get("proxyserver").connections.clear()
    await StreamLayers().registry_turn(turn)
    assert turn.broken == "client disconnected"


async def _closed(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await writer.wait_closed()


# The whole of it, on a socket.


class Endless(Pieces):
    """A body as large as it is said to be."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.span = Span(0, size)
        self.given = 0

    @property
    def ended(self) -> bool:
        return self.given >= len(self.span)

    def read(self) -> bytes:
        piece = bytes(min(PIECE, len(self.span) - self.given))
        self.given += len(piece)
        return piece


class Answering:
    """An addon that answers every request."""

    def __init__(self, answer: Answer) -> None:
        self.request = answer


async def test_a_slow_client_holds_the_body_up(mitmproxy: taddons.context) -> None:
    size = 64 << 20
    body = Endless(size)
    mitmproxy.master.addons.add(
        StreamLayers(), next_layer.NextLayer(), Answering(answering(body, content_length=str(size)))
    )
    mitmproxy.options.update(mode=["regular@127.0.0.1:0"], connection_strategy="lazy")
    proxy = mitmproxy.master.addons.get("proxyserver")
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    assert await proxy.setup_servers()
    try:
        (address,) = proxy.listen_addrs()
        reader, writer = await asyncio.open_connection(*address[:2])
        writer.write(GET)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), BOUND)
        assert head.startswith(b"HTTP/1.1 200")
        stuck = asyncio.create_task(_until_it_stands_still(body))
        given = await asyncio.wait_for(stuck, BOUND)
        # What the kernel takes on both ends of a loopback connection, and one turn.
        assert given < size // 2, "the body was read though nobody took it"
        got = 0
        while got < size:
            got += len(await asyncio.wait_for(reader.read(1 << 20), BOUND))
        assert body.given == size
        # The connection carries the next one.
        body.given = size - 5
        writer.write(GET)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), BOUND)
        assert await asyncio.wait_for(reader.readexactly(5), BOUND) == bytes(5)
        writer.close()
        await writer.wait_closed()
    finally:
        mitmproxy.options.update(server=False)
        await proxy.servers.update([])
    assert body.closed == 2


async def _until_it_stands_still(body: Endless) -> int:
    before = -1
    while body.given != before:
        before = body.given
        for _ in range(200):
            await asyncio.sleep(0)
    return before


# TLS.


class Encrypting:
    """In the place of an OpenSSL connection: hands out what lies in its buffer."""

    def __init__(self, size: int) -> None:
        self.left = size

    def bio_read(self, most: int) -> bytes:
        if not self.left:
            raise SSL.WantReadError
        size = min(most, self.left)
        self.left -= size
        return bytes(size)


@pytest.mark.parametrize("size", [0, 1, 65536, PIECE + PIECE // 64, 3 * PIECE, 2 * (PIECE + PIECE // 16)])
def test_tls_hands_over_all_that_was_encrypted(size: int) -> None:
    tls = BulkTLSLayer(proposed().context)
    tls.tls = Encrypting(size)  # type: ignore[assignment]
    sent = [command.data for command in tls.tls_interact()]  # type: ignore[attr-defined]
    assert sum(map(len, sent)) == size
    if size <= PIECE + PIECE // 64:
        assert len(sent) <= 1, "a piece and what TLS adds to it leave in one"


# Which layer is put in.


def proposed() -> layer.NextLayer:
    """The question which layer comes next, behind that of a regular proxy."""
    where = context.Context(tflow.tclient_conn(), ctx.options)
    layers.modes.HttpProxy(where)
    return layer.NextLayer(where)


def chain(first: layer.Layer | None) -> list[type[layer.Layer]]:
    kinds = []
    while first is not None:
        kinds.append(type(first))
        first = getattr(first, "child_layer", None)
    return kinds


@pytest.mark.parametrize(
    ("chosen", "kinds"),
    [
        (lambda where: HttpLayer(where, HTTPMode.transparent), [BlobHttpLayer]),
        (layers.ClientTLSLayer, [BulkTLSLayer, layer.NextLayer]),
        (layers.TCPLayer, [layers.TCPLayer]),
        (lambda _: None, []),
    ],
)
def test_a_chosen_layer_becomes_ours(
    chosen: Callable[[context.Context], layer.Layer | None], kinds: list[type[layer.Layer]], mitmproxy: taddons.context
) -> None:
    class Chooser:
        name = "nextlayer"

        def next_layer(self, proposal: layer.NextLayer) -> None:
            proposal.layer = chosen(proposal.context)

    mitmproxy.master.addons.add(Chooser())
    proposal = proposed()
    StreamLayers().next_layer(proposal)
    assert chain(proposal.layer) == kinds


def test_http_within_a_stack_becomes_ours(mitmproxy: taddons.context) -> None:
    class Chooser:
        name = "nextlayer"

        def next_layer(self, proposal: layer.NextLayer) -> None:
            tls = layers.ClientTLSLayer(proposal.context)
            tls.child_layer = HttpLayer(proposal.context, HTTPMode.regular)
            proposal.layer = tls

    mitmproxy.master.addons.add(Chooser())
    proposal = proposed()
    StreamLayers().next_layer(proposal)
    assert chain(proposal.layer) == [BulkTLSLayer, BlobHttpLayer]


# What this leans on. Where one of these fails, mitmproxy has moved: compare, mend addon/transfer, then note it here.

WRITTEN_AGAINST = {
    # Written anew in stream.py.
    HttpLayer.make_stream: "654959c6e74548e1",
    HttpStream.send_response: "d581bc106152e369",
    TLSLayer.tls_interact: "62d6d57d43dd1a2e",
    HttpStream.handle_connect_regular: "ae920a52067801dc",
    # Called by, or calling, what is written anew there.
    HttpStream.handle_connect_finish: "eb3a0054cb5b716e",
    HttpLayer.event_to_child: "1095f6e1581d1780",
    HttpStream.flow_done: "ad9969744785c572",
    HttpStream.check_killed: "368cad352d1e82b6",
    HttpStream.handle_protocol_error: "59fc3b2eeeabf63a",
    HttpStream.state_consume_request_body: "45459c1bbd8bdb1a",
    next_layer.NextLayer.next_layer: "d277fef31bbe9519",
    mode_servers.ProxyConnectionHandler.__init__: "c1c9c9c45c90f561",
    proxyserver.Proxyserver.register_connection: "d79bb91554a8bda2",
    # What upstream.py builds on.
    clientplayback.MockServer._handle_event: "4018d7fcb21e42e8",
    clientplayback.ReplayHandler.__init__: "3830fad55fab2d87",
    clientplayback.ReplayHandler.replay: "cd88f6d32784ba7b",
    clientplayback.ReplayHandler.handle_hook: "c36485d27984d431",
    server.ConnectionHandler.drain_writers: "6b57434604561e3e",
    server.ConnectionHandler.handle_connection: "95c3f93e9824e527",
    server.ConnectionHandler.open_connection: "5e0b3cbaf7a4030a",
}
"""The methods of mitmproxy that addon/transfer was written against, each with the digest of its source."""


def named(method: object) -> str:
    return getattr(method, "__qualname__", str(method))


@pytest.mark.parametrize(("method", "known"), WRITTEN_AGAINST.items(), ids=map(named, WRITTEN_AGAINST))
def test_guard_mitmproxys_methods_are_those_that_ours_were_written_against(
    method: Callable[..., object], known: str
) -> None:
    found = hashlib.sha256(inspect.getsource(inspect.unwrap(method)).encode()).hexdigest()[:16]
    assert found == known, (
        f"{method.__module__}.{named(method)} is not what addon/transfer was written against: "
        f"compare the two, mend what leans on it, then put {found} here"
    )


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        (HttpLayer.make_stream, ["self", "stream_id"]),
        (HttpStream.__init__, ["self", "context", "stream_id"]),
        (HttpStream.send_response, ["self", "already_streamed"]),
        (HttpStream.flow_done, ["self"]),
        (HttpStream.check_killed, ["self", "emit_error_hook"]),
        (HttpStream.handle_connect_regular, ["self"]),
        (HttpStream.handle_connect_finish, ["self"]),
        (layers.TCPLayer.__init__, ["self", "context", "ignore"]),
        (TLSLayer.tls_interact, ["self"]),
        (layer.Layer.handle_event, ["self", "event"]),
        (AddonManager.get, ["self", "name"]),
        (next_layer.NextLayer.next_layer, ["self", "nextlayer"]),
        (clientplayback.MockServer.__init__, ["self", "flow", "context"]),
        (clientplayback.ReplayHandler.__init__, ["self", "flow", "options"]),
        (clientplayback.ReplayHandler.replay, ["self"]),
        (clientplayback.ReplayHandler.handle_hook, ["self", "hook"]),
        (server.ConnectionHandler.drain_writers, ["self"]),
    ],
    ids=lambda part: named(part) if callable(part) else "",
)
def test_guard_signatures(method: Callable[..., object], signature: list[str]) -> None:
    assert list(inspect.signature(method).parameters) == signature, f"{named(method)} takes other arguments now"


@pytest.mark.parametrize(
    ("ours", "adds"),
    [(BlobHttpLayer, {"make_stream"}), (BulkTLSLayer, {"tls_interact"})],
)
def test_guard_a_layer_can_become_ours_after_it_was_made(ours: type[layer.Layer], adds: set[str]) -> None:
    own = {name for name in vars(ours) if not name.startswith("__") or name in ("__init__", "__slots__", "__new__")}
    assert own == adds, f"{ours.__name__} may only override methods: layers become one by assigning __class__"
    (base,) = ours.__bases__
    made: layer.Layer = object.__new__(base)
    made.__class__ = ours
    assert isinstance(made, ours), f"{base.__name__} does not let its instances become {ours.__name__}"


def test_guard_each_request_gets_a_stream_of_ours() -> None:
    talk = Conversation(answering(None, b"x"), "request").sends(GET)
    (made,) = talk._layer.streams.values()  # type: ignore[attr-defined]
    assert type(made) is stream.BlobHttpStream, "HttpLayer no longer makes its streams by make_stream"


def test_guard_the_queue_that_tells_of_a_client_that_left() -> None:
    talk = Conversation(answering(Pieces(b"x", b"", b"y")), "registry_turn").sends(GET).leaves()
    (waiting,) = talk._layer.streams.values()  # type: ignore[attr-defined]
    kinds = [type(event).__name__ for event in waiting._paused_event_queue]
    assert kinds == ["RequestProtocolError"], "a client's leaving is no longer told by Layer._paused_event_queue"


def test_guard_our_hook() -> None:
    hook = RegistryTurnHook(Turn(Pieces(), tflow.tclient_conn(), str))
    assert hook.name == "registry_turn", "hooks are no longer named for their class"
    assert hook.blocking is True, "hooks no longer block the layer that starts them"
    assert callable(getattr(StreamLayers, hook.name))


def test_guard_mitmproxy_ignores_stream_on_a_response_that_an_addon_made() -> None:
    called: list[bytes] = []

    def answer(flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(200, b"from memory")
        flow.response.stream = called.append  # type: ignore[assignment]

    talk = Conversation(answer, kind=HttpLayer).sends(GET)
    assert talk.lines[-2:] == [OK, "<< send 'from memory'"]
    assert not called, "mitmproxy now streams an addon's own response: BlobHttpStream may no longer be needed"


def test_guard_the_hook_for_layers_runs_before_mitmproxys_own() -> None:
    kinds = [type(each) for each in default_addons()]
    assert kinds.index(script.ScriptLoader) < kinds.index(next_layer.NextLayer), (
        "scripts are now asked after the built-in next_layer: StreamLayers comes too late"
    )
    assert tlsconfig.TlsConfig in kinds


def test_guard_mitmproxys_own_hook_leaves_a_chosen_layer_alone(mitmproxy: taddons.context) -> None:
    builtin = next_layer.NextLayer()
    mitmproxy.master.addons.add(builtin)
    assert mitmproxy.master.addons.get("nextlayer") is builtin, 'addons.get("nextlayer") is no longer the built-in one'
    proposal = proposed()
    proposal.layer = chosen = BlobHttpLayer(proposal.context, HTTPMode.regular)
    builtin.next_layer(proposal)
    assert proposal.layer is chosen, "the built-in next_layer now overrides what an addon has chosen"


async def test_guard_where_a_clients_writer_is(mitmproxy: taddons.context) -> None:
    seen: dict[str, object] = {}

    def look(flow: http.HTTPFlow) -> None:
        connections = mitmproxy.master.addons.get("proxyserver").connections
        handler = connections.get(flow.client_conn.id)
        seen["handler"] = handler
        if isinstance(handler, server.ConnectionHandler) and flow.client_conn in handler.transports:
            seen["writer"] = handler.transports[flow.client_conn].writer
        flow.response = http.Response.make(200, os.urandom(1))

    mitmproxy.master.addons.add(next_layer.NextLayer(), Answering(look))
    mitmproxy.options.update(mode=["regular@127.0.0.1:0"], connection_strategy="lazy")
    proxy = mitmproxy.master.addons.get("proxyserver")
    assert await proxy.setup_servers()
    try:
        (address,) = proxy.listen_addrs()
        reader, writer = await asyncio.open_connection(*address[:2])
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await asyncio.wait_for(reader.read(), BOUND)
        writer.close()
        await writer.wait_closed()
    finally:
        mitmproxy.options.update(server=False)
        await proxy.servers.update([])
    assert isinstance(seen["handler"], mode_servers.ProxyConnectionHandler), (
        "Proxyserver.connections no longer holds a client's handler by the client's id"
    )
    assert isinstance(seen.get("writer"), asyncio.StreamWriter), (
        "ConnectionHandler.transports no longer holds a connection's writer"
    )


# What is collected.


def asking(talk: Conversation) -> Conversation:
    """The client's request has gone upstream, and its answer, as long as it likes, is collected."""
    return talk.sends(GET).hears(b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n")


def chunk(size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, bytes(size))


def nothing(_: http.HTTPFlow) -> None:
    """No addon answers."""


def test_an_answer_as_long_as_may_be_is_collected() -> None:
    talk = asking(Conversation(nothing))
    talk.hears(chunk(COLLECTED)).hears(b"0\r\n\r\n")
    assert talk.received.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert len(talk.received) > COLLECTED


def test_an_answer_without_end_is_given_up() -> None:
    talk = asking(Conversation(nothing))
    talk.hears(chunk(COLLECTED)).hears(chunk(1))
    assert f"<< error: more than {COLLECTED} bytes came where a short body was due" in talk.lines
    assert talk.received.startswith(b"HTTP/1.1 502 ")
    assert b"short body" in talk.received
    assert not talk.flows[0].live
    # Both connections are over.
    assert {"<< close the server", "<< close"} <= set(talk.lines)


def test_a_request_without_end_is_given_up() -> None:
    talk = Conversation(nothing)
    talk.sends(GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n").sends(chunk(COLLECTED)).sends(chunk(1))
    assert talk.received.startswith(b"HTTP/1.1 413 ")
    assert talk.server is None
    assert not talk.flows[0].live


# What is kept of a flow.


@pytest.fixture
def redacting(mitmproxy: taddons.context) -> None:
    mitmproxy.options.add_option("registry_redact", bool, True, "for the test")


SIGNED = "https://cdn.example/blob?Signature=secret"
OWN = GET.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer own-token\r\n\r\n")


def redirecting(flow: http.HTTPFlow) -> None:
    flow.response = http.Response.make(307, b"", {"Location": SIGNED})


@pytest.mark.usefixtures("redacting")
def test_a_flow_loses_its_secrets_when_all_of_it_was_sent() -> None:
    talk = Conversation(redirecting, "response").sends(OWN)
    (under_way,) = talk.flows
    assert under_way.response
    assert under_way.response.headers["Location"] == SIGNED
    assert under_way.request.headers["Authorization"] == "Bearer own-token"
    talk.releases("response")
    assert f"Location: {SIGNED}\r\n".encode() in talk.received
    assert under_way.response.headers["Location"] == "https://cdn.example/blob?Signature=REDACTED"
    assert under_way.request.headers["Authorization"] == "Bearer REDACTED"


@pytest.mark.usefixtures("redacting")
@pytest.mark.parametrize("body", [b"", b"small"])
def test_a_request_is_sent_upstream_with_its_secrets(body: bytes) -> None:
    talk = Conversation(lambda _flow: None)
    talk.sends(OWN.replace(b"GET ", b"PUT ").replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % len(body)) + body)
    sent = "\n".join(line for line in talk.lines if "send to the server" in line)
    assert "Authorization: Bearer own-token" in sent
    assert talk.flows[0].request.headers["Authorization"] == "Bearer own-token"
    talk.hears(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
    assert b"Set-Cookie: a=b" in talk.received
    (ended,) = talk.flows
    assert ended.request.headers["Authorization"] == "Bearer REDACTED"
    assert ended.response
    assert ended.response.headers["Set-Cookie"] == "REDACTED"


@pytest.mark.usefixtures("redacting")
def test_a_flow_that_ends_in_an_error_loses_its_secrets() -> None:
    talk = Conversation(answering(Pieces(b"one", OSError("disk"), b"two"), content_length="6")).sends(OWN)
    assert talk.lines[-1] == "<< close"
    assert talk.flows[0].request.headers["Authorization"] == "Bearer REDACTED"
    talk = Conversation(redirecting, "request").sends(OWN).leaves().releases("request")
    assert talk.flows[0].error
    assert talk.flows[0].request.headers["Authorization"] == "Bearer REDACTED"


@pytest.mark.usefixtures("redacting")
def test_what_was_attached_is_sent_and_not_what_is_kept() -> None:
    body = Pieces(*[b"x"] * 9)
    talk = Conversation(sized(body, 9), "registry_turn").sends(OWN)
    assert talk.flows[0].request.headers["Authorization"] == "Bearer own-token"
    talk.releases("registry_turn").releases("registry_turn")
    assert talk.received.endswith(b"\r\n\r\n" + b"x" * 9)
    assert talk.flows[0].request.headers["Authorization"] == "Bearer REDACTED"


# Whom a request was sent to.


@pytest.mark.parametrize(
    ("line", "direct"),
    [
        ("GET / HTTP/1.1", True),
        ("OPTIONS * HTTP/1.1", True),
        ("GET http://attacker.example/ HTTP/1.1", False),
        ("CONNECT attacker.example:443 HTTP/1.1", False),
    ],
)
def test_a_request_sent_as_to_a_web_server(line: str, direct: bool) -> None:
    talk = Conversation(answering(None, b"ok")).sends(f"{line}\r\nHost: attacker.example\r\n\r\n".encode())
    assert talk.flows[0].metadata.get(DIRECT, False) is direct
    assert talk.flows[0].request.host == "attacker.example"
