"""Images that are pulled while others fill the same blobs, and while the store is in trouble."""

import asyncio
import errno
import platform
import threading
from collections.abc import Iterator

import pytest

from addon.parts import Parts
from addon.registry.digest import Digest
from addon.registry.manifest import Descriptor
from addon.registry.reference import Reference
from addon.store.errors import StoreError
from addon.transfer import fill
from addon.transfer.fills import Joined, Overtaken, Refused, Wanted
from addon.transfer.source import Source
from addon.ui import warming as module
from addon.ui.warming import FETCHED, STORED, Part, Warmed, own_platform, told

from ..doubles import BOUND, HUB, Question, digest_of
from ..others import Owner
from ..store.blobs import read
from .warmed import NAME, REPOSITORY, SlowHub, Start, Warm, asked, image, stored, until

CONFIG, BASE, LAYER = b"{}", b"base" * 100, b"layer" * 200
SHORT = digest_of(LAYER).short
SAID = f"docker.io/library/alpine:latest: blob {SHORT}"


@pytest.fixture(autouse=True)
def _image(hub: SlowHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image, and a copy of it in another repository."""
    image(hub, "latest", BASE, LAYER)
    image(hub, "latest", BASE, LAYER, repository="other/copy")
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0)


async def half_way(warm: Warm, hub: SlowHub, name: str = "other/copy") -> tuple[asyncio.Task[Warmed], Question]:
    """Begin to pull an image, up to the middle of its layer; its other blobs are stored then."""
    hub.hold(LAYER)
    warming = asyncio.create_task(warm(name))
    question = await hub.held()
    question.begin(200, Content_Length=str(len(LAYER)))
    question.send(LAYER[:500])

    def others_are_over() -> bool:
        running = [each.digest for each in warm.parts.fills._running.values()]
        return running == [digest_of(LAYER)] and all(stored(warm.parts, digest_of(blob)) for blob in (CONFIG, BASE))

    await until(others_are_over)
    return warming, question


async def following(parts: Parts, followers: int = 1) -> None:
    """Wait until so many wait for more of the layer."""

    def waiting() -> int:
        key = (HUB, digest_of(LAYER))
        followed = parts.fills._active.get(key) or parts.fills._remote.get(key)
        # That is where an event keeps who waits for it.
        return len(followed._changed._waiters) if followed else 0

    await until(lambda: waiting() >= followers)


# Fills of others.


async def test_a_fill_under_way_is_followed(warm: Warm, hub: SlowHub, parts: Parts) -> None:
    first, question = await half_way(warm, hub)
    await following(parts)
    warm.asked()
    second = asyncio.create_task(warm(NAME))
    await following(parts, 2)
    hub.release()
    question.send(LAYER[500:])
    question.finish()
    assert [part.note for part in (await first).parts] == [FETCHED] * 3
    assert [part.note for part in (await second).parts] == [STORED, STORED, FETCHED]
    # Nobody asked for its bytes again, but whether it is in this repository.
    assert asked("HEAD blobs", LAYER)[0] in warm.asked()
    assert parts.store.provenance.belongs(HUB, REPOSITORY, digest_of(LAYER))


async def test_who_may_not_read_it_has_no_part_in_it(warm: Warm, hub: SlowHub, parts: Parts) -> None:
    first, question = await half_way(warm, hub)
    del hub.blobs[REPOSITORY, str(digest_of(LAYER))]
    second = asyncio.create_task(warm.failing(NAME))
    await following(parts, 2)
    hub.release()
    question.send(LAYER[500:])
    question.finish()
    await first
    assert await second == f"docker.io/library/alpine:latest: it is not there ({HUB} answered 404 to {SHORT})"
    assert not parts.store.provenance.belongs(HUB, REPOSITORY, digest_of(LAYER))


async def test_two_pulls_of_one_image_share_its_fills(warm: Warm, hub: SlowHub, parts: Parts) -> None:
    await asyncio.gather(warm(NAME), warm(NAME))
    assert [line for line in warm.asked() if "blobs" in line] == asked("blobs", CONFIG, BASE, LAYER)
    assert read(parts.store, digest_of(LAYER)) == LAYER


@pytest.fixture
def other(parts: Parts) -> Iterator[Owner]:
    """Another process that has begun to fill the layer."""
    owner = Owner(parts.store.root, digest_of(LAYER), HUB)
    owner.ingest.announce(len(LAYER))
    owner.write(LAYER[:500])
    yield owner
    owner.close()


async def test_another_processs_fill_is_followed(warm: Warm, parts: Parts, other: Owner) -> None:
    warming = asyncio.create_task(warm(NAME))
    await following(parts)
    other.write(LAYER[500:])
    other.commit()
    assert [part.note for part in (await warming).parts] == [FETCHED] * 3
    assert asked("blobs", LAYER)[0] not in warm.asked()


async def test_where_the_other_process_dies_it_is_gone_on_with(warm: Warm, parts: Parts, other: Owner) -> None:
    warming = asyncio.create_task(warm(NAME))
    await following(parts)
    other.die()
    assert [part.note for part in (await warming).parts] == [FETCHED] * 3
    assert read(parts.store, digest_of(LAYER)) == LAYER


@pytest.mark.parametrize("times", [1, 3])
async def test_one_that_was_overtaken_looks_again(
    warm: Warm, parts: Parts, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    start = parts.fills.start
    tried: list[Digest] = []

    async def overtaken(wanted: Wanted, source: Source, size: int | None) -> Joined | Refused:
        tried.append(wanted.digest)
        if tried.count(wanted.digest) <= times:
            raise Overtaken
        return await start(wanted, source, size)

    monkeypatch.setattr(parts.fills, "start", overtaken)
    assert [part.note for part in (await warm(NAME)).parts] == [FETCHED] * 3
    assert len(tried) == 3 * (times + 1)


async def test_one_that_is_overtaken_for_ever_gives_up(
    warm: Warm, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overtaken(*_: object) -> Joined:
        raise Overtaken

    monkeypatch.setattr(parts.fills, "start", overtaken)
    assert (await warm.failing(NAME)).endswith("does not come to be stored")


# Fills that break.


async def test_a_fill_that_breaks_is_gone_on_with_the_next_time(warm: Warm, hub: SlowHub, parts: Parts) -> None:
    warming, question = await half_way(warm, hub, NAME)
    hub.release()
    hub.refused[str(digest_of(LAYER))] = 503
    question.finish("connection lost")
    with pytest.raises(module.WarmError) as raised:
        await warming
    assert str(raised.value) == f"{SAID}: {HUB} answered 503"
    assert [stored(parts, digest_of(blob)) for blob in (CONFIG, BASE, LAYER)] == [True, True, False]
    hub.hold(LAYER)
    again = asyncio.create_task(warm(NAME))
    question = await hub.held()
    assert question.request.headers["range"] == "bytes=500-"
    question.answer(206, LAYER[500:], Content_Range="bytes 500-999/1000", Content_Length="500")
    assert [part.note for part in (await again).parts] == [STORED, STORED, FETCHED]
    assert read(parts.store, digest_of(LAYER)) == LAYER


async def test_one_that_breaks_is_told_to_all_who_wait(warm: Warm, hub: SlowHub, parts: Parts) -> None:
    first, question = await half_way(warm, hub)
    second = asyncio.create_task(warm.failing(NAME))
    await following(parts, 2)
    question.send(bytes(500))
    question.finish()
    with pytest.raises(module.WarmError, match=SHORT):
        await first
    assert (await second).startswith(f"{SAID}: ")
    assert not list(parts.store.layout.ingests.iterdir())


async def test_one_that_is_given_up_leaves_nothing_running(warm: Warm, hub: SlowHub, parts: Parts) -> None:
    warming, _ = await half_way(warm, hub, NAME)
    await following(parts)
    warming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await warming
    # What has begun goes on until the proxy ends, and is kept for the next time.
    await parts.fills.close()
    assert [path.read_bytes() for path in parts.store.layout.ingests.iterdir()] == [LAYER[:500]]


async def test_one_that_is_given_up_before_an_answer(warm: Warm, hub: SlowHub) -> None:
    hub.hold(LAYER)
    warming = asyncio.create_task(warm(NAME))
    await hub.held()
    warming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await warming


# Trouble with the store.


async def test_a_store_that_is_too_small(hub: SlowHub, start: Start) -> None:
    parts = start(max_size=900)
    assert await Warm(hub, parts).failing(NAME) == (
        f"{SAID} cannot be stored: a blob of 1000 bytes is larger than the store may be (900 bytes)"
    )
    assert stored(parts, digest_of(BASE))
    assert not stored(parts, digest_of(LAYER))


async def test_a_disk_that_takes_nothing(warm: Warm, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parts.store, "check_writable", full)
    said = await warm.failing(NAME)
    assert said.startswith("docker.io/library/alpine:latest: blob ")
    assert said.endswith(" cannot be stored: the disk is full")
    # No blob was asked for in vain.
    assert warm.asked() == ["token", "manifests latest"]


@pytest.mark.parametrize("what", ["open", "following"])
async def test_a_disk_that_cannot_be_read(warm: Warm, parts: Parts, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(parts.store, what, failing)
    assert (await warm.failing(NAME)).endswith(" cannot be stored: [Errno 5] Input/output error")


async def test_a_catalogue_that_cannot_be_used(warm: Warm, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    await warm("other/copy")

    def failing(*_: object) -> None:
        raise StoreError("cannot use catalog.db: disk I/O error")

    monkeypatch.setattr(parts.store.provenance, "record", failing)
    assert (await warm.failing(NAME)).endswith(" cannot be stored: cannot use catalog.db: disk I/O error")


async def test_a_manifest_that_cannot_be_written_down(
    warm: Warm, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(parts.store, "put", full)
        await warm(NAME)
    assert read(parts.store, digest_of(LAYER)) == LAYER


async def test_a_manifest_is_written_down_before_its_blobs_are_asked_for(
    warm: Warm, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, begun, go_on = parts.store.put, threading.Event(), threading.Event()

    def slowly(digest: Digest, content: bytes, registry: str) -> None:
        begun.set()
        assert go_on.wait(BOUND)
        put(digest, content, registry)

    monkeypatch.setattr(parts.store, "put", slowly)
    warming = asyncio.create_task(warm(NAME))
    await until(begun.is_set)
    for _ in range(100):
        await asyncio.sleep(0)
    assert warm.asked() == ["token", "manifests latest"]
    go_on.set()
    await warming


async def test_a_large_blob_comes_in_segments(warm: Warm, hub: SlowHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "LARGE", 800)
    monkeypatch.setattr(fill, "SEGMENT", 400)
    hub.hold(LAYER)
    warming = asyncio.create_task(warm(NAME))
    # The manifest told how long it is.
    for number in range(3):
        question = await hub.held()
        start, _, last = question.request.headers["range"].removeprefix("bytes=").partition("-")
        span = f"bytes {start}-{last}/1000"
        piece = LAYER[int(start) : int(last) + 1]
        assert int(start) == number * 400
        question.answer(206, piece, Content_Range=span, Content_Length=str(len(piece)))
    assert [part.note for part in (await warming).parts] == [FETCHED] * 3


# Words.


def part(size: int, note: str) -> Part:
    return Part(Descriptor(digest_of(bytes(size)), size), size, note)


@pytest.mark.parametrize(
    ("platforms", "parts", "said"),
    [
        ([], [part(1024, FETCHED)], ": 1 blob, 1.0 KiB; all fetched"),
        (["linux/amd64"], [part(1, STORED), part(2, STORED)], " for linux/amd64: 2 blobs, 3 B; all stored already"),
        (
            ["linux/amd64", ""],
            [part(1, STORED), part(2, FETCHED), part(1024, STORED)],
            " for linux/amd64, any platform: 3 blobs, 1.0 KiB; 2 B fetched, 2 blobs stored already",
        ),
    ],
)
def test_what_is_told_of_an_image(platforms: list[str], parts: list[Part], said: str) -> None:
    warmed = Warmed(Reference.parse("alpine:3.20"), platforms, parts)
    assert told(warmed) == f"docker.io/library/alpine:3.20{said}"


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("s390x", "linux/s390x"),
    ],
)
def test_the_platform_of_this_machine(monkeypatch: pytest.MonkeyPatch, machine: str, said: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert own_platform() == said
