"""Where a blob comes from: each request through the hook, with an upstream within the process."""

import asyncio
import json
import logging

import pytest
from mitmproxy import flow as mitmflow
from mitmproxy import http

from addon.registry.digest import Digest
from addon.transfer import fill, stream

from ..doubles import HUB, FakeUpstream, digest_of, request_flow
from ..hub import Hub
from .proxies import BYPASS, CONTENT, HIT, JOIN, MISS, REPOSITORY, Proxy, Start

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
