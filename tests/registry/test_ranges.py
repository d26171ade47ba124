import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.registry.errors import ErrorCode, SpecError
from addon.registry.ranges import ByteRange, Span, malformed, parse, spans, unsatisfiable

offsets = st.integers(0, 10**19 - 1)
asked = st.one_of(
    st.builds(ByteRange, offsets, st.none()),
    st.builds(ByteRange, st.none(), offsets),
    st.tuples(offsets, offsets).map(lambda pair: ByteRange(min(pair), max(pair))),
)


def written(wanted: ByteRange) -> str:
    first, last = ("" if n is None else str(n) for n in (wanted.first, wanted.last))
    return f"{first}-{last}"


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-0", [ByteRange(0, 0)]),
        ("bytes=0-499", [ByteRange(0, 499)]),
        ("bytes=500-", [ByteRange(500, None)]),
        ("bytes=0-", [ByteRange(0, None)]),
        ("bytes=-500", [ByteRange(None, 500)]),
        ("bytes=-0", [ByteRange(None, 0)]),
        ("bytes=007-010", [ByteRange(7, 10)]),
        ("bytes=0-0,-1", [ByteRange(0, 0), ByteRange(None, 1)]),
        ("bytes= 0-999, 4500-5499, -1000", [ByteRange(0, 999), ByteRange(4500, 5499), ByteRange(None, 1000)]),
        ("bytes=,0-0 ,\t,1-1,", [ByteRange(0, 0), ByteRange(1, 1)]),
        ("BYTES=0-1", [ByteRange(0, 1)]),
        # Another unit is ignored, and so is what names none.
        ("items=0-1", []),
        ("bytes2=0-1", []),
        ("0-1", []),
        ("bytes", []),
        ("", []),
        (None, []),
        ("=0-1", []),
    ],
)
def test_headers(header: str | None, wanted: list[ByteRange]) -> None:
    assert parse(header) == wanted


@pytest.mark.parametrize(
    "header",
    [
        "bytes=",
        "bytes= , ,",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-0",
        "bytes=0-1;2-3",
        "bytes=0-1,x",
        "bytes=0--1",
        "bytes=--1",
        "bytes=0-1-2",
        "bytes=+0-1",
        "bytes=0x0-1",
        "bytes=0 - 1",
        "bytes=0-1 2-3",
        "bytes=1",
        "bytes=*",
        "bytes=\u0660-\u0661",
        "bytes=1_0-20",
        "bytes=0-1\n",
        "bytes==0-1",
        f"bytes=0-{'9' * 20}",
        f"bytes=0-{'9' * 100_000}",
    ],
)
def test_bytes_that_nobody_understands_are_refused(header: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(header)
    assert (refused.value.status, refused.value.code) == (416, ErrorCode.SIZE_INVALID)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 120


@pytest.mark.parametrize(("count", "read"), [(1, 1), (64, 64), (65, 0), (5000, 0)])
def test_more_pieces_than_make_sense_are_the_whole_blob(count: int, read: int) -> None:
    assert len(parse("bytes=" + ",".join(["0-0"] * count))) == read


@given(st.lists(asked, min_size=1, max_size=64), st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_what_is_of_the_grammar_is_read_back(wanted: list[ByteRange], comma: str) -> None:
    assert parse("bytes=" + comma.join(map(written, wanted))) == wanted


@given(st.one_of(st.text(), st.text("bytes=0123456789-, ").map(lambda text: f"bytes={text}")))
def test_any_header_is_ranges_or_refused(header: str) -> None:
    try:
        wanted = parse(header)
    except SpecError:
        assert re.match(r"\s*bytes\s*=", header, re.IGNORECASE)
    else:
        assert all(r.first is None or r.last is None or r.first <= r.last for r in wanted)
        assert all(r.first is not None or r.last is not None for r in wanted)


@pytest.mark.parametrize(
    ("wanted", "size", "span"),
    [
        (ByteRange(0, 499), 10000, Span(0, 500)),
        (ByteRange(500, 999), 10000, Span(500, 1000)),
        (ByteRange(None, 500), 10000, Span(9500, 10000)),
        (ByteRange(9500, None), 10000, Span(9500, 10000)),
        (ByteRange(9500, 20000), 10000, Span(9500, 10000)),
        (ByteRange(None, 20000), 10000, Span(0, 10000)),
        (ByteRange(9999, 9999), 10000, Span(9999, 10000)),
        (ByteRange(10000, None), 10000, None),
        (ByteRange(10000, 10001), 10000, None),
        (ByteRange(None, 0), 10000, None),
        (ByteRange(0, None), 0, None),
        (ByteRange(None, 1), 0, None),
    ],
)
def test_what_a_range_selects(wanted: ByteRange, size: int, span: Span | None) -> None:
    assert wanted.within(size) == span


@given(
    st.integers(0, 12),
    st.one_of(
        st.builds(ByteRange, st.integers(0, 15), st.none()),
        st.builds(ByteRange, st.none(), st.integers(0, 15)),
        st.builds(ByteRange, st.integers(0, 15), st.integers(0, 15)),
    ),
)
def test_a_range_selects_what_the_rfc_says(size: int, wanted: ByteRange) -> None:
    blob = bytes(range(size))
    if wanted.first is None:
        expected = blob[-wanted.last :] if wanted.last else b""
    else:
        expected = bytes(n for n in blob if wanted.first <= n and (wanted.last is None or n <= wanted.last))
    span = wanted.within(size)
    assert (blob[span.start : span.stop] if span else b"") == expected


@given(asked, st.integers(0, 2**63 - 1))
def test_a_span_lies_within_the_blob(wanted: ByteRange, size: int) -> None:
    if span := wanted.within(size):
        assert 0 <= span.start < span.stop <= size
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", span.content_range(size))
        assert match
        first, last, length = map(int, match.groups())
        assert (first, last - first + 1, length) == (span.start, len(span), size)


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        (None, []),
        ("bytes=2-3", [Span(2, 4)]),
        ("bytes=0-3,-4", [Span(0, 4), Span(6, 10)]),
        # One that selects nothing is passed over, as long as another one does not.
        ("bytes=20-,1-1,-0", [Span(1, 2)]),
        # As much as the blob, in any order, is not yet more than the blob.
        ("bytes=5-,0-4", [Span(5, 10), Span(0, 5)]),
        ("bytes=0-9,0-0", []),
        ("bytes=0-,0-,0-", []),
    ],
)
def test_the_parts_of_a_blob_of_ten_bytes(header: str | None, parts: list[Span]) -> None:
    assert spans(parse(header), 10) == parts


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=-0", "bytes=10-11,20-"])
def test_ranges_that_select_nothing_are_refused(header: str) -> None:
    with pytest.raises(SpecError) as refused:
        spans(parse(header), 10)
    assert refused.value.headers == {"Content-Range": "bytes */10"}


@given(st.lists(asked, max_size=5), st.integers(0, 2**63 - 1))
def test_parts_are_never_more_than_the_blob(wanted: list[ByteRange], size: int) -> None:
    try:
        parts = spans(wanted, size)
    except SpecError:
        assert all(each.within(size) is None for each in wanted)
    else:
        assert sum(map(len, parts)) <= size
        assert all(0 <= part.start < part.stop <= size for part in parts)


@pytest.mark.parametrize(
    ("wanted", "open_ended"),
    [(ByteRange(0, None), True), (ByteRange(5, None), True), (ByteRange(0, 5), False), (ByteRange(None, 5), False)],
)
def test_open_ended(wanted: ByteRange, open_ended: bool) -> None:
    assert wanted.open_ended is open_ended


def test_the_refusals_say_what_the_rfc_wants() -> None:
    refusal = unsatisfiable(10)
    assert (refusal.status, refusal.headers) == (416, {"Content-Range": "bytes */10"})
    assert malformed("bytes=x").headers == {}
