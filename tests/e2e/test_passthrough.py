"""All but blobs passes untouched: what the registry is sent and what the client gets, against the same thing directly.

`Both` does each request twice, through a mere tunnel and through Pulltap. What differs between any two direct requests
is made equal, and nothing else: the value of Date, how much of the pull limit remains, and an upload's UUID and state,
wherever they stand.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from ..standin import ACCEPT, Fault, Hub, Record
from .clients.containers import Podman, Skopeo
from .clients.docker import Docker
from .clients.raw import Raw, Reply
from .proxies import BareProxy, Pulltap
from .sockets import Peer, Server, dial, tunnel

MIB = 1024 * 1024
LARGE = 256 * MIB
GROWTH = 60 * MIB
"""Bytes by which the proxy's memory may grow while LARGE passes."""
USUAL = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
PUSHED = "alice/pushed"
UPLOADS = f"/v2/{PUSHED}/blobs/uploads/"
REGISTRY = "registry-1.docker.io:443"
UPLOAD = b"PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: registry-1.docker.io\r\nTransfer-Encoding: chunked\r\n\r\n"
OCTETS = ("Content-Type", "application/octet-stream")
Pairs = Sequence[tuple[str, str]]


@pytest.fixture(scope="module")
def proxy(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulltap]:
    """Pulltap with the shipped config; one for all of this file, since nothing here is stored."""
    pulltap = Pulltap(tmp_path_factory.mktemp("passthrough") / "proxy", docker_hub)
    yield pulltap
    pulltap.stop()
    assert not pulltap.trouble(), pulltap.trouble()


@pytest.fixture(autouse=True)
def _names_as_at_first(proxy: Pulltap) -> Iterator[None]:
    yield
    proxy.restore_names()


@pytest.fixture
def alice(hub: Hub) -> tuple[str, str]:
    """The header of somebody who may push, pull and delete in PUSHED."""
    assert hub.small.layers  # there is something to mount
    hub.add_account("alice", "wonderland", PUSHED)
    hub.push_blob(PUSHED, b"so that the repository is there")
    scopes = [f"repository:{PUSHED}:pull,push,delete", "repository:library/small:pull"]
    return "Authorization", f"Bearer {hub.tokens.issue('alice', scopes)[0]}"


def steady(text: str) -> str:
    """The text without what tells one upload from another."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    return re.sub(r"(?<=_state=)[^&]*", "STATE", text)


def asked(record: Record) -> tuple[str, str, str, tuple[tuple[str, str], ...], int]:
    """What the stand-in got, and the status that it gave."""
    target = f"{record.path}?{record.query}"
    return record.host, record.method, steady(target), record.headers, record.status


def told(reply: Reply) -> Reply:
    """What the client got: status, reason, header lines in order, body."""
    varying = {"date": "DATE", "ratelimit-remaining": "REMAINING"}
    headers = tuple((key, varying.get(key.lower()) or steady(value)) for key, value in reply.headers)
    return Reply(reply.status, reply.reason, headers, reply.body, reply.whole)


@dataclass
class Both:
    """The same requests, directly and through Pulltap."""

    hub: Hub
    direct: Raw
    raw: Raw

    def do(self, talk: Callable[[Raw], list[Reply]]) -> list[Reply]:
        """Have the same talk with the registry twice; what Pulltap's client got."""
        seen = []
        for client in (self.direct, self.raw):
            self.hub.clear()
            replies = talk(client)
            seen.append(([told(reply) for reply in replies], [asked(record) for record in self.hub.requests], replies))
        assert seen[1][0] == seen[0][0]
        assert seen[1][1] == seen[0][1]
        return seen[1][2]

    def request(self, method: str, target: str, headers: Pairs = (), body: bytes | Iterable[bytes] = b"") -> Reply:
        """Make the same request twice."""
        (reply,) = self.do(lambda client: [client.request(method, self.hub.url(target), headers, body)])
        return reply


@pytest.fixture
def both(hub: Hub, direct: Raw, raw: Raw) -> Both:
    return Both(hub, direct, raw)


# --- reading ---


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("reference", "status"),
    [("tag", 200), ("index", 200), ("platform", 200), ("unknown tag", 404), ("unknown digest", 404), ("sha256:x", 500)],
)
def test_manifests(hub: Hub, both: Both, method: str, reference: str, status: int) -> None:
    image = hub.small
    names = {
        "tag": "latest",
        "index": image.manifest.digest,
        "platform": image.platform.digest,
        "unknown tag": "nothing",
        "unknown digest": f"sha256:{'0' * 64}",
    }
    target = f"/v2/{image.repository}/manifests/{names.get(reference, reference)}"
    reply = both.request(method, target, [hub.bearer(image.repository), ACCEPT])
    assert reply.status == status
    assert reply.header("ratelimit-limit")
    assert bool(reply.body) == (method == "GET")


def test_manifests_of_other_kinds(hub: Hub, both: Both) -> None:
    docker = both.request("GET", hub.single.manifest_path, [hub.bearer(hub.single.repository), ACCEPT])
    assert docker.header("Content-Type") == hub.single.manifest.media_type
    named = both.request("GET", f"{hub.small.manifest_path}?ns=docker.io", [hub.bearer("library/small"), ACCEPT])
    assert named.header("Docker-Content-Digest") == hub.small.manifest.digest


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_manifest_that_the_client_has(hub: Hub, both: Both, method: str) -> None:
    bearer, path = hub.bearer("library/small"), hub.small.manifest_path
    etag = str(both.request("HEAD", path, [bearer, ACCEPT]).header("ETag"))
    reply = both.request(method, path, [bearer, ACCEPT, ("If-None-Match", etag)])
    assert (reply.status, reply.body) == (304, b"")
    assert both.request(method, path, [bearer, ACCEPT, ("If-None-Match", '"other"')]).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_accept_lines_stay_as_they_are(hub: Hub, both: Both, method: str) -> None:
    six = [("Accept", kind) for kind in (*reversed(USUAL), "*/*")]
    both.request(method, hub.small.manifest_path, [*six[:2], hub.bearer("library/small"), *six[2:]])
    (record,) = hub.requests
    assert [pair for pair in record.headers if pair[0] == "Accept"] == six
    for one in ("application/json", ""):
        both.request(method, hub.small.manifest_path, [hub.bearer("library/small"), ("accept", one)])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_manifest_request_without_accept_gets_the_usual_list(hub: Hub, raw: Raw, method: str) -> None:
    reply = raw.request(method, hub.url(hub.small.manifest_path), [hub.bearer("library/small"), ("X-Last", "1")])
    assert reply.header("Docker-Content-Digest") == hub.small.manifest.digest
    (record,) = hub.requests
    assert [key for key, _ in record.headers] == ["Host", "Authorization", "X-Last", "Accept"]
    assert str(record.header("Accept")).replace(" ", "").split(",") == list(USUAL)


def test_tag_lists(hub: Hub, both: Both) -> None:
    for tag in ("one", "two", "three"):
        hub.push("library/pages", tag, sizes=(1000,))
    bearer, path = hub.bearer("library/pages"), "/v2/library/pages/tags/list"
    assert sorted(json.loads(both.request("GET", path, [bearer]).body)["tags"]) == ["one", "three", "two"]
    first = both.request("GET", f"{path}?n=2", [bearer])
    assert first.header("Link") == f'<{path}?last=three&n=2>; rel="next"'
    second = both.request("GET", f"{path}?last=three&n=2", [bearer])
    assert json.loads(second.body)["tags"] == ["two"]
    assert second.header("Link") is None


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v2/"),
        ("GET", "/v2"),
        ("HEAD", "/v2/"),
        ("GET", "/v2/_catalog"),
        ("GET", "/v2/_catalog?n=1"),
        ("GET", "/v2/library/small/referrers/sha256:" + "0" * 64),
        ("GET", "/v2/library/small/referrers/sha256:" + "0" * 64 + "?artifactType=application%2Fspdx"),
        ("GET", "/v2/library/small/tags/list"),
        ("OPTIONS", "/v2/library/small/manifests/latest"),
        ("GET", "/v2/_oci/ext/discover"),
        ("GET", "/v2/library%2Fsmall/manifests/latest"),
        ("GET", "/v2//library//small/manifests/latest"),
        ("POST", "/v2/library/small/_pulltap/anything?a=1&a=2&b"),
        ("GET", "/v2/UPPER/manifests/latest"),
        ("GET", "/v1/repositories"),
        ("GET", "/"),
    ],
)
def test_any_other_path(hub: Hub, both: Both, method: str, target: str) -> None:
    kinds = [("User-Agent", "docker/29.0"), ("Accept-Encoding", "gzip"), ("Accept", "*/*")]
    both.request(method, target, [*kinds, hub.bearer(hub.small.repository)])


def test_pings_and_refusals_show_their_challenge(hub: Hub, both: Both) -> None:
    bearer = hub.bearer(hub.single.repository)
    for headers in ([], [("Authorization", "Bearer made-up")], [("Authorization", "Basic YTpi")]):
        reply = both.request("GET", "/v2/", headers)
        assert reply.status == 401
        assert str(reply.header("WWW-Authenticate")).startswith("Bearer realm=")
    wrong = [("Authorization", "Bearer made-up"), ACCEPT]
    for method in ("GET", "HEAD"):
        reply = both.request(method, hub.small.manifest_path, wrong)
        assert reply.status == 401
        assert 'error="invalid_token"' in str(reply.header("WWW-Authenticate"))
        assert both.request(method, "/v2/library/small/tags/list", [bearer]).status == 401


@pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
def test_failures_of_the_registry(hub: Hub, both: Both, status: int) -> None:
    said: Pairs = (("content-type", "text/plain"), ("Retry-After", "7"), ("X-Trace", "a"), ("X-Trace", "b"))
    hub.faults.add(Fault(status=status, headers=tuple(said), body=b"slow down", times=None))
    reply = both.request("GET", hub.small.manifest_path, [hub.bearer("library/small"), ACCEPT])
    assert (reply.status, reply.body) == (status, b"slow down")
    assert reply.values("X-Trace") == ["a", "b"]


def test_the_pull_limit(hub: Hub, both: Both) -> None:
    hub.pull_limit.limit = 0
    reply = both.request("GET", hub.small.manifest_path, [hub.bearer("library/small"), ACCEPT])
    assert (reply.status, reply.header("Retry-After")) == (429, "60")


# --- pushing ---


def upload(client: Raw, hub: Hub, alice: tuple[str, str], target: str = UPLOADS) -> tuple[Reply, str]:
    """Start an upload; the answer, and where to go on."""
    reply = client.request("POST", hub.url(target), [alice])
    return reply, reply.header("Location") or ""


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_a_blob_in_one_piece(hub: Hub, both: Both, alice: tuple[str, str], chunked: bool) -> None:
    content = os.urandom(700_000)
    pieces = [content[at : at + 50_000] for at in range(0, len(content), 50_000)]

    def push(client: Raw) -> list[Reply]:
        started, location = upload(client, hub, alice)
        target = f"{location}&digest={sha256(content)}"
        return [started, client.request("PUT", target, [alice, OCTETS], iter(pieces) if chunked else content)]

    started, finished = both.do(push)
    assert (started.status, finished.status) == (202, 201)
    assert hub.content(sha256(content)) == content


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_a_blob_in_several_pieces(hub: Hub, both: Both, alice: tuple[str, str], chunked: bool) -> None:
    content = os.urandom(500_000)
    parts = [content[:200_000], content[200_000:]]

    def push(client: Raw) -> list[Reply]:
        started, location = upload(client, hub, alice)
        replies, sent = [started], 0
        for part in parts:
            span = ("Content-Range", f"{sent}-{sent + len(part) - 1}")
            body: bytes | Iterable[bytes] = iter([part[:1], part[1:]]) if chunked else part
            replies.append(client.request("PATCH", location, [alice, OCTETS, span], body))
            location, sent = replies[-1].header("Location") or "", sent + len(part)
            replies.append(client.request("GET", location, [alice]))
            replies.append(client.request("HEAD", location, [alice]))
        replies.append(client.request("PUT", f"{location}&digest={sha256(content)}", [alice]))
        return replies

    replies = both.do(push)
    assert [reply.status for reply in replies] == [202, 202, 204, 204, 202, 204, 204, 201]
    assert replies[2].header("Range") == f"0-{len(parts[0]) - 1}"
    assert hub.content(sha256(content)) == content


def test_other_ends_of_an_upload(hub: Hub, both: Both, alice: tuple[str, str]) -> None:
    layer = hub.small.layers[0]
    mount = f"{UPLOADS}?mount={layer.digest}&from=library/small"

    def push(client: Raw) -> list[Reply]:
        cancelled, first = upload(client, hub, alice)
        wrong, second = upload(client, hub, alice)
        return [
            cancelled,
            client.request("DELETE", first, [alice]),
            client.request("GET", first, [alice]),
            wrong,
            client.request("PUT", f"{second}&digest={sha256(b'this')}", [alice, OCTETS], b"that"),
            upload(client, hub, alice, mount)[0],
            upload(client, hub, alice, f"{UPLOADS}?mount=sha256:{'0' * 64}&from=library/small")[0],
            client.request("POST", hub.url(f"{UPLOADS}?digest={sha256(b'one')}"), [alice, OCTETS], b"one"),
        ]

    assert [reply.status for reply in both.do(push)] == [202, 204, 404, 202, 400, 201, 202, 202]


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_manifests_come_and_go(hub: Hub, both: Both, alice: tuple[str, str], chunked: bool) -> None:
    image = hub.push(PUSHED, "source", sizes=(2000,))
    content = hub.content(image.manifest) + b"\n" * (1 + chunked)
    kind = ("Content-Type", image.manifest.media_type)

    def push(client: Raw) -> list[Reply]:
        url = hub.url(f"/v2/{PUSHED}/manifests/")
        body: bytes | Iterable[bytes] = iter([content[:10], content[10:]]) if chunked else content
        return [
            client.request("PUT", f"{url}fresh", [alice, kind], body),
            client.request("GET", f"{url}fresh", [alice, ACCEPT]),
            client.request("DELETE", f"{url}{sha256(content)}", [alice]),
            client.request("GET", f"{url}fresh", [alice, ACCEPT]),
            client.request("PUT", f"{url}broken", [alice, kind], b"{}"),
        ]

    replies = both.do(push)
    assert [reply.status for reply in replies] == [201, 200, 202, 404, 500]
    assert replies[0].header("Docker-Content-Digest") == sha256(content)
    assert replies[1].body == content


def test_blobs_can_be_deleted(hub: Hub, both: Both, alice: tuple[str, str]) -> None:
    content = os.urandom(1000)

    def delete(client: Raw) -> list[Reply]:
        digest = hub.push_blob(PUSHED, content).digest
        return [client.request("DELETE", hub.url(f"/v2/{PUSHED}/blobs/{digest}"), [alice])]

    (reply,) = both.do(delete)
    assert reply.status == 202


def test_a_push_without_the_right_to(hub: Hub, both: Both) -> None:
    for headers in ([], [hub.bearer("library/small")], [("Authorization", "Bearer made-up")]):
        reply = both.request("POST", "/v2/library/small/blobs/uploads/", headers, b"")
        assert reply.status == 401
        assert 'scope="repository:library/small:pull,push"' in str(reply.header("WWW-Authenticate"))
    assert both.request("PUT", "/v2/library/small/manifests/mine", [ACCEPT], b"{}").status == 401
    assert both.request("DELETE", hub.small.manifest_path, []).status == 401


@pytest.mark.parametrize("name", ["docker", "podman", "skopeo"])
def test_clients_push_what_can_be_pulled_directly(
    hub: Hub, direct: Raw, name: str, request: pytest.FixtureRequest
) -> None:
    client: Docker | Podman | Skopeo = request.getfixturevalue(name)
    repository = f"alice/{name}"
    hub.add_account("alice", "wonderland", repository)
    source = client.pull(hub.small.reference)
    match client:
        case Docker():
            client.login("alice", "wonderland")
            client.tag(hub.small.reference, f"{repository}:v1")
            client.push(f"{repository}:v1")
        case Podman():
            client.login("alice", "wonderland")
            client.push(str(source), f"{repository}:v1")
        case Skopeo():
            client.login("alice", "wonderland")
            assert isinstance(source, Path)
            client.push(source, f"{repository}:v1")

    bearer = hub.bearer(repository, account="alice")
    pulled = direct.request("GET", hub.url(f"/v2/{repository}/manifests/v1"), [bearer, ACCEPT])
    assert pulled.status == 200
    assert sha256(pulled.body) == pulled.header("Docker-Content-Digest")
    manifest = json.loads(pulled.body)
    for blob in (manifest["config"], *manifest["layers"]):
        reply = direct.follow("GET", hub.url(f"/v2/{repository}/blobs/{blob['digest']}"), [bearer])
        assert (sha256(reply.body), len(reply.body)) == (blob["digest"], blob["size"])
    # skopeo copies what it was given, the others make a manifest of their own.
    config = json.loads(hub.content(hub.small.config))["rootfs"]
    assert json.loads(hub.content(manifest["config"]["digest"]))["rootfs"] == config


# --- streaming ---


def peak(pid: int) -> int:
    """The most memory that a process ever held, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.fixture
def room(proxy: Pulltap) -> Iterator[None]:
    """Holds the proxy to GROWTH."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells how much memory a process took")
    # Its peak so far is forgotten, or what an earlier test needed would hide what this one takes.
    Path(f"/proc/{proxy.pid}/clear_refs").write_text("5")
    before = peak(proxy.pid)
    yield
    assert peak(proxy.pid) - before < GROWTH


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_large_uploads_are_not_held(hub: Hub, raw: Raw, alice: tuple[str, str], chunked: bool) -> None:
    piece = os.urandom(MIB)
    digest = hashlib.sha256()
    for _ in range(LARGE // MIB):
        digest.update(piece)
    _, location = upload(raw, hub, alice)
    target = f"{location}&digest=sha256:{digest.hexdigest()}"
    body = (piece for _ in range(LARGE // MIB)) if chunked else piece * (LARGE // MIB)
    assert raw.request("PUT", target, [alice, OCTETS], body).status == 201
    blob = hub.backing.blob_path(f"sha256:{digest.hexdigest()}")
    assert blob.stat().st_size == LARGE
    blob.unlink()


@pytest.mark.usefixtures("room")
def test_large_downloads_of_anything_else_are_not_held(proxy: Pulltap) -> None:
    piece = os.urandom(MIB)

    def serve(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        for _ in range(LARGE // MIB):
            peer.send(piece)

    with Server(serve) as server, dial(proxy.port) as client:
        client.send(f"GET http://{server.address}/large HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode())
        assert client.head().startswith(b"HTTP/1.1 200 OK\r\n")
        for _ in range(LARGE // MIB):
            assert client.read(MIB) == piece


def test_uploads_flow_while_they_are_sent(hub: Hub, proxy: Pulltap) -> None:
    arrived = threading.Event()

    def serve(peer: Peer) -> None:
        peer.head()
        assert peer.chunk() == b"first"
        arrived.set()
        assert peer.chunk() == b"second"
        assert peer.chunk() == b""
        peer.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    with Server(serve, hub.authority.server_context(hub.names.registry)) as server:
        proxy.map_name(REGISTRY, server.address)
        with tunnel(proxy.port, REGISTRY, proxy.ca) as client:
            client.send(UPLOAD + b"5\r\nfirst\r\n")
            assert arrived.wait(30)
            client.send(b"6\r\nsecond\r\n0\r\n\r\n")
            assert client.head().startswith(b"HTTP/1.1 202 Accepted\r\n")


def test_an_upload_is_refused_before_it_ends(hub: Hub, proxy: Pulltap) -> None:
    refusal = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=x\r\nContent-Length: 2\r\n\r\nno"

    def serve(peer: Peer) -> None:
        peer.head()
        peer.chunk()
        peer.send(refusal)
        peer.rest()

    with Server(serve, hub.authority.server_context(hub.names.registry)) as server:
        proxy.map_name(REGISTRY, server.address)
        with tunnel(proxy.port, REGISTRY, proxy.ca) as client:
            client.send(UPLOAD + b"5\r\nfirst\r\n")
            assert b"".join(client.message()) == refusal


def test_a_client_may_ask_whether_to_go_on(hub: Hub, proxy: Pulltap) -> None:
    def serve(peer: Peer) -> None:
        assert peer.message()[1] == b"body"
        peer.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    with Server(serve, hub.authority.server_context(hub.names.registry)) as server:
        proxy.map_name(REGISTRY, server.address)
        with tunnel(proxy.port, REGISTRY, proxy.ca) as client:
            client.send(
                b"PUT /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: registry-1.docker.io\r\n"
                b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            )
            assert client.head().startswith(b"HTTP/1.1 100 ")
            client.send(b"body")
            assert client.head().startswith(b"HTTP/1.1 201 Created\r\n")


# --- what is read while it passes ---


@pytest.mark.parametrize(
    "manifest",
    [
        *(b"[" * 200_000, b"\xff", b"null", b"[]", b'"config"', b'{"layers": "none", "config": 1}'),
        b'{"config": {"digest": "sha256:%s", "size": 1e999}}' % (b"0" * 64),
        b'{"config": {"digest": "sha256:%s", "size": -1}}' % (b"0" * 64),
        b'{"layers": [{"digest": "sha256:%s", "size": "1"}, {"digest": 1}, {}, 7]}' % (b"0" * 64),
    ],
    ids=range(9),
)
def test_a_manifest_that_is_none_passes_all_the_same(hub: Hub, both: Both, manifest: bytes) -> None:
    hub.faults.add(Fault(status=200, body=manifest, times=None))
    assert both.request("GET", hub.small.manifest_path, [hub.bearer("library/small"), ACCEPT]).body == manifest


@pytest.mark.parametrize("framing", ["", "chunked", "close"])
def test_a_refused_token_of_pulltaps_is_renewed_whatever_the_framing(
    hub: Hub, raw: Raw, framing: Literal["", "chunked", "close"]
) -> None:
    url = hub.url(hub.small.manifest_path)
    assert raw.request("GET", url, [ACCEPT]).status == 200
    hub.revoke_tokens()
    hub.clear()
    hub.faults.add(Fault(host=hub.names.registry, framing=framing))
    reply = raw.request("GET", url, [ACCEPT])
    assert (reply.status, reply.header("Docker-Content-Digest")) == (200, hub.small.manifest.digest)
    assert [record.status for record in hub.find(host=hub.names.registry)] == [401, 200]


def test_another_hosts_answer_proves_nothing_about_the_registry(hub: Hub, raw: Raw) -> None:
    """Where one address serves several hosts, a 200 of one of them must not open another's private repository."""
    image = hub.push("alice/private", sizes=(1000,))
    hub.make_private("alice/private")
    hub.add_account("alice", "wonderland", "alice/private")
    blob = hub.url(image.blob_path(image.layers[0]))
    assert raw.request("GET", blob, [hub.bearer("alice/private", account="alice")]).status == 200
    assert raw.request("GET", blob).status == 401
    hub.faults.add(Fault(status=200, body=b"{}", when=lambda request: request.header("Host") == "evil.example.com"))
    assert raw.request("GET", hub.url(image.manifest_path), [("Host", "evil.example.com"), ACCEPT]).status == 200
    assert raw.request("GET", blob).status == 401


# --- byte for byte ---


def said(start: str, *lines: str, body: bytes = b"") -> bytes:
    """A message as it goes over the wire."""
    return "\r\n".join([start, *lines, "", ""]).encode() + body


MINE = ("Host: registry-1.docker.io", "Authorization: Bearer mine", "Accept: any")
MANIFEST = "GET /v2/a/manifests/b HTTP/1.1"
TAGS = "GET /v2/a/tags/list HTTP/1.1"
EXCHANGES = {
    "header lines": (
        said(
            "GET /v2/a/manifests/b?x=%2F&&y=%20 HTTP/1.1",
            *("hOST: registry-1.docker.io", "X-B: 2", "aCCEPT: one, two", "Accept: three", "X-a: ", "x-b: 1"),
            *("Authorization: Bearer mine", "Connection: close", "Proxy-Authorization: not mine to judge"),
        ),
        said(
            "HTTP/1.1 200 Fine, Indeed",
            *(
                "sERVER: any",
                "Set-Cookie: a",
                'Link: <x>; rel="next"',
                "set-cookie: b",
                "X-Empty: ",
                "ratelimit-remaining: 1",
            ),
            *("Docker-Content-Digest: made up", "Connection: close", "Content-length: 2"),
            body=b"ok",
        ),
    ),
    "no JSON": (said(MANIFEST, *MINE), said("HTTP/1.1 200 OK", "Content-Length: 6", body=b"[\0\xff\r\n]")),
    "no object": (said(MANIFEST, *MINE), said("HTTP/1.1 200 OK", "Content-Length: 4", body=b"null")),
    "HEAD with a length": (
        said("HEAD /v2/a/manifests/b HTTP/1.1", *MINE),
        said("HTTP/1.1 200 OK", "Content-Length: 123456789", "ETag: x"),
    ),
    "HEAD in chunks": (
        said("HEAD /v2/a/manifests/b HTTP/1.1", *MINE),
        said("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"),
    ),
    "an encoded body": (
        said(TAGS, *MINE, "Accept-Encoding: gzip"),
        said("HTTP/1.1 200 OK", "Content-Encoding: gzip", "Content-Length: 4", body=b"\x1f\x8bno"),
    ),
    "a body in chunks": (
        said("GET /v2/a/referrers/sha256:0 HTTP/1.1", *MINE),
        said("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"3\r\none\r\n4\r\nmore\r\n0\r\n\r\n"),
    ),
    "a body up to the end": (
        said(TAGS, *MINE),
        said("HTTP/1.0 200 OK", "Content-Type: text/plain", body=b"all of this"),
    ),
    "not modified": (
        said(MANIFEST, *MINE, 'If-None-Match: W/"a", "b"'),
        said("HTTP/1.1 304 Not Modified", 'ETag: "b"', "Content-Length: 123"),
    ),
    "a redirect": (
        said(MANIFEST, *MINE),
        said("HTTP/1.1 307 Elsewhere", "Location: ../c?d=%41", "Content-Length: 0"),
    ),
    "too many requests": (
        said(MANIFEST, *MINE),
        said("HTTP/1.1 429 Too Many Requests", "retry-after: 60", "Content-Length: 9", body=b"slow down"),
    ),
    "two challenges": (
        said(TAGS, *MINE),
        said(
            "HTTP/1.1 401 Unauthorized",
            *('WWW-Authenticate: Basic realm="a"', 'www-authenticate: Bearer realm="b"', "Content-Length: 2"),
            body=b"no",
        ),
    ),
    "a push with a length": (
        said("PUT /v2/a/manifests/b HTTP/1.1", *MINE, "content-length: 6", body=b"\0\xff\r\n\r\n"),
        said("HTTP/1.1 201 Created", "Location: /v2/a/manifests/c", "Content-Length: 0"),
    ),
    "a push in chunks": (
        said(
            "PATCH /v2/a/blobs/uploads/x?_state=y%3D%3D HTTP/1.1",
            *(*MINE, "transfer-encoding: chunked"),
            body=b"3\r\none\r\n4\r\nmore\r\n0\r\n\r\n",
        ),
        said("HTTP/1.1 202 Accepted", "Range: 0-6", "Content-Length: 0"),
    ),
    "a push of nothing": (
        said("POST /v2/a/blobs/uploads/ HTTP/1.1", *MINE, "Content-Length: 0"),
        said("HTTP/1.1 202 Accepted", "Location: https://elsewhere.example/x", "Content-Length: 0"),
    ),
    "no content": (
        said("DELETE /v2/a/blobs/uploads/x HTTP/1.1", *MINE),
        said("HTTP/1.1 204 No Content", "X-A: b"),
    ),
    "a method that is new": (
        said("PURGE /v2/a/b HTTP/1.1", *MINE, "Content-Length: 3", body=b"all"),
        said("HTTP/1.1 405 Not So", "Allow: GET", "Content-Length: 0"),
    ),
    "HTTP/1.0": (
        said("GET /v2/a/tags/list HTTP/1.0", *MINE),
        said("HTTP/1.1 200 OK", "Content-Length: 2", body=b"ok"),
    ),
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_bytes_of_a_message(hub: Hub, proxy: Pulltap, bare_proxy: BareProxy, name: str) -> None:
    request, response = EXCHANGES[name]
    empty = request.startswith(b"HEAD") or b" 304 " in response or b" 204 " in response
    received = []

    def serve(peer: Peer) -> None:
        received.append(peer.message())
        peer.send(response)

    answers = []
    with Server(serve, hub.authority.server_context(hub.names.registry)) as server:
        for each in (bare_proxy, proxy):
            each.map_name(REGISTRY, server.address)
            with tunnel(each.port, REGISTRY, each.ca) as client:
                client.send(request)
                answers.append(client.message(empty=empty))
    assert received[1] == received[0]
    assert answers[1] == answers[0]
    assert request.startswith(received[0][0])
    assert response.startswith(answers[0][0])
