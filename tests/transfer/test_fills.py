"""Which fills are under way: who shares one, who asks for himself, and who waits for his turn."""

import asyncio

import pytest
from mitmproxy import http
from mitmproxy.addons import comment
from mitmproxy.test import taddons

from addon.auth.tokens import TokenUnavailable
from addon.store.disk import Store
from addon.transfer.fill import Fill
from addon.transfer.fills import Fills, NotStorable, Overtaken, Refused, progress
from addon.transfer.followed import State
from addon.transfer.upstream import UpstreamError

from ..doubles import BOUND, FakeSource, Question, digest_of
from .filling import CONTENT, ORIGIN, ingests, read
from .starting import DIGEST, SIZED, joined, settled, starting, wanted


async def test_a_fill_ends_in_the_store(fills: Fills, store: Store) -> None:
    source = FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    assert str(question) == "GET /blob"
    question.answer(200, CONTENT, **SIZED)
    one = await joined(start)
    assert one.started
    assert fills.active(ORIGIN, DIGEST) is one.fill
    assert fills.active("other.example", DIGEST) is None
    assert fills.repositories(ORIGIN, DIGEST) == {"library/alpine"}
    assert await read(one.fill.body(None)) == CONTENT
    await settled(fills)
    assert fills.active(ORIGIN, DIGEST) is None
    assert fills.repositories(ORIGIN, DIGEST) == ()
    reader = store.open(DIGEST)
    assert reader
    reader.close()
    assert store.provenance.belongs(ORIGIN, "library/alpine", DIGEST)
    assert not store.provenance.belongs(ORIGIN, "library/debian", DIGEST)


async def test_the_same_credential_shares_one_request(fills: Fills) -> None:
    sources = [FakeSource() for _ in range(5)]
    starts = [starting(fills, source, wanted()) for source in sources]
    question = await sources[0].question()
    question.begin(200, **SIZED)
    outcomes = [await joined(start) for start in starts]
    assert [outcome.started for outcome in outcomes] == [True, False, False, False, False]
    assert len({id(outcome.fill) for outcome in outcomes}) == 1
    assert [len(source.asked) for source in sources] == [1, 0, 0, 0, 0]
    question.send(CONTENT)
    question.finish()
    assert await read(outcomes[-1].fill.body(None)) == CONTENT


async def test_different_credentials_ask_for_themselves_and_the_loser_joins(fills: Fills, store: Store) -> None:
    first, second = FakeSource(), FakeSource()
    one, two = starting(fills, first, wanted("one")), starting(fills, second, wanted("two", "library/debian"))
    winner, loser = await second.question(), await first.question()
    winner.begin(200, **SIZED)
    loser.begin(200, **SIZED)
    outcomes = await joined(two), await joined(one)
    assert outcomes[0].fill is outcomes[1].fill
    assert loser.exchange.aborted
    assert not winner.exchange.aborted
    winner.send(CONTENT)
    winner.finish()
    await settled(fills)
    # Upstream gave it in both.
    assert store.provenance.belongs(ORIGIN, "library/alpine", DIGEST)
    assert store.provenance.belongs(ORIGIN, "library/debian", DIGEST)


async def test_a_refusal_reaches_its_own_credential(fills: Fills) -> None:
    first, second = FakeSource(), FakeSource()
    one, two = starting(fills, first, wanted("one")), starting(fills, second, wanted("two"))
    (await first.question()).answer(401, b"who are you?", WWW_Authenticate="Bearer")
    refused = await asyncio.wait_for(one, BOUND)
    assert isinstance(refused, Refused)
    assert (refused.response.status_code, refused.response.raw_content) == (401, b"who are you?")
    assert not two.done()
    (await second.question()).answer(200, CONTENT, **SIZED)
    assert await read((await joined(two)).fill.body(None)) == CONTENT


@pytest.mark.parametrize(
    ("status", "headers", "kind"), [(401, {}, Refused), (404, {}, Refused), (200, {"Content_Encoding": "gzip"}, None)]
)
async def test_who_is_not_given_the_blob_has_no_part_in_anothers_fill(
    fills: Fills, status: int, headers: dict[str, str], kind: type[Refused] | None
) -> None:
    first, second = FakeSource(), FakeSource()
    one, two = starting(fills, first, wanted("one", "private/one")), starting(fills, second, wanted("two"))
    question = await second.question()
    (await first.question()).begin(200, **SIZED)
    fill = (await joined(one)).fill
    # The first one's fill is under way when upstream answers the second.
    question.begin(status, b"no", **headers)
    if kind is None:
        with pytest.raises(NotStorable):
            await asyncio.wait_for(two, BOUND)
    else:
        assert isinstance(await asyncio.wait_for(two, BOUND), kind)
    assert fill.repositories == {"private/one"}


async def test_who_is_given_it_while_anothers_fill_breaks_asks_again(fills: Fills) -> None:
    first, second = FakeSource(), FakeSource()
    one, two = starting(fills, first, wanted("one")), starting(fills, second, wanted("two"))
    filling, question = await first.question(), await second.question()
    filling.begin(200)
    fill = (await joined(one)).fill
    filling.finish("cut")
    async with asyncio.timeout(BOUND):
        while fill.state is not State.BROKEN:
            await fill.change()
    question.begin(200, **SIZED)
    with pytest.raises(Overtaken):
        await asyncio.wait_for(two, BOUND)


async def test_a_refusal_reaches_all_who_shared_the_request(fills: Fills, store: Store) -> None:
    source = FakeSource()
    starts = [starting(fills, source, wanted()) for _ in range(3)]
    (await source.question()).answer(404, b"unknown")
    assert [type(await start) for start in starts] == [Refused] * 3
    assert not ingests(store)
    again = starting(fills, source, wanted())
    (await source.question(1)).answer(200, CONTENT, **SIZED)
    assert (await joined(again)).started


@pytest.mark.parametrize("kind", [UpstreamError, TokenUnavailable])
async def test_an_error_reaches_all_who_shared_the_request(
    fills: Fills, store: Store, kind: type[UpstreamError | TokenUnavailable]
) -> None:
    source = FakeSource()
    starts = [starting(fills, source, wanted()) for _ in range(3)]
    (await source.question()).answered.set_exception(kind("no route to host"))
    for start in starts:
        with pytest.raises(kind, match="no route to host"):
            await start
    assert not ingests(store)


async def test_one_who_leaves_does_not_take_the_fill_along(fills: Fills, store: Store) -> None:
    source = FakeSource()
    first, second = starting(fills, source, wanted()), starting(fills, source, wanted())
    question = await source.question()
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    question.answer(200, CONTENT, **SIZED)
    third = await joined(starting(fills, source, wanted()))
    assert not third.started
    await settled(fills)
    assert not ingests(store)


async def test_who_comes_while_it_is_filled_follows(fills: Fills) -> None:
    source = FakeSource()
    one = starting(fills, source, wanted())
    question = await source.question()
    question.begin(200, **SIZED)
    fill = (await joined(one)).fill
    # Whoever asks for himself is not told that he may: the hook asks upstream, and lets him join.
    for other in (wanted("another"), wanted(repository="library/debian"), wanted()):
        elsewhere = FakeSource()
        with pytest.raises(Overtaken):
            await starting(fills, elsewhere, other)
        assert not elsewhere.asked
    assert fill.repositories == {"library/alpine"}
    question.send(CONTENT)
    question.finish()
    assert await read(fill.body(None)) == CONTENT


async def test_who_waited_for_his_turn_is_not_let_in_by_anothers_permission(
    store: Store, mitmproxy: taddons.context
) -> None:
    fills = Fills(store, most=1, connections=1)
    held, first, second = FakeSource(), FakeSource(), FakeSource()
    holding = starting(fills, held, wanted(digest=digest_of(b"other")))
    await held.question()
    one, two = starting(fills, first, wanted("one")), starting(fills, second, wanted("two", "mine/all"))
    (await held.question()).answer(404)
    assert isinstance(await holding, Refused)
    question = await first.question()
    question.begin(200, **SIZED)
    fill = (await joined(one)).fill
    fills._limit.release()
    # His turn comes while the fill is under way.
    with pytest.raises(Overtaken):
        await asyncio.wait_for(two, BOUND)
    assert not second.asked
    assert fill.repositories == {"library/alpine"}
    await fills.close()


async def test_who_finds_a_broken_fill_begins_another(fills: Fills, store: Store) -> None:
    source = FakeSource()
    one = starting(fills, source, wanted())
    question = await source.question()
    question.begin(200)
    question.send(CONTENT[:1000])
    fill = (await joined(one)).fill
    question.finish("cut")
    async with asyncio.timeout(BOUND):
        while fill.state is not State.BROKEN:
            await fill.change()
    assert fills.active(ORIGIN, DIGEST) is fill
    other = FakeSource()
    start = starting(fills, other, wanted("another"))
    again = await other.question()
    again.answer(206, CONTENT[1000:], Content_Range=f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}")
    assert await read((await joined(start)).fill.body(None)) == CONTENT


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [
        (200, {"Content_Encoding": "gzip"}, "upstream sent the blob gzip-encoded"),
        (206, {"Content_Range": "bytes 5-9/10"}, "upstream answered with bytes 5-9/10 of another blob"),
        (206, {}, "upstream answered a range without saying which"),
    ],
)
async def test_what_is_not_the_blob_is_not_stored(
    fills: Fills, store: Store, status: int, headers: dict[str, str], why: str
) -> None:
    source = FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    question.begin(status, b"", **headers)
    question.send(b"something else")
    with pytest.raises(NotStorable, match=why):
        await start
    assert question.exchange.aborted
    assert not ingests(store)
    assert fills.active(ORIGIN, DIGEST) is None


@pytest.mark.parametrize("coding", ["identity", "IDENTITY", ""])
async def test_no_coding_is_none(fills: Fills, coding: str) -> None:
    source = FakeSource()
    start = starting(fills, source, wanted())
    (await source.question()).answer(200, CONTENT, **SIZED, Content_Encoding=coding)
    assert await read((await joined(start)).fill.body(None)) == CONTENT


# The end.


async def test_closing_breaks_what_is_under_way(store: Store, mitmproxy: taddons.context) -> None:
    fills = Fills(store, most=2, connections=1)
    filling, asking, waiting = FakeSource(), FakeSource(), FakeSource()
    one = starting(fills, filling, wanted())
    question = await filling.question()
    question.begin(200, **SIZED)
    question.send(CONTENT[:1000])
    fill = (await joined(one)).fill
    async with asyncio.timeout(BOUND):
        while fill.received < 1000:
            await fill.change()
    two = starting(fills, asking, wanted(digest=digest_of(b"two")))
    await asking.question()
    three = starting(fills, waiting, wanted(digest=digest_of(b"three")))
    await asyncio.sleep(0)
    await asyncio.wait_for(fills.close(), BOUND)
    assert fill.state is State.BROKEN
    assert question.exchange.aborted
    assert fills.active(ORIGIN, DIGEST) is None
    for task in (two, three):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not waiting.asked
    (rest,) = ingests(store)
    assert rest.read_bytes() == CONTENT[:1000]


async def test_closing_while_a_fill_is_about_to_run(store: Store, mitmproxy: taddons.context) -> None:
    fills, source = Fills(store, most=1, connections=1), FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    question.begin(200, **SIZED)
    assert fills.active(ORIGIN, DIGEST)
    await asyncio.wait_for(fills.close(), BOUND)
    with pytest.raises(asyncio.CancelledError):
        await start
    assert fills.active(ORIGIN, DIGEST) is None
    assert not ingests(store)


async def test_closing_when_nothing_is_under_way(store: Store) -> None:
    await Fills(store, most=1, connections=1).close()


# Turns.


async def test_only_so_many_fills_run_at_once(store: Store, mitmproxy: taddons.context) -> None:
    fills = Fills(store, most=1, connections=1)
    contents = [b"one", b"two", b"three"]
    sources = [FakeSource() for _ in contents]
    starts = [
        starting(fills, source, wanted(digest=digest_of(content)))
        for source, content in zip(sources, contents, strict=True)
    ]
    for number, (source, content) in enumerate(zip(sources, contents, strict=True)):
        question = await source.question()
        assert [len(source.asked) for source in sources] == [1] * (number + 1) + [0] * (2 - number)
        if number == 1:
            # One that is refused gives its place back as well.
            question.answer(404)
            assert isinstance(await starts[number], Refused)
        else:
            question.answer(200, content)
            await joined(starts[number])
    await fills.close()


# What people see.


async def test_flows_tell_how_far_the_fill_is(fills: Fills, mitmproxy: taddons.context) -> None:
    seen = asyncio.Event()
    comments: list[str] = []

    class Watch:
        def update(self, flows: list[http.HTTPFlow]) -> None:
            comments.extend(flow.comment for flow in flows)
            if any("10.0k of 10.0k" in comment for comment in comments):
                seen.set()

    mitmproxy.master.addons.add(Watch(), comment.Comment())
    source = FakeSource()
    start = starting(fills, source, wanted())
    question = await source.question()
    question.begin(200, **SIZED)
    body = (await joined(start)).fill.body(None)
    question.send(CONTENT)
    await asyncio.wait_for(seen.wait(), BOUND)
    assert comments[-1].startswith(f"pulltap: fill {DIGEST.short}: 10.0k of 10.0k, ")
    assert comments[-1].endswith("/s, 1 waiting")
    question.finish()
    assert await read(body) == CONTENT


async def test_progress_of_a_blob_of_unknown_size(fills: Fills) -> None:
    source = FakeSource()
    start = starting(fills, source, wanted())
    question: Question = await source.question()
    question.begin(200)
    fill: Fill = (await joined(start)).fill
    assert progress(fill).startswith(f"{DIGEST.short}: 0b of ?, 0b/s, 0 waiting")
    question.send(CONTENT)
    question.finish()
    await settled(fills)
