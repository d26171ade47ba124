"""A run of a blob's bytes, as one connection brings it."""

import asyncio
from collections.abc import Callable

import pytest
from mitmproxy import http

from addon.registry.ranges import Span
from addon.store.errors import DigestMismatch
from addon.transfer import stretch as module
from addon.transfer.stretch import Nobody, Stretch, check_coding, checked, give_back
from addon.transfer.upstream import UpstreamError

from ..doubles import digest_of


class Whole:
    """A fill that counts."""

    def __init__(self) -> None:
        self.digest = digest_of(b"blob")
        self.full = False
        self.waiting = 0

    def arrived(self, count: int) -> None:
        self.waiting += count

    async def ready(self) -> None:
        self.full = False


@pytest.fixture
def whole() -> Whole:
    return Whole()


def put(stretch: Stretch, data: bytes) -> None:
    while data:
        room = stretch.room()
        assert room
        count = min(len(room), len(data))
        room[:count] = data[:count]
        stretch.put(count)
        data = data[count:]


def taken(stretch: Stretch) -> tuple[int, bytes]:
    offset, chunks = stretch.take()
    return offset, b"".join(chunks)


def test_bytes_keep_their_order_whichever_way_they_come(whole: Whole) -> None:
    stretch = Stretch(whole, 100, 111)
    stretch.receive(b"ab")
    put(stretch, b"cde")
    stretch.receive(b"f")
    put(stretch, b"gh")
    assert taken(stretch) == (100, b"abcdefgh")
    assert not stretch.arrived
    put(stretch, b"ijk")
    assert (stretch.arrived, stretch.written) == (True, False)
    assert taken(stretch) == (108, b"ijk")
    assert stretch.written
    stretch.check()
    assert whole.waiting == 11


@pytest.mark.parametrize("way", [Stretch.receive, put])
def test_what_comes_again_is_dropped(whole: Whole, way: Callable[[Stretch, bytes], None]) -> None:
    stretch = Stretch(whole, 3, 6)
    stretch.skip(3)
    for part in (b"ab", b"cd", b"ef"):
        way(stretch, part)
    assert taken(stretch) == (3, b"def")
    stretch.check()


@pytest.mark.parametrize("way", [Stretch.receive, put])
def test_too_much_is_not_the_blob(whole: Whole, way: Callable[[Stretch, bytes], None]) -> None:
    stretch = Stretch(whole, 0, 3)
    way(stretch, b"abc")
    stretch.check()
    way(stretch, b"d")
    with pytest.raises(DigestMismatch, match="more than 3 bytes came"):
        stretch.check()
    assert taken(stretch) == (0, b"abc")


def test_too_little_is_upstreams_fault(whole: Whole) -> None:
    stretch = Stretch(whole, 0, 3)
    put(stretch, b"ab")
    with pytest.raises(UpstreamError, match="upstream ended at 2 of 3 bytes"):
        stretch.check()
    # Where nobody told the length, only the digest decides.
    Stretch(whole, 0, None).check()


async def test_there_is_no_room_in_a_fill_that_is_full(whole: Whole) -> None:
    stretch = Stretch(whole, 0, None)
    whole.full = True
    assert stretch.room() is None
    await stretch.ready()
    assert stretch.room()


def test_a_basin_is_filled_again_once_it_was_written(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    basins: list[bytearray] = []
    monkeypatch.setattr(module, "_basins", basins)
    stretch = Stretch(whole, 0, None)
    size = 3 * module._BASIN + 1
    put(stretch, bytes(size))
    _, chunks = stretch.take()
    assert sum(map(len, chunks)) == size
    # Until then, nobody else gets it.
    assert not basins
    give_back([b"received", *chunks])
    assert len({id(basin) for basin in basins}) == len(basins) == 4
    put(stretch, b"x")
    assert len(basins) == 3
    give_back([memoryview(bytearray(1)) for _ in range(100)])
    assert len(basins) == module._MOST_BASINS


async def test_nobody_takes_nothing() -> None:
    nobody = Nobody()
    nobody.receive(b"x")
    nobody.put(0)
    assert nobody.room() is None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(nobody.ready(), 0)


@pytest.mark.parametrize(("coding", "fits"), [("", True), ("identity", True), ("gzip", False), ("ZSTD", False)])
def test_a_body_is_to_come_in_its_own_bytes(coding: str, fits: bool) -> None:
    response = http.Response.make(200, headers={"Content-Encoding": coding} if coding else {})
    if fits:
        check_coding(response)
    else:
        with pytest.raises(UpstreamError, match=f"{coding.lower()}-encoded"):
            check_coding(response)


@pytest.mark.parametrize(
    ("header", "size", "found"),
    [
        ("bytes 5-9/10", 10, (Span(5, 10), 10)),
        ("bytes 5-9/10", None, (Span(5, 10), 10)),
        ("bytes 5-6/*", 10, (Span(5, 7), 10)),
        ("bytes 5-6/*", None, (Span(5, 7), None)),
    ],
)
def test_a_part_that_was_asked_for(header: str, size: int | None, found: tuple[Span, int | None]) -> None:
    assert checked(http.Response.make(206, headers={"Content-Range": header}), 5, size) == found


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("bytes 4-9/10", "bytes 4-9/10 of another blob"),
        ("bytes 5-9/11", "bytes 5-9/11 of another blob"),
        ("bytes 4-9/*", r"bytes 4-9/\? of another blob"),
        ("items 5-9/10", "without saying which"),
        ("", "without saying which"),
    ],
)
def test_a_part_that_was_not(header: str, message: str) -> None:
    with pytest.raises(UpstreamError, match=message):
        checked(http.Response.make(206, headers={"Content-Range": header}), 5, 10)
