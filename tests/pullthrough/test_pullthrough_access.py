"""Who is given what is stored, or on its way, with an upstream within the process."""

import asyncio

from addon.registry.digest import Digest

from ..doubles import HUB, Clock, FakeUpstream, digest_of
from ..hub import Hub
from .proxies import BYPASS, CONTENT, HIT, JOIN, MISS, REPOSITORY, Proxy, Start

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
