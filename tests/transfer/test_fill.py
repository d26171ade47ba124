"""A fill, from the first answer to the commit, over as many connections as it takes."""

import asyncio

import pytest
from mitmproxy import http

from addon.auth.tokens import TokenUnavailable
from addon.store.disk import Store
from addon.transfer import fill as module
from addon.transfer.fill import pause
from addon.transfer.followed import State
from addon.transfer.upstream import UpstreamError

from ..doubles import FakeSource
from .filling import CONTENT, Start, broken, cut, ends, ingests, ranged, read, sized, stored

# To the commit.


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


async def test_a_fill_that_is_given_up_before_it_ran(store: Store, start: Start) -> None:
    filling = start()
    body = filling.fill.body(None)
    filling.fill.drop()
    assert await broken(body) == (b"", "the request for it was given up")
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


@pytest.mark.parametrize("failures", range(1, 8))
def test_pauses_grow(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.25)
    longest = min(0.25 * 2 ** (failures - 1), 8)
    assert longest / 2 <= pause(failures) <= longest
