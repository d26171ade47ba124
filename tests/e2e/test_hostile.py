"""Registries, token services and CDNs that mean harm, and registries that want a password: what leaves, what stays."""

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..standin import Fault, Hub
from ..standin.images import Blob
from .clients.raw import Raw, Reply
from .conftest import Clients, StartProxy
from .proxies import Pulltap
from .sockets import Peer, Server

MIB = 1024 * 1024
FLOOD = 100 * MIB
HOST = "registry.example.net"
REPOSITORY = "team/app"


@pytest.fixture
def blob(hub: Hub) -> Blob:
    return hub.push_blob("library/hostile", os.urandom(100_000))


def url(hub: Hub, blob: Blob) -> str:
    return hub.url(f"/v2/library/hostile/blobs/{blob.digest}")


def peak(proxy: Pulltap) -> int:
    """The most memory that it has had so far, in bytes."""
    lines = Path(f"/proc/{proxy.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def assert_works(hub: Hub, raw: Raw, blob: Blob) -> None:
    hub.faults.clear()
    reply = raw.request("GET", url(hub, blob))
    assert (reply.status, reply.body) == (200, hub.content(blob))


# --- where a redirect leads ---

REFUSED = rb"a redirect leads to (\S+) at (\S+), which is no public address: it is refused"


def redirecting(hub: Hub, location: str) -> None:
    said = (("Location", location),)
    hub.faults.add(Fault(host=hub.names.registry, path_contains="/blobs/", status=307, headers=said, times=None))


def assert_refused(reply: Reply, host: str, address: str) -> None:
    assert (reply.status, reply.header("Cache-Status")) == (502, "pulltap; fwd=bypass")
    found = re.search(REFUSED, reply.body)
    assert found, reply.body
    assert (found[1].decode(), found[2].decode()) == (host, address)


@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.example.net"])
def test_a_registry_does_not_lead_to_the_metadata_service(
    hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob, host: str
) -> None:
    # Even this one, which is at a loopback address as everything here.
    proxy.map_name(f"{host}:443", "169.254.169.254:443")
    redirecting(hub, f"https://{host}/latest/meta-data")
    assert_refused(raw.request("GET", url(hub, blob)), host, "169.254.169.254")
    assert_works(hub, raw, blob)


def test_a_public_registry_does_not_lead_to_this_machine(
    hub: Hub, start_proxy: StartProxy, clients: Clients, blob: Blob, tmp_path: Path
) -> None:
    # The stand-in is taken for a public one; what it leads to is looked up, and judged, as ever.
    script = tmp_path / "public.py"
    script.write_text(
        "from addon.transfer import addresses\n\naddresses.led_by = lambda address: addresses.Reach.PUBLIC\n"
    )
    proxy = start_proxy(args=["-s", str(script)])
    raw = clients.raw(proxy)
    assert_refused(raw.request("GET", url(hub, blob)), hub.names.cdn, "127.0.0.1")
    assert not hub.find(host=hub.names.cdn)
    with Server(lambda peer: peer.send(peer.rest())) as inside:
        redirecting(hub, f"https://127.0.0.1:{inside.port}/")
        assert_refused(raw.request("GET", url(hub, blob)), "127.0.0.1", "127.0.0.1")
        assert not inside.connections
    # What it gives itself, it may.
    hub.registry.blob_mode = "direct"
    assert_works(hub, raw, blob)


@pytest.mark.parametrize(
    "location",
    [
        "https://cdn.example.net/\r\n X-Injected: 1",
        "https://cdn.example.net/\r\n\tHost: evil.example.net",
        "https://cdn.example.net/ HTTP/1.1",
        "https://cdn.example.net/%0d%0a\x01",
        "https://cdn.example.net\\@evil.example.net/\x7f",
    ],
)
def test_a_location_ends_no_line(hub: Hub, raw: Raw, blob: Blob, location: str) -> None:
    redirecting(hub, location)
    reply = raw.request("GET", url(hub, blob))
    assert (reply.status, reply.header("X-Injected")) == (502, None)
    assert b"redirects to" in reply.body
    assert_works(hub, raw, blob)


@pytest.mark.parametrize("digest", ["sha256:{}%0d%0aX-Injected:%201", "sha256:%0d%0a{}", "{}%0aHost:%20evil"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_digest_ends_no_line(hub: Hub, raw: Raw, blob: Blob, digest: str, method: str) -> None:
    crafted = digest.format(blob.digest.partition(":")[2])
    reply = raw.request(method, hub.url(f"/v2/library/hostile/blobs/{crafted}"))
    assert (reply.status, reply.header("X-Injected")) == (400, None)
    assert not hub.find(host=hub.names.registry)


def test_redirects_come_to_an_end(hub: Hub, raw: Raw, blob: Blob) -> None:
    redirecting(hub, f"/v2/library/hostile/blobs/{blob.digest}?again")
    reply = raw.request("GET", url(hub, blob))
    assert reply.status == 502
    assert b"redirects more than 5 times" in reply.body
    assert hub.count(host=hub.names.registry) == 6


# --- answers without end ---


@contextmanager
def flooding(hub: Hub, proxy: Pulltap, begin: bytes, piece: bytes) -> Iterator[Server]:
    """A registry whose every answer begins like this, and goes on for 100 MiB, as long as somebody takes it."""

    def serve(peer: Peer) -> None:
        try:
            peer.head()
            peer.send(begin)
            for _ in range(FLOOD // len(piece)):
                peer.send(piece)
        except OSError:
            pass  # whoever asked has had enough

    with Server(serve, hub.authority.server_context(HOST)) as server:
        proxy.map_name(f"{HOST}:443", server.address)
        yield server


HEAD_FLOOD = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm="https://auth.example.net/'
BODY_FLOOD = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nTransfer-Encoding: chunked\r\n\r\n'
PIECE = 64 * 1024


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (HEAD_FLOOD, b"x" * PIECE),
        (b"HTTP/1.1 401 Unauthorized\r\n", b"WWW-Authenticate: Basic\r\n" * 2000),
        (BODY_FLOOD, b"10000\r\n" + b"x" * PIECE + b"\r\n"),
        (BODY_FLOOD, b"0" * PIECE),
    ],
    ids=["one header", "many headers", "body", "length of a chunk"],
)
@pytest.mark.parametrize("auth", ["inject", "passthrough"])
def test_a_challenge_without_end(
    *, hub: Hub, start_proxy: StartProxy, clients: Clients, begin: bytes, piece: bytes, auth: str
) -> None:
    proxy = start_proxy({"registry_hosts": [hub.names.registry, HOST]}, {HOST: {"auth": auth}})
    raw = clients.raw(proxy)
    raw.request("GET", hub.url(hub.small.manifest_path))
    digest = f"sha256:{hashlib.sha256(begin).hexdigest()}"
    with flooding(hub, proxy, begin, piece):
        before = peak(proxy)
        for path in ("manifests/latest", f"blobs/{digest}", "tags/list"):
            reply = raw.request("GET", f"https://{HOST}/v2/{REPOSITORY}/{path}")
            assert reply.status == 502
            assert len(reply.body) < 10_000
        # What is in flight may be a few MiB, for each of three requests.
        assert peak(proxy) - before < 40 * MIB


def test_a_token_without_end(hub: Hub, proxy: Pulltap, raw: Raw, blob: Blob) -> None:
    raw.request("GET", hub.url(hub.small.manifest_path))
    hub.revoke_tokens()
    body = b'{"token": "' + b"x" * FLOOD + b'"}'
    hub.faults.add(Fault(host=hub.names.auth, status=200, body=body, times=None))
    before = peak(proxy)
    for target in (url(hub, blob), hub.url("/v2/library/hostile/tags/list")):
        reply = raw.request("GET", target)
        assert (reply.status, reply.header("Retry-After")) == (503, "10")
        assert b"auth.docker.io" in reply.body
        assert len(reply.body) < 1000
    assert peak(proxy) - before < 40 * MIB
    assert_works(hub, raw, blob)


# --- registries that want a password ---

CONTENT = b"a layer of the team's own"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
PASSWORD = "Basic " + base64.b64encode(b"robot:s3cret").decode()


def answer(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def registry(hub: Hub, proxy: Pulltap, challenge: str, allowed: str) -> Iterator[list[str]]:
    """A registry that gives all it has to whoever comes with this ``Authorization``; yields what each request had."""
    came: list[str] = []

    def serve(peer: Peer) -> None:
        while head := peer.head().decode():
            found = re.search(r"(?im)^authorization: (.*?)\r?$", head)
            came.append(found[1] if found else "nothing")
            if came[-1] != allowed:
                peer.send(answer("401 Unauthorized", b'{"errors":[]}', f"WWW-Authenticate: {challenge}"))
            elif "/blobs/" in head.split()[1]:
                peer.send(answer("200 OK", CONTENT))
            else:
                peer.send(answer("200 OK", b'{"schemaVersion":2}', "Content-Type: application/json"))

    with Server(serve, hub.authority.server_context(HOST)) as server:
        proxy.map_name(f"{HOST}:443", server.address)
        yield came


Start = Callable[..., Pulltap]


@pytest.fixture
def start_with_password(start_proxy: StartProxy, hub: Hub, tmp_path: Path) -> Start:
    """Starts Pulltap with a password for the registry, and `auth: inject`."""
    config = tmp_path / "config.json"
    auth = base64.b64encode(b"robot:s3cret").decode()
    config.write_text(json.dumps({"auths": {HOST: {"auth": auth}}}))

    def start(**entry: object) -> Pulltap:
        return start_proxy({}, {HOST: {"auth": "inject", "credentials": str(config), **entry}})

    return start


def test_a_password_for_a_registry_that_wants_one(start_with_password: Start, hub: Hub, clients: Clients) -> None:
    proxy = start_with_password()
    raw = clients.raw(proxy)
    with registry(hub, proxy, 'Basic realm="basic-realm"', PASSWORD) as came:
        base = f"https://{HOST}/v2/{REPOSITORY}"
        assert raw.request("GET", f"{base}/manifests/latest").status == 200
        # It was asked for, and sent from then on.
        assert came == ["nothing", PASSWORD]
        miss, hit = (raw.request("GET", f"{base}/blobs/{DIGEST}") for _ in range(2))
        assert [miss.header("Cache-Status"), hit.header("Cache-Status")] == [
            "pulltap; fwd=miss; stored",
            "pulltap; hit",
        ]
        assert miss.body == hit.body == CONTENT
        assert came == ["nothing", PASSWORD, PASSWORD]
        # A client's own stays its own.
        own = raw.request("GET", f"{base}/blobs/{DIGEST}", [("Authorization", "Basic b3duOm93bg==")])
        assert own.status == 401
        assert set(came[3:]) == {"Basic b3duOm93bg=="}
    assert "s3cret" not in proxy.log()
    assert PASSWORD.split()[1] not in proxy.log()


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="https://evil.example.net/token",service="x",scope="repository:team/app:pull"',
        f'Bearer realm="https://{HOST}.evil.example.net/token",service="x"',
        f'Bearer realm="https://{HOST}@evil.example.net/token",service="x"',
        f'Bearer realm="http://{HOST}/token",service="x"',
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"',
    ],
)
def test_nothing_goes_to_a_realm_that_is_not_the_registrys(
    start_with_password: Start, hub: Hub, clients: Clients, challenge: str
) -> None:
    proxy = start_with_password()
    raw = clients.raw(proxy)
    asked: list[bytes] = []
    context = hub.authority.server_context("evil.example.net")
    with (
        Server(lambda peer: asked.append(peer.head()), context) as evil,
        registry(hub, proxy, challenge, PASSWORD) as came,
    ):
        for name in ("evil.example.net", f"{HOST}.evil.example.net"):
            proxy.map_name(f"{name}:443", evil.address)
        for path in ("manifests/latest", f"blobs/{DIGEST}"):
            reply = raw.request("GET", f"https://{HOST}/v2/{REPOSITORY}/{path}")
            # The registry's own 401, with its challenge.
            assert (reply.status, reply.header("WWW-Authenticate")) == (401, challenge)
        assert set(came) == {"nothing"}
        assert not evil.connections
    assert not asked
    assert not hub.token_requests()
    assert f"registries.{HOST}.realms" in proxy.log()


def test_a_realm_at_another_host_that_is_named(start_with_password: Start, hub: Hub, clients: Clients) -> None:
    proxy = start_with_password(realms=["sso.example.net"])
    raw = clients.raw(proxy)
    asked: list[str] = []

    def serve(peer: Peer) -> None:
        while head := peer.head().decode():
            asked.append(head)
            peer.send(answer("200 OK", b'{"token": "made-for-robot"}', "Content-Type: application/json"))

    # A scope of the registry's choice: more than was asked for.
    challenge = 'Bearer realm="https://sso.example.net/service/token",service="harbor-registry",scope="*:*:*"'
    with (
        Server(serve, hub.authority.server_context("sso.example.net")) as service,
        registry(hub, proxy, challenge, "Bearer made-for-robot") as came,
    ):
        proxy.map_name("sso.example.net:443", service.address)
        for path in ("manifests/latest", f"blobs/{DIGEST}"):
            assert raw.request("GET", f"https://{HOST}/v2/{REPOSITORY}/{path}").status == 200
        assert came == ["nothing", "Bearer made-for-robot", "Bearer made-for-robot"]
    (question,) = asked
    assert question.startswith(
        "GET /service/token?service=harbor-registry&account=robot&scope=repository%3Ateam%2Fapp%3Apull HTTP/1.1\r\n"
    )
    assert f"Authorization: {PASSWORD}\r\n" in question
