"""Blobs that another process fills, in the store that both share."""

import asyncio
import errno
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from addon import pullthrough as module
from addon.registry.digest import Digest
from addon.store.ingest import Ingest
from addon.store.lease import Lease

from ..doubles import BOUND, HUB, FakeUpstream, digest_of
from ..hub import Hub
from ..others import Owner
from .proxies import CONTENT, HIT, JOIN, REPOSITORY, Proxy, Reply, Start

SIZE = len(CONTENT)


@pytest.fixture
def other(proxy: Proxy, digest: Digest) -> Iterator[Owner]:
    """Another process that has begun to fill the blob."""
    owner = Owner(proxy.parts.store.root, digest, HUB)
    owner.ingest.announce(SIZE)
    yield owner
    owner.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        for _ in itertools.takewhile(lambda _: not condition(), itertools.count()):
            await asyncio.sleep(0)


async def followed(proxy: Proxy, other: Owner, followers: int = 1) -> None:
    """Wait until so many read along, and have read all of what there is."""

    def all_read_it() -> bool:
        remote = proxy.parts.fills._remote.get((HUB, other.ingest.digest))
        bodies = list(remote._bodies) if remote else []
        return len(bodies) == followers and all(body.position == len(other.content) for body in bodies)

    await until(all_read_it)


async def following(proxy: Proxy, other: Owner, **headers: str) -> asyncio.Task[Reply]:
    """A client that has been given what there is."""
    asking = asyncio.create_task(proxy.ask(other.ingest.digest, **headers))
    await followed(proxy, other)
    return asking


def gets(hub: Hub) -> list[str]:
    return [line for line in hub.asked() if line.startswith("GET")]


async def test_it_is_joined(proxy: Proxy, hub: Hub, other: Owner) -> None:
    other.write(CONTENT[:1000])
    asking = await following(proxy, other)
    # Upstream was asked whether this client may have it, and not for its bytes.
    assert hub.asked() == ["token from auth.docker.io", f"HEAD {HUB}/{REPOSITORY} as anonymous"]
    later = asyncio.create_task(proxy.ask(other.ingest.digest, Range="bytes=500-"))
    # HEAD finds no blob yet, and passes.
    assert (await proxy.ask(other.ingest.digest, method="HEAD")).status == 0
    other.write(CONTENT[1000:])
    other.commit()
    assert ((await asking).how, (await asking).body) == (JOIN, CONTENT)
    assert ((await later).status, (await later).how, (await later).body) == (206, JOIN, CONTENT[500:])
    assert not hub.asked()
    assert (await proxy.ask(other.ingest.digest)).how == HIT
    await until(lambda: not proxy.parts.fills._looking)
    assert proxy.parts.store.provenance.belongs(HUB, REPOSITORY, other.ingest.digest)


async def test_who_may_not_read_it_does_not_follow(proxy: Proxy, hub: Hub, other: Owner) -> None:
    hub.private[REPOSITORY] = {"owner"}
    assert (await proxy.ask(other.ingest.digest, Authorization="Bearer other")).status == 0
    assert hub.asked() == [f"HEAD {HUB}/{REPOSITORY} as other"]


async def test_another_registrys_fill_is_not_joined(proxy: Proxy, hub: Hub, other: Owner) -> None:
    other.write(CONTENT[:1000])
    hub.hostile = True
    reply = await proxy.ask(other.ingest.digest, "mine/all", host="ghcr.io", Authorization="Bearer attacker")
    assert reply.status == 404


# The other process is killed.


async def test_its_followers_go_on_with_its_file(proxy: Proxy, hub: Hub, other: Owner) -> None:
    other.write(CONTENT[:1000])
    asking = [await following(proxy, other), asyncio.create_task(proxy.ask(other.ingest.digest, Range="bytes=10-"))]
    await followed(proxy, other, 2)
    # What is behind a hole is not gone on with.
    other.write(CONTENT[5000:6000], at=5000)
    hub.asked()
    other.die()
    whole, part = await asyncio.gather(*asking)
    assert (whole.how, whole.body) == (JOIN, CONTENT)
    assert part.body == CONTENT[10:]
    assert gets(hub) == [f"GET {HUB}/{REPOSITORY} 1000- as anonymous"], "one of them fetches it"
    await proxy.settled()
    assert (await proxy.ask(other.ingest.digest)).how == HIT


async def test_one_who_has_got_nothing_yet_may_go_on_with_another_file(proxy: Proxy, other: Owner) -> None:
    asking = await following(proxy, other)
    other.ingest.abort()
    assert (await asking).body == CONTENT


async def test_bad_bytes_are_not_given_whole(proxy: Proxy, other: Owner) -> None:
    bad = b"\0" * 1000
    other.write(bad)
    asking = await following(proxy, other)
    other.die()
    body = (await asking).body
    assert body is not None
    assert body.endswith(b" (broken)")
    assert len(body) < SIZE + len(b" (broken)")
    await proxy.settled()
    assert (await proxy.ask(other.ingest.digest)).body == CONTENT


@pytest.mark.parametrize("right", [True, False], ids=["the blob", "something else"])
async def test_where_its_file_is_gone_the_digest_tells(proxy: Proxy, hub: Hub, other: Owner, *, right: bool) -> None:
    other.write(CONTENT[:1000] if right else b"\0" * 1000)
    asking = await following(proxy, other)
    hub.asked()
    other.ingest.abort()
    body = (await asking).body
    assert body is not None
    # It is stored anew besides.
    assert sorted(gets(hub)) == [
        f"GET {HUB}/{REPOSITORY} 1000-{SIZE - 1} as anonymous",
        f"GET {HUB}/{REPOSITORY} as anonymous",
    ]
    if right:
        assert body == CONTENT
    else:
        assert body == b"\0" * 1000 + b" (broken)"
    await proxy.settled()
    assert (await proxy.ask(other.ingest.digest)).how == HIT


async def test_no_part_is_made_of_two_files(proxy: Proxy, other: Owner) -> None:
    # The digest would not tell.
    other.write(CONTENT[:1000])
    asking = await following(proxy, other, Range="bytes=0-1999")
    other.ingest.abort()
    assert (await asking).body == CONTENT[:1000] + b" (broken)"
    await proxy.settled()


async def test_what_was_too_long_is_not_gone_on_with(proxy: Proxy, hub: Hub, digest: Digest) -> None:
    # Its owner does not know how long the blob is, and has got more than that.
    owner = Owner(proxy.parts.store.root, digest, HUB)
    upstream = proxy.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: (
        question.answer(416) if "Range" in question.request.headers else hub.reply(question)
    )
    owner.write(b"\0" * (SIZE + 1))
    asking = await following(proxy, owner)
    owner.die()
    body = (await asking).body
    assert body == b"\0" * (SIZE + 1) + b" (broken)"
    await proxy.settled()
    owner.close()


async def test_the_store_takes_nothing_then(
    proxy: Proxy, hub: Hub, other: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.write(CONTENT[:1000])
    asking = await following(proxy, other)

    def full(*_: object) -> Ingest:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(proxy.parts.store, "ingest", full)
    other.die()
    reply = await asking
    assert (reply.how, reply.body) == (JOIN, CONTENT)
    assert proxy.parts.fills.trouble.reason == "the disk is full"
    assert gets(hub)[-1] == f"GET {HUB}/{REPOSITORY} 1000-{SIZE - 1} as anonymous"


async def test_a_refusal_ends_it(proxy: Proxy, hub: Hub, other: Owner) -> None:
    other.write(CONTENT[:1000])
    asking = await following(proxy, other, Authorization="Bearer alice")
    hub.private[REPOSITORY] = {"owner"}
    other.die()
    body = (await asking).body
    assert body == CONTENT[:1000] + b" (broken)"


@pytest.mark.parametrize("kind", ["no answer", "no token"])
async def test_upstream_cannot_be_asked_then(proxy: Proxy, hub: Hub, other: Owner, kind: str) -> None:
    other.write(CONTENT[:1000])
    asking = await following(proxy, other)
    if kind == "no answer":
        hub.failing = 504
    else:
        proxy.parts.grants._tokens._cache.clear()
        hub.token_status = 503
    other.die()
    assert (await asking).body == CONTENT[:1000] + b" (broken)"


async def test_two_proxies(start: Start, hub: Hub, digest: Digest) -> None:
    first, second = start(), start()
    upstream = first.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: hub.reply(question) if "token" in question.request.path else None
    filling = asyncio.create_task(first.ask(digest))
    question = await upstream.question(1)
    question.begin(200, Content_Length=str(SIZE))
    question.send(CONTENT[:1000])
    asking = asyncio.create_task(second.ask(digest))
    await until(lambda: any(each.received == 1000 for each in second.parts.fills._remote.values()))
    hub.asked()
    # The first one is shut down.
    await first.parts.fills.close()
    assert (await filling).body == CONTENT[:1000] + b" (broken)"
    assert ((await asking).how, (await asking).body) == (JOIN, CONTENT)
    assert gets(hub) == [f"GET {HUB}/{REPOSITORY} 1000- as anonymous"]


# One who does not come to it.


@pytest.fixture
def held(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Digest], None]]:
    """Lets another process hold a blob, without a byte of it."""
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0)
    monkeypatch.setattr(module, "_MOST_TRIES", 3)
    leases = []

    def hold(digest: Digest) -> None:
        place: Path = proxy.parts.store._place(digest, HUB).lease
        leases.append(Lease(place))

    yield hold
    for lease in leases:
        lease.release()


async def test_somebody_who_does_not_come_to_it_is_not_waited_for(
    proxy: Proxy, hub: Hub, held: Callable[[Digest], None]
) -> None:
    digest = hub.push(REPOSITORY, CONTENT)
    held(digest)
    passed = await proxy.ask(digest)
    assert passed.status == 0
    assert proxy.parts.unstored[passed.flow].endswith("is being filled by somebody else, who does not come to it")
    assert len(gets(hub)) == 3
    assert not proxy.parts.fills.trouble.reason
    # Others are none of his business.
    other = hub.push(REPOSITORY, b"other")
    assert other == digest_of(b"other")
    assert (await proxy.ask(other)).body == b"other"
