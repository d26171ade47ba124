"""Where the store is of no help, and where it is not trusted before it was looked at."""

import asyncio
import errno
import itertools
import logging
import os

import pytest

from addon.registry.digest import Digest
from addon.store.blob import BlobReader
from addon.store.errors import StoreError
from addon.store.ingest import Ingest
from addon.store.tally import Count
from addon.transfer.followed import GrowingBody
from addon.transfer.passing import Passing
from addon.transfer.source import Source
from addon.transfer.writing import DiskTrouble

from ..doubles import BOUND, HUB, FakeUpstream
from ..hub import Hub
from .proxies import CONTENT, HIT, JOIN, MISS, REPOSITORY, Proxy, Reply, Start

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
    assert caplog.text.count("cannot use provenance.db: disk I/O error") == 1


async def test_too_many_open_files_are_no_reason_to_fetch_it_again(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await proxy.ask(digest)
    await proxy.settled()
    hub.asked()
    usual = os.open

    def many(path: object, *arguments: object, **more: object) -> int:
        if str(path).endswith(digest.encoded):
            raise OSError(errno.EMFILE, "Too many open files")
        return usual(path, *arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as context:
        context.setattr(os, "open", many)
        passed = await proxy.ask(digest)
    assert passed.status == 0
    assert proxy.parts.unstored[passed.flow] == "too many files are open"
    assert (await proxy.ask(digest)).how == HIT
    assert not hub.asked()


# Where it is in trouble.


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_blobs_pass_while_it_is_in_trouble(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    stored = hub.push(REPOSITORY, b"stored before")
    await proxy.ask(stored)
    await proxy.settled()
    monkeypatch.setattr(proxy.parts.store, "check_writable", full)
    for _ in range(3):
        passed = await proxy.ask(digest)
        assert passed.status == 0
        assert proxy.parts.unstored[passed.flow] == "the disk is full"
    # What is there is given all the same.
    assert (await proxy.ask(stored)).how == HIT
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["nothing is stored, and blobs pass through, until this is over: the disk is full"]
    assert proxy.parts.store.tally._pending[Count.BYPASSED] == 3


async def test_nothing_is_asked_of_a_disk_that_is_stuck(
    proxy: Proxy, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await proxy.ask(digest)
    await proxy.settled()
    proxy.parts.fills.trouble.note(DiskTrouble("the disk is slow"))
    monkeypatch.setattr(proxy.parts.store, "open", None)
    passed = await proxy.ask(digest)
    assert passed.status == 0
    assert proxy.parts.unstored[passed.flow] == "the disk is slow"


async def test_a_blob_that_is_larger_than_the_store_passes(start: Start, hub: Hub, digest: Digest) -> None:
    proxy = start(max_size=len(CONTENT) - 1)
    passed = await proxy.ask(digest)
    assert passed.status == 0
    assert proxy.parts.unstored[passed.flow] == (
        f"a blob of {len(CONTENT)} bytes is larger than the store may be ({len(CONTENT) - 1} bytes)"
    )
    assert not proxy.parts.fills.trouble.reason
    assert (await proxy.ask(hub.push(REPOSITORY, b"little"))).how == MISS


# Where it falls into trouble on the way.


async def broken_off(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch, got: int = 1000
) -> list["asyncio.Task[Reply]"]:
    """Clients that have read so much of a blob when its disk begins to fail."""
    upstream = proxy.parts.upstream
    assert isinstance(upstream, FakeUpstream)
    upstream.reply = lambda question: None if str(question).startswith("GET /v2/") else hub.reply(question)
    first = asyncio.create_task(proxy.ask(digest))
    question = await upstream.question(1)
    question.begin(200, Content_Length=str(len(CONTENT)))
    question.send(CONTENT[:got])
    later = asyncio.create_task(proxy.ask(digest, Range="bytes=10-"))
    fill = proxy.parts.fills.active(HUB, digest)
    assert fill
    async with asyncio.timeout(BOUND):
        for _ in itertools.takewhile(lambda _: fill.received < got or fill.followers < 2, itertools.count()):
            await asyncio.sleep(0)
    upstream.reply = hub.reply
    hub.asked()
    monkeypatch.setattr(Ingest, "write", full)
    question.send(CONTENT[got : got + 1000])
    return [first, later]


async def test_its_clients_do_not_notice(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asking = await broken_off(proxy, hub, digest, monkeypatch)
    whole, part = await asyncio.gather(*asking)
    assert (whole.status, whole.how, whole.body) == (200, MISS, CONTENT)
    assert (part.status, part.how, part.body) == (206, JOIN, CONTENT[10:])
    assert hub.asked() == [f"GET {HUB}/{REPOSITORY} 1000-{len(CONTENT) - 1} as anonymous"] * 2
    await proxy.settled()
    assert proxy.parts.fills.trouble.reason == "the disk is full"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["nothing is stored, and blobs pass through, until this is over: the disk is full"]


async def test_a_bad_blob_has_no_end_there_either(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.blobs[REPOSITORY, str(digest)] = CONTENT[:-1] + b"\0"
    for reply in await asyncio.gather(*await broken_off(proxy, hub, digest, monkeypatch)):
        assert reply.body is not None
        assert reply.body.endswith(b" (broken)")
        assert b"\0 (broken)" not in reply.body


@pytest.mark.parametrize("failing", ["no answer", "refused"])
async def test_the_rest_cannot_be_had(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    asking = await broken_off(proxy, hub, digest, monkeypatch)
    if failing == "no answer":
        hub.failing = 502
    else:
        hub.private[REPOSITORY] = {"owner"}
    first, later = await asyncio.gather(*asking)
    assert first.body == CONTENT[:1000] + b" (broken)"
    assert later.body == CONTENT[10:1000] + b" (broken)"


async def test_too_many_files_are_open_until_the_fill_gives_its_own_back(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind, tries = Passing.behind, []

    async def many(body: GrowingBody, source: Source) -> Passing:
        tries.append(body.fill.over)
        if len(tries) <= 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return await behind(body, source)

    monkeypatch.setattr(Passing, "behind", many)
    whole, part = await asyncio.gather(*await broken_off(proxy, hub, digest, monkeypatch))
    assert (whole.body, part.body) == (CONTENT, CONTENT[10:])
    assert tries == [False, False, True, True]


async def test_what_was_given_cannot_be_read_again(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> Passing:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Passing, "behind", failing)
    first, _ = await asyncio.gather(*await broken_off(proxy, hub, digest, monkeypatch))
    assert first.body == CONTENT[:1000] + b" (broken)"


# Where it has something whose bytes nobody has compared with the digest.


async def test_what_an_operator_put_there_is_verified_first(
    proxy: Proxy, hub: Hub, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.parts.store.path(digest).write_bytes(CONTENT)
    verified, usual = list[Digest](), proxy.parts.store.verify

    def verify(digest: Digest) -> bool | None:
        verified.append(digest)
        return usual(digest)

    monkeypatch.setattr(proxy.parts.store, "verify", verify)
    replies = await asyncio.gather(*(proxy.ask(digest) for _ in range(5)))
    assert [(reply.how, reply.body) for reply in replies] == [(HIT, CONTENT)] * 5
    assert verified == [digest]
    # Its registry has confirmed it: no operator gives a client what upstream would not.
    assert hub.asked() == ["token from auth.docker.io", f"HEAD {HUB}/{REPOSITORY} as anonymous"]
    hub.private["private/one"] = {"owner"}
    assert (await proxy.ask(digest, "private/one")).status == 0


@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT[:-1], b""])
async def test_what_turns_out_to_be_bad_is_fetched(proxy: Proxy, hub: Hub, digest: Digest, content: bytes) -> None:
    proxy.parts.store.path(digest).write_bytes(content)
    reply = await proxy.ask(digest)
    assert (reply.how, reply.body) == (MISS, CONTENT)
    await proxy.settled()
    assert (await proxy.ask(digest)).how == HIT
    (aside,) = proxy.parts.store.layout.quarantine.iterdir()
    assert aside.read_bytes() == content


def rot(proxy: Proxy, digest: Digest) -> None:
    """Let a bit of a stored blob flip on its disk, which no time stamp tells."""
    path = proxy.parts.store.path(digest)
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"?")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_a_client_that_asks_again_gets_it_anew(proxy: Proxy, digest: Digest) -> None:
    await proxy.ask(digest)
    await proxy.settled()
    rot(proxy, digest)
    bad = await proxy.ask(digest)
    assert (bad.how, bad.body) == (HIT, b"?" + CONTENT[1:])
    # A part of it is no sign of doubt, nor is a look at its length.
    assert (await proxy.ask(digest, Range="bytes=0-0")).body == b"?"
    assert (await proxy.ask(digest, method="HEAD")).how == HIT
    good = await proxy.ask(digest)
    assert (good.how, good.body) == (MISS, CONTENT)


async def test_a_disk_that_failed_is_not_believed(
    proxy: Proxy, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await proxy.ask(digest)
    await proxy.settled()

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as context:
        context.setattr(BlobReader, "read", failing)
        with pytest.raises(OSError, match="Input/output error"):
            await proxy.ask(digest)
    rot(proxy, digest)
    again = await proxy.ask(digest, Range="bytes=5-")
    assert (again.how, again.body) == (MISS, CONTENT[5:])
