"""Refusals, tokens, and an upstream that cannot be asked just now."""

import asyncio
import base64
import json
from pathlib import Path

import pytest

from addon.auth.access import ANONYMOUS
from addon.registry.digest import Digest
from addon.settings import parse_registries

from ..doubles import HUB, Clock, FakeUpstream, digest_of, request_flow
from ..hub import Hub
from .proxies import BYPASS, CONTENT, HIT, REPOSITORY, Proxy, Start

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
