"""The stand-in speaks as Docker Hub does: shown by single requests, through a tunnel and without Pulltap."""

import base64
import hashlib
import json
import urllib.parse

import pytest

from ..standin import ACCEPT, Hub, Names
from .clients.raw import Raw, Reply
from .proxies import BareProxy

REPOSITORY = "library/small"
MANIFEST = "/v2/library/small/manifests/latest"


def token(direct: Raw, hub: Hub, *, login: str = "", scope: str = f"repository:{REPOSITORY}:pull") -> Reply:
    query = urllib.parse.urlencode({"service": hub.names.service, "scope": scope})
    credential = [("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")] if login else []
    return direct.request("GET", f"https://{hub.names.auth}/token?{query}", credential)


def post_token(direct: Raw, hub: Hub, **form: str) -> Reply:
    body = urllib.parse.urlencode({"service": hub.names.service, **form}).encode()
    kind = [("Content-Type", "application/x-www-form-urlencoded")]
    return direct.request("POST", f"https://{hub.names.auth}/token", kind, body)


def bearer(reply: Reply) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {json.loads(reply.body)['access_token']}"), ACCEPT]


def code(reply: Reply) -> str:
    (error,) = json.loads(reply.body)["errors"]
    return str(error["code"])


def blob_url(direct: Raw, hub: Hub, blob: int = 0) -> str:
    """The signed URL of a layer."""
    url = hub.url(hub.small.blob_path(hub.small.layers[blob]))
    location = direct.request("GET", url, [hub.bearer(REPOSITORY)]).header("Location")
    assert location
    return location


# --- tokens ---


def test_ping_is_challenged(hub: Hub, direct: Raw) -> None:
    reply = direct.request("GET", hub.url("/v2/"))
    assert reply.status == 401
    assert reply.header("WWW-Authenticate") == (
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"'
    )
    assert reply.header("Docker-Distribution-Api-Version") == "registry/2.0"
    assert json.loads(reply.body) == {
        "errors": [{"code": "UNAUTHORIZED", "message": "authentication required", "detail": None}]
    }


def test_manifest_is_challenged_with_its_scope(hub: Hub, direct: Raw) -> None:
    reply = direct.request("GET", hub.url("/v2/library/x/manifests/latest"))
    assert reply.status == 401
    assert reply.header("WWW-Authenticate") == (
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull"'
    )


def test_anonymous_token_opens_public_repositories(hub: Hub, direct: Raw) -> None:
    image = hub.small
    issued = token(direct, hub)
    content = json.loads(issued.body)
    assert content["token"] == content["access_token"]
    assert content["expires_in"] == 300
    assert content["issued_at"].endswith("Z")

    reply = direct.request("GET", hub.url(MANIFEST), bearer(issued))
    assert reply.status == 200
    assert reply.header("Docker-Content-Digest") == image.manifest.digest
    assert f"sha256:{hashlib.sha256(reply.body).hexdigest()}" == image.manifest.digest
    assert direct.request("GET", hub.url("/v2/"), bearer(issued)).status == 200


def test_token_is_bound_to_its_scope(hub: Hub, direct: Raw) -> None:
    assert hub.small.repository != hub.single.repository
    reply = direct.request("GET", hub.url(hub.single.manifest_path), bearer(token(direct, hub)))
    assert reply.status == 401
    assert 'error="insufficient_scope"' in str(reply.header("WWW-Authenticate"))


def test_token_expires_by_the_tests_clock(hub: Hub, direct: Raw) -> None:
    hub.tokens.expires_in = 60
    credential = bearer(token(direct, hub))
    assert direct.request("HEAD", hub.url(MANIFEST), credential).status == 200
    hub.clock.advance(61)
    reply = direct.request("HEAD", hub.url(MANIFEST), credential)
    assert reply.status == 401
    assert 'error="invalid_token"' in str(reply.header("WWW-Authenticate"))


def test_token_can_be_revoked(hub: Hub, direct: Raw) -> None:
    credential = bearer(token(direct, hub))
    hub.revoke_tokens()
    assert direct.request("GET", hub.url(MANIFEST), credential).status == 401
    assert direct.request("GET", hub.url(MANIFEST), bearer(token(direct, hub))).status == 200


def test_private_repository_is_for_its_owner(hub: Hub, direct: Raw) -> None:
    image = hub.push("alice/app", sizes=(1000,))
    hub.make_private("alice/app")
    hub.add_account("alice", "wonderland", "alice/app")
    hub.add_account("bob", "builder")
    scope = "repository:alice/app:pull"
    url = hub.url(image.manifest_path)

    assert direct.request("GET", url, bearer(token(direct, hub, scope=scope))).status == 401
    assert direct.request("GET", url, bearer(token(direct, hub, login="bob:builder", scope=scope))).status == 401
    mine = bearer(token(direct, hub, login="alice:wonderland", scope=scope))
    assert direct.request("GET", url, mine).status == 200

    hub.add_account("alice", "wonderland")  # the right is gone, the token is not
    assert direct.request("GET", url, mine).status == 401


def test_wrong_password(hub: Hub, direct: Raw) -> None:
    hub.add_account("alice", "wonderland")
    reply = token(direct, hub, login="alice:looking-glass")
    assert reply.status == 401
    assert json.loads(reply.body) == {"details": "incorrect username or password"}


def test_oauth2(hub: Hub, direct: Raw) -> None:
    hub.push("alice/app", sizes=(1000,))
    hub.make_private("alice/app")
    hub.add_account("alice", "wonderland", "alice/app")
    scope = "repository:alice/app:pull,push"
    login = {"grant_type": "password", "username": "alice", "scope": scope}

    assert post_token(direct, hub, **login, password="wrong").status == 401
    first = post_token(direct, hub, **login, password="wonderland")
    assert direct.request("GET", hub.url("/v2/alice/app/tags/list"), bearer(first)).status == 200
    refresh = json.loads(first.body)["refresh_token"]
    second = post_token(direct, hub, grant_type="refresh_token", refresh_token=refresh, scope=scope)
    assert direct.request("GET", hub.url("/v2/alice/app/tags/list"), bearer(second)).status == 200
    assert post_token(direct, hub, grant_type="refresh_token", refresh_token="made-up").status == 401


# --- manifests, tags, pushes ---


def test_registry_answers_pass_unchanged(hub: Hub, direct: Raw) -> None:
    image = hub.small
    behind = Raw.plain("127.0.0.1", hub.backing.port).request("GET", MANIFEST, [ACCEPT])
    reply = direct.request("GET", hub.url(MANIFEST), [hub.bearer(REPOSITORY), ACCEPT])
    added = ("ratelimit-limit", "ratelimit-remaining", "docker-ratelimit-source")
    assert reply.without("Date", *added) == behind.without("Date")
    unknown = image.blob_path(image.config).replace("sha256:", "sha256:0000")
    assert direct.request("GET", hub.url(unknown), [hub.bearer(REPOSITORY)]).status == 400


def test_pull_limit(hub: Hub, direct: Raw) -> None:
    hub.pull_limit.limit = 2
    assert hub.small.repository == REPOSITORY
    credential = [hub.bearer(REPOSITORY), ACCEPT]
    first = direct.request("GET", hub.url(MANIFEST), credential)
    assert first.header("ratelimit-limit") == "2;w=21600"
    assert first.header("ratelimit-remaining") == "1;w=21600"
    assert first.header("docker-ratelimit-source")
    head = direct.request("HEAD", hub.url(MANIFEST), credential)
    assert head.header("ratelimit-remaining") == "1;w=21600"  # a HEAD does not count
    assert direct.request("GET", hub.url(MANIFEST), credential).status == 200

    refused = direct.request("GET", hub.url(MANIFEST), credential)
    assert refused.status == 429
    assert refused.header("Retry-After") == "60"
    assert code(refused) == "TOOMANYREQUESTS"
    assert b"toomanyrequests" in refused.body
    assert direct.request("HEAD", hub.url(MANIFEST), credential).status == 200
    hub.add_account("alice", "wonderland")  # has a limit of her own
    hers = [hub.bearer(REPOSITORY, account="alice"), ACCEPT]
    assert direct.request("GET", hub.url(MANIFEST), hers).status == 200


def test_tags_come_in_pages(hub: Hub, direct: Raw) -> None:
    for tag in ("one", "two", "three"):
        hub.push("library/many", tag, sizes=(1000,))
    credential = [hub.bearer("library/many")]
    found: list[str] = []
    url = hub.url("/v2/library/many/tags/list?n=2")
    while url:
        reply = direct.request("GET", url, credential)
        assert reply.status == 200
        found += json.loads(reply.body)["tags"]
        link = reply.header("Link")
        url = urllib.parse.urljoin(url, link.split(">")[0].lstrip("<")) if link else ""
    assert found == ["one", "three", "two"]


@pytest.mark.parametrize("pieces", [1, 3], ids=["with a length", "chunked"])
def test_push(hub: Hub, direct: Raw, pieces: int) -> None:
    hub.add_account("alice", "wonderland", "alice/pushed")
    credential = [hub.bearer("alice/pushed", "pull,push", "alice")]
    content = bytes([pieces]) * 300_000
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"

    started = direct.request("POST", hub.url("/v2/alice/pushed/blobs/uploads/"), credential)
    assert started.status == 202
    location = str(started.header("Location"))
    assert location.startswith(hub.url("/v2/alice/pushed/blobs/uploads/"))
    body = content if pieces == 1 else [content[n::pieces] for n in range(pieces)]
    sent = direct.request("PATCH", location, credential, body)
    assert sent.status == 202
    finished = direct.request("PUT", f"{sent.header('Location')}&digest={digest}", credential)
    assert finished.status == 201
    assert finished.header("Docker-Content-Digest") == digest
    assert hub.content(digest) == content


def test_push_needs_the_right_to(hub: Hub, direct: Raw) -> None:
    assert hub.small.repository == REPOSITORY
    issued = token(direct, hub, scope=f"repository:{REPOSITORY}:pull,push")
    reply = direct.request("POST", hub.url(f"/v2/{REPOSITORY}/blobs/uploads/"), bearer(issued))
    assert reply.status == 401
    assert f'scope="repository:{REPOSITORY}:pull,push"' in str(reply.header("WWW-Authenticate"))


# --- blobs ---


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_blobs_are_redirected_to_the_cdn(hub: Hub, direct: Raw, method: str) -> None:
    layer = hub.small.layers[1]
    url = hub.url(hub.small.blob_path(layer))
    redirect = direct.request(method, url, [hub.bearer(REPOSITORY)])
    assert redirect.status == 307
    assert redirect.body == b""
    assert str(redirect.header("Location")).startswith(f"https://{hub.names.cdn}/")

    reply = direct.follow(method, url, [hub.bearer(REPOSITORY)])
    assert reply.status == 200
    assert reply.header("Content-Length") == str(layer.size)
    assert reply.header("Content-Type") == "application/octet-stream"
    assert reply.body == (hub.content(layer) if method == "GET" else b"")
    assert [record.host for record in hub.blob_requests()] == [hub.names.registry] * 2 + [hub.names.cdn]


def test_cdn_refuses_a_credential(hub: Hub, direct: Raw) -> None:
    assert direct.request("GET", blob_url(direct, hub), [hub.bearer(REPOSITORY)]).status == 400


def test_cdn_refuses_what_is_not_signed(hub: Hub, direct: Raw) -> None:
    url = blob_url(direct, hub)
    assert direct.request("GET", url.split("?")[0]).status == 403
    assert direct.request("GET", url.replace("Signature=", "Signature=00")).status == 403
    assert direct.request("GET", url).status == 200


def test_signed_url_ends(hub: Hub, direct: Raw) -> None:
    url = blob_url(direct, hub)
    hub.clock.advance(3600)
    assert direct.request("GET", url).status == 403
    assert direct.request("GET", blob_url(direct, hub)).status == 200


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [("bytes=0-0", 0, 1), ("bytes=100-", 100, None), ("bytes=100-199", 100, 200), ("bytes=-10", -10, None)],
)
def test_cdn_serves_a_range(hub: Hub, direct: Raw, asked: str, first: int, end: int | None) -> None:
    layer = hub.small.layers[0]
    reply = direct.request("GET", blob_url(direct, hub), [("Range", asked)])
    assert reply.status == 206
    assert reply.body == hub.content(layer)[first:end]
    begin = first % layer.size
    assert reply.header("Content-Range") == f"bytes {begin}-{begin + len(reply.body) - 1}/{layer.size}"


@pytest.mark.parametrize(
    ("asked", "status"), [("bytes=99999999-", 416), ("bytes=0-1,5-6", 200), ("bytes=9-3", 200), ("lines=1-2", 200)]
)
def test_other_ranges(hub: Hub, direct: Raw, asked: str, status: int) -> None:
    assert direct.request("GET", blob_url(direct, hub), [("Range", asked)]).status == status


def test_range_only_if_unchanged(hub: Hub, direct: Raw) -> None:
    url = blob_url(direct, hub)
    etag = str(direct.request("HEAD", url).header("ETag"))
    assert direct.request("GET", url, [("Range", "bytes=5-"), ("If-Range", etag)]).status == 206
    assert direct.request("GET", url, [("Range", "bytes=5-"), ("If-Range", '"other"')]).status == 200


def test_unknown_blob(hub: Hub, direct: Raw) -> None:
    assert hub.small.repository == REPOSITORY
    unknown = f"/v2/{REPOSITORY}/blobs/sha256:{'0' * 64}"
    reply = direct.request("GET", hub.url(unknown), [hub.bearer(REPOSITORY)])
    assert reply.status == 404
    assert code(reply) == "BLOB_UNKNOWN"


def test_sha512_blob(hub: Hub, direct: Raw) -> None:
    image = hub.sha512
    assert image.layers[0].digest.startswith("sha512:")
    reply = direct.follow("GET", hub.url(image.blob_path(image.layers[0])), [hub.bearer(image.repository)])
    assert f"sha512:{hashlib.sha512(reply.body).hexdigest()}" == image.layers[0].digest
    assert hub.content(image.layers[0]) == reply.body


def test_blobs_without_a_cdn(hub: Hub, direct: Raw) -> None:
    layer = hub.small.layers[0]
    url = hub.url(hub.small.blob_path(layer))
    hub.registry.blob_mode = "direct"
    assert direct.request("GET", url, [hub.bearer(REPOSITORY)]).body == hub.content(layer)
    hub.registry.blob_mode = "relative"
    redirect = direct.request("GET", url, [hub.bearer(REPOSITORY)])
    assert str(redirect.header("Location")).startswith("/")
    target = urllib.parse.urljoin(url, str(redirect.header("Location")))
    assert direct.request("GET", target).body == hub.content(layer)
    assert hub.count(host=hub.names.cdn) == 0


# --- records, connections, names ---


def test_records(hub: Hub, direct: Raw) -> None:
    layer = hub.small.layers[2]
    direct.follow("GET", hub.url(hub.small.blob_path(layer)), [("X-One", "1"), hub.bearer(REPOSITORY), ("X-one", "2")])
    first, second = hub.requests
    assert (first.host, first.method, first.status, first.body_sent) == (hub.names.registry, "GET", 307, 0)
    assert (second.host, second.status, second.body_sent) == (hub.names.cdn, 200, layer.size)
    assert first.sni == first.host
    assert [pair for pair in first.headers if pair[0].lower() == "x-one"] == [("X-One", "1"), ("X-one", "2")]
    assert "Signature=" in second.query
    hub.wait_for(2, done=True)
    assert hub.count(status=307) == hub.count(host=hub.names.cdn, method="GET", path_contains="/sha256/") == 1
    hub.clear()
    assert hub.requests == []


def test_connection_is_kept(hub: Hub, direct: Raw) -> None:
    credential = [hub.bearer(hub.small.repository), ACCEPT]
    with direct.connect(hub.names.registry) as connection:
        assert connection.request("GET", "/v2/").status == 401
        assert connection.request("POST", "/v2/library/small/blobs/uploads/", body=b"unread").status == 401
        assert connection.request("GET", MANIFEST, credential).status == 200
        assert connection.request("GET", hub.small.blob_path(hub.small.config), credential).status == 307
        last = connection.request("GET", "/v2/", [("Connection", "close")])
        assert last.header("Connection") == "close"
    assert len({record.connection for record in hub.requests}) == 1


def test_a_second_registry(hub: Hub, other_hub: Hub, direct: Raw, bare_proxy: BareProxy) -> None:
    bare_proxy.map_hub(other_hub)
    image = other_hub.push("team/app", sizes=(1000,))
    assert other_hub.names != Names()
    reply = direct.request("GET", other_hub.url(image.manifest_path), [other_hub.bearer("team/app"), ACCEPT])
    assert reply.header("Docker-Content-Digest") == image.manifest.digest
    assert hub.requests == []


@pytest.mark.parametrize("host", ["example.org", "192.0.2.1"])
def test_nothing_leaves_the_machine(decrypting_proxy: BareProxy, direct: Raw, host: str) -> None:
    reply = Raw(decrypting_proxy.port, decrypting_proxy.ca).request("GET", f"https://{host}/")
    assert reply.status == 502
    assert f"{host}:443 is outside of the test" in reply.body.decode()
    with pytest.raises(OSError, match="EOF"):
        direct.request("GET", f"https://{host}/")


def test_names_can_fail_for_a_while(hub: Hub, bare_proxy: BareProxy, direct: Raw) -> None:
    bare_proxy.map_name("registry-1.docker.io:443", "error: Temporary failure in name resolution")
    with pytest.raises(OSError, match="EOF"):
        direct.request("GET", hub.url("/v2/"))
    bare_proxy.wait_for_log("Temporary failure in name resolution")
    bare_proxy.restore_names()
    assert direct.request("GET", hub.url("/v2/")).status == 401


def test_decrypted_requests_keep_name_and_connection(hub: Hub, decrypting_proxy: BareProxy) -> None:
    raw = Raw(decrypting_proxy.port, decrypting_proxy.ca)
    with raw.connect(hub.names.registry) as connection:
        assert connection.request("GET", "/v2/").status == 401
        assert connection.request("GET", "/v2/").status == 401
    first, second = hub.requests
    assert first.sni == hub.names.registry
    assert first.connection == second.connection
