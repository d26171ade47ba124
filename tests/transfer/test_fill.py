"""A fill, from the first answer to the commit, and what those who read along are given."""

import asyncio
import errno
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mitmproxy import http

from addon.auth.tokens import TokenUnavailable
from addon.registry.digest import Digest
from addon.registry.ranges import Span
from addon.store.disk import Store
from addon.transfer import fill as module
from addon.transfer import stretch as stretches
from addon.transfer.body import BodyBroken
from addon.transfer.fill import Fill, first_request, pause
from addon.transfer.followed import GrowingBody, State
from addon.transfer.stretch import Stretch
from addon.transfer.upstream import UpstreamError
from addon.transfer.writing import BATCH, BOUND

from .. import doubles
from ..doubles import FakeExchange, FakeSource, digest_of

ORIGIN = "registry.example"
CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attempt is waited for."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0)


@pytest.fixture
async def store(tidy: None, tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


class Filling:
    """A fill under way, whose upstream the test plays."""

    def __init__(self, fill: Fill, source: FakeSource) -> None:
        self.fill = fill
        self.source = source
        self.recorded = 0
        self.exchange = FakeExchange()
        self.stretch: Stretch | None = None
        self.task: asyncio.Task[None] | None = None

    def begin(
        self, status: int = 200, headers: Mapping[str, str] | None = None, *, size: int | None = None
    ) -> "Filling":
        """Upstream's first answer: its head; `size` is what a manifest says."""
        start, _ = first_request(self.fill._ingest.kept, size, 1)
        response = http.Response.make(status)
        response.headers = http.Headers((), **(headers or {}))
        self.stretch = self.fill.begin(response, start, size)
        self.task = asyncio.create_task(self.fill.run(self.stretch, self.exchange.as_exchange, self._record))
        return self

    def _record(self) -> None:
        self.recorded += 1

    def send(self, *pieces: bytes) -> None:
        assert self.stretch
        for piece in pieces:
            self.stretch.receive(piece)

    def put(self, *pieces: bytes) -> None:
        """As `send`, past mitmproxy's layers."""
        assert self.stretch
        for piece in pieces:
            left = piece
            while left:
                room = self.stretch.room()
                assert room
                count = min(len(room), len(left))
                room[:count] = left[:count]
                self.stretch.put(count)
                left = left[count:]

    async def over(self) -> None:
        """Wait until the fill has ended, in whichever way."""
        assert self.task
        await asyncio.wait_for(self.task, doubles.BOUND)

    async def cancel(self) -> None:
        """Let the proxy shut down."""
        assert self.task
        self.task.cancel()
        await self.over()

    async def until(self, received: int) -> None:
        """Wait until so many bytes are on disk."""
        async with asyncio.timeout(doubles.BOUND):
            while self.fill.received < received:
                await self.fill.change()


Start = Callable[..., Filling]


@pytest.fixture
def start(store: Store, executor: ThreadPoolExecutor) -> Start:
    def start(content: bytes | Digest = CONTENT, connections: int = 1) -> Filling:
        digest = content if isinstance(content, Digest) else digest_of(content)
        source = FakeSource()
        return Filling(Fill(store.ingest(digest, ORIGIN), source, executor, connections), source)

    return start


def sized(content: bytes) -> dict[str, str]:
    return {"Content_Length": str(len(content))}


def ranged(content: bytes, first: int, last: int) -> dict[str, str]:
    return {"Content_Range": f"bytes {first}-{last}/{len(content)}"}


async def read(body: GrowingBody) -> bytes:
    """All of a body, read as the stream reads it; closed behind it."""
    content = bytearray()
    try:
        async with asyncio.timeout(doubles.BOUND):
            while not body.ended:
                content += (piece := body.read())
                if not piece:
                    await body.wait()
    finally:
        body.close()
    return bytes(content)


async def broken(body: GrowingBody) -> tuple[bytes, str]:
    """What could be read of a body that broke, and why it did."""
    content = bytearray()
    try:
        async with asyncio.timeout(doubles.BOUND):
            while not body.ended:
                content += (piece := body.read())
                if not piece:
                    await body.wait()
    except BodyBroken as e:
        return bytes(content), str(e)
    finally:
        body.close()
    pytest.fail("it looks complete")


def ends(body: GrowingBody) -> bool:
    return body.ended


def stored(store: Store, digest: Digest) -> bytes | None:
    reader = store.open(digest)
    if reader is None:
        return None
    content = reader.read(0, reader.size)
    reader.close()
    return content


def ingests(store: Store) -> list[Path]:
    return list(store.layout.ingests.iterdir())


# To the commit.


def cut(content: bytes, *sizes: int) -> list[bytes]:
    """The content in pieces of these sizes, over and over."""
    pieces = []
    while content:
        for size in sizes:
            pieces.append(content[:size])
            content = content[size:]
    return pieces


@pytest.mark.parametrize(
    ("content", "sizes"),
    [
        (CONTENT, [len(CONTENT)]),
        (CONTENT[:500], [1]),
        (CONTENT, [7, 1000, 1]),
        (CONTENT, [len(CONTENT) - 1, 1]),
        (b"x", [1]),
        (CONTENT * 300, [65536]),
        (b"", [1]),
    ],
    ids=["whole", "byte by byte", "uneven", "all but the last", "one byte", "many batches", "nothing"],
)
@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
async def test_bytes_arrive_in_pieces_of_any_size(
    store: Store, start: Start, content: bytes, sizes: list[int], *, known: bool
) -> None:
    filling = start(content).begin(200, sized(content) if known else {})
    reading = asyncio.create_task(read(filling.fill.body(None)))
    for piece in cut(content, *sizes):
        filling.send(piece)
        await filling.fill.ready()
    filling.exchange.finish()
    await filling.over()
    assert await reading == content
    assert stored(store, filling.fill.digest) == content
    assert filling.fill.state is State.VERIFIED
    assert filling.recorded == 1
    assert filling.exchange.aborted >= 1
    assert not ingests(store)


async def test_the_last_byte_is_held_back_until_the_blob_is_verified(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)
    filling.send(CONTENT)
    await filling.until(len(CONTENT))
    assert filling.fill.readable == len(CONTENT) - 1
    assert body.read() == CONTENT[:-1]
    assert body.read() == b""
    assert not ends(body)
    filling.exchange.finish()
    await filling.over()
    assert body.read() == CONTENT[-1:]
    assert ends(body)
    body.close()


async def test_a_body_of_unknown_size_has_no_end_before_the_blob_is_verified(start: Start) -> None:
    filling = start().begin()
    body = filling.fill.body(None)
    filling.send(CONTENT)
    await filling.until(len(CONTENT))
    assert body.read() == CONTENT
    assert not ends(body)
    filling.exchange.finish()
    await filling.over()
    assert ends(body)
    body.close()


async def test_the_size_is_upstreams_or_else_the_manifests(start: Start) -> None:
    for headers, size in (({"Content_Length": "7"}, 7), ({}, 9), ({"Content_Length": "x"}, 9)):
        filling = start()
        filling.begin(200, headers, size=9)
        assert filling.fill.size == size
        await filling.cancel()


async def test_upstream_waits_for_the_disk(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(BOUND + 2 * BATCH)
    filling = start(content).begin(200, sized(content))
    gate = Gate(filling, "write", monkeypatch)
    assert filling.stretch
    filling.send(content[:BATCH])
    await gate.entered()
    filling.send(content[BATCH : BATCH + BOUND])
    ready = asyncio.create_task(filling.stretch.ready())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not ready.done(), "upstream is read although so much waits for the disk"
    gate.open.set()
    await asyncio.wait_for(ready, doubles.BOUND)
    filling.send(content[BATCH + BOUND :])
    filling.exchange.finish()
    await filling.over()
    assert filling.fill.state is State.VERIFIED


async def test_who_waits_for_the_disk_is_let_go_when_the_fill_breaks(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = start().begin()
    gate = Gate(filling, "write", monkeypatch)
    filling.send(bytes(BOUND))
    assert filling.stretch
    ready = asyncio.create_task(filling.stretch.ready())
    await gate.entered()
    filling.exchange.finish("gone")
    await asyncio.wait_for(ready, doubles.BOUND)
    gate.open.set()
    await filling.over()


# Who reads along.


async def test_followers_come_early_and_late_and_want_different_parts(start: Start) -> None:
    size = len(CONTENT)
    spans = [None, Span(0, 1), Span(1, 2), Span(100, size), Span(size - 1, size), Span(0, size)]
    filling = start().begin(200, sized(CONTENT))
    early = [asyncio.create_task(read(filling.fill.body(span))) for span in spans]
    assert filling.fill.followers == len(spans)
    filling.send(CONTENT[:5000])
    await filling.until(5000)
    later = [asyncio.create_task(read(filling.fill.body(span))) for span in spans]
    filling.send(CONTENT[5000:])
    await filling.until(size)
    filling.exchange.finish()
    await filling.over()
    last = [asyncio.create_task(read(filling.fill.body(span))) for span in spans]
    wanted = [CONTENT if span is None else CONTENT[span.start : span.stop] for span in spans]
    for tasks in (early, later, last):
        assert await asyncio.gather(*tasks) == wanted


async def test_followers_of_a_blob_whose_size_is_not_known(start: Start) -> None:
    filling = start().begin()
    reading = [asyncio.create_task(read(filling.fill.body(span))) for span in (None, Span(0, 10), Span(9000, 9001))]
    filling.send(CONTENT)
    filling.exchange.finish()
    await filling.over()
    assert await asyncio.gather(*reading) == [CONTENT, CONTENT[:10], CONTENT[9000:9001]]


async def test_a_change_wakes_all_who_wait(start: Start) -> None:
    filling = start().begin()
    waiting = [asyncio.create_task(filling.fill.change()) for _ in range(5)]
    await asyncio.sleep(0)
    filling.send(b"x")
    await asyncio.wait_for(asyncio.gather(*waiting), doubles.BOUND)
    filling.exchange.finish("gone")
    await filling.over()


async def test_the_whole_blob_can_be_read_once_it_is_verified(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    filling.send(CONTENT)
    await filling.until(len(CONTENT))
    assert filling.fill.whole() is None
    filling.exchange.finish()
    await filling.over()
    reader = filling.fill.whole()
    assert reader
    assert reader.read(0, reader.size) == CONTENT
    reader.close()


async def test_a_follower_that_leaves_is_no_follower(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    bodies = [filling.fill.body(None) for _ in range(2)]
    assert filling.fill.followers == 2
    bodies.pop().close()
    assert filling.fill.followers == 1
    bodies.clear()
    gc.collect()
    assert filling.fill.followers == 0, "one whose body was never sent is counted for ever"
    await filling.cancel()


# What goes wrong.


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
async def test_the_wrong_bytes(store: Store, start: Start, *, known: bool) -> None:
    filling = start().begin(200, sized(CONTENT) if known else {})
    bodies = [filling.fill.body(None), filling.fill.body(Span(len(CONTENT) - 1, len(CONTENT)))]
    filling.send(b"\0" + CONTENT[:-1])
    filling.exchange.finish()
    await filling.over()
    (most, why), (last, _) = [await broken(body) for body in bodies] if known else [await broken(bodies[0])] * 2
    assert len(most) == len(CONTENT) - known
    assert last == b"" or not known
    assert f"received have the digest sha256:{digest_of(bytes(1) + CONTENT[:-1]).encoded}" in why
    assert stored(store, filling.fill.digest) is None
    assert not ingests(store), "bad bytes are kept for the next attempt"
    assert filling.recorded == 0
    bodies[1].close()


async def test_more_bytes_than_announced(store: Store, start: Start) -> None:
    filling = start().begin(size=len(CONTENT))
    body = filling.fill.body(None)
    filling.send(CONTENT + b"more")
    filling.exchange.finish()
    await filling.over()
    content, why = await broken(body)
    assert content == CONTENT[:-1]
    assert why == f"{filling.fill.digest}: more than {len(CONTENT)} bytes came"
    assert stored(store, filling.fill.digest) is None
    assert not ingests(store)


async def test_fewer_bytes_than_the_digest_wants(store: Store, start: Start) -> None:
    filling = start().begin()
    filling.send(CONTENT[:-1])
    filling.exchange.finish()
    await filling.over()
    assert filling.fill.state is State.BROKEN
    assert stored(store, filling.fill.digest) is None


async def test_a_body_of_unknown_size_that_is_cut_breaks_the_fill(store: Store, start: Start) -> None:
    filling = start().begin()
    body = filling.fill.body(None)
    filling.send(CONTENT[:1000])
    filling.exchange.finish("upstream closed the connection")
    await filling.over()
    assert await broken(body) == (CONTENT[:1000], "upstream closed the connection")
    assert not filling.source.asked
    (rest,) = ingests(store)
    assert rest.read_bytes() == CONTENT[:1000]


class Gate:
    """Holds up a method of a fill's ingest, in its thread, until it is opened."""

    def __init__(self, filling: Filling, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.fault: BaseException | None = None
        self._came = threading.Event()
        usual = getattr(filling.fill._ingest, name)

        def gated(*args: object) -> object:
            self._came.set()
            assert self.open.wait(doubles.BOUND)
            try:
                return usual(*args)
            except BaseException as e:
                self.fault = e
                raise

        monkeypatch.setattr(filling.fill._ingest, name, gated)

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._came.wait, doubles.BOUND)


@pytest.mark.parametrize("at", ["write", "absorb", "verify", "commit"])
async def test_a_disk_that_fails(store: Store, start: Start, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(filling.fill._ingest, at, full)
    if at == "write":
        # Not even the beginning can be kept.
        monkeypatch.setattr(filling.fill._ingest, "keep", full)
    filling.send(CONTENT)
    filling.exchange.finish()
    await filling.over()
    assert filling.fill.reason == "[Errno 28] No space left on device"
    assert stored(store, filling.fill.digest) is None
    if at == "commit":
        # The bytes were verified: who reads along gets them all.
        assert await read(body) == CONTENT
    else:
        assert (await broken(body))[1] == "[Errno 28] No space left on device"
    if at == "write":
        assert not ingests(store)


async def test_a_disk_that_fails_ends_the_exchange(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    filling = start().begin(200, sized(CONTENT))

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(filling.fill._ingest, "write", failing)
    filling.send(CONTENT[:1])
    await filling.over()
    assert filling.exchange.aborted
    assert filling.fill.state is State.BROKEN


@pytest.mark.parametrize("at", ["write", "absorb", "verify", "commit"])
async def test_a_fill_that_is_cancelled_waits_for_its_thread(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)
    gate = Gate(filling, at, monkeypatch)
    filling.send(CONTENT)
    filling.exchange.finish()
    await gate.entered()
    assert filling.task
    filling.task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not filling.task.done(), "the file was closed under the thread that writes it"
    gate.open.set()
    await filling.over()
    assert gate.fault is None
    if at == "commit":
        assert stored(store, filling.fill.digest) == CONTENT
        body.close()
    else:
        assert stored(store, filling.fill.digest) is None
        assert (await broken(body))[1] == "the proxy is shutting down"


async def test_a_fault_of_ours_leaves_nobody_waiting(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)

    def faulty(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(filling.fill._ingest, "write", faulty)
    filling.send(CONTENT)
    with pytest.raises(ZeroDivisionError):
        await filling.over()
    assert (await broken(body))[1] == "of a fault of ours"
    assert not ingests(store)


async def test_a_fill_that_is_given_up_before_it_ran(store: Store, start: Start) -> None:
    filling = start()
    body = filling.fill.body(None)
    filling.fill.drop()
    assert await broken(body) == (b"", "the request for it was given up")
    assert not ingests(store)


async def test_a_fill_that_is_given_up_on_a_disk_that_fails(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = start()

    def failing() -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(filling.fill._ingest, "keep", failing)
    filling.fill.drop()
    assert not ingests(store)


# After a cut.


async def test_a_fill_goes_on_where_it_broke_off(store: Store, start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    reading = asyncio.create_task(read(filling.fill.body(None)))
    filling.send(CONTENT[:1000])
    filling.exchange.finish("upstream closed the connection")
    second = await filling.source.question(0)
    assert str(second) == "GET /blob 1000-"
    second.begin(206, **ranged(CONTENT, 1000, len(CONTENT) - 1))
    second.send(CONTENT[1000:2000])
    second.finish("upstream closed the connection")
    third = await filling.source.question(1)
    assert str(third) == "GET /blob 2000-"
    third.answer(206, CONTENT[2000:], **ranged(CONTENT, 2000, len(CONTENT) - 1))
    await filling.over()
    assert await reading == CONTENT
    assert stored(store, filling.fill.digest) == CONTENT
    assert all(question.exchange.aborted for question in filling.source.asked)


async def test_an_upstream_without_ranges_starts_over(store: Store, start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    filling.send(CONTENT[:1000])
    filling.exchange.finish("upstream closed the connection")
    second = await filling.source.question(0)
    second.begin(200, **sized(CONTENT))
    # This one does not even come as far as the first.
    second.send(*cut(CONTENT[:700], 300))
    second.finish("upstream closed the connection")
    third = await filling.source.question(1)
    assert str(third) == "GET /blob 1000-"
    third.begin(200, **sized(CONTENT))
    third.send(*cut(CONTENT, 300))
    third.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT


async def test_an_upstream_that_breaks_off_behind_the_last_byte_has_sent_all(store: Store, start: Start) -> None:
    filling = start().begin(size=len(CONTENT))
    filling.send(CONTENT)
    filling.exchange.finish("peer closed connection without sending complete message body")
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT
    assert not filling.source.asked


async def test_attempts_without_progress_are_limited(store: Store, start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)
    filling.send(CONTENT[:1])
    filling.exchange.finish("cut")
    # One byte each is progress, however often it takes.
    for number in range(2 * module.ATTEMPTS):
        question = await filling.source.question(number)
        question.begin(206, **ranged(CONTENT, number + 1, len(CONTENT) - 1))
        question.send(CONTENT[number + 1 : number + 2])
        question.finish("cut")
    got = 2 * module.ATTEMPTS + 1
    await filling.until(got)
    for number in range(2 * module.ATTEMPTS, 3 * module.ATTEMPTS - 1):
        question = await filling.source.question(number)
        assert str(question) == f"GET /blob {got}-"
        question.fail(UpstreamError("no route to host"))
    await filling.over()
    assert await broken(body) == (CONTENT[:got], "no route to host")
    assert len(filling.source.asked) == 3 * module.ATTEMPTS - 1
    (rest,) = ingests(store)
    assert rest.read_bytes() == CONTENT[:got]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_the_refusal_of_one_is_not_that_of_those_who_read_along(start: Start, status: int) -> None:
    filling, other, third = start(), FakeSource(), FakeSource()
    filling.begin(200, sized(CONTENT))
    filling.fill.joined(other)
    filling.fill.joined(third)
    body = filling.fill.body(None)
    filling.send(CONTENT[:1000])
    filling.exchange.finish("cut")
    (await filling.source.question()).answer(status)
    # On behalf of the next, and of the one behind him.
    (await other.question()).answer(status)
    question = await third.question()
    assert str(question) == "GET /blob 1000-"
    question.answer(206, CONTENT[1000:], **ranged(CONTENT, 1000, len(CONTENT) - 1))
    assert await read(body) == CONTENT
    await filling.over()
    assert (len(filling.source.asked), len(other.asked)) == (1, 1)


async def test_a_fault_of_upstream_is_not_asked_about_on_anothers_behalf(start: Start) -> None:
    filling, other = start(), FakeSource()
    filling.begin(200, sized(CONTENT))
    filling.fill.joined(other)
    filling.send(CONTENT[:1000])
    filling.exchange.finish("cut")
    (await filling.source.question()).answer(503)
    (await filling.source.question(1)).answer(206, CONTENT[1000:], **ranged(CONTENT, 1000, len(CONTENT) - 1))
    await filling.over()
    assert not other.asked
    assert filling.fill.state is State.VERIFIED


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [
        (404, {}, "registry.example answered 404"),
        (416, {}, "registry.example answered 416"),
        (206, {}, "upstream answered a range without saying which"),
        (206, {"Content_Range": "bytes 0-9/10240"}, "upstream answered with bytes 0-9/10240 of another blob"),
        (206, {"Content_Range": "bytes 10-10239/10241"}, "upstream answered with bytes 10-10239/10241 of another blob"),
        (200, {"Content_Length": "5"}, "upstream now has 5 bytes instead of 10240"),
        (200, {"Content_Length": "10240", "Content_Encoding": "gzip"}, "upstream sent the blob gzip-encoded"),
    ],
)
async def test_what_does_not_go_on_with_the_same_blob_is_not_taken(
    start: Start, status: int, headers: dict[str, str], why: str
) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)
    filling.send(CONTENT[:10])
    filling.exchange.finish("cut")
    for number in range(module.ATTEMPTS - 1):
        question = await filling.source.question(number)
        question.begin(status, b"", **headers)
        if question.receiver is not None:
            question.send(b"something else")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await question.receiver.ready()
    await filling.over()
    assert await broken(body) == (CONTENT[:10], why)
    assert all(question.exchange.aborted for question in filling.source.asked)


async def test_a_token_that_cannot_be_had_is_one_more_failure(start: Start) -> None:
    filling = start().begin(200, sized(CONTENT))
    body = filling.fill.body(None)
    filling.exchange.finish("cut")
    for number in range(module.ATTEMPTS - 1):
        question = await filling.source.question(number)
        question.answered.set_exception(TokenUnavailable("the token service limits requests"))
    await filling.over()
    assert await broken(body) == (b"", "the token service limits requests")


# After an earlier attempt.


async def left_behind(start: Start, content: bytes) -> None:
    """An earlier attempt brought so much."""
    filling = start().begin()
    filling.send(content)
    filling.exchange.finish("cut")
    await filling.over()


async def test_a_fill_goes_on_behind_what_an_earlier_one_left(store: Store, start: Start) -> None:
    await left_behind(start, CONTENT[:1000])
    filling = start()
    assert first_request(store.kept(filling.fill.digest, ORIGIN), None, 1) == (1000, None)
    filling.begin(206, ranged(CONTENT, 1000, len(CONTENT) - 1))
    assert (filling.fill.resumed, filling.fill.size) == (1000, len(CONTENT))
    reading = asyncio.create_task(read(filling.fill.body(None)))
    filling.send(CONTENT[1000:])
    filling.exchange.finish()
    await filling.over()
    assert await reading == CONTENT
    assert stored(store, filling.fill.digest) == CONTENT


async def test_what_an_earlier_one_left_is_skipped_where_upstream_starts_over(store: Store, start: Start) -> None:
    await left_behind(start, CONTENT[:1000])
    filling = start().begin(200, sized(CONTENT))
    filling.send(*cut(CONTENT, 300))
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT


async def test_what_an_earlier_one_left_is_no_blob_before_upstream_was_asked(store: Store, start: Start) -> None:
    await left_behind(start, CONTENT + b"and more")
    filling = start()
    last = len(CONTENT) - 1
    assert first_request(store.kept(filling.fill.digest, ORIGIN), len(CONTENT), 1) == (last, None)
    filling.begin(206, ranged(CONTENT, last, last), size=len(CONTENT))
    filling.send(CONTENT[-1:])
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT


async def test_what_an_earlier_one_left_is_longer_than_the_blob(store: Store, start: Start) -> None:
    await left_behind(start, CONTENT + b"and more")
    filling = start().begin(200, sized(CONTENT))
    assert filling.fill.resumed == 0
    filling.send(CONTENT)
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT


async def test_bad_bytes_of_an_earlier_attempt_cost_one_attempt(store: Store, start: Start) -> None:
    await left_behind(start, b"\0" * 1000)
    filling = start().begin(206, ranged(CONTENT, 1000, len(CONTENT) - 1))
    filling.send(CONTENT[1000:])
    filling.exchange.finish()
    await filling.over()
    assert filling.fill.state is State.BROKEN
    assert not ingests(store)


@pytest.mark.parametrize(
    "headers", [{}, {"Content_Range": "bytes 0-9/*"}, {"Content_Range": "bytes 1-9/10"}, {"Content_Range": "bytes"}]
)
async def test_a_part_that_was_not_asked_for_is_no_beginning(start: Start, headers: dict[str, str]) -> None:
    filling = start()
    response = http.Response.make(206)
    response.headers = http.Headers((), **headers)
    with pytest.raises(UpstreamError):
        filling.fill.begin(response, 0, None)
    filling.fill.drop()


# Over several connections.


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT", 1000)
    monkeypatch.setattr(module, "LARGE", 4000)


@pytest.mark.usefixtures("small_segments")
async def test_a_large_blob_comes_over_several_connections(store: Store, start: Start) -> None:
    size = len(CONTENT)
    filling = start(connections=3)
    assert first_request(0, size, 3) == (0, 1000)
    filling.begin(206, ranged(CONTENT, 0, 999), size=size)
    reading = asyncio.create_task(read(filling.fill.body(None)))
    # The segments are taken in turn, and arrive as they like: each of these two before the first.
    for number, first in enumerate((1000, 2000)):
        question = await filling.source.question(number)
        assert str(question) == f"GET /blob {first}-{first + 999}"
        question.answer(206, CONTENT[first : first + 1000], **ranged(CONTENT, first, first + 999))
    filling.send(CONTENT[:1000])
    filling.exchange.finish()
    asked = 2
    for first in range(3000, size, 1000):
        question = await filling.source.question(asked)
        last = min(first + 1000, size) - 1
        assert str(question) == f"GET /blob {first}-{last}"
        question.answer(206, CONTENT[first : last + 1], **ranged(CONTENT, first, last))
        asked += 1
    await filling.over()
    assert await reading == CONTENT
    assert stored(store, filling.fill.digest) == CONTENT
    assert len(filling.source.asked) == asked


@pytest.mark.usefixtures("small_segments")
async def test_a_segment_that_is_cut_goes_on_by_itself(store: Store, start: Start) -> None:
    filling = start(CONTENT[:4500], connections=2)
    filling.begin(206, ranged(CONTENT[:4500], 0, 999), size=4500)
    second = await filling.source.question(0)
    second.begin(206, **ranged(CONTENT[:4500], 1000, 1999))
    second.send(CONTENT[1000:1500])
    second.finish("cut")
    again = await filling.source.question(1)
    assert str(again) == "GET /blob 1500-1999"
    again.answer(206, CONTENT[1500:2000], **ranged(CONTENT[:4500], 1500, 1999))
    filling.send(CONTENT[:1000])
    filling.exchange.finish()
    for number, (first, last) in enumerate(((2000, 2999), (3000, 3999), (4000, 4499)), start=2):
        question = await filling.source.question(number)
        assert str(question) == f"GET /blob {first}-{last}"
        question.answer(206, CONTENT[first : last + 1], **ranged(CONTENT[:4500], first, last))
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT[:4500]


@pytest.mark.usefixtures("small_segments")
async def test_followers_see_no_holes(start: Start) -> None:
    filling = start(connections=2).begin(206, ranged(CONTENT, 0, 999), size=len(CONTENT))
    body = filling.fill.body(None)
    second = await filling.source.question(0)
    second.answer(206, CONTENT[1000:2000], **ranged(CONTENT, 1000, 1999))
    await filling.source.question(1)
    filling.send(CONTENT[:500])
    await filling.until(500)
    assert body.read() == CONTENT[:500]
    assert body.read() == b""
    filling.send(CONTENT[500:1000])
    await filling.until(2000)
    assert body.read() == CONTENT[500:2000]
    body.close()
    await filling.cancel()


@pytest.mark.usefixtures("small_segments")
async def test_what_is_kept_ends_at_the_first_hole(store: Store, start: Start) -> None:
    filling = start(connections=2).begin(206, ranged(CONTENT, 0, 999), size=len(CONTENT))
    second = await filling.source.question(0)
    second.answer(206, CONTENT[1000:2000], **ranged(CONTENT, 1000, 1999))
    await filling.source.question(1)
    filling.send(CONTENT[:300])
    await filling.until(300)
    await filling.cancel()
    (rest,) = ingests(store)
    assert rest.read_bytes() == CONTENT[:300]


@pytest.mark.usefixtures("small_segments")
async def test_one_bad_segment_ends_the_others(store: Store, start: Start) -> None:
    filling = start(connections=3).begin(206, ranged(CONTENT, 0, 999), size=len(CONTENT))
    second = await filling.source.question(0)
    third = await filling.source.question(1)
    third.begin(206, **ranged(CONTENT, 2000, 2999))
    second.begin(206, **ranged(CONTENT, 1000, 1999))
    second.send(bytes(1001))
    second.finish()
    await filling.over()
    assert filling.fill.reason.endswith("more than 2000 bytes came")
    assert third.exchange.aborted
    assert filling.exchange.aborted
    assert not ingests(store)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize(
    ("size", "connections"), [(3999, 4), (len(CONTENT), 1), (None, 4)], ids=["small", "one connection", "unknown"]
)
def test_others_come_in_one_piece(size: int | None, connections: int) -> None:
    assert first_request(0, size, connections) == (0, None)


@pytest.mark.parametrize("failures", range(1, 8))
def test_pauses_grow(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.25)
    longest = min(0.25 * 2 ** (failures - 1), 8)
    assert longest / 2 <= pause(failures) <= longest


# What comes past mitmproxy's layers.


async def test_what_is_put_is_the_blob(store: Store, start: Start) -> None:
    content = CONTENT * 60
    filling = start(content).begin(200, sized(content))
    # The layers bring what came with the head, and the end.
    filling.send(content[:1000])
    filling.put(*cut(content[1000:-1], 70_001))
    filling.send(content[-1:])
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == content


async def test_what_is_put_is_skipped_where_upstream_starts_over(store: Store, start: Start) -> None:
    await left_behind(start, CONTENT[:1000])
    filling = start().begin(200, sized(CONTENT))
    filling.put(*cut(CONTENT, 300))
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == CONTENT


async def test_more_is_put_than_announced(store: Store, start: Start) -> None:
    filling = start().begin(size=len(CONTENT))
    filling.put(CONTENT, b"more")
    filling.exchange.finish()
    await filling.over()
    assert filling.fill.reason == f"{filling.fill.digest}: more than {len(CONTENT)} bytes came"
    assert not ingests(store)


async def test_there_is_no_room_while_so_much_waits_for_the_disk(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(BOUND + 2 * BATCH)
    filling = start(content).begin(200, sized(content))
    gate = Gate(filling, "write", monkeypatch)
    assert filling.stretch
    filling.put(content[:BOUND])
    await gate.entered()
    assert filling.stretch.room() is None
    gate.open.set()
    await asyncio.wait_for(filling.stretch.ready(), doubles.BOUND)
    filling.put(content[BOUND:])
    filling.exchange.finish()
    await filling.over()
    assert stored(store, filling.fill.digest) == content


async def test_basins_are_filled_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    basins: list[bytearray] = []
    monkeypatch.setattr(stretches, "_basins", basins)
    content = CONTENT * 60
    filling = start(content).begin(200, sized(content))
    filling.put(content[:-1])
    filling.send(content[-1:])
    filling.exchange.finish()
    await filling.over()
    used = [id(basin) for basin in basins]
    assert used
    filling = start(CONTENT).begin(200, sized(CONTENT))
    filling.put(CONTENT)
    assert len(basins) == len(used) - 1
    filling.exchange.finish()
    await filling.over()
    assert {id(basin) for basin in basins} == set(used)
