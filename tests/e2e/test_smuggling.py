"""Requests that two readers could take for different ones: refused, or passed on so that they can be read in one way.

Each is followed by what a smuggler would want to be taken for a request of its own. Nothing of it may reach upstream,
and nothing may be stored.
"""

import contextlib
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..standin import Hub
from .proxies import Pulltap
from .sockets import Peer, Server, dial, tunnel

HIDDEN = "GET /v2/library/smuggled/manifests/latest HTTP/1.1\r\nHost: {host}\r\n\r\n"


@pytest.fixture(scope="module")
def proxy(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulltap]:
    """Pulltap with the shipped config; one for all of this file."""
    pulltap = Pulltap(tmp_path_factory.mktemp("smuggling") / "proxy", docker_hub)
    yield pulltap
    pulltap.stop()
    assert not pulltap.trouble(), pulltap.trouble()


REFUSED = {
    "both lengths": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, the other way round": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths that differ": "Content-Length: 0\r\nContent-Length: 4\r\n\r\n",
    "two lengths that agree": "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": "Content-Length: 0, 0\r\n\r\n",
    "a length with a sign": "Content-Length: +0\r\n\r\n",
    "a length that is none": "Content-Length: 0x0\r\n\r\n",
    "a length that goes on": "Content-Length: 0\r\n 4\r\n\r\n",
    "two codings": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a coding that is none": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding that goes on": "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "white space behind a name": "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "white space in a name": "X Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no name": ": chunked\r\n\r\n",
    "no colon": "Transfer-Encoding\r\n\r\n",
    "a line that goes on": "X: a\r\n Transfer-Encoding: chunked\r\n\r\n",
    "a line that goes on first": " X: a\r\n\r\n",
    "half a line's end": "X: a\rTransfer-Encoding: chunked\r\n\r\n",
    "a null": "X: a\0b\r\n\r\n",
}
"""What follows a request's first line and its Host."""


def refused(peer: Peer, request: str) -> None:
    """It gets one answer, a refusal, and the connection is closed."""
    peer.send(request.encode("latin-1"))
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        said = peer.rest()
        assert said.startswith(b"HTTP/1.1 400 "), said
        assert len(re.findall(rb"HTTP/1\.1 \d", said)) == 1, said


def stored(proxy: Pulltap) -> list[Path]:
    return [
        path for folder in ("blobs", "pulltap/ingest") for path in (proxy.store / folder).rglob("*") if path.is_file()
    ]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("how", REFUSED)
def test_what_is_refused(hub: Hub, proxy: Pulltap, how: str, method: str) -> None:
    image = hub.small
    path = image.blob_path(image.config) if method == "GET" else f"/v2/{image.repository}/blobs/uploads/"
    registry = hub.names.registry
    with tunnel(proxy.port, f"{registry}:443", proxy.ca) as client:
        refused(client, f"{method} {path} HTTP/1.1\r\nHost: {registry}\r\n{REFUSED[how]}{HIDDEN.format(host=registry)}")
    assert not hub.requests
    # In plain HTTP, and for the proxy's own pages.
    with Server(lambda peer: peer.close()) as server:
        for target, host in ((f"http://{server.address}/", server.address), ("/healthz", f"127.0.0.1:{proxy.port}")):
            with dial(proxy.port) as client:
                refused(
                    client, f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{REFUSED[how]}{HIDDEN.format(host=host)}"
                )
        assert not server.connections
    assert not stored(proxy)


@pytest.mark.parametrize(
    "line",
    [
        "GET  http://{0}/\x0bx HTTP/1.1",
        "GET http://{0}/ HTTP/1.1 HTTP/1.1",
        "GET http://{0}/\rX: HTTP/1.1",
        "GET http://{0}@other.example/ HTTP/1.1",
        "GET http://{0}/",
        "GET http://{0}/ HTTP/1.",
        "GET //{0}/ HTTX/1.1",
    ],
)
def test_a_first_line_that_is_none(proxy: Pulltap, line: str) -> None:
    with Server(lambda peer: peer.close()) as server, dial(proxy.port) as client:
        request = f"{line.format(server.address)}\r\nHost: {server.address}\r\n\r\n"
        refused(client, request + HIDDEN.format(host=server.address))
        assert not server.connections


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        # Lines that end in LF alone become lines.
        ("X: a\nY: b\r\n\r\n", "X: a\r\nY: b\r\n"),
        # White space that only some would strip is stripped.
        ("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n"),
    ],
)
def test_what_is_passed_on_can_be_read_in_one_way(proxy: Pulltap, sent: str, arrives: str) -> None:
    heads: list[bytes] = []

    def serve(peer: Peer) -> None:
        while head := peer.head():
            heads.append(head)
            if b"chunked" in head:
                assert peer.chunk() == b""
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with Server(serve) as server, dial(proxy.port) as client:
        client.send(f"POST http://{server.address}/ HTTP/1.1\r\nHost: {server.address}\r\n{sent}".encode())
        assert client.message()[1] == b"ok"
        # What comes next is a request of its own, by this client, and is treated as one.
        client.send(f"GET http://{server.address}/next HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode())
        assert client.message()[1] == b"ok"
    assert heads == [
        f"POST / HTTP/1.1\r\nHost: {server.address}\r\n{arrives}\r\n".encode(),
        f"GET /next HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode(),
    ]


# --- names that lead to the proxy ---


def test_a_name_that_somebody_leads_to_the_proxy_gets_no_page(proxy: Pulltap) -> None:
    name = f"attacker.example:{proxy.port}"
    proxy.map_name(name, f"127.0.0.1:{proxy.port}")
    try:
        for target in ("/ca.pem", "/", f"http://{name}/ca.pem"):
            # A browser that uses the proxy names it in full; the proxy then asks itself, once.
            with dial(proxy.port) as client:
                client.send(f"GET {target} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
                head, body = client.message()
            assert head.startswith(b"HTTP/1.1 421 ")
            assert b"CERTIFICATE" not in body
    finally:
        proxy.restore_names()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "192.0.2.200", "pulltap", "host.docker.internal:80"]
)
def test_a_name_of_the_proxys_own_gets_its_page(proxy: Pulltap, host: str) -> None:
    with dial(proxy.port) as client:
        client.send(f"GET /ca.pem HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head, body = client.message()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body.startswith(b"-----BEGIN CERTIFICATE-----")
