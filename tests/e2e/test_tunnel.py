"""What is for no registry goes through as if Pulltap were not there; what is for a plain-HTTP registry is kept."""

import os
import threading
from collections.abc import Iterator

import pytest

from ..standin import Hub
from ..standin.images import push_blob
from .clients.raw import Raw, Reply
from .conftest import Clients, StartProxy
from .programs import eventually
from .proxies import BareProxy, Pulltap
from .sockets import Peer, Server, dial, tunnel

PLAIN = "plain.example.com"
"""A registry without TLS, on port 80."""


@pytest.fixture(scope="module")
def proxy(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulltap]:
    """Pulltap, which knows registries without TLS, too."""
    hosts = [docker_hub.names.registry, PLAIN, f"127.0.0.1:{docker_hub.backing.port}"]
    pulltap = Pulltap(tmp_path_factory.mktemp("tunnel") / "proxy", docker_hub, {"registry_hosts": hosts})
    yield pulltap
    pulltap.stop()
    assert not pulltap.trouble(), pulltap.trouble()


@pytest.fixture(autouse=True)
def _names_as_at_first(proxy: Pulltap) -> Iterator[None]:
    yield
    proxy.restore_names()


# --- TLS for no registry ---


def loopback(hub: Hub, host: str) -> str:
    """Where the stand-in's host really is."""
    return hub.map[f"{host}:443"]


@pytest.mark.parametrize("what", ["auth", "cdn", "another port", "an address", "the registry's name in SNI alone"])
def test_tls_for_no_registry_is_not_decrypted(hub: Hub, proxy: Pulltap, bare_proxy: BareProxy, what: str) -> None:
    registry = hub.names.registry
    target, name = {
        "auth": (f"{hub.names.auth}:443", hub.names.auth),
        "cdn": (f"{hub.names.cdn}:443", hub.names.cdn),
        "another port": (f"{registry}:8443", registry),
        "an address": (loopback(hub, registry), registry),
        "the registry's name in SNI alone": ("mirror.example.com:443", registry),
    }[what]
    for each in (proxy, bare_proxy):
        each.map_name(target, loopback(hub, name))
    # It trusts nobody but the stand-in's own authority.
    with tunnel(bare_proxy.port, target, hub.ca, sni=name) as directly:
        original = directly.certificate()
    with tunnel(proxy.port, target, hub.ca, sni=name) as client:
        assert client.certificate() == original
        client.send(f"GET /v2/ HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        assert client.head().startswith(b"HTTP/1.1 ")
    (record,) = hub.requests
    assert (record.host, record.sni) == (name, name)


def test_tls_for_a_registry_is_decrypted(hub: Hub, proxy: Pulltap, bare_proxy: BareProxy) -> None:
    target = f"{hub.names.registry}:443"
    with tunnel(bare_proxy.port, target, hub.ca) as directly, tunnel(proxy.port, target, proxy.ca) as client:
        assert client.certificate() != directly.certificate()


# --- what is no TLS, in a tunnel ---


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"EHLO client\r\n"]
)
def test_any_protocol_passes_in_a_tunnel(proxy: Pulltap, greeting: bytes) -> None:
    def serve(peer: Peer) -> None:
        assert peer.read(len(greeting)) == greeting
        peer.send(b"\xff\x00hello\n")
        assert peer.rest() == b"bye"
        peer.send(b"and good bye")

    with Server(serve) as server, tunnel(proxy.port, server.address) as client:
        client.send(greeting)
        assert client.read(8) == b"\xff\x00hello\n"
        client.send(b"bye")
        client.end()
        assert client.rest() == b"and good bye"


def test_a_server_may_speak_first_in_a_tunnel(proxy: Pulltap) -> None:
    def serve(peer: Peer) -> None:
        peer.send(b"220 mail.example.com\r\n")
        assert peer.rest() == b"QUIT\r\n"

    with Server(serve) as server, tunnel(proxy.port, server.address) as client:
        assert client.read(22) == b"220 mail.example.com\r\n"
        client.send(b"QUIT\r\n")
        client.end()
        assert client.rest() == b""


# --- plain HTTP ---


def test_plain_http_is_forwarded_as_it_is(proxy: Pulltap) -> None:
    lines = (
        b"hOST: %s\r\nX-B: 1\r\nAccept: a\r\naccept: b\r\nX-Empty: \r\nx-b: 2\r\nAuthorization: Basic YTpi\r\n"
        b"Cookie: a\r\nUser-Agent: any\r\nAccept-Encoding: gzip\r\nIf-None-Match: x\r\nRange: bytes=1-\r\n"
        b"Content-Length: 6\r\n\r\na\x00b\r\n\xff"
    )
    answer = (
        b"HTTP/1.1 206 Some Of It\r\nServer: any\r\nset-cookie: a\r\nSet-Cookie: b\r\nContent-Encoding: gzip\r\n"
        b"ETag: x\r\nX-Empty: \r\nContent-Length: 4\r\n\r\n\x1f\x8bno"
    )
    received = []

    def serve(peer: Peer) -> None:
        received.append(peer.message())
        peer.send(answer)

    with Server(serve) as server:
        host = server.address.encode()
        with dial(proxy.port) as client:
            client.send(b"PUT http://%s/any/path?a=%%2F&&b HTTP/1.1\r\n%s" % (host, lines % host))
            assert b"".join(client.message()) == answer
        with dial(server.port) as directly:
            directly.send(b"PUT /any/path?a=%%2F&&b HTTP/1.1\r\n%s" % (lines % host))
            directly.message()
    assert received[0] == received[1]
    assert b"".join(received[0]) == b"PUT /any/path?a=%%2F&&b HTTP/1.1\r\n%s" % (lines % host)


def test_v2_of_no_registry_is_nothing_special(proxy: Pulltap) -> None:
    received = []

    def serve(peer: Peer) -> None:
        received.append(peer.head())
        peer.send(b"HTTP/1.1 404 Not Here\r\nContent-Length: 0\r\n\r\n")

    for path in (f"/v2/library/x/blobs/sha256:{'0' * 64}", "/v2/library/x/blobs/nonsense", "/v2/library/x/manifests/y"):
        with Server(serve) as server, dial(proxy.port) as client:
            client.send(f"GET http://{server.address}{path} HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode())
            assert client.head() == b"HTTP/1.1 404 Not Here\r\nContent-Length: 0\r\n\r\n"
            assert received.pop() == f"GET {path} HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode()


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_an_answer_that_never_ends_arrives_as_it_is_sent(proxy: Pulltap, framing: str) -> None:
    first_seen = threading.Event()
    first, second = b"data: one\n\n", b"data: two\n\n"

    def serve(peer: Peer) -> None:
        peer.head()
        header = b"Transfer-Encoding: chunked" if framing == "chunked" else b"Connection: close"
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%s\r\n\r\n" % header)
        for event in (first, second):
            peer.send(b"%x\r\n%s\r\n" % (len(event), event) if framing == "chunked" else event)
            assert first_seen.wait(30)
        peer.rest()

    with Server(serve) as server, dial(proxy.port) as client:
        client.send(f"GET http://{server.address}/events HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode())
        client.head()
        for event in (first, second):
            assert (client.chunk() if framing == "chunked" else client.read(len(event))) == event
            first_seen.set()


def test_a_body_of_unknown_length_is_sent_on_as_it_comes(proxy: Pulltap) -> None:
    first_seen = threading.Event()

    def serve(peer: Peer) -> None:
        peer.head()
        assert peer.chunk() == b"one"
        first_seen.set()
        assert peer.chunk() == b"two"
        assert peer.chunk() == b""
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with Server(serve) as server, dial(proxy.port) as client:
        head = f"POST http://{server.address}/ HTTP/1.1\r\nHost: {server.address}\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.send(head.encode() + b"3\r\none\r\n")
        assert first_seen.wait(30)
        client.send(b"3\r\ntwo\r\n0\r\n\r\n")
        assert client.message()[1] == b"ok"


def test_a_plain_http_connection_is_kept(proxy: Pulltap) -> None:
    def serve(peer: Peer) -> None:
        while path := peer.head().partition(b"\r\n")[0]:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))

    with Server(serve) as server, dial(proxy.port) as client:
        for number in range(3):
            client.send(f"GET http://{server.address}/{number} HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode())
            assert client.message()[1] == b"GET /%d HTTP/1.1" % number
        assert server.connections == 1


def test_a_web_socket_passes(proxy: Pulltap) -> None:
    upgraded = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"

    def serve(peer: Peer) -> None:
        assert b"Upgrade: websocket\r\n" in peer.head()
        peer.send(upgraded + b"\x81\x05hello")
        frame = peer.read(11)
        mask, text = frame[2:6], frame[6:]
        assert frame[:2] == b"\x81\x85"
        peer.send(b"\x81\x05" + bytes(byte ^ mask[at % 4] for at, byte in enumerate(text)))
        peer.rest()

    with Server(serve) as server, dial(proxy.port) as client:
        client.send(
            f"GET http://{server.address}/chat HTTP/1.1\r\nHost: {server.address}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert client.head() == upgraded
        assert client.read(7) == b"\x81\x05hello"
        client.send(
            b"\x81\x85\x01\x02\x03\x04" + bytes(byte ^ key for byte, key in zip(b"there", b"\1\2\3\4\1", strict=True))
        )
        assert client.read(7) == b"\x81\x05there"


# --- what is kept all the same ---


@pytest.mark.parametrize("named", [True, False], ids=["by name", "by address"])
def test_a_registry_without_tls_is_kept(hub: Hub, proxy: Pulltap, named: bool) -> None:
    content = os.urandom(100_000)
    blob = hub.push_blob("team/plain", content)
    address = f"127.0.0.1:{hub.backing.port}"
    host = PLAIN if named else address
    proxy.map_name(f"{PLAIN}:80", address)

    def get() -> tuple[bytes, bytes]:
        with dial(proxy.port) as client:
            target = f"http://{host}/v2/team/plain/blobs/{blob.digest}"
            client.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return client.message()

    head, body = get()
    assert b"\r\nCache-Status: pulltap; fwd=miss; stored\r\n" in head
    assert body == content
    eventually((proxy.store / "blobs" / blob.digest.replace(":", "/")).exists, "the commit")
    proxy.map_name(f"{PLAIN}:80", "error: gone")
    head, body = get()
    assert b"\r\nCache-Status: pulltap; hit\r\n" in head
    assert body == content


def test_sha512_blobs_are_kept(hub: Hub, proxy: Pulltap, raw: Raw) -> None:
    image = hub.sha512
    (layer,) = image.layers
    url, bearer = hub.url(image.blob_path(layer)), hub.bearer(image.repository)
    miss = raw.request("GET", url, [bearer])
    assert (miss.header("Cache-Status"), miss.body) == ("pulltap; fwd=miss; stored", hub.content(layer))
    path = proxy.store / "blobs" / layer.digest.replace(":", "/")
    eventually(path.exists, "the commit")
    assert path.read_bytes() == miss.body
    hub.clear()
    hit = raw.request("GET", url, [bearer])
    assert (hit.header("Cache-Status"), hit.body) == ("pulltap; hit", miss.body)
    assert not hub.requests
