"""What goes wrong on the way to a blob: who says so, in which words, and that nothing of it is left behind."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ..standin import ACCEPT, Fault, Hub
from .clients.raw import Raw, Reply
from .conftest import StartProxy
from .programs import eventually
from .proxies import Pulltap, free_port
from .sockets import Peer, Server

REPOSITORY = "library/refusals"
SIZE = 200_000
HEX = "0123456789abcdef" * 4
BYPASS = "pulltap; fwd=bypass"
STORED = "pulltap; fwd=miss; stored"
HIT = "pulltap; hit"


@pytest.fixture(scope="module")
def proxy(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulltap]:
    """Pulltap with the shipped config; one for all of this file."""
    pulltap = Pulltap(tmp_path_factory.mktemp("refusals") / "proxy", docker_hub)
    yield pulltap
    pulltap.stop()
    assert not pulltap.trouble(), pulltap.trouble()


@dataclass(frozen=True)
class Blob:
    """A blob that nobody has asked for yet, and the ways to it."""

    hub: Hub
    proxy: Pulltap
    raw: Raw
    direct: Raw
    content: bytes
    digest: str

    @property
    def path(self) -> Path:
        """Where it lies once it is stored."""
        return self.proxy.store / "blobs" / self.digest.replace(":", "/")

    @property
    def bearer(self) -> tuple[str, str]:
        """A token of the client's own."""
        return self.hub.bearer(REPOSITORY)

    @property
    def url(self) -> str:
        return url(self.hub, self.digest)

    def request(self, method: str = "GET", *headers: tuple[str, str]) -> Reply:
        """Ask for it through Pulltap."""
        return self.raw.request(method, self.url, headers)

    def compare(self, method: str, target: str, *headers: tuple[str, str]) -> Reply:
        """A refusal of upstream, which is to be the same through Pulltap as without it."""
        expected, reply = self.direct.follow(method, target, headers), self.raw.request(method, target, headers)
        assert cache_status(reply) == BYPASS
        assert reply.without("Date", "Cache-Status") == expected.without("Date")
        return reply

    def assert_next_pull_works(self) -> None:
        """Nothing is stored; once upstream is well, it is had and stored."""
        assert_clean(self.proxy)
        assert not self.path.exists()
        self.hub.faults.clear()
        self.proxy.restore_names()
        reply = self.request()
        assert (reply.status, cache_status(reply), reply.body) == (200, STORED, self.content)
        eventually(self.path.exists, "the commit")


@pytest.fixture
def blob(hub: Hub, proxy: Pulltap, raw: Raw, direct: Raw) -> Iterator[Blob]:
    content = os.urandom(SIZE)
    yield Blob(hub, proxy, raw, direct, content, hub.push_blob(REPOSITORY, content).digest)
    proxy.restore_names()
    assert_clean(proxy)


def assert_clean(proxy: Pulltap) -> None:
    """No ingest is left, and whatever is stored is what its name says."""
    eventually(lambda: not list((proxy.store / "pulltap" / "ingest").iterdir()), "the end of all ingests")
    for path in proxy.store.glob("blobs/*/*"):
        assert hashlib.new(path.parent.name, path.read_bytes()).hexdigest() == path.name


def url(hub: Hub, digest: str, repository: str = REPOSITORY) -> str:
    return hub.url(f"/v2/{repository}/blobs/{digest}")


def cache_status(reply: Reply) -> str | None:
    return reply.header("Cache-Status")


def code(reply: Reply) -> str:
    """The code of an error body as the distribution spec has it."""
    assert reply.header("Content-Type") == "application/json"
    content = json.loads(reply.body)
    (error,) = content["errors"]
    assert set(content) == {"errors"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return str(error["code"])


# --- what Pulltap refuses ---

MALFORMED = [
    *(f"sha256:{HEX[1:]}", f"sha256:{HEX}0", f"sha256:{HEX.upper()}", f"sha256:{HEX[:-1]}g", f"sha512:{HEX}"),
    *(f"SHA256:{HEX}", f"sha256:{HEX}%0A", f"sha256:%20{HEX}", "sha256:", HEX, "..", f"a+b:{'x' * 600}"),
]
NAMELESS = ["UPPER/case", "a//b", "a..b", "-a", "a/../b", "a%00b", "a%20b", "a/", "x" * 256, "a/_b", "é"]


@pytest.mark.parametrize(
    ("repository", "digest", "wanted"),
    [
        *((REPOSITORY, digest, "DIGEST_INVALID") for digest in MALFORMED),
        *((name, f"sha256:{HEX}", "NAME_INVALID") for name in NAMELESS),
    ],
)
def test_what_no_registry_could_have(hub: Hub, raw: Raw, repository: str, digest: str, wanted: str) -> None:
    target = url(hub, digest, repository.replace("é", "%C3%A9"))
    with_body, without = raw.request("GET", target), raw.request("HEAD", target)
    assert code(with_body) == wanted
    for reply in (with_body, without):
        assert (reply.status, cache_status(reply)) == (400, BYPASS)
    assert not hub.requests


def test_a_refusal_of_a_head_has_no_body(hub: Hub, raw: Raw) -> None:
    with raw.connect(hub.names.registry) as connection:
        assert connection.request("HEAD", f"/v2/{REPOSITORY}/blobs/nonsense").status == 400
        # Were there a body, it would be taken for the head of this answer.
        reply = connection.request("GET", hub.small.blob_path(hub.small.config))
    assert (reply.status, reply.body) == (200, hub.content(hub.small.config))


@pytest.mark.parametrize(
    "asked", ["bytes=a-b", "bytes=5-2", "bytes=", "bytes=-", "bytes=1-2,x", "bytes=0x1-", "bytes=-1-2"]
)
def test_a_malformed_range(blob: Blob, asked: str) -> None:
    for then in (STORED, HIT):
        reply = blob.request("GET", ("Range", asked))
        assert (reply.status, code(reply), cache_status(reply)) == (416, "SIZE_INVALID", BYPASS)
        assert cache_status(blob.request()) == then


@pytest.mark.parametrize("asked", ["bytes=200000-", "bytes=999999999999-", "bytes=200000-200001", "bytes=-0"])
def test_a_range_behind_the_end(blob: Blob, asked: str) -> None:
    assert blob.request().whole
    reply = blob.request("GET", ("Range", asked))
    assert (reply.status, code(reply)) == (416, "SIZE_INVALID")
    assert reply.header("Content-Range") == f"bytes */{SIZE}"
    assert str(cache_status(reply)).startswith("pulltap; ")


def test_a_range_behind_the_end_of_what_is_not_stored_yet(blob: Blob) -> None:
    reply = blob.request("GET", ("Range", f"bytes={SIZE}-"))
    assert (reply.status, code(reply)) == (416, "SIZE_INVALID")
    assert reply.header("Content-Range") == f"bytes */{SIZE}"
    assert str(cache_status(reply)).startswith("pulltap; ")
    eventually(blob.path.exists, "the commit of the fill that it started")


@pytest.mark.parametrize("asked", ["lines=1-2", "bytes 0-5", "octets=0-", "", "0-5"])
def test_a_range_that_is_none_is_ignored(blob: Blob, asked: str) -> None:
    for then in (STORED, HIT):
        reply = blob.request("GET", ("Range", asked))
        assert (reply.status, cache_status(reply), reply.body) == (200, then, blob.content)
        assert reply.header("Content-Range") is None


@pytest.mark.parametrize("asked", ["bytes=0-0,-1", "bytes=0-1,100-199", "bytes=0-1,200000-", "bytes=0-,0-,0-"])
def test_several_ranges_are_never_refused(blob: Blob, asked: str) -> None:
    miss = blob.request("GET", ("Range", asked))
    assert (miss.status, cache_status(miss)) == (307, BYPASS)
    assert blob.request().status == 200
    reply = blob.request("GET", ("Range", asked))
    assert cache_status(reply) == HIT
    if reply.status == 206:
        several = str(reply.header("Content-Type")).startswith("multipart/byteranges; boundary=")
        assert several == (reply.header("Content-Range") is None)
    else:
        assert (reply.status, reply.body) == (200, blob.content)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("digest", [f"sha384:{'0' * 96}", f"md5:{'0' * 32}", "a+b.c-d_e:x=y_z"])
def test_digests_that_nobody_can_verify_are_the_registrys_affair(blob: Blob, method: str, digest: str) -> None:
    blob.compare(method, url(blob.hub, digest), blob.bearer)
    directly, through = blob.hub.requests
    assert (through.method, through.path) == (directly.method, directly.path)
    assert {key for key, _ in through.headers} == {"Host", "Authorization"}


def test_a_link_in_a_blobs_place_is_no_blob(blob: Blob, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"secret" * 1000)
    assert blob.request().whole
    eventually(blob.path.exists, "the commit")
    blob.path.unlink()
    blob.path.symlink_to(elsewhere)
    reply = blob.request()
    assert (reply.status, cache_status(reply), reply.body) == (200, STORED, blob.content)
    eventually(lambda: not blob.path.is_symlink(), "the commit")
    assert blob.path.read_bytes() == blob.content
    assert elsewhere.read_bytes() == b"secret" * 1000
    short = blob.digest[: len("sha256:") + 12]
    warned = f"blob {short} cannot be read, and is fetched again: it is a symbolic link"
    assert blob.proxy.log().count(warned) == 1
    assert cache_status(blob.request()) == HIT


# --- what upstream refuses ---


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_blob_that_is_not_there(blob: Blob, method: str) -> None:
    reply = blob.compare(method, url(blob.hub, f"sha256:{HEX}"), blob.bearer)
    assert reply.status == 404
    assert method == "HEAD" or b"BLOB_UNKNOWN" in reply.body


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("stored", [False, True], ids=["missing", "stored"])
def test_a_token_that_is_not_good(blob: Blob, method: str, stored: bool) -> None:
    if stored:
        assert blob.request().status == 200
        eventually(blob.path.exists, "the commit")
    for bad in ("Bearer made-up", "Basic YTpi", blob.hub.bearer(blob.hub.small.repository)[1]):
        reply = blob.compare(method, blob.url, ("Authorization", bad))
        assert reply.status == 401
        assert str(reply.header("WWW-Authenticate")).startswith("Bearer realm=")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("stored", [False, True], ids=["missing", "stored"])
def test_a_private_repository(blob: Blob, method: str, stored: bool) -> None:
    hub, repository = blob.hub, "alice/secret"
    target = url(hub, hub.push_blob(repository, os.urandom(1000)).digest, repository)
    hub.make_private(repository)
    hub.add_account("alice", "wonderland", repository)
    hub.add_account("bob", "builder")
    if stored:
        assert blob.raw.request("GET", target, [hub.bearer(repository, account="alice")]).status == 200
    for who in ("", "bob"):
        assert blob.compare(method, target, hub.bearer(repository, account=who)).status == 401
    # Where Pulltap brings the token, the client is told by the registry how to bring one of its own.
    reply = blob.raw.request(method, target)
    assert (reply.status, cache_status(reply)) == (401, BYPASS)
    assert f'scope="repository:{repository}:pull"' in str(reply.header("WWW-Authenticate"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_the_registry_refuses(blob: Blob, method: str, status: int) -> None:
    said = (("content-type", "text/plain"), ("retry-after", "17"), ("X-Trace", "a"), ("X-Trace", "b"))
    blob.hub.faults.add(Fault(host=blob.hub.names.registry, status=status, headers=said, body=b"no\n", times=None))
    reply = blob.compare(method, blob.url, blob.bearer)
    assert (reply.status, reply.header("Retry-After"), reply.values("X-Trace")) == (status, "17", ["a", "b"])
    blob.assert_next_pull_works()


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_the_cdn_refuses(blob: Blob, status: int) -> None:
    said = (("Content-Type", "application/xml"), ("x-amz-id", "1"))
    blob.hub.faults.add(Fault(host=blob.hub.names.cdn, status=status, headers=said, body=b"<Error/>", times=None))
    reply = blob.compare("GET", blob.url, blob.bearer)
    assert (reply.status, reply.body) == (status, b"<Error/>")
    blob.assert_next_pull_works()


# --- an upstream that cannot be had ---

FAILURES = {
    "refused": r"(?i)connect call failed|refused",
    "unknown name": r"Name or service not known",
    "untrusted": r"(?i)certificate verify failed",
    "reset": r"(?i)reset|closed|connect",
    "cut": r"(?i)closed|disconnect",
    "no HTTP": r"HTTP",
}
"""How upstream fails, and the reason that the client is told."""


@contextmanager
def failing(blob: Blob, name: str, failure: str) -> Iterator[None]:
    """Upstream's host fails, as long as this lasts."""

    def serve(peer: Peer) -> None:
        peer.head()
        peer.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    with Server(serve, blob.hub.authority.server_context(name)) as server:
        match failure:
            case "refused":
                blob.proxy.map_name(f"{name}:443", f"127.0.0.1:{free_port()}")
            case "unknown name":
                blob.proxy.map_name(f"{name}:443", f"error: {FAILURES[failure]}")
            case "untrusted":
                blob.hub.faults.add(Fault(host=name, accept="untrusted", times=None))
            case "reset":
                blob.hub.faults.add(Fault(host=name, accept="reset", times=None))
            case "cut":
                blob.hub.faults.add(Fault(host=name, cut_after=-1, times=None))
            case _:
                blob.proxy.map_name(f"{name}:443", server.address)
        yield


@pytest.mark.parametrize("failure", FAILURES)
def test_a_registry_that_cannot_be_had(blob: Blob, failure: str) -> None:
    hub = blob.hub
    with failing(blob, hub.names.registry, failure):
        reply = blob.request("GET", blob.bearer)
        assert (reply.status, cache_status(reply)) == (502, BYPASS)
        assert re.search(FAILURES[failure], reply.body.decode())
        assert blob.request("HEAD", blob.bearer).status == 502
        manifest = [ACCEPT, hub.bearer(hub.small.repository)]
        reply = blob.raw.request("GET", hub.url(hub.small.manifest_path), manifest)
        assert reply.status == 502
        assert re.search(FAILURES[failure], reply.body.decode())
    blob.assert_next_pull_works()


@pytest.mark.parametrize("failure", FAILURES)
def test_a_cdn_that_cannot_be_had(blob: Blob, failure: str) -> None:
    with failing(blob, blob.hub.names.cdn, failure):
        reply = blob.request("GET", blob.bearer)
        assert (reply.status, cache_status(reply)) == (502, BYPASS)
        assert re.search(FAILURES[failure], reply.body.decode())
        assert blob.hub.names.cdn in reply.body.decode()
        assert "Signature=" not in reply.body.decode() + blob.proxy.log()
    blob.assert_next_pull_works()


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://production.cloudfront.docker.com/blob", "redirects to http://production.cloudfront.docker.com"),
        ("ftp://production.cloudfront.docker.com/blob", "redirects to ftp://production.cloudfront.docker.com"),
        ("https://host:port/", "redirects to an address that is none"),
        ("https://[::1/", "redirects to an address that is none"),
        (f"/v2/{REPOSITORY}/blobs/again", "redirects more than"),
    ],
)
def test_a_redirect_to_nowhere(blob: Blob, location: str, reason: str) -> None:
    said = (("Location", location),)
    blob.hub.faults.add(Fault(host=blob.hub.names.registry, status=307, headers=said, times=None))
    reply = blob.request("GET", blob.bearer)
    assert (reply.status, cache_status(reply)) == (502, BYPASS)
    assert reason in reply.body.decode()
    blob.assert_next_pull_works()


def test_an_upstream_that_never_answers(blob: Blob, start_proxy: StartProxy, tmp_path: Path) -> None:
    """Its 30 seconds are shortened by a script beside the addon."""
    script = tmp_path / "hurry.py"
    script.write_text("from addon.transfer import upstream\n\nupstream.HEADER_SECONDS = 0.5\n")
    hurried = start_proxy(args=["-s", str(script)])
    late = replace(blob, proxy=hurried, raw=Raw(hurried.port, hurried.ca))
    for name in (blob.hub.names.registry, blob.hub.names.cdn):
        held = blob.hub.faults.add(Fault(host=name, hold_headers=True, times=None))
        reply = late.request("GET", blob.bearer)
        assert (reply.status, cache_status(reply)) == (504, BYPASS)
        assert f"{name}:443 sent nothing for 0.5 s" in reply.body.decode()
        assert held.reached.is_set()
        blob.hub.faults.clear()
    late.assert_next_pull_works()
