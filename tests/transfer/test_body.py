"""The bodies of blobs that are whole: one span of them, or several."""

import os
import re
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.registry.ranges import Span
from addon.store.blob import BlobReader
from addon.transfer.body import PIECE, Body, BodyBroken, MultipartBody, StoredBody

from ..doubles import Pieces, open_files

CONTENT = bytes(range(256)) * 5000


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("body") / "blob"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(autouse=True)
def _nothing_open() -> Iterator[None]:
    before = open_files()
    yield
    assert open_files() == before


def reader(path: Path) -> BlobReader:
    return BlobReader(os.open(path, os.O_RDONLY), path.stat().st_size)


def pieces(body: Body) -> list[bytes]:
    """All pieces of a body that is there without a wait."""
    found = []
    while not body.ended:
        found.append(body.read())
    assert body.read() == b""
    assert body.read_into(memoryview(bytearray(PIECE))) == 0
    body.close()
    return found


def poured(body: Body) -> list[bytes]:
    """As `pieces`, into a buffer."""
    found, buffer = [], memoryview(bytearray(PIECE))
    while not body.ended:
        found.append(bytes(buffer[: body.read_into(buffer)]))
    body.close()
    return found


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, len(CONTENT)),
        (0, 1),
        (len(CONTENT) - 1, len(CONTENT)),
        (1, PIECE + 1),
        (1, PIECE + 2),
        (0, 0),
        (17, 1_000_000),
    ],
)
def test_a_span_comes_in_pieces(blob: Path, start: int, stop: int) -> None:
    found = pieces(StoredBody(reader(blob), Span(start, stop)))
    assert poured(StoredBody(reader(blob), Span(start, stop))) == found
    assert b"".join(found) == CONTENT[start:stop]
    assert all(len(piece) == PIECE for piece in found[:-1])
    assert all(0 < len(piece) <= PIECE for piece in found)


async def test_a_stored_blob_is_never_waited_for(blob: Path) -> None:
    body = StoredBody(reader(blob), Span(0, 1))
    await body.wait()
    body.close()


def test_a_blob_that_was_cut_short_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"short")
    body = StoredBody(reader(path), Span(0, 10))
    assert body.read() == b"short"
    with pytest.raises(OSError, match="the blob ends at 5, before 10"):
        body.read()
    with pytest.raises(OSError, match="the blob ends at 5, before 10"):
        body.read_into(memoryview(bytearray(PIECE)))
    body.close()


def multipart(blob: Path, spans: list[Span]) -> MultipartBody:
    return MultipartBody([(span, StoredBody(reader(blob), span)) for span in spans], len(CONTENT))


def parts(body: MultipartBody) -> list[tuple[str, str, bytes]]:
    """What a MIME parser finds: each part's type, range and bytes."""
    kind, content = body.content_type, b"".join(pieces(body))
    assert len(content) == body.length
    message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
    assert message.is_multipart()
    assert not message.defects
    boundary = re.escape(f"\r\n--{message.get_boundary()}".encode())
    found = re.split(boundary, content)
    assert (found[0], found[-1]) == (b"", b"--\r\n")
    split = [part.split(b"\r\n\r\n", 1) for part in found[1:-1]]
    heads = [BytesParser().parsebytes(head.removeprefix(b"\r\n") + b"\r\n\r\n") for head, _ in split]
    return [
        (head["Content-Type"], head["Content-Range"], bytes_of)
        for head, (_, bytes_of) in zip(heads, split, strict=True)
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(1, 2 * PIECE)).map(
            lambda pair: Span(pair[0], min(pair[0] + pair[1], len(CONTENT)))
        ),
        min_size=2,
        max_size=5,
    )
)
def test_several_spans_are_parts(blob: Path, spans: list[Span]) -> None:
    assert parts(multipart(blob, spans)) == [
        (
            "application/octet-stream",
            f"bytes {span.start}-{span.stop - 1}/{len(CONTENT)}",
            CONTENT[span.start : span.stop],
        )
        for span in spans
    ]


def test_parts_are_read_into_a_buffer_as_well(blob: Path) -> None:
    body = multipart(blob, [Span(0, PIECE + 1), Span(7, 9)])
    assert len(b"".join(poured(body))) == body.length


def test_each_body_has_a_boundary_of_its_own(blob: Path) -> None:
    bodies = [multipart(blob, [Span(0, 1), Span(2, 3)]) for _ in range(2)]
    assert bodies[0].content_type != bodies[1].content_type
    for body in bodies:
        body.close()


async def test_a_part_that_is_not_there_yet_is_waited_for() -> None:
    first, second = Pieces(b"", b"one"), Pieces(b"two", BodyBroken("gone"))
    body = MultipartBody([(Span(0, 3), first), (Span(5, 9), second)], 10)
    # Its head is there at once.
    await body.wait()
    assert body.read().endswith(b"Content-Range: bytes 0-2/10\r\n\r\n")
    assert body.read() == b""
    await body.wait()
    assert body.read() == b"one"
    await body.wait()
    assert body.read().endswith(b"Content-Range: bytes 5-8/10\r\n\r\n")
    assert body.read() == b"two"
    assert body.read() == b""
    assert not body.ended
    with pytest.raises(BodyBroken, match="gone"):
        await body.wait()
    body.close()
    assert (first.closed, second.closed) == (1, 1)


async def test_the_end_of_the_parts_needs_no_wait() -> None:
    body = MultipartBody([(Span(0, 1), Pieces(b"x")), (Span(1, 2), Pieces(b"y"))], 2)
    content = b""
    while not body.ended:
        await body.wait()
        content += body.read()
    assert content.endswith(b"y\r\n--" + body.content_type.partition("=")[2].encode() + b"--\r\n")
    await body.wait()
