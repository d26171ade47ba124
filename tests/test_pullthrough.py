"""Where a blob comes from, and who is given it: each request through the hook, with an upstream within the process."""

import asyncio
import base64
import errno
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mitmproxy import flow as mitmflow
from mitmproxy import http

from addon.auth.access import ANONYMOUS
from addon.parts import Parts
from addon.pullthrough import Pullthrough
from addon.registry.digest import Digest
from addon.settings import parse_registries
from addon.store.blob import BlobReader
from addon.store.errors import StoreError
from addon.transfer import fill, fills, stream
from addon.transfer.body import BodyBroken

from .doubles import BOUND, HUB, Clock, FakeUpstream, digest_of, mitmproxy_with, nothing_left, request_flow
from .hub import Hub, parts_with

CONTENT = bytes(range(256)) * 40
REPOSITORY = "library/alpine"
MISS = "pulltap; fwd=miss; stored"
HIT = "pulltap; hit"
JOIN = "pulltap; fwd=miss; collapsed"
BYPASS = "pulltap; fwd=bypass"


@dataclass
class Reply:
    """What the client is given; `status` is 0 for a request that goes upstream as it is."""

    status: int
    how: str | None
    body: bytes | None
    flow: http.HTTPFlow

    @property
    def headers(self) -> http.Headers:
        assert self.flow.response
        return self.flow.response.headers


class Proxy:
    """The hook, with its parts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.hook = Pullthrough(parts)

    async def ask(
        self, digest: Digest | str, repository: str = REPOSITORY, method: str = "GET", host: str = HUB, **headers: str
    ) -> Reply:
        """A client's request, and its answer to the last byte."""
        flow = request_flow(f"https://{host}/v2/{repository}/blobs/{digest}", method, **headers)
        await asyncio.wait_for(self.hook.request(flow), BOUND)
        if flow.response is None:
            return Reply(0, None, None, flow)
        body = stream._bodies.pop(flow.response, None)
        content = bytearray(flow.response.raw_content or b"")
        if body is not None:
            try:
                async with asyncio.timeout(BOUND):
                    while not body.ended:
                        content += (piece := body.read())
                        if not piece:
                            await body.wait()
            except BodyBroken:
                content += b" (broken)"
            finally:
                body.close()
        return Reply(flow.response.status_code, flow.response.headers.get("Cache-Status"), bytes(content), flow)

    async def settled(self) -> None:
        """Wait until no fill is under way."""
        async with asyncio.timeout(BOUND):
            while self.parts.fills._running:
                await asyncio.wait(self.parts.fills._running)
                await asyncio.sleep(0)


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def clock() -> Clock:
    return Clock()


Start = Callable[..., Proxy]


@pytest.fixture
async def start(
    tmp_path: Path, hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Start]:
    """Starts proxies with other settings than the usual ones."""
    monkeypatch.setattr(fill, "_FIRST_PAUSE_SECONDS", 0)
    monkeypatch.setattr(fills, "_PROGRESS_SECONDS", 0.001)
    started: list[Parts] = []

    def start(**changes: object) -> Proxy:
        started.append(parts_with(hub, tmp_path / "store", monkeypatch, clock, **changes))
        return Proxy(started[-1])

    async with nothing_left(caplog):
        with mitmproxy_with():
            yield start
            for parts in started:
                await parts.close()
                # pytest holds the fixture until all is torn down, and these hold fills.
                parts.fills._progress = None
                assert isinstance(parts.upstream, FakeUpstream)
                parts.upstream.asked.clear()


@pytest.fixture
def proxy(start: Start) -> Proxy:
    return start()


@pytest.fixture
def digest(hub: Hub) -> Digest:
    return hub.push(REPOSITORY, CONTENT)


# What is none of its business.


@pytest.mark.parametrize("what", ["answered", "failed", "replayed", "our own"])
async def test_flows_that_are_left_alone(proxy: Proxy, hub: Hub, digest: Digest, what: str) -> None:
    flow = request_flow(f"https://{HUB}/v2/{REPOSITORY}/blobs/{digest}")
    given = None
    match what:
        case "answered":
            flow.response = given = http.Response.make(418)
        case "failed":
            flow.error = mitmflow.Error("gone")
        case "replayed":
            flow.live = False
        case "our own":
            assert isinstance(proxy.parts.upstream, FakeUpstream)
            proxy.parts.upstream.own.append(flow)
    await proxy.hook.request(flow)
    assert flow.response is given
    assert not hub.asked()
    assert flow not in proxy.parts.under_way


@pytest.mark.parametrize(
    ("url", "method"),
    [
        ("https://cdn.example/v2/library/alpine/blobs/{digest}", "GET"),
        (f"https://{HUB}/v2/library/alpine/blobs/{{digest}}", "DELETE"),
        (f"https://{HUB}/v2/library/alpine/blobs/{{digest}}", "PUT"),
        (f"https://{HUB}/v2/library/alpine/blobs/uploads/", "POST"),
        (f"https://{HUB}/v2/library/alpine/manifests/{{digest}}", "GET"),
        (f"https://{HUB}/v2/", "GET"),
        (f"https://{HUB}/", "GET"),
    ],
)
async def test_requests_for_something_else(proxy: Proxy, hub: Hub, digest: Digest, url: str, method: str) -> None:
    flow = request_flow(url.format(digest=digest), method)
    await proxy.hook.request(flow)
    assert flow.response is None
    assert not hub.asked()


# Miss, hit, join.


async def test_a_miss_and_then_hits(proxy: Proxy, hub: Hub, digest: Digest) -> None:
    miss = await proxy.ask(digest)
    assert (miss.status, miss.how, miss.body) == (200, MISS, CONTENT)
    assert hub.asked() == ["token from auth.docker.io", f"GET {HUB}/{REPOSITORY} as anonymous"]
    await proxy.settled()
    for _ in range(2):
        hit = await proxy.ask(digest)
        assert (hit.status, hit.how, hit.body) == (200, HIT, CONTENT)
    head = await proxy.ask(digest, method="HEAD")
    assert (head.status, head.how, head.body, head.headers["Content-Length"]) == (200, HIT, b"", str(len(CONTENT)))
    assert not hub.asked()


async def test_clients_that_come_together_share_one_fill(proxy: Proxy, hub: Hub, digest: Digest) -> None:
    upstream = proxy.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: None if str(question).startswith("GET /v2/") else hub.reply(question)
    asking = [asyncio.create_task(proxy.ask(digest)) for _ in range(10)]
    question = await upstream.question(1)
    for _ in range(10):
        await asyncio.sleep(0)
    question.answer(200, CONTENT, Content_Length=str(len(CONTENT)))
    replies = await asyncio.gather(*asking)
    assert all(reply.body == CONTENT for reply in replies)
    assert sorted(str(reply.how) for reply in replies) == [JOIN] * 9 + [MISS]
    assert len(upstream.asked) == 2
    assert hub.asked() == ["token from auth.docker.io"]


async def test_one_who_comes_later_joins(proxy: Proxy, hub: Hub, digest: Digest) -> None:
    upstream = proxy.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: None if str(question).startswith("GET /v2/") else hub.reply(question)
    first = asyncio.create_task(proxy.ask(digest))
    question = await upstream.question(1)
    question.begin(200, Content_Length=str(len(CONTENT)))
    question.send(CONTENT[:1000])
    later = asyncio.create_task(proxy.ask(digest, Range="bytes=500-"))
    # HEAD finds no blob yet, and passes.
    assert (await proxy.ask(digest, method="HEAD")).status == 0
    for _ in range(5):
        await asyncio.sleep(0)
    question.send(CONTENT[1000:])
    question.finish()
    assert ((await first).how, (await first).body) == (MISS, CONTENT)
    assert ((await later).status, (await later).how, (await later).body) == (206, JOIN, CONTENT[500:])


async def test_a_restart_forgets_nothing_but_the_verdicts(start: Start, hub: Hub, digest: Digest) -> None:
    first = start()
    await first.ask(digest)
    await first.settled()
    hub.asked()
    again = await start().ask(digest)
    assert (again.how, again.body) == (HIT, CONTENT)
    assert hub.asked() == ["token from auth.docker.io", f"HEAD {HUB}/{REPOSITORY} as anonymous"]


async def test_bad_bytes_are_neither_given_whole_nor_kept(proxy: Proxy, hub: Hub, digest: Digest) -> None:
    hub.blobs[REPOSITORY, str(digest)] = CONTENT[::-1]
    bad = await proxy.ask(digest)
    assert bad.body == CONTENT[:0:-1] + b" (broken)"
    await proxy.settled()
    hub.push(REPOSITORY, CONTENT)
    good = await proxy.ask(digest)
    assert (good.how, good.body) == (MISS, CONTENT)


# Who is given what is stored.


async def test_another_credential_is_asked_about_once(proxy: Proxy, hub: Hub, digest: Digest, clock: Clock) -> None:
    await proxy.ask(digest)
    await proxy.settled()
    hub.asked()
    for _ in range(2):
        hit = await proxy.ask(digest, Authorization="Bearer alice")
        assert (hit.how, hit.body) == (HIT, CONTENT)
    assert hub.asked() == [f"HEAD {HUB}/{REPOSITORY} as alice"]
    clock.now += 15 * 60
    assert (await proxy.ask(digest, Authorization="Bearer alice")).how == HIT
    assert hub.asked() == [f"HEAD {HUB}/{REPOSITORY} as alice"]


async def test_who_may_not_pull_is_told_so_by_upstream(proxy: Proxy, hub: Hub) -> None:
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    assert (await proxy.ask(digest, "private/one", Authorization="Bearer owner")).body == CONTENT
    await proxy.settled()
    hub.asked()
    for headers in ({"Authorization": "Bearer other"}, {}):
        passed = await proxy.ask(digest, "private/one", **headers)
        assert passed.status == 0
        target, grant = proxy.parts.under_way[passed.flow]
        assert target.route.repository == "private/one"
        assert grant.authorization == passed.flow.request.headers["Authorization"]
    assert hub.asked() == [
        f"HEAD {HUB}/private/one as other",
        "token from auth.docker.io",
        f"HEAD {HUB}/private/one as anonymous",
        # A token of ours that was refused is worth one more.
        "token from auth.docker.io",
    ]


async def test_a_digest_is_no_key_to_another_repository(proxy: Proxy, hub: Hub) -> None:
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    await proxy.ask(digest, "private/one", Authorization="Bearer owner")
    await proxy.settled()
    # Everybody may pull this one, and it proves it; but the digest is not in it.
    hub.push(REPOSITORY, b"something")
    await proxy.ask(digest_of(b"something"))
    hub.asked()
    assert (await proxy.ask(digest)).status == 0
    assert hub.asked() == [f"HEAD {HUB}/{REPOSITORY} as anonymous"]


async def test_a_digest_of_two_repositories_costs_one_question(start: Start, hub: Hub, digest: Digest) -> None:
    proxy = start()
    hub.push("library/debian", CONTENT)
    await proxy.ask(digest)
    await proxy.settled()
    hub.asked()
    for _ in range(2):
        assert (await proxy.ask(digest, "library/debian")).how == HIT
    assert [line for line in hub.asked() if "token" not in line] == [f"HEAD {HUB}/library/debian as anonymous"]
    assert proxy.parts.store.provenance.belongs(HUB, "library/debian", digest)


async def test_another_registrys_digest_has_to_be_delivered(proxy: Proxy, hub: Hub) -> None:
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    await proxy.ask(digest, "private/one", Authorization="Bearer owner")
    await proxy.settled()
    hub.asked()
    hub.hostile = True
    # It says that it has everything, but it has not.
    refused = await proxy.ask(digest, "mine/all", host="ghcr.io", Authorization="Bearer attacker")
    assert (refused.status, refused.how) == (404, BYPASS)
    assert hub.asked() == ["GET ghcr.io/mine/all as attacker"]
    # One that delivers it is believed.
    hub.push("mine/all", CONTENT)
    delivered = await proxy.ask(digest, "mine/all", host="ghcr.io", Authorization="Bearer attacker")
    assert (delivered.how, delivered.body) == (MISS, CONTENT)
    await proxy.settled()
    assert (await proxy.ask(digest, "mine/all", host="ghcr.io", Authorization="Bearer attacker")).how == HIT


async def test_trust_asks_nobody(start: Start, hub: Hub) -> None:
    checking = start()
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    await checking.ask(digest, "private/one", Authorization="Bearer owner")
    await checking.settled()
    hub.asked()
    trusting = start(access="trust")
    for repository, host in (("private/one", HUB), (REPOSITORY, HUB), ("mine/all", "ghcr.io")):
        hit = await trusting.ask(digest, repository, host=host, Authorization="Bearer other")
        assert (hit.how, hit.body) == (HIT, CONTENT)
    assert not hub.asked()


async def test_who_joins_may_read_as_well(proxy: Proxy, hub: Hub) -> None:
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    upstream = proxy.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: hub.reply(question) if question.request.method == "HEAD" else None
    owner = asyncio.create_task(proxy.ask(digest, "private/one", Authorization="Bearer owner"))
    question = await upstream.question()
    question.begin(200, Content_Length=str(len(CONTENT)))
    assert (await proxy.ask(digest, "private/one", Authorization="Bearer other")).status == 0
    hub.push("public/one", CONTENT)
    joining = asyncio.create_task(proxy.ask(digest, "public/one", Authorization="Bearer other"))
    for _ in range(5):
        await asyncio.sleep(0)
    question.send(CONTENT)
    question.finish()
    assert (await owner).how == MISS
    assert ((await joining).how, (await joining).body) == (JOIN, CONTENT)
    assert hub.asked() == [f"HEAD {HUB}/private/one as other", f"HEAD {HUB}/public/one as other"]
    await proxy.settled()
    assert proxy.parts.store.provenance.belongs(HUB, "public/one", digest)


# Where upstream cannot be asked.


OUTAGES = ["no answer", "429", "500", "503", "no token", "no token for 429"]


async def outage(proxy: Proxy, hub: Hub, kind: str) -> None:
    """Upstream has a bad hour, and no token is left from before it."""
    proxy.parts.grants._tokens._cache.clear()
    match kind:
        case "no answer":
            hub.failing = 504
        case "no token":
            hub.token_status = 503
        case "no token for 429":
            hub.token_status = 429
        case status:
            hub.head_status = int(status)


@pytest.mark.parametrize("kind", OUTAGES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_was_allowed_a_moment_ago_stands_while_upstream_cannot_be_asked(
    *, proxy: Proxy, hub: Hub, digest: Digest, clock: Clock, kind: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    await proxy.ask(digest)
    await proxy.settled()
    await outage(proxy, hub, kind)
    clock.now += 15 * 60 + 3599
    hit = await proxy.ask(digest, method=method)
    assert (hit.status, hit.how, hit.body) == (200, HIT, CONTENT if method == "GET" else b"")
    assert f"{REPOSITORY}: what was allowed until a moment ago stands" in caplog.text
    clock.now += 1
    refused = await proxy.ask(digest, method=method)
    assert (refused.status, refused.how) == (503, BYPASS)


@pytest.mark.parametrize("kind", OUTAGES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_one_about_whom_nothing_is_known_is_to_come_again(
    *, proxy: Proxy, hub: Hub, digest: Digest, kind: str, method: str
) -> None:
    await proxy.ask(digest, Authorization="Bearer alice")
    await proxy.settled()
    await outage(proxy, hub, kind)
    refused = await proxy.ask(digest, method=method)
    assert (refused.status, refused.how) == (503, BYPASS)
    assert refused.headers["Retry-After"] == ("7" if kind != "no answer" else "10")
    assert refused.headers["Content-Type"] == "application/json"
    (error,) = json.loads(refused.body or b"")["errors"]
    assert error["code"] == "DENIED"
    assert error["message"].startswith(f"whether you may pull from {REPOSITORY} cannot be asked now: ")
    # It was not passed on either.
    assert refused.flow not in proxy.parts.under_way
    assert (await proxy.ask(digest, Authorization="Bearer alice")).how == HIT


async def test_a_digest_of_another_repository_has_no_grace(proxy: Proxy, hub: Hub, clock: Clock) -> None:
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    await proxy.ask(digest, "private/one", Authorization="Bearer owner")
    await proxy.settled()
    public = hub.push(REPOSITORY, b"something")
    await proxy.ask(public)
    await proxy.settled()
    clock.now += 15 * 60
    await outage(proxy, hub, "503")
    assert (await proxy.ask(public)).how == HIT
    assert (await proxy.ask(digest)).status == 503
    # Not within the quarter of an hour either.
    hub.head_status = 0
    await proxy.ask(public)
    await outage(proxy, hub, "503")
    assert (await proxy.ask(digest)).status == 503


async def test_no_grace_where_none_is_configured(start: Start, hub: Hub, digest: Digest, clock: Clock) -> None:
    proxy = start(access_grace=0)
    await proxy.ask(digest)
    await proxy.settled()
    await outage(proxy, hub, "503")
    clock.now += 15 * 60 - 1
    assert (await proxy.ask(digest)).how == HIT
    clock.now += 1
    assert (await proxy.ask(digest)).status == 503


async def test_a_refusal_ends_the_grace(proxy: Proxy, hub: Hub, digest: Digest, clock: Clock) -> None:
    await proxy.ask(digest, Authorization="Bearer alice")
    await proxy.settled()
    clock.now += 15 * 60
    hub.private[REPOSITORY] = {"owner"}
    assert (await proxy.ask(digest, Authorization="Bearer alice")).status == 0
    await outage(proxy, hub, "503")
    assert (await proxy.ask(digest, Authorization="Bearer alice")).status == 503


async def test_what_is_known_needs_no_token(proxy: Proxy, hub: Hub, digest: Digest) -> None:
    await proxy.ask(digest)
    await proxy.settled()
    await outage(proxy, hub, "no token")
    hub.asked()
    assert (await proxy.ask(digest)).how == HIT
    assert not hub.asked()


async def test_the_layers_of_an_image_are_asked_about_once(start: Start, hub: Hub) -> None:
    first = start()
    digests = [hub.push(REPOSITORY, CONTENT + bytes([n])) for n in range(8)]
    for digest in digests:
        await first.ask(digest)
    await first.settled()
    again = start()
    hub.asked()
    replies = await asyncio.gather(*(again.ask(digest) for digest in digests))
    assert {reply.how for reply in replies} == {HIT}
    assert hub.asked() == ["token from auth.docker.io", f"HEAD {HUB}/{REPOSITORY} as anonymous"]
    # Each credential is asked about by itself.
    hub.private[REPOSITORY] = {"anonymous", "alice"}
    alice = [again.ask(digest, Authorization="Bearer alice") for digest in digests]
    other = [again.ask(digest, Authorization="Bearer other") for digest in digests]
    replies = await asyncio.gather(*alice, *other)
    assert [reply.how for reply in replies] == [HIT] * 8 + [None] * 8
    assert sorted(hub.asked()) == [f"HEAD {HUB}/{REPOSITORY} as alice", f"HEAD {HUB}/{REPOSITORY} as other"]


async def test_the_answer_about_one_blob_is_none_about_another(start: Start, hub: Hub) -> None:
    first = start()
    hub.private["private/one"] = {"owner"}
    secret = hub.push("private/one", CONTENT)
    await first.ask(secret, "private/one", Authorization="Bearer owner")
    public = hub.push(REPOSITORY, b"something")
    await first.ask(public)
    await first.settled()
    again = start()
    upstream = again.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: hub.reply(question) if question.request.path.startswith("/token") else None
    # Whoever comes second finds the first one's question under way, which is about another blob.
    asking = [asyncio.create_task(again.ask(digest)) for digest in (public, secret)]
    for number in (1, 2):
        hub.reply(await upstream.question(number))
    hit, refused = [await task for task in asking]
    assert (hit.how, hit.body) == (HIT, b"something")
    assert refused.status == 0
    assert not again.parts.store.provenance.belongs(HUB, REPOSITORY, secret)


async def test_who_stops_asking_does_not_take_the_answer_along(start: Start, hub: Hub, digest: Digest) -> None:
    first = start()
    await first.ask(digest)
    await first.settled()
    again = start()
    upstream = again.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: hub.reply(question) if question.request.path.startswith("/token") else None
    leaving, staying = (asyncio.create_task(again.ask(digest)) for _ in range(2))
    question = await upstream.question(1)
    leaving.cancel()
    await asyncio.wait([leaving])
    question.answer(200)
    assert (await staying).how == HIT


# Attacks.


async def test_a_hostile_registry_gets_nothing_by_a_fill_that_it_never_ends(proxy: Proxy, hub: Hub) -> None:
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    await proxy.ask(digest, "private/one", Authorization="Bearer owner")
    await proxy.settled()
    upstream = proxy.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: question.answer(200) if question.request.method == "HEAD" else None
    attacker = {"Authorization": "Bearer attacker"}
    before = len(upstream.asked)
    asking = asyncio.create_task(proxy.ask(digest, "mine/all", host="ghcr.io", **attacker))
    question = await upstream.question(before)
    question.begin(200, Content_Length=str(len(CONTENT)))
    # It says yes to a HEAD while its own fill is under way, and ends that fill with something else.
    joining = asyncio.create_task(proxy.ask(digest, "mine/more", host="ghcr.io", **attacker))
    for _ in range(10):
        await asyncio.sleep(0)
    question.send(bytes(len(CONTENT)))
    question.finish()
    assert CONTENT[:100] not in ((await asking).body or b"")
    assert CONTENT[:100] not in ((await joining).body or b"")
    await proxy.settled()
    for repository in ("mine/all", "mine/more"):
        assert not proxy.parts.store.provenance.belongs("ghcr.io", repository, digest)
    assert not proxy.parts.store.provenance.delivered_by("ghcr.io", digest)


async def test_trust_proves_nothing_for_later(start: Start, hub: Hub, digest: Digest) -> None:
    trusting = start(access="trust")
    upstream = trusting.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: None if str(question).startswith("GET /v2/") else hub.reply(question)
    filling = asyncio.create_task(trusting.ask(digest))
    question = await upstream.question(1)
    question.begin(200, Content_Length=str(len(CONTENT)))
    joining = asyncio.create_task(trusting.ask(digest, "mine/all"))
    for _ in range(10):
        await asyncio.sleep(0)
    question.send(CONTENT)
    question.finish()
    assert [(await task).how for task in (filling, joining)] == [MISS, JOIN]
    await trusting.settled()
    assert not trusting.parts.store.provenance.belongs(HUB, "mine/all", digest)


# Who joins is asked about by himself.


async def test_a_refusal_of_the_first_is_not_the_seconds(proxy: Proxy, hub: Hub) -> None:
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    upstream = proxy.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = None
    other = asyncio.create_task(proxy.ask(digest, "private/one", Authorization="Bearer other"))
    first = await upstream.question()
    owner = asyncio.create_task(proxy.ask(digest, "private/one", Authorization="Bearer owner"))
    second = await upstream.question(1)
    hub.reply(first)
    refused = await other
    assert (refused.status, refused.how, refused.body) == (401, BYPASS, b'{"errors":[]}')
    assert not owner.done()
    hub.reply(second)
    assert ((await owner).how, (await owner).body) == (MISS, CONTENT)


async def test_a_refusal_midway_is_not_that_of_those_who_joined(proxy: Proxy, hub: Hub) -> None:
    hub.private["private/one"] = {"owner", "second"}
    digest = hub.push("private/one", CONTENT)
    upstream = proxy.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: hub.reply(question) if question.request.method == "HEAD" else None
    owner = asyncio.create_task(proxy.ask(digest, "private/one", Authorization="Bearer owner"))
    question = await upstream.question()
    question.begin(200, Content_Length=str(len(CONTENT)))
    second = asyncio.create_task(proxy.ask(digest, "private/one", Authorization="Bearer second"))
    for _ in range(10):
        await asyncio.sleep(0)
    hub.private["private/one"] = {"second"}
    hub.asked()
    upstream.reply = hub.reply
    question.send(CONTENT[:1000])
    question.finish("cut")
    assert ((await second).how, (await second).body) == (JOIN, CONTENT)
    assert (await owner).body == CONTENT
    assert hub.asked() == [f"GET {HUB}/private/one 1000- as owner", f"GET {HUB}/private/one 1000- as second"]


async def test_who_waits_for_his_turn_is_asked_about_once_the_fill_has_begun(start: Start, hub: Hub) -> None:
    proxy = start(max_fills=1)
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    upstream = proxy.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: hub.reply(question) if question.request.method == "HEAD" else None
    owner = asyncio.create_task(proxy.ask(digest, "private/one", Authorization="Bearer owner"))
    question = await upstream.question()
    # They ask before it is known that there is anything to fill, and all wait for the only place.
    waiting = [
        asyncio.create_task(proxy.ask(digest, repository, Authorization=f"Bearer {who}"))
        for repository, who in (("private/one", "other"), ("mine/all", "other"), ("private/one", "owner"))
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    question.begin(200, Content_Length=str(len(CONTENT)))
    proxy.parts.fills._limit.release()
    for _ in range(20):
        await asyncio.sleep(0)
    question.send(CONTENT)
    question.finish()
    assert ((await owner).how, (await owner).body) == (MISS, CONTENT)
    refused, foreign, shared = [await task for task in waiting]
    assert (refused.status, foreign.status) == (0, 0)
    assert (shared.how, shared.body) == (JOIN, CONTENT)
    assert sorted(hub.asked()) == [f"HEAD {HUB}/mine/all as other", f"HEAD {HUB}/private/one as other"]
    await proxy.settled()
    assert not proxy.parts.store.provenance.belongs(HUB, "mine/all", digest)
    proxy.parts.fills._limit._free -= 1


# Tokens and refusals.


async def test_a_refusal_is_upstreams_own(proxy: Proxy, hub: Hub) -> None:
    refused = await proxy.ask(digest_of(b"nothing"), Authorization="Bearer alice")
    assert (refused.status, refused.how, refused.body) == (404, BYPASS, b'{"errors":[]}')
    assert hub.asked() == [f"GET {HUB}/{REPOSITORY} as alice"]


async def test_a_refused_token_of_ours_is_noted(proxy: Proxy, hub: Hub) -> None:
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    refused = await proxy.ask(digest, "private/one")
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
    ping = request_flow(f"https://{HUB}/v2/")
    target = proxy.parts.under_way.get(refused.flow)
    assert target is None
    assert (ping.client_conn.peername[0], HUB) in proxy.parts._refused


async def test_a_clients_own_refusal_is_not_noted(proxy: Proxy, hub: Hub) -> None:
    hub.private["private/one"] = {"owner"}
    digest = hub.push("private/one", CONTENT)
    assert (await proxy.ask(digest, "private/one", Authorization="Bearer other")).status == 401
    assert not proxy.parts._refused


def accounts(folder: Path, host: str) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": {host: {"auth": base64.b64encode(b"user:password").decode()}}}))
    return str(path)


async def learning(start: Start, tmp_path: Path) -> Proxy:
    """A proxy that injects tokens for a registry whose token service it has yet to learn."""
    config = accounts(tmp_path, "ghcr.io")
    return start(registries=parse_registries({"ghcr.io": {"auth": "inject", "credentials": config}}))


async def test_what_a_renewed_token_proved_is_kept_under_its_name(start: Start, hub: Hub, tmp_path: Path) -> None:
    proxy = await learning(start, tmp_path)
    hub.private["team/app"] = {"anonymous-of-the-account"}
    digest = hub.push("team/app", CONTENT)
    assert (await proxy.ask(digest, "team/app", host="ghcr.io")).body == CONTENT
    assert hub.asked() == [
        "GET ghcr.io/team/app as nobody",
        "token with a password from ghcr.io",
        "GET ghcr.io/team/app as anonymous-of-the-account",
    ]
    assert proxy.parts.verdicts.may_pull("ghcr.io", "team/app", "injected user")
    assert not proxy.parts.verdicts.may_pull("ghcr.io", "team/app", ANONYMOUS)
    # The same for what a HEAD proves.
    await proxy.settled()
    other = await learning(start, tmp_path)
    assert (await other.ask(digest, "team/app", host="ghcr.io")).how == HIT
    assert other.parts.verdicts.may_pull("ghcr.io", "team/app", "injected user")
    assert not other.parts.verdicts.may_pull("ghcr.io", "team/app", ANONYMOUS)


async def test_a_renewed_token_that_is_refused_is_noted(start: Start, hub: Hub, tmp_path: Path) -> None:
    proxy = await learning(start, tmp_path)
    hub.private["team/app"] = {"owner"}
    assert (await proxy.ask(hub.push("team/app", CONTENT), "team/app", host="ghcr.io")).status == 401
    assert [host for _, host in proxy.parts._refused] == ["ghcr.io"]


@pytest.mark.parametrize(("token_status", "status"), [(429, 429), (503, 503), (500, 503)])
async def test_a_token_service_that_cannot_help(
    proxy: Proxy, hub: Hub, digest: Digest, token_status: int, status: int
) -> None:
    hub.token_status = token_status
    reply = await proxy.ask(digest)
    assert (reply.status, reply.how, reply.headers["Retry-After"]) == (status, BYPASS, "7")


@pytest.mark.parametrize("status", [502, 504])
async def test_an_upstream_that_does_not_answer(proxy: Proxy, hub: Hub, digest: Digest, status: int) -> None:
    hub.failing = status
    reply = await proxy.ask(digest)
    assert (reply.status, reply.how, reply.body) == (status, BYPASS, b"pulltap: no route to host\n")
    assert reply.flow not in proxy.parts.under_way


# Requests of other forms.


@pytest.mark.parametrize(
    ("repository", "reference", "code"),
    [
        (REPOSITORY, "sha256:short", "DIGEST_INVALID"),
        (REPOSITORY, "sha256:" + "A" * 64, "DIGEST_INVALID"),
        (REPOSITORY, "latest", "DIGEST_INVALID"),
        ("Library/Alpine", str(digest_of(b"")), "NAME_INVALID"),
        ("library/../alpine", str(digest_of(b"")), "NAME_INVALID"),
    ],
)
async def test_what_is_no_blobs_name(proxy: Proxy, hub: Hub, repository: str, reference: str, code: str) -> None:
    reply = await proxy.ask(reference, repository)
    assert (reply.status, reply.how) == (400, BYPASS)
    assert json.loads(reply.body or b"")["errors"][0]["code"] == code
    assert not hub.asked()


async def test_a_digest_that_nobody_can_verify_passes(proxy: Proxy, hub: Hub) -> None:
    passed = await proxy.ask("blake3:" + "a" * 64)
    assert passed.status == 0
    assert passed.flow.request.headers["Authorization"] == "Bearer anonymous"
    assert passed.flow in proxy.parts.under_way
    assert hub.asked() == ["token from auth.docker.io"]


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),
        ("GET", {"Range": "bytes=0-9"}),
        ("GET", {"Range": "bytes=-9"}),
        ("GET", {"Range": "bytes=0-1,5-"}),
        ("GET", {"If_None_Match": '"other"'}),
    ],
)
async def test_what_is_not_worth_a_fill_passes(
    proxy: Proxy, hub: Hub, digest: Digest, method: str, headers: dict[str, str]
) -> None:
    passed = await proxy.ask(digest, method=method, **headers)
    assert passed.status == 0
    assert hub.asked() == ["token from auth.docker.io"]
    assert passed.flow in proxy.parts.under_way


async def test_ranges(proxy: Proxy, hub: Hub, digest: Digest) -> None:
    miss = await proxy.ask(digest, Range="bytes=1000-")
    assert (miss.status, miss.how, miss.body) == (206, MISS, CONTENT[1000:])
    assert hub.asked()[-1] == f"GET {HUB}/{REPOSITORY} as anonymous", "a fill takes all of the blob"
    await proxy.settled()
    hit = await proxy.ask(digest, Range="bytes=5-9")
    assert (hit.status, hit.how, hit.body) == (206, HIT, CONTENT[5:10])
    changed = await proxy.ask(digest, Range="bytes=5-9", If_Range='"other"')
    assert (changed.status, changed.body) == (200, CONTENT)
    beyond = await proxy.ask(digest, Range=f"bytes={len(CONTENT)}-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")
    malformed = await proxy.ask(digest, Range="bytes=x")
    assert malformed.status == 416
    known = await proxy.ask(digest, If_None_Match=f'"{digest}"')
    assert (known.status, known.how, known.body) == (304, HIT, b"")


async def test_a_query_of_any_kind_passes(proxy: Proxy, hub: Hub, digest: Digest) -> None:
    flow = request_flow(f"https://{HUB}/v2/")
    flow.request.path = f"/v2/{REPOSITORY}/blobs/{digest}?ns=\udcff"
    await proxy.hook.request(flow)
    assert flow.response
    assert flow.response.status_code == 200
    body = stream._bodies.pop(flow.response)
    body.close()


async def test_a_length_that_a_manifest_told_is_used(proxy: Proxy, hub: Hub, digest: Digest) -> None:
    proxy.parts.sizes[HUB, REPOSITORY, digest] = fill.LARGE
    await proxy.ask(digest)
    assert hub.asked()[-1] == f"GET {HUB}/{REPOSITORY} 0-{fill.SEGMENT - 1} as anonymous"
    other = hub.push("library/debian", CONTENT + b"x")
    proxy.parts.sizes[HUB, REPOSITORY, other] = fill.LARGE
    await proxy.ask(other, "library/debian")
    assert hub.asked()[-1] == f"GET {HUB}/library/debian as anonymous", "another repository's manifest is no proof"


# When the store fails.


async def test_a_blob_that_cannot_be_read_is_fetched_again(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await proxy.ask(digest)
    await proxy.settled()
    hub.asked()

    def failing(_: Digest) -> BlobReader:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(proxy.parts.store, "open", failing)
    again = await proxy.ask(digest)
    assert (again.how, again.body) == (MISS, CONTENT)
    assert hub.asked() == [f"GET {HUB}/{REPOSITORY} as anonymous"]


async def test_what_cannot_be_stored_passes(
    proxy: Proxy, hub: Hub, digest: Digest, caplog: pytest.LogCaptureFixture
) -> None:
    hub.coding = "gzip"
    passed = await proxy.ask(digest)
    assert passed.status == 0
    assert passed.flow in proxy.parts.under_way
    assert proxy.parts.unstored[passed.flow] == "upstream sent the blob gzip-encoded"
    assert f"blob {digest.short} passes through: upstream sent the blob gzip-encoded" in caplog.text


async def test_a_provenance_that_fails_lets_pass(
    proxy: Proxy, digest: Digest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> bool:
        raise StoreError("cannot use provenance.db: disk I/O error")

    await proxy.ask(digest)
    await proxy.settled()
    monkeypatch.setattr(proxy.parts.store.provenance, "delivered_by", failing)
    passed = await proxy.ask(digest)
    assert passed.status == 0
    assert proxy.parts.unstored[passed.flow] == "cannot use provenance.db: disk I/O error"
    assert f"blob {digest.short} passes through: cannot use provenance.db: disk I/O error" in caplog.text


async def test_each_answer_is_logged(proxy: Proxy, digest: Digest, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "addon.pullthrough")
    await proxy.ask(digest)
    await proxy.settled()
    await proxy.ask(digest, Range="bytes=0-0")
    await proxy.ask("sha256:x", "evil%1b[2J%0aname")
    lines = [record.getMessage() for record in caplog.records if record.name == "addon.pullthrough"]
    assert lines == [
        f"{REPOSITORY} {str(digest)[:19]}: 200, fwd=miss; stored",
        f"{REPOSITORY} {str(digest)[:19]}: 206, hit",
        # A client chooses the name, not what the terminal does.
        "evil.[2J.name sha256:x: 400, fwd=bypass",
    ]
