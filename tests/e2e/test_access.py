"""Who is given what is stored: by whom it is asked, for whom it stands, and what an attacker gets."""

import hashlib
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..standin import ACCEPT, Fault, Hub
from ..standin.images import DOCKER_MANIFEST, Blob
from .clients.containers import Podman, Skopeo
from .clients.docker import Docker
from .clients.raw import Raw, Reply
from .conftest import OTHER, Clients, StartProxy
from .programs import eventually
from .proxies import Proxy, Pulltap

PRIVATE = "private/secret"
HIT = "pulltap; hit"
STORED = "pulltap; fwd=miss; stored"
JOINED = "pulltap; fwd=miss; collapsed"
BYPASS = "pulltap; fwd=bypass"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Secret:
    """A blob of a repository that only its owner may pull."""

    hub: Hub
    content: bytes
    blob: Blob

    def url(self, repository: str = PRIVATE, hub: Hub | None = None) -> str:
        return (hub or self.hub).url(f"/v2/{repository}/blobs/{self.blob.digest}")

    @property
    def owner(self) -> tuple[str, str]:
        return self.hub.bearer(PRIVATE, account="owner")

    def path(self, proxy: Pulltap) -> Path:
        return proxy.store / "blobs" / self.blob.digest.replace(":", "/")

    def kept_by(self, proxy: Pulltap, raw: Raw) -> None:
        """The owner pulls it, so that it is stored."""
        assert raw.request("GET", self.url(), [self.owner]).body == self.content
        eventually(self.path(proxy).exists, "the commit")
        self.hub.clear()

    def assert_not_in(self, *replies: Reply) -> None:
        for reply in replies:
            assert self.content[:64] not in reply.body
            assert "hit" not in str(status(reply))


@pytest.fixture
def secret(hub: Hub) -> Secret:
    content = os.urandom(2 * MIB)
    blob = hub.push_blob(PRIVATE, content)
    hub.add_account("owner", "password", PRIVATE)
    hub.add_account("second", "password", PRIVATE)
    hub.add_account("eve", "password", "eve/app")
    hub.make_private(PRIVATE)
    return Secret(hub, content, blob)


@pytest.fixture
def both(start_proxy: StartProxy, other_hub: Hub) -> Pulltap:
    """Pulltap in front of two registries."""
    proxy = start_proxy({"registry_hosts": ["registry-1.docker.io", OTHER.registry]})
    proxy.map_hub(other_hub)
    return proxy


def status(reply: Reply) -> str | None:
    return reply.header("Cache-Status")


# --- what a pull costs ---


def asked(hub: Hub) -> Counter[str]:
    """What the registry was asked about an image, beside its blobs: ping, tag, manifests."""
    found = [record for record in hub.find(host=hub.names.registry) if "/blobs/" not in record.path]
    return Counter(f"{record.method} {record.path}" for record in found)


def client_of(clients: Clients, name: str, via: Proxy) -> Docker | Podman | Skopeo:
    made: Docker | Podman | Skopeo = getattr(clients, name)(via)
    return made


@pytest.mark.parametrize("name", ["docker", "podman", "skopeo"])
def test_a_stored_image_costs_nothing_more_than_its_manifests(
    hub: Hub, proxy: Pulltap, clients: Clients, bare_proxy: Proxy, name: str
) -> None:
    reference = hub.small.reference
    direct = client_of(clients, name, bare_proxy)
    direct.pull(reference)
    expected, tokens = asked(hub), len(hub.token_requests())
    client = client_of(clients, name, proxy)
    client.pull(reference)
    for restarted in (False, True):
        if not isinstance(client, Skopeo):
            client.remove(reference)
        if restarted:
            proxy.restart()
        hub.clear()
        client.pull(reference)
        # What the restart forgot, the manifests bring back before the first blob is asked for.
        assert not hub.blob_requests()
        assert asked(hub) == expected
        assert len(hub.token_requests()) == tokens


def test_a_whole_image_costs_one_question_where_no_manifest_passed(hub: Hub, proxy: Pulltap, raw: Raw) -> None:
    image = hub.small
    for blob in image.blobs:
        raw.request("GET", hub.url(image.blob_path(blob)))
    eventually(lambda: len(list(proxy.store.glob("blobs/*/*"))) >= len(image.blobs), "the commits")
    proxy.restart()
    hub.clear()
    replies = [raw.request("GET", hub.url(image.blob_path(blob))) for blob in image.blobs]
    assert {status(reply) for reply in replies} == {HIT}
    assert [record.method for record in hub.blob_requests()] == ["HEAD"]


# --- attacks ---


def test_a_guessed_digest_through_a_public_repository(hub: Hub, secret: Secret, proxy: Pulltap, raw: Raw) -> None:
    secret.kept_by(proxy, raw)
    public = hub.single
    assert raw.request("GET", hub.url(public.manifest_path), [ACCEPT]).status == 200
    for headers in ([], [hub.bearer(public.repository)], [hub.bearer(public.repository, account="eve")]):
        for method in ("GET", "HEAD"):
            reply = raw.request(method, secret.url(public.repository), headers)
            assert (reply.status, status(reply)) == (404, BYPASS)
            secret.assert_not_in(reply)
    # Nor without a detour, nor with the token of another repository.
    for headers in ([], [hub.bearer(public.repository, account="eve")], [("Authorization", "Bearer made-up")]):
        reply = raw.request("GET", secret.url(), headers)
        assert reply.status == 401
        secret.assert_not_in(reply)


def test_a_manifest_of_ones_own_that_names_a_foreign_layer(hub: Hub, secret: Secret, proxy: Pulltap, raw: Raw) -> None:
    secret.kept_by(proxy, raw)
    config = hub.push_blob("eve/app", b'{"architecture":"amd64","os":"linux"}')
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": secret.blob.digest,
        "size": secret.blob.size,
        "urls": ["https://example.com/layer"],
    }
    manifest = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config.descriptor(), "layers": [foreign]}
    # Where the registry does not take it, another one might: here it says what it would say then.
    body = json.dumps(manifest).encode()
    hub.faults.add(
        Fault(
            host=hub.names.registry,
            path="/v2/eve/app/manifests/",
            status=200,
            headers=(("Content-Type", DOCKER_MANIFEST),),
            body=body,
            times=None,
        )
    )
    eve = hub.bearer("eve/app", account="eve")
    named = raw.request("GET", hub.url("/v2/eve/app/manifests/latest"), [eve, ACCEPT])
    assert (named.status, named.body) == (200, body)
    for method in ("GET", "HEAD"):
        reply = raw.request(method, secret.url("eve/app"), [eve])
        assert (reply.status, status(reply)) == (404, BYPASS)
        secret.assert_not_in(reply)
    # Nor a part of it.
    for asked_range in ("bytes=0-9", "bytes=1-", f"bytes={secret.blob.size - 1}-"):
        reply = raw.request("GET", secret.url("eve/app"), [eve, ("Range", asked_range)])
        assert reply.status == 404
        secret.assert_not_in(reply)


def test_a_hostile_registry_that_has_everything(
    hub: Hub, other_hub: Hub, secret: Secret, both: Pulltap, clients: Clients
) -> None:
    raw = clients.raw(both)
    secret.kept_by(both, raw)
    other_hub.push("eve/app", sizes=(1000,))
    eve = other_hub.bearer("eve/app")
    yes = (("Content-Length", str(secret.blob.size)), ("Docker-Content-Digest", secret.blob.digest))
    other_hub.faults.add(Fault(method="HEAD", path_contains="/blobs/", status=200, headers=yes, times=None))
    assert raw.request("GET", other_hub.url("/v2/eve/app/manifests/latest"), [eve, ACCEPT]).status == 200
    head = raw.request("HEAD", secret.url("eve/app", other_hub), [eve])
    # Its own answer, passed on.
    assert (head.status, status(head)) == (200, BYPASS)
    get = raw.request("GET", secret.url("eve/app", other_hub), [eve])
    assert (get.status, status(get)) == (404, BYPASS)
    secret.assert_not_in(get)
    # What it delivers in the blob's place is no proof either.
    other_hub.faults.add(Fault(method="GET", path_contains="/blobs/", status=200, body=bytes(secret.blob.size)))
    wrong = raw.request("GET", secret.url("eve/app", other_hub), [eve])
    assert not wrong.whole
    secret.assert_not_in(wrong)
    again = raw.request("GET", secret.url("eve/app", other_hub), [eve])
    assert again.status == 404
    secret.assert_not_in(again)
    # The owner is none the worse for it.
    assert status(raw.request("GET", secret.url(), [secret.owner])) == HIT
    assert hashlib.sha256(secret.path(both).read_bytes()).hexdigest() == secret.path(both).name


# --- a fill under way ---


def test_who_joins_a_fill_is_asked_about_by_himself(
    hub: Hub, secret: Secret, proxy: Pulltap, raw: Raw, direct: Raw
) -> None:
    stalled = hub.faults.add(Fault(host=hub.names.cdn, stall_after=MIB))
    first = raw.open("GET", secret.url(), [secret.owner])
    assert first.read(1000) == secret.content[:1000]
    for headers in ([], [hub.bearer("eve/app", account="eve")]):
        refused = raw.request("GET", secret.url(), headers)
        assert (refused.status, status(refused)) == (401, BYPASS)
        expected = direct.request("GET", secret.url(), headers)
        assert refused.body == expected.body
        if headers:
            assert refused.header("WWW-Authenticate") == expected.header("WWW-Authenticate")
    # Through a repository of one's own, where the registry does not have it.
    elsewhere = raw.request("GET", secret.url("eve/app"), [hub.bearer("eve/app", account="eve")])
    assert (elsewhere.status, status(elsewhere)) == (404, BYPASS)
    second = raw.open("GET", secret.url(), [hub.bearer(PRIVATE, account="second")])
    assert dict(second.headers)["Cache-Status"] == JOINED
    stalled.release.set()
    assert second.rest().body == secret.content
    assert first.rest().body == secret.content[1000:]
    assert hub.count(host=hub.names.cdn) == 1


def test_the_refusal_of_the_first_reaches_nobody_else(hub: Hub, secret: Secret, proxy: Pulltap, raw: Raw) -> None:
    eve = hub.bearer("eve/app", account="eve")
    held = hub.faults.add(
        Fault(
            host=hub.names.registry, when=lambda request: request.header("Authorization") == eve[1], hold_headers=True
        )
    )
    with ThreadPoolExecutor(1) as pool:
        # Asked first, and answered last.
        waiting = pool.submit(raw.request, "GET", secret.url(), [eve])
        assert held.reached.wait(30)
        owner = raw.request("GET", secret.url(), [secret.owner])
        assert (status(owner), owner.body) == (STORED, secret.content)
        held.release.set()
        refused = waiting.result()
    assert (refused.status, status(refused)) == (401, BYPASS)
    secret.assert_not_in(refused)


# --- where upstream cannot be asked ---


@pytest.fixture
def expired(start_proxy: StartProxy, tmp_path: Path) -> Pulltap:
    """Pulltap, where whatever is allowed has just expired, by a script beside the addon."""
    script = tmp_path / "expire.py"
    script.write_text("from addon.auth import access\n\naccess._SECONDS = 0\n")
    return start_proxy(args=["-s", str(script)])


@pytest.mark.parametrize("outage", ["429", "503", "unreachable"])
def test_what_was_allowed_stands_for_a_while(
    hub: Hub, secret: Secret, expired: Pulltap, clients: Clients, outage: str
) -> None:
    raw = clients.raw(expired)
    secret.kept_by(expired, raw)
    owner = secret.owner
    assert raw.request("GET", secret.url(), [owner]).status == 200
    second, eve = hub.bearer(PRIVATE, account="second"), hub.bearer("eve/app", account="eve")
    if outage == "unreachable":
        expired.map_name(f"{hub.names.registry}:443", "error: no route to host")
    else:
        said = (("Retry-After", "17"),)
        hub.faults.add(Fault(host=hub.names.registry, status=int(outage), headers=said, times=None))
    hit = raw.request("GET", secret.url(), [owner])
    assert (hit.status, status(hit), hit.body) == (200, HIT, secret.content)
    head = raw.request("HEAD", secret.url(), [owner])
    assert (head.status, status(head), head.header("Content-Length")) == (200, HIT, str(secret.blob.size))
    for header in (second, eve):
        for method in ("GET", "HEAD"):
            reply = raw.request(method, secret.url(), [header])
            assert (reply.status, status(reply)) == (503, BYPASS)
            assert reply.header("Retry-After") == ("10" if outage == "unreachable" else "17")
            assert reply.header("Content-Type") == "application/json"
            secret.assert_not_in(reply)
            if method == "GET":
                (error,) = json.loads(reply.body)["errors"]
                assert error["code"] == "DENIED"
                assert PRIVATE in error["message"]
    hub.faults.clear()
    expired.restore_names()
    assert status(raw.request("GET", secret.url(), [second])) == HIT
    assert raw.request("GET", secret.url(), [eve]).status == 401


def test_a_token_service_that_is_down_stops_no_hit(hub: Hub, expired: Pulltap, clients: Clients) -> None:
    raw = clients.raw(expired)
    image = hub.small
    url = hub.url(image.blob_path(image.layers[0]))
    assert raw.request("GET", url).status == 200
    hub.revoke_tokens()
    hub.faults.add(Fault(host=hub.names.auth, status=503, times=None))
    reply = raw.request("GET", url)
    assert (reply.status, status(reply)) == (200, HIT)
