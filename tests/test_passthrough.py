"""How everything but blobs passes: what is added, what is streamed, what is learned."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from mitmproxy import ctx, http, tls
from mitmproxy import flow as mitmflow
from mitmproxy.proxy import context, mode_specs
from mitmproxy.test import tflow

from addon.auth.access import ANONYMOUS, credential_of
from addon.auth.grants import Grant
from addon.parts import Parts
from addon.passthrough import ACCEPT, Passthrough
from addon.settings import Registry, parse_registries
from addon.transfer.stream import TUNNEL
from addon.transfer.target import recognise
from addon.transfer.upstream import COLLECTED

from .doubles import BOUND, HUB, Clock, FakeUpstream, digest_of, mitmproxy_with, nothing_left, request_flow
from .hub import CHALLENGE, Hub, parts_with

A, B = digest_of(b"a"), digest_of(b"b")
MANIFEST = json.dumps(
    {"schemaVersion": 2, "config": {"digest": str(A), "size": 7}, "layers": [{"digest": str(B), "size": 70}]}
).encode()


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Proxy:
    """The hook, with its parts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.hook = Passthrough(parts)

    async def headers(self, path: str, method: str = "GET", scheme: str = "https", **headers: str) -> http.HTTPFlow:
        """A request to Docker Hub, as it is behind the hook for its head."""
        flow = request_flow(f"{scheme}://{HUB}{path}", method, **headers)
        await asyncio.wait_for(self.hook.requestheaders(flow), BOUND)
        return flow

    async def answered(
        self, flow: http.HTTPFlow, status: int = 200, content: bytes = b"", **headers: str
    ) -> http.Response:
        """Upstream's answer to it, as it is behind the hooks for its head and for all of it."""
        flow.response = http.Response.make(status, content)
        for name, value in headers.items():
            flow.response.headers[name.replace("_", "-")] = value
        self.hook.responseheaders(flow)
        await asyncio.wait_for(self.hook.response(flow), BOUND)
        return flow.response


Start = Callable[..., Proxy]


@pytest.fixture
async def start(
    tmp_path: Path, hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Start]:
    """Starts proxies with other settings than the usual ones."""
    started: list[Parts] = []

    def start(**changes: object) -> Proxy:
        started.append(parts_with(hub, tmp_path / "store", monkeypatch, clock, **changes))
        return Proxy(started[-1])

    async with nothing_left(caplog):
        with mitmproxy_with():
            yield start
            for parts in started:
                await parts.close()


@pytest.fixture
def proxy(start: Start) -> Proxy:
    return start()


@pytest.fixture
def account(tmp_path: Path) -> str:
    """A config.json with credentials for Docker Hub."""
    path = tmp_path / "config.json"
    auth = base64.b64encode(b"user:password").decode()
    path.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": auth}}}))
    return str(path)


TAGS = "/v2/library/alpine/tags/list"
LATEST = "/v2/library/alpine/manifests/latest"
PING = "/v2/"


# Requests.


@pytest.mark.parametrize("what", ["answered", "failed", "replayed", "our own", "to the proxy"])
async def test_requests_that_are_left_alone(proxy: Proxy, hub: Hub, what: str) -> None:
    flow = request_flow(f"https://{HUB}{TAGS}")
    match what:
        case "answered":
            flow.response = http.Response.make(418)
        case "failed":
            flow.error = mitmflow.Error("gone")
        case "replayed":
            flow.live = False
        case "our own":
            assert isinstance(proxy.parts.upstream, FakeUpstream)
            proxy.parts.upstream.own.append(flow)
        case "to the proxy":
            flow = request_flow("http://127.0.0.1:3128/", "POST")
            flow.client_conn.sockname = ("127.0.0.1", 3128)
    await proxy.hook.requestheaders(flow)
    assert "Authorization" not in flow.request.headers
    assert not flow.request.stream
    assert flow not in proxy.parts.under_way
    assert not hub.asked()


@pytest.mark.parametrize("url", ["https://cdn.example/v2/", f"https://{HUB}/", "http://files.example/large"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_for_no_registry_is_streamed(proxy: Proxy, url: str, method: str) -> None:
    flow = request_flow(url, method)
    before = flow.request.headers.copy()
    await proxy.hook.requestheaders(flow)
    assert flow.request.stream is True
    assert flow.request.headers == before
    assert flow.response is None
    response = await proxy.answered(flow, 200, b"anything")
    assert response.stream is True


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (TAGS, "GET"),
        (LATEST, "GET"),
        (LATEST, "HEAD"),
        (f"/v2/library/alpine/referrers/{A}", "GET"),
        ("/v2/_catalog", "GET"),
        ("/v2/library/alpine/something/else", "GET"),
    ],
)
async def test_a_token_where_there_is_none(proxy: Proxy, hub: Hub, path: str, method: str) -> None:
    flow = await proxy.headers(path, method)
    assert flow.request.headers["Authorization"] == "Bearer anonymous"
    assert not flow.request.stream
    assert flow.response is None
    target, grant = proxy.parts.under_way[flow]
    assert (target.identity, grant.injected) == (HUB, True)
    assert hub.asked() == ["token from auth.docker.io"]


@pytest.mark.parametrize("path", [TAGS, LATEST, PING])
async def test_the_clients_own_authorization_stays(proxy: Proxy, hub: Hub, path: str) -> None:
    flow = await proxy.headers(path, Authorization="Bearer mine")
    assert flow.request.headers["Authorization"] == "Bearer mine"
    assert not hub.asked()


@pytest.mark.parametrize(
    ("url", "mode", "goes_on"),
    [
        ("http://files.example/large", "regular", False),
        (f"http://{HUB}{TAGS}", "regular", False),
        # The next proxy may be the one that asked for it.
        ("http://files.example/large", "upstream:http://a:1", True),
        # Whoever wrote it into a tunnel, or to no proxy, did not mean this one.
        (f"https://{HUB}{TAGS}", "regular", True),
        ("http://files.example/large", "transparent", True),
    ],
)
async def test_a_login_to_the_proxy_goes_no_further(proxy: Proxy, url: str, mode: str, goes_on: bool) -> None:
    flow = request_flow(url, Proxy_Authorization="Basic x")
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse(mode)
    await asyncio.wait_for(proxy.hook.requestheaders(flow), BOUND)
    assert ("Proxy-Authorization" in flow.request.headers) == goes_on


@pytest.mark.parametrize("url", [f"https://{HUB}{TAGS}", "http://files.example/large", "http://127.0.0.1:3128/"])
async def test_a_head_that_could_be_read_in_two_ways_is_refused(proxy: Proxy, hub: Hub, url: str) -> None:
    flow = request_flow(url, "POST")
    flow.request.headers["X"] = "a\r\n Transfer-Encoding: chunked"
    await asyncio.wait_for(proxy.hook.requestheaders(flow), BOUND)
    assert flow.response
    assert (flow.response.status_code, flow.response.headers["Connection"]) == (400, "close")
    assert not flow.request.stream
    assert not hub.asked()


async def test_a_repeated_request_gets_a_token_in_the_place_of_what_was_taken_out(proxy: Proxy, hub: Hub) -> None:
    flow = request_flow(f"https://{HUB}{TAGS}", Authorization="Bearer REDACTED")
    flow.is_replay = "request"
    await asyncio.wait_for(proxy.hook.requestheaders(flow), BOUND)
    assert flow.request.headers["Authorization"] == "Bearer anonymous"


async def test_a_blob_request_is_not_its_business(proxy: Proxy, hub: Hub) -> None:
    for method in ("GET", "HEAD"):
        flow = await proxy.headers(f"/v2/library/alpine/blobs/{A}", method)
        assert flow not in proxy.parts.under_way
        assert not flow.request.stream
    assert not hub.asked()


@pytest.mark.parametrize("path", ["/v2/library/alpine/blobs/uploads/", LATEST, f"/v2/library/alpine/blobs/{A}"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE"])
async def test_writes_are_streamed_and_get_no_token_of_nobodys(proxy: Proxy, hub: Hub, path: str, method: str) -> None:
    flow = await proxy.headers(path, method)
    assert flow.request.stream is True
    assert "Authorization" not in flow.request.headers
    assert flow in proxy.parts.under_way
    assert not hub.asked()


async def test_writes_get_a_token_of_the_account(start: Start, hub: Hub, account: str) -> None:
    proxy = start(docker_config=account)
    flow = await proxy.headers(LATEST, "PUT")
    assert flow.request.headers["Authorization"] == "Bearer anonymous-of-the-account"
    assert flow.request.stream is True
    # No password goes for a request without TLS.
    hub.asked()
    plain = await proxy.headers(LATEST, "PUT", "http")
    assert "Authorization" not in plain.request.headers
    assert not hub.asked()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_manifest_request_that_accepts_nothing_is_taken_to_accept_all(proxy: Proxy, method: str) -> None:
    flow = await proxy.headers(LATEST, method)
    assert flow.request.headers["Accept"] == ", ".join(ACCEPT)


async def test_what_a_client_accepts_stays(proxy: Proxy) -> None:
    for path, method, accept in ((LATEST, "GET", "text/*"), (LATEST, "PUT", None), (TAGS, "GET", None)):
        flow = await proxy.headers(path, method, **({"Accept": accept} if accept else {}))
        assert flow.request.headers.get("Accept") == accept
    flow = request_flow(f"https://{HUB}{LATEST}")
    flow.request.headers.set_all("Accept", ["text/a", "text/b"])
    await proxy.hook.requestheaders(flow)
    assert flow.request.headers.get_all("Accept") == ["text/a", "text/b"]


@pytest.mark.parametrize(("token_status", "status"), [(429, 429), (500, 503), (503, 503)])
async def test_a_token_service_that_cannot_help(proxy: Proxy, hub: Hub, token_status: int, status: int) -> None:
    hub.token_status = token_status
    flow = await proxy.headers(TAGS)
    assert flow.response
    assert (flow.response.status_code, flow.response.headers["Retry-After"]) == (status, "7")
    # mitmproxy cannot answer a request whose body it streams.
    assert not flow.request.stream
    assert flow not in proxy.parts.under_way


# The ping.


def hubs(**more: object) -> dict[str, Registry]:
    return parse_registries({HUB: more})


async def test_the_ping_passes_untouched(proxy: Proxy, hub: Hub) -> None:
    flow = await proxy.headers(PING)
    assert flow.response is None
    assert "Authorization" not in flow.request.headers
    assert flow in proxy.parts.under_way
    assert not hub.asked()


@pytest.mark.parametrize("how", ["credentials", "local"])
async def test_the_ping_is_answered_where_clients_need_no_login(start: Start, hub: Hub, account: str, how: str) -> None:
    proxy = start(docker_config=account) if how == "credentials" else start(registries=hubs(ping="local"))
    for path in (PING, "/v2"):
        flow = await proxy.headers(path)
        assert flow.response
        assert (flow.response.status_code, flow.response.content) == (200, b"{}")
        assert flow.response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
        assert flow not in proxy.parts.under_way
    assert not hub.asked()


@pytest.mark.parametrize("how", ["credentials", "local"])
async def test_a_login_is_tried_at_the_registry(start: Start, account: str, how: str) -> None:
    proxy = start(docker_config=account) if how == "credentials" else start(registries=hubs(ping="local"))
    assert (await proxy.headers(PING, Authorization="Basic x")).response is None


@pytest.mark.parametrize("how", ["credentials", "local"])
async def test_who_was_refused_may_log_in_for_ten_minutes(start: Start, clock: Clock, account: str, how: str) -> None:
    proxy = start(docker_config=account) if how == "credentials" else start(registries=hubs(ping="local"))
    flow = await proxy.headers("/v2/private/one/tags/list")
    await proxy.answered(flow, 401, b"{}")
    assert (await proxy.headers(PING)).response is None
    clock.now += 600
    assert (await proxy.headers(PING)).response is not None


async def test_a_ping_without_tls_is_answered_only_where_the_config_says_so(start: Start, account: str) -> None:
    assert (await start(docker_config=account).headers(PING, scheme="http")).response is None
    assert (await start(registries=hubs(ping="local")).headers(PING, scheme="http")).response is not None


# The heads of answers.


@pytest.mark.parametrize(
    ("path", "method", "status", "length", "streamed"),
    [
        (LATEST, "GET", 200, str(COLLECTED), False),
        (LATEST, "GET", 200, str(COLLECTED + 1), True),
        (LATEST, "GET", 200, None, True),
        (LATEST, "GET", 200, "x", True),
        (LATEST, "GET", 401, None, False),
        (LATEST, "HEAD", 200, "99999999999", False),
        (LATEST, "HEAD", 200, None, False),
        (TAGS, "GET", 200, "7", False),
        (f"/v2/library/alpine/blobs/{A}", "DELETE", 202, "0", False),
    ],
)
async def test_which_answers_are_streamed(
    proxy: Proxy, path: str, method: str, status: int, length: str | None, *, streamed: bool
) -> None:
    flow = await proxy.headers(path, method)
    flow.response = http.Response.make(status)
    flow.response.headers.clear()
    if length is not None:
        flow.response.headers["Content-Length"] = length
    proxy.hook.responseheaders(flow)
    assert bool(flow.response.stream) is streamed
    assert "Cache-Status" not in flow.response.headers


@pytest.mark.parametrize(
    ("status", "length", "streamed"),
    [(200, "7", True), (307, "7", True), (404, "7", False), (401, None, False), (404, None, True), (206, None, True)],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_blobs_answer_that_passes(
    proxy: Proxy, method: str, status: int, length: str | None, *, streamed: bool
) -> None:
    flow, _ = await sent_on(proxy, method)
    flow.response = http.Response.make(status)
    flow.response.headers.clear()
    if length is not None:
        flow.response.headers["Content-Length"] = length
    proxy.hook.responseheaders(flow)
    assert bool(flow.response.stream) is streamed
    assert flow.response.headers["Cache-Status"] == "pulltap; fwd=bypass"


async def test_a_blobs_answer_tells_why_it_is_not_stored(proxy: Proxy, hub: Hub) -> None:
    hub.blobs["library/alpine", str(A)] = b"a"
    flow, _ = await sent_on(proxy)
    proxy.parts.unstored[flow] = 'cannot use "store"'
    told = 'pulltap; fwd=bypass; detail="cannot use \\"store\\""'
    flow.response = http.Response.make(200)
    proxy.hook.responseheaders(flow)
    assert flow.response.headers["Cache-Status"] == told
    # So does the answer to the second attempt.
    assert (await proxy.answered(flow, 401, b"first", **challenged())).headers["Cache-Status"] == told


async def sent_on(proxy: Proxy, method: str = "GET", authorization: str | None = None) -> tuple[http.HTTPFlow, Grant]:
    """A blob request that the other hook lets pass."""
    flow = await proxy.headers(f"/v2/library/alpine/blobs/{A}", method)
    target = recognise(flow, proxy.parts.settings)
    assert target
    grant = Grant("Bearer old", ANONYMOUS, injected=True)
    if authorization is not None:
        flow.request.headers["Authorization"] = authorization
        grant = Grant(authorization, "somebody")
    proxy.parts.send_on(flow, target, grant)
    return flow, grant


@pytest.mark.parametrize("what", ["failed", "replayed", "our own", "unanswered"])
async def test_answers_that_are_left_alone(proxy: Proxy, what: str) -> None:
    flow = await proxy.headers(TAGS)
    flow.response = None if what == "unanswered" else http.Response.make(200)
    match what:
        case "failed":
            flow.error = mitmflow.Error("gone")
        case "replayed":
            flow.live = False
        case "our own":
            assert isinstance(proxy.parts.upstream, FakeUpstream)
            proxy.parts.upstream.own.append(flow)
    proxy.hook.responseheaders(flow)
    assert flow.response is None or not flow.response.stream


async def test_our_own_pages_are_not_streamed(proxy: Proxy) -> None:
    flow = request_flow("http://127.0.0.1:3128/")
    flow.client_conn.sockname = ("127.0.0.1", 3128)
    await proxy.hook.requestheaders(flow)
    assert (await proxy.answered(flow, 200, b"page")).stream is False


async def test_the_answer_to_a_head_has_no_body(proxy: Proxy) -> None:
    flow = request_flow(f"https://{HUB}{LATEST}", "HEAD")
    response = await proxy.answered(flow, 502, b"pulltap: no route to host")
    assert (response.raw_content, response.headers["Content-Length"]) == (b"", "25")


# Once more, with a fresh token.


def challenged(repository: str = "library/alpine") -> dict[str, str]:
    return {"WWW_Authenticate": CHALLENGE.format(host=HUB, repository=repository)}


async def test_a_token_that_was_refused_before_its_time(proxy: Proxy, hub: Hub) -> None:
    flow = await proxy.headers("/v2/library/alpine/manifests/" + str(A), Accept="text/a", User_Agent="docker")
    hub.token = "fresh"
    hub.blobs["library/alpine", str(A)] = MANIFEST
    hub.asked()
    response = await proxy.answered(flow, 401, b"{}", **challenged())
    assert (response.status_code, response.content) == (200, MANIFEST)
    assert hub.asked() == ["token from auth.docker.io", f"GET {HUB}/library/alpine as fresh"]
    assert isinstance(proxy.parts.upstream, FakeUpstream)
    again = proxy.parts.upstream.asked[-1]
    assert (again.request.headers["Accept"], again.request.headers["User-Agent"]) == ("text/a", "docker")
    assert again.purpose == "pulltap: again, with a fresh token"
    # What it says is learned, as if it had come at once.
    assert proxy.parts.verdicts.may_pull(HUB, "library/alpine", ANONYMOUS)
    assert proxy.parts.sizes[HUB, "library/alpine", B] == 70
    assert not proxy.parts.was_refused(flow, proxy.parts.under_way[flow][0])


async def test_a_second_refusal_is_the_clients_to_see(proxy: Proxy, hub: Hub) -> None:
    hub.private["library/alpine"] = {"somebody else"}
    flow = await proxy.headers(LATEST)
    hub.token = "fresh"
    hub.asked()
    response = await proxy.answered(flow, 401, b"first", **challenged())
    assert (response.status_code, response.content) == (401, b'{"errors":[]}')
    assert len(hub.asked()) == 2
    assert proxy.parts.was_refused(flow, proxy.parts.under_way[flow][0])


async def test_no_fresh_token_leaves_the_refusal(proxy: Proxy, hub: Hub) -> None:
    flow = await proxy.headers(TAGS)
    hub.token_status = 403
    response = await proxy.answered(flow, 401, b"first", **challenged())
    assert (response.status_code, response.content) == (401, b"first")
    assert proxy.parts.was_refused(flow, proxy.parts.under_way[flow][0])


@pytest.mark.parametrize(("token_status", "status"), [(429, 429), (503, 503)])
async def test_a_token_service_that_fails_now(proxy: Proxy, hub: Hub, token_status: int, status: int) -> None:
    flow = await proxy.headers(TAGS)
    hub.token_status = token_status
    assert (await proxy.answered(flow, 401, b"first", **challenged())).status_code == status


async def test_an_upstream_that_fails_now(proxy: Proxy, hub: Hub) -> None:
    flow = await proxy.headers(TAGS)
    hub.token, hub.failing = "fresh", 504
    assert (await proxy.answered(flow, 401, b"first", **challenged())).status_code == 504


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        (TAGS, "GET", {"Authorization": "Bearer mine"}),
        (PING, "GET", {}),
        (LATEST, "PUT", {}),
        ("/v2/library/alpine/blobs/uploads/", "POST", {}),
    ],
)
async def test_refusals_that_are_the_clients(
    proxy: Proxy, hub: Hub, path: str, method: str, headers: dict[str, str]
) -> None:
    flow = await proxy.headers(path, method, **headers)
    response = await proxy.answered(flow, 401, b"first", **challenged())
    assert (response.status_code, response.content) == (401, b"first")
    assert not hub.asked()
    assert not proxy.parts.was_refused(flow, proxy.parts.under_way[flow][0])


async def test_a_refused_blob_is_asked_for_again_in_the_same_range(proxy: Proxy, hub: Hub) -> None:
    hub.blobs["library/alpine", str(A)] = b"a"
    flow, _ = await sent_on(proxy)
    flow.request.headers["Range"] = "bytes=0-0"
    response = await proxy.answered(flow, 401, b"first", **challenged())
    assert (response.status_code, response.content) == (200, b"a")
    assert response.headers["Cache-Status"] == "pulltap; fwd=bypass"
    assert hub.asked()[-1] == f"GET {HUB}/library/alpine 0-0 as anonymous"


# What is learned.


async def test_a_manifest_proves_that_its_repository_may_be_pulled(proxy: Proxy) -> None:
    for method in ("HEAD", "GET"):
        flow = await proxy.headers(LATEST, method, Authorization=f"Bearer {method}")
        _, grant = proxy.parts.under_way[flow]
        await proxy.answered(flow, 200, MANIFEST)
        assert proxy.parts.verdicts.may_pull(HUB, "library/alpine", grant.credential)
        assert (proxy.parts.sizes.get((HUB, "library/alpine", A)) == 7) is (method == "GET")
        assert not proxy.parts.verdicts.may_pull(HUB, "library/alpine", ANONYMOUS)
        assert not proxy.parts.verdicts.may_pull(HUB, "library/debian", grant.credential)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [(LATEST, "GET", 404), (LATEST, "GET", 307), (LATEST, "PUT", 200), (LATEST, "DELETE", 200), (TAGS, "GET", 200)],
)
async def test_what_proves_nothing(proxy: Proxy, path: str, method: str, status: int) -> None:
    flow = await proxy.headers(path, method, Authorization="Bearer mine")
    _, grant = proxy.parts.under_way[flow]
    await proxy.answered(flow, status, MANIFEST)
    assert not proxy.parts.verdicts.may_pull(HUB, "library/alpine", grant.credential)
    assert not proxy.parts.sizes


@pytest.mark.parametrize(("status", "stands"), [(401, False), (403, False), (404, True), (429, True), (503, True)])
async def test_a_refusal_takes_back_what_was_proved(proxy: Proxy, clock: Clock, status: int, stands: bool) -> None:
    flow = await proxy.headers(LATEST, Authorization="Bearer mine")
    _, grant = proxy.parts.under_way[flow]
    await proxy.answered(flow, 200, MANIFEST)
    again = await proxy.headers(LATEST, Authorization="Bearer mine")
    await proxy.answered(again, status, b"{}")
    assert proxy.parts.verdicts.may_pull(HUB, "library/alpine", grant.credential) is stands
    # Nor does its grace begin.
    clock.now += 15 * 60
    assert proxy.parts.verdicts.could_pull(HUB, "library/alpine", grant.credential) is stands


async def test_the_refusal_of_one_takes_nothing_from_another(proxy: Proxy) -> None:
    for who, status in (("Bearer mine", 200), ("Bearer other", 401)):
        flow = await proxy.headers(LATEST, Authorization=who)
        await proxy.answered(flow, status, MANIFEST)
    assert proxy.parts.verdicts.may_pull(HUB, "library/alpine", credential_of("Bearer mine"))


async def test_what_the_second_attempt_proves_is_kept_under_its_name(start: Start, hub: Hub, account: str) -> None:
    proxy = start(docker_config=account)
    hub.private["library/alpine"] = {"anonymous-of-the-account"}
    hub.blobs["library/alpine", "latest"] = MANIFEST
    # The token service refuses the account at first, so that the request goes out with nobody's name.
    hub.token_status = 401
    flow = await proxy.headers(LATEST)
    assert proxy.parts.under_way[flow][1] == Grant(None, ANONYMOUS, injected=True)
    hub.token_status = 200
    assert (await proxy.answered(flow, 401, b"{}", **challenged())).status_code == 200
    assert proxy.parts.verdicts.may_pull(HUB, "library/alpine", "injected user")
    assert not proxy.parts.verdicts.may_pull(HUB, "library/alpine", ANONYMOUS)


async def test_the_answer_of_another_host_proves_nothing(proxy: Proxy) -> None:
    flow = await proxy.headers(LATEST, Host="evil.example", Authorization="Bearer mine")
    await proxy.answered(flow, 200, MANIFEST)
    assert flow not in proxy.parts.under_way
    assert not proxy.parts.sizes
    # Nor is it given a token that was made for the registry.
    flow = await proxy.headers(LATEST, Host="evil.example")
    assert "Authorization" not in flow.request.headers


async def test_an_answer_that_failed_proves_nothing(proxy: Proxy) -> None:
    flow = await proxy.headers(LATEST)
    flow.error = mitmflow.Error("gone")
    await proxy.answered(flow, 200, MANIFEST)
    assert not proxy.parts.sizes


def naming(*entries: object, **more: object) -> bytes:
    return json.dumps({"layers": entries, **more}).encode()


@pytest.mark.parametrize(
    "manifest",
    [
        naming({"digest": str(A), "size": -1}, {"digest": str(B), "size": 5}),
        naming({"digest": str(A), "size": "7"}),
        naming({"digest": "sha256:x", "size": 7}),
        naming({"size": 7}),
        naming("layer"),
        naming(None, config=None),
        b'{"manifests": [{"digest": "%s", "size": 7}]}' % str(A).encode(),
        b'{"layers": {"a": 7}}',
        b"[]",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
async def test_what_tells_no_lengths_passes_all_the_same(proxy: Proxy, manifest: bytes) -> None:
    flow = await proxy.headers(LATEST)
    assert (await proxy.answered(flow, 200, manifest)).raw_content == manifest
    assert not proxy.parts.sizes


# Tunnels.


@pytest.mark.parametrize(
    ("host", "port", "tunnelled"),
    [(HUB, 443, False), (HUB, 8443, True), ("cdn.example", 443, True), ("ghcr.io", 443, False), (HUB, 80, True)],
)
async def test_a_connect_for_no_registry_is_a_tunnel(proxy: Proxy, host: str, port: int, *, tunnelled: bool) -> None:
    flow = tflow.tflow()
    flow.request.method, flow.request.host, flow.request.port = "CONNECT", host, port
    proxy.hook.http_connect(flow)
    assert flow.metadata.get(TUNNEL, False) is tunnelled


@pytest.mark.parametrize(
    ("address", "tunnelled"), [((HUB, 443), False), (("cdn.example", 443), True), ((HUB, 8443), True), (None, False)]
)
async def test_tls_for_no_registry_is_a_tunnel(
    proxy: Proxy, address: tuple[str, int] | None, *, tunnelled: bool
) -> None:
    where = context.Context(tflow.tclient_conn(), ctx.options)
    where.server.address = address
    hello = tls.ClientHelloData(where, cast(tls.ClientHello, SimpleNamespace(sni=HUB)))
    proxy.hook.tls_clienthello(hello)
    assert hello.ignore_connection is tunnelled
