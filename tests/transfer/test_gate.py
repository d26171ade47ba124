"""Who is let in, and what the others get."""

import inspect
from collections.abc import Iterator

import pytest
from mitmproxy import connection, ctx
from mitmproxy.addons import block, next_layer
from mitmproxy.proxy import commands, context, events, layer, layers, mode_specs
from mitmproxy.test import taddons, tflow

from addon.transfer.gate import Gate, RefusedLayer

from ..doubles import mitmproxy_with, settings

LAN = ["192.168.0.0/16", "2001:db8::/32", "203.0.113.7", "::ffff:10.0.0.0/104"]


@pytest.fixture(autouse=True)
def mitmproxy() -> Iterator[taddons.context]:
    with mitmproxy_with(next_layer.NextLayer(), block.Block()) as running:
        yield running


def client(host: str, mode: str = "regular") -> connection.Client:
    made = tflow.tclient_conn()
    made.peername = (host, 4321)
    made.proxy_mode = mode_specs.ProxyMode.parse(mode)
    made.error = None
    made.state = connection.ConnectionState.OPEN
    return made


def chosen(gate: Gate, who: connection.Client) -> layer.Layer | None:
    """The first layer of a connection."""
    around = context.Context(who, ctx.options)
    around.layers.append(layers.modes.HttpProxy(around))
    asking = layer.NextLayer(around)
    gate.next_layer(asking)
    return asking.layer


@pytest.mark.parametrize(
    ("host", "welcome"),
    [
        ("192.168.7.1", True),
        ("192.169.0.1", False),
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("203.0.113.7", True),
        ("203.0.113.8", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", False),
        # IPv4 in IPv6's clothes is IPv4.
        ("::ffff:192.168.7.1", True),
        ("::ffff:192.169.0.1", False),
        # This machine.
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        # Not that a socket would say so.
        ("", False),
        ("unknown", False),
    ],
)
def test_who_is_let_in(host: str, welcome: bool) -> None:
    gate = Gate(settings(clients=LAN))
    assert (chosen(gate, client(host)) is None) == welcome
    redirected = client(host, "transparent")
    gate.client_connected(redirected)
    assert (redirected.error is None) == welcome


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db9::1"])
def test_without_the_option_everybody_is(host: str) -> None:
    gate = Gate(settings())
    for mode in ("regular", "transparent"):
        who = client(host, mode)
        gate.client_connected(who)
        assert who.error is None
        assert chosen(gate, who) is None


@pytest.mark.parametrize(
    ("mode", "closed"),
    [
        ("regular", False),
        ("upstream:http://a.example:1", False),
        ("transparent", True),
        ("socks5", True),
        ("reverse:http://a.example:1", True),
        ("wireguard", True),
        ("dns", True),
    ],
)
def test_who_could_not_read_an_answer_is_cut_at_once(mode: str, closed: bool) -> None:
    who = client("192.0.2.1", mode)
    Gate(settings(clients=LAN)).client_connected(who)
    assert (who.error is not None) == closed


def test_in_local_mode_all_clients_are_of_this_machine() -> None:
    who = client("192.0.2.1", "local")
    Gate(settings(clients=LAN)).client_connected(who)
    assert who.error is None


def test_a_stranger_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(settings(clients=LAN))
    for host in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
        gate.client_connected(client(host))
    assert [record.getMessage() for record in caplog.records] == [
        "192.0.2.1 is refused: it is not in registry_clients",
        "192.0.2.2 is refused: it is not in registry_clients",
    ]


def said(data: bytes) -> tuple[bytes, bool]:
    """What a stranger who sends this is sent, and whether the connection is then closed."""
    who = client("192.0.2.1")
    refused = RefusedLayer(context.Context(who, ctx.options))
    assert not list(refused.handle_event(events.Start()))
    told = b""
    for event in [events.DataReceived(who, data) if data else events.ConnectionClosed(who)] * 2:
        for command in refused.handle_event(event):
            if isinstance(command, commands.SendData):
                told += command.data
            else:
                assert isinstance(command, commands.CloseConnection)
                who.state = connection.ConnectionState.CLOSED
    return told, who.state is connection.ConnectionState.CLOSED


@pytest.mark.parametrize("start", ["CONNECT a:443", "GET http://a/", "GET /", "nonsense"])
def test_whatever_is_asked_is_forbidden(start: str) -> None:
    told, closed = said(f"{start} HTTP/1.1\r\n\r\n".encode())
    assert closed
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"registry_clients" in body


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b""])
def test_tls_and_those_who_leave_are_closed_without_a_word(data: bytes) -> None:
    assert said(data) == (b"", True)


def test_mitmproxy_asks_on() -> None:
    """What this leans on: a layer that is set is not replaced, and an error ends a connection."""
    around = context.Context(client("192.0.2.1"), ctx.options)
    asking = layer.NextLayer(around)
    Gate(settings(clients=LAN)).next_layer(asking)
    ctx.master.addons.get("nextlayer").next_layer(asking)
    assert isinstance(asking.layer, RefusedLayer)
    assert 'client.error = "Connection killed' in inspect.getsource(block)
