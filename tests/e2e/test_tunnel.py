"""What is for no registry goes through as if Pulltap were not there; what is for a plain-HTTP registry is kept."""

import os
import threading
from collections.abc import Iterator

import pytest

from ..standin import Hub
from .clients.curl import Curl
from .clients.raw import Raw
from .conftest import StartProxy
from .programs import eventually
from .proxies import BareProxy, Pulltap
from .sockets import Peer, Server, dial, tunnel

PLAIN = "plain.example.com"
"""A registry without TLS, on port 80."""


@pytest.fixture(scope="module")
def proxy(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulltap]:
    """Pulltap, which knows registries without TLS, too."""
    hosts = [f"{docker_hub.names.registry}:443", PLAIN, f"127.0.0.1:{docker_hub.backing.port}"]
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


def test_a_client_may_speak_tls_to_the_proxy_itself(hub: Hub, proxy: Pulltap, curl: Curl) -> None:
    # Pulltap's CA signs for both: the proxy, and the registry behind it.
    through = ["--proxy", f"https://127.0.0.1:{proxy.port}", "--proxy-cacert", str(proxy.ca)]
    assert curl.get(f"http://127.0.0.1:{proxy.port}/healthz", *through).status == 200
    reply = curl.get(hub.url(hub.small.blob_path(hub.small.config)), *through)
    assert (reply.status, reply.body) == (200, hub.content(hub.small.config))
    assert str(reply.header("Cache-Status")).startswith("pulltap; ")
    assert curl.get(f"https://{hub.names.auth}/token?service=x", *through).status == 200


# --- what is no TLS, in a tunnel ---


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"\x16"])
def test_any_protocol_passes_in_a_tunnel(proxy: Pulltap, greeting: bytes) -> None:
    ended = threading.Event()

    def serve(peer: Peer) -> None:
        assert peer.read(len(greeting)) == greeting
        peer.send(b"\xff\x00hello\n")
        assert peer.rest() == b"bye"
        ended.set()

    with Server(serve) as server:
        with tunnel(proxy.port, server.address) as client:
            client.send(greeting)
            assert client.read(8) == b"\xff\x00hello\n"
            client.send(b"bye")
        assert ended.wait(30)


def test_a_server_may_speak_first_where_connections_are_eager(start_proxy: StartProxy) -> None:
    """With connection_strategy lazy, as shipped, mitmproxy does not connect before the client has said something."""
    eager = start_proxy({"connection_strategy": "eager"})
    greeting = b"220 mail.example.com\r\n"
    with Server(lambda peer: peer.send(greeting)) as server, tunnel(eager.port, server.address) as client:
        assert client.rest() == greeting


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
    asked = (
        "GET http://{0}/chat HTTP/1.1\r\nHost: {0}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    upgraded = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
    )

    def masked(text: bytes, mask: bytes) -> bytes:
        return bytes(byte ^ mask[at % 4] for at, byte in enumerate(text))

    def serve(peer: Peer) -> None:
        assert b"\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" in peer.head()
        peer.send(upgraded + b"\x81\x05hello")
        frame = peer.read(11)
        assert frame[:2] == b"\x81\x85"
        peer.send(b"\x81\x05" + masked(frame[6:], frame[2:6]))
        peer.rest()

    with Server(serve) as server, dial(proxy.port) as client:
        client.send(asked.format(server.address).encode())
        assert client.head() == upgraded
        assert client.read(7) == b"\x81\x05hello"
        client.send(b"\x81\x85mask" + masked(b"there", b"mask"))
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
