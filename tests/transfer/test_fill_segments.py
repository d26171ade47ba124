"""Large blobs, which come over several connections at once."""

import asyncio

import pytest

from addon.store.disk import Store
from addon.transfer import fill as module
from addon.transfer.fill import first_request

from .filling import CONTENT, Start, ingests, ranged, read, stored


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
