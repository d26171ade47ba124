"""The rest of a body past the store: what follows where a fill was interrupted, and that no bad blob ends."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from addon.auth.tokens import TokenUnavailable
from addon.registry.ranges import Span
from addon.store.disk import Store
from addon.transfer import fill as module
from addon.transfer.followed import GrowingBody
from addon.transfer.passing import Passing
from addon.transfer.upstream import UpstreamError
from addon.transfer.writing import BOUND

from .. import doubles
from ..doubles import FakeSource, Question, digest_of
from .filling import CONTENT, Start, broken, cut, ends, ingests, ranged, read, sized

SIZE = len(CONTENT)
DIGEST = digest_of(CONTENT)


@pytest.fixture
def source(tidy: None, at_once: None) -> FakeSource:
    return FakeSource()


Pass = Callable[..., Passing]


@pytest.fixture
async def passing(source: FakeSource) -> AsyncIterator[Pass]:
    """Begins bodies past the store, behind the first bytes of `CONTENT`."""
    begun = []

    def begin(start: int = 1000, stop: int | None = SIZE, *, known: bool = True, checked: bool = True) -> Passing:
        hasher = DIGEST.hasher()
        hasher.update(CONTENT[:start])
        size, hashed = (SIZE if known else None), (hasher if checked else None)
        begun.append(Passing(DIGEST, source, start, stop, size=size, hasher=hashed))
        return begun[-1]

    yield begin
    for each in begun:
        each.close()
        await asyncio.wait([each._task])


def given(body: Passing) -> bytes:
    """What can be read now."""
    content = bytearray()
    while piece := body.read():
        content += piece
    return bytes(content)


async def over(body: Passing) -> None:
    """Wait until nothing more arrives."""
    await asyncio.wait_for(asyncio.wait([body._task]), doubles.BOUND)


# All of it.


@pytest.mark.parametrize("sizes", [[SIZE], [1, 700], [SIZE - 1001, 1]], ids=["at once", "uneven", "all but the last"])
@pytest.mark.parametrize("status", [206, 200], ids=["from there on", "from the start"])
async def test_the_rest_comes_from_upstream(passing: Pass, source: FakeSource, sizes: list[int], status: int) -> None:
    body = passing()
    question = await source.question()
    assert str(question) == f"GET /blob 1000-{SIZE - 1}"
    headers = ranged(CONTENT, 1000, SIZE - 1) if status == 206 else sized(CONTENT)
    question.begin(status, **headers)
    question.send(*cut(CONTENT[1000:] if status == 206 else CONTENT, *sizes))
    question.finish()
    await over(body)
    assert question.exchange.aborted
    assert await read(body) == CONTENT[1000:]


async def test_what_comes_past_the_layers(passing: Pass, source: FakeSource) -> None:
    body = passing()
    question = await source.question()
    question.begin(206, **ranged(CONTENT, 1000, SIZE - 1))
    for piece in cut(CONTENT[1000:], 3000):
        assert question.receiver
        room = question.receiver.room()
        assert room
        room[: len(piece)] = piece
        question.receiver.put(len(piece))
    question.finish()
    assert await read(body) == CONTENT[1000:]


async def test_nothing_before_it_arrives_and_nothing_behind_it(passing: Pass, source: FakeSource) -> None:
    body = passing()
    assert body.read() == b""
    question = await source.question()
    question.begin(206, **ranged(CONTENT, 1000, SIZE - 1))
    waiting = asyncio.create_task(body.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    question.send(CONTENT[1000:2000])
    await asyncio.wait_for(waiting, doubles.BOUND)
    assert body.read() == CONTENT[1000:2000]
    assert body.read() == b""
    assert not ends(body)
    # Whatever comes behind the last byte is nobody's.
    question.send(CONTENT[2000:] + b"more")
    question.finish()
    await over(body)
    assert given(body) == CONTENT[2000:]
    assert ends(body)
    await body.wait()
    assert body.read() == b""


async def test_the_end_of_a_blob_whose_length_nobody_knows(passing: Pass, source: FakeSource) -> None:
    body = passing(stop=None, known=False)
    question = await source.question()
    assert str(question) == "GET /blob 1000-"
    question.begin(206, **ranged(CONTENT, 1000, SIZE - 1))
    question.send(CONTENT[1000:])
    assert given(body) == CONTENT[1000:]
    assert not ends(body)
    question.finish()
    await asyncio.wait_for(body.wait(), doubles.BOUND)
    assert ends(body)


async def test_a_part_of_the_blob_is_given_as_it_comes(passing: Pass, source: FakeSource) -> None:
    # No digest tells whether it is right; neither does it before a fill has ended.
    body = passing(stop=1500, checked=False)
    question = await source.question()
    assert str(question) == "GET /blob 1000-1499"
    question.answer(206, CONTENT[1000:1500], **ranged(CONTENT, 1000, 1499))
    assert await read(body) == CONTENT[1000:1500]


# Never a complete blob that is bad.


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
@pytest.mark.parametrize("sizes", [[SIZE], [7], [SIZE - 1001, 1]], ids=["at once", "uneven", "all but the last"])
async def test_what_is_not_the_blob_has_no_end(
    *, passing: Pass, source: FakeSource, known: bool, sizes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    bad = CONTENT[1000:-1] + b"\0"
    body = passing(stop=SIZE if known else None, known=known)
    question = await source.question()
    question.begin(206, **ranged(CONTENT, 1000, SIZE - 1))
    question.send(*cut(bad, *sizes))
    question.finish()
    content, why = await broken(body)
    assert why == f"{DIGEST}: upstream sent something else"
    assert len(content) < len(bad) or not known
    assert bad.startswith(content)
    assert not ends(body)
    assert body.read() == b""
    assert caplog.text.count("passes through, but what upstream sent is not the blob") == 1


async def test_what_was_given_before_was_not_the_blob(source: FakeSource) -> None:
    body = Passing(DIGEST, source, 1000, SIZE, size=SIZE, hasher=DIGEST.hasher())
    question = await source.question()
    question.answer(206, CONTENT[1000:], **ranged(CONTENT, 1000, SIZE - 1))
    content, _ = await broken(body)
    assert len(content) < SIZE - 1000


# After a cut.


async def test_it_goes_on_where_it_was_cut(passing: Pass, source: FakeSource) -> None:
    body = passing()
    reading = asyncio.create_task(read(body))
    position = 1000
    for number in range(2 * module.ATTEMPTS):
        question = await source.question(number)
        assert str(question) == f"GET /blob {position}-{SIZE - 1}"
        # One byte each is progress, however often it takes.
        question.begin(206, **ranged(CONTENT, position, SIZE - 1))
        question.send(CONTENT[position : position + 1])
        question.finish("cut")
        position += 1
    question = await source.question(2 * module.ATTEMPTS)
    question.begin(200, **sized(CONTENT))
    question.send(*cut(CONTENT, 300))
    # However the connection ends then: the digest decides.
    question.finish("cut")
    assert await reading == CONTENT[1000:]
    assert all(question.exchange.aborted for question in source.asked)


async def test_attempts_without_progress_are_limited(passing: Pass, source: FakeSource) -> None:
    body = passing()
    for number in range(module.ATTEMPTS):
        error = TokenUnavailable("later") if number % 2 else UpstreamError("no route to host")
        (await source.question(number)).answered.set_exception(error)
    assert await broken(body) == (b"", "later")
    assert len(source.asked) == module.ATTEMPTS


async def test_a_blob_whose_length_nobody_knows_is_cut(passing: Pass, source: FakeSource) -> None:
    body = passing(stop=None, known=False)
    question = await source.question()
    question.begin(200)
    question.send(CONTENT[:2000])
    question.finish("upstream closed the connection")
    assert await broken(body) == (CONTENT[1000:2000], "upstream closed the connection")
    assert len(source.asked) == 1


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [
        (404, {}, "registry.example answered 404"),
        (416, {}, "registry.example answered 416"),
        (206, {}, "upstream answered a range without saying which"),
        (206, {"Content_Range": "bytes 0-9/10240"}, "upstream answered with bytes 0-9/10240 of another blob"),
        (206, {"Content_Range": "bytes 1000-1009/9"}, "upstream answered a range without saying which"),
        (206, {"Content_Range": "bytes 1000-1009/1010"}, "upstream answered with bytes 1000-1009/1010 of another blob"),
        (200, {"Content_Length": "5"}, "upstream now has 5 bytes instead of 10240"),
        (200, {"Content_Length": "10240", "Content_Encoding": "gzip"}, "upstream sent the blob gzip-encoded"),
    ],
)
async def test_what_does_not_go_on_with_the_same_blob_is_not_taken(
    passing: Pass, source: FakeSource, status: int, headers: dict[str, str], why: str
) -> None:
    body = passing()
    for number in range(module.ATTEMPTS):
        question = await source.question(number)
        question.begin(status, b"", **headers)
        if question.receiver is not None:
            question.send(b"something else")
    assert await broken(body) == (b"", why)
    assert all(question.exchange.aborted for question in source.asked)


async def test_a_fault_of_ours_is_no_end(passing: Pass, source: FakeSource) -> None:
    for stop in (SIZE, None):
        body = passing(stop=stop, known=stop is not None, checked=stop is not None)
        question = await source.question(len(source.asked) - 1)
        question.answered.set_exception(ZeroDivisionError())
        assert await broken(body) == (b"", "upstream closed the connection")
        with pytest.raises(ZeroDivisionError):
            await body._task


# Back-pressure.


async def test_upstream_waits_for_the_client(source: FakeSource) -> None:
    content = bytes(range(256)) * (BOUND // 128)
    body = Passing(digest_of(content), source, 0, len(content), size=len(content), hasher=DIGEST.hasher())
    question = await source.question()
    assert str(question) == f"GET /blob 0-{len(content) - 1}"
    question.begin(200, **sized(content))
    assert question.receiver
    await asyncio.wait_for(question.receiver.ready(), doubles.BOUND)
    sent = await let_in(question, content)
    assert BOUND <= sent <= BOUND + 256 * 1024, "a client that does not read costs so much memory"
    ready = asyncio.create_task(question.receiver.ready())
    await asyncio.sleep(0)
    assert not ready.done()
    got = body.read()
    await asyncio.wait_for(ready, doubles.BOUND)
    while sent < len(content):
        got += given(body)
        sent += await let_in(question, content[sent:])
    question.finish()
    assert got + await read(body) == content


async def let_in(question: Question, content: bytes) -> int:
    """Send as much of it as there is room for; how much that was."""
    sent = 0
    while sent < len(content) and question.receiver and (room := question.receiver.room()):
        piece = content[sent : sent + len(room)]
        room[: len(piece)] = piece
        question.receiver.put(len(piece))
        sent += len(piece)
    return sent


async def test_a_client_that_leaves_ends_the_exchange(passing: Pass, source: FakeSource) -> None:
    asked = passing()
    receiving = passing()
    question = await source.question(1)
    question.begin(206, **ranged(CONTENT, 1000, SIZE - 1))
    question.send(CONTENT[1000:2000])
    await asyncio.sleep(0)
    for body in (asked, receiving):
        body.close()
        await over(body)
    assert question.exchange.aborted


# Behind a fill.


Interrupted = Callable[..., Awaitable[GrowingBody]]


@pytest.fixture
def interrupted(start: Start, monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    """A body of a fill whose disk failed behind so many bytes, all of which were read."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def interrupted(span: Span | None = None, got: int = 1000, *, known: bool = True) -> GrowingBody:
        filling = start().begin(200, sized(CONTENT) if known else {})
        body = filling.fill.body(span)
        filling.send(CONTENT[:got])
        await filling.until(got)
        with monkeypatch.context() as context:
            context.setattr(filling.fill._ingest, "verify" if got == SIZE else "write", full)
            filling.send(CONTENT[got : got + 1000])
            if got == SIZE:
                filling.exchange.finish()
            await filling.over()
        while body.read():
            pass
        return body

    return interrupted


@pytest.mark.parametrize("right", [True, False], ids=["the blob", "something else"])
@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
@pytest.mark.parametrize("got", [0, 1, 1000])
async def test_the_fills_hash_is_gone_on_with(
    *, interrupted: Interrupted, source: FakeSource, got: int, known: bool, right: bool
) -> None:
    body = await interrupted(got=got, known=known)
    assert body.position == got
    passing = await Passing.behind(body, source)
    body.close()
    question = await source.question()
    rest = CONTENT[got:] if right else CONTENT[got:-1] + b"\0"
    question.answer(206 if got else 200, rest, **(ranged(CONTENT, got, SIZE - 1) if got else sized(CONTENT)))
    if right:
        assert await read(passing) == rest
    else:
        assert (await broken(passing))[1] == f"{DIGEST}: upstream sent something else"


@pytest.mark.parametrize("last", [CONTENT[-1:], b"\0"])
async def test_all_but_the_last_byte_was_given(interrupted: Interrupted, source: FakeSource, last: bytes) -> None:
    # The hash that the fill left is one byte too far.
    body = await interrupted(got=SIZE)
    assert body.position == SIZE - 1
    passing = await Passing.behind(body, source)
    body.close()
    (await source.question()).answer(206, last, **ranged(CONTENT, SIZE - 1, SIZE - 1))
    if last == CONTENT[-1:]:
        assert await read(passing) == last
    else:
        assert (await broken(passing))[0] == b""


async def test_the_rest_of_a_part(interrupted: Interrupted, source: FakeSource) -> None:
    body = await interrupted(Span(500, 1500))
    passing = await Passing.behind(body, source)
    body.close()
    question = await source.question()
    question.answer(206, CONTENT[1000:1500], **ranged(CONTENT, 1000, 1499))
    assert await read(passing) == CONTENT[1000:1500]


async def test_what_was_given_is_no_longer_there(interrupted: Interrupted, store: Store, source: FakeSource) -> None:
    body = await interrupted()
    assert isinstance(body.fill, module.Fill)
    body.fill.written = None
    (rest,) = ingests(store)
    os.truncate(rest, 10)
    with pytest.raises(OSError, match="the ingest ends at 10, before 1000"):
        await Passing.behind(body, source)
    body.close()
    assert not source.asked
