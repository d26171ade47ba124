"""Following a fill of another process: each has a store of its own, open on the same folder."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from addon.registry.ranges import Span
from addon.store.disk import Store
from addon.transfer.body import BodyBroken
from addon.transfer.followed import GrowingBody, State
from addon.transfer.remote import RemoteFill

from ..doubles import BOUND, FakeSource, digest_of
from ..others import Owner
from .filling import CONTENT, ORIGIN, broken, ends, read

SIZE = len(CONTENT)
DIGEST = digest_of(CONTENT)


Own = Callable[[], Owner]


@pytest.fixture
def own(store: Store) -> Iterator[Own]:
    """Begins to fill the blob in another process."""
    owners = []

    def own() -> Owner:
        owners.append(Owner(store.root, DIGEST, ORIGIN))
        return owners[-1]

    yield own
    for owner in owners:
        owner.close()


@pytest.fixture
def owner(own: Own) -> Owner:
    return own()


class Follower:
    """This process."""

    def __init__(self, store: Store) -> None:
        following = store.following(DIGEST, ORIGIN)
        assert following
        self.fill = RemoteFill(DIGEST, following, store)
        self.task = asyncio.create_task(self.fill.run())

    async def until(self, received: int) -> None:
        """Wait until so many bytes are seen."""
        async with asyncio.timeout(BOUND):
            while self.fill.received < received:
                await self.fill.change()

    async def over(self) -> None:
        await asyncio.wait_for(self.task, BOUND)
        self.fill.close()


@pytest.fixture
async def follower(store: Store, owner: Owner) -> AsyncIterator[Follower]:
    follower = Follower(store)
    yield follower
    follower.task.cancel()
    await asyncio.wait([follower.task])
    follower.fill.close()


async def got(body: GrowingBody, count: int) -> bytes:
    """Read so much."""
    content = b""
    async with asyncio.timeout(BOUND):
        while len(content) < count:
            content += (piece := body.read())
            if not piece:
                await body.wait()
    return content


async def test_it_is_given_as_it_grows(owner: Owner, follower: Follower) -> None:
    fill = follower.fill
    owner.ingest.announce(SIZE)
    owner.write(CONTENT[:1000])
    body, part = fill.body(None), fill.body(Span(500, 2000))
    assert await got(body, 1000) == CONTENT[:1000]
    assert fill.size == SIZE
    assert await got(part, 500) == CONTENT[500:1000]
    # Behind a hole, nothing is read.
    owner.write(CONTENT[3000:], at=3000)
    owner.write(CONTENT[1000:2000])
    assert await read(part) == CONTENT[1000:2000]
    assert body.read() == CONTENT[1000:2000]
    owner.fill(CONTENT[2000:3000])
    assert await got(body, SIZE - 2001) == CONTENT[2000:-1]
    assert not ends(body), "the last byte is given before it is known to be the blob"
    await asyncio.sleep(0)
    assert body.read() == b""
    owner.commit()
    assert await read(body) == CONTENT[-1:]
    await follower.over()
    assert fill.state is State.VERIFIED
    assert (fill.received, fill.size) == (SIZE, SIZE)


async def test_a_size_that_nobody_knows(owner: Owner, follower: Follower) -> None:
    owner.write(CONTENT)
    body = follower.fill.body(None)
    assert follower.fill.size is None
    assert await got(body, SIZE) == CONTENT
    assert not ends(body)
    owner.commit()
    await asyncio.wait_for(body.wait(), BOUND)
    assert ends(body)
    body.close()
    await follower.over()
    assert follower.fill.size == SIZE


async def test_what_is_there_when_it_is_found(store: Store, own: Own) -> None:
    owner = own()
    owner.ingest.announce(SIZE)
    owner.write(CONTENT[:1000])
    follower = Follower(store)
    assert (follower.fill.received, follower.fill.readable, follower.fill.size) == (1000, 1000, SIZE)
    # It is for its owner to ask upstream.
    follower.fill.joined(FakeSource())
    owner.write(CONTENT[1000:])
    reading = asyncio.create_task(read(follower.fill.body(None)))
    owner.commit()
    assert await reading == CONTENT
    reader = follower.fill.whole()
    assert reader
    assert reader.read(0, SIZE) == CONTENT
    reader.close()
    await follower.over()


async def test_bad_bytes_are_not_gone_on_with(owner: Owner, follower: Follower) -> None:
    body = follower.fill.body(None)
    owner.write(CONTENT[::-1])
    assert await got(body, SIZE) == CONTENT[::-1]
    owner.ingest.withdraw()
    assert await broken(body) == (b"", "the process that filled it has given up")
    assert not follower.fill.interrupted
    await follower.over()


@pytest.mark.parametrize("end", ["killed", "kept", "aborted"])
async def test_what_broke_for_other_reasons_may_go_on_elsewhere(owner: Owner, follower: Follower, end: str) -> None:
    owner.write(CONTENT[:1000])
    body = follower.fill.body(None)
    await got(body, 1000)
    match end:
        case "killed":
            owner.die()
        case "kept":
            owner.ingest.keep()
        case "aborted":
            owner.ingest.abort()
    with pytest.raises(BodyBroken, match="has given up"):
        await asyncio.wait_for(body.wait(), BOUND)
    await follower.over()
    assert follower.fill.state is State.BROKEN
    assert follower.fill.interrupted
    # What was read there can be read again, to be hashed.
    assert body.reader.read(0, 1000) == CONTENT[:1000]
    body.close()


async def test_it_was_killed_behind_its_last_word(owner: Owner, follower: Follower) -> None:
    owner.ingest.announce(SIZE)
    body = follower.fill.body(None)
    owner.write(CONTENT)
    owner.die()
    content, _ = await broken(body)
    assert content == CONTENT[:-1]
    await follower.over()


async def test_another_file_under_its_name_is_not_what_was_read(own: Own, owner: Owner, follower: Follower) -> None:
    owner.write(b"\0" * 1000)
    body = follower.fill.body(None)
    await got(body, 1000)
    owner.ingest.abort()
    other = own()
    other.write(CONTENT)
    other.commit()
    assert (await broken(body))[0] == b""
    assert follower.fill.interrupted
    await follower.over()


async def test_one_who_takes_over_is_not_the_one_who_was_followed(
    *, store: Store, own: Own, owner: Owner, follower: Follower
) -> None:
    owner.write(CONTENT[:1000])
    body = follower.fill.body(None)
    await got(body, 1000)
    owner.die()
    # Within the same turn of the loop, before anybody here has looked.
    other = own()
    assert other.ingest.kept == 1000
    await follower.over()
    assert follower.fill.state is State.BROKEN
    assert follower.fill.interrupted
    again = Follower(store)
    other.content = CONTENT[:1000]
    other.fill(b"")
    other.write(CONTENT[1000:])
    rest = again.fill.body(None)
    assert rest.reader.same_file(body.reader)
    body.close()
    other.commit()
    assert await read(rest) == CONTENT
    await again.over()


async def test_it_stays_while_it_is_followed(store: Store, owner: Owner, follower: Follower) -> None:
    owner.write(CONTENT)
    owner.commit()
    # Whoever makes room right behind the commit comes before anybody here has looked.
    assert store.remove([DIGEST]) == []
    await follower.over()
    assert follower.fill.state is State.VERIFIED
    assert store.remove([DIGEST]) == [DIGEST]


async def test_a_store_that_fails(owner: Owner, follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    body = follower.fill.body(None)

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", failing)
    assert (await broken(body))[1] == "the store failed: [Errno 5] Input/output error"
    await follower.over()


async def test_the_end_of_this_process(owner: Owner, follower: Follower) -> None:
    body = follower.fill.body(None)
    follower.task.cancel()
    assert (await broken(body))[1] == "the proxy is shutting down"
