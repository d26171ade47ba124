"""The answer to a blob request: which status, which headers, which bytes."""

import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mitmproxy import http

from addon.registry import cache_status
from addon.registry.errors import SpecError
from addon.store.blob import BlobReader
from addon.store.disk import Store
from addon.transfer import stream
from addon.transfer.blob_answer import asked_ranges, blob_answer, etag, has_it
from addon.transfer.body import Body
from addon.transfer.fill import Fill

from ..doubles import FakeSource, digest_of, request_flow

CONTENT = bytes(range(256)) * 40
SIZE = len(CONTENT)
DIGEST = digest_of(CONTENT)
ETAG = f'"{DIGEST}"'


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path


def asked(method: str = "GET", **headers: str) -> http.Request:
    return request_flow("https://registry.example/v2/a/blobs/b", method, **headers).request


def answer(source: Path | Fill, method: str = "GET", **headers: str) -> http.Response:
    request = asked(method, **headers)
    opened = BlobReader(os.open(source, os.O_RDONLY), SIZE) if isinstance(source, Path) else source
    return blob_answer(opened, DIGEST, request, asked_ranges(request, DIGEST), cache_status.HIT)


def attached(response: http.Response) -> Body | None:
    return stream._bodies.pop(response, None)


def body_of(response: http.Response) -> bytes:
    body, content = attached(response), b""
    assert body
    while not body.ended:
        content += body.read()
    body.close()
    return content


async def test_the_whole_blob(tidy: None, blob: Path) -> None:
    response = answer(blob)
    headers = dict(response.headers)
    assert headers.pop("Date").endswith(" GMT")
    assert (response.status_code, response.reason, headers) == (
        200,
        "OK",
        {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(SIZE),
            "Docker-Content-Digest": str(DIGEST),
            "Docker-Distribution-Api-Version": "registry/2.0",
            "ETag": ETAG,
            "Accept-Ranges": "bytes",
            "Cache-Control": "max-age=31536000",
            "Cache-Status": "pulltap; hit",
        },
    )
    assert body_of(response) == CONTENT


async def test_head_is_the_head_of_the_whole(tidy: None, blob: Path) -> None:
    response = answer(blob, "HEAD", Range="bytes=0-1")
    assert (response.status_code, response.headers["Content-Length"]) == (200, str(SIZE))
    assert attached(response) is None


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-0", 0, 0),
        ("5-9", 5, 9),
        ("5-", 5, SIZE - 1),
        ("-5", SIZE - 5, SIZE - 1),
        (f"0-{SIZE * 2}", 0, SIZE - 1),
        (f"{SIZE - 1}-", SIZE - 1, SIZE - 1),
        (f"5-9,{SIZE}-", 5, 9),
    ],
)
async def test_one_range(tidy: None, blob: Path, asked: str, first: int, last: int) -> None:
    response = answer(blob, Range=f"bytes={asked}")
    assert (response.status_code, response.reason) == (206, "Partial Content")
    content = body_of(response)
    assert CONTENT[first : last + 1] in content
    if "," not in asked:
        assert response.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
        assert content == CONTENT[first : last + 1]
    assert response.headers["Content-Length"] == str(len(content))
    assert response.headers["ETag"] == ETAG


async def test_several_ranges(tidy: None, blob: Path) -> None:
    response = answer(blob, Range="bytes=0-9,100-199,-1")
    assert response.status_code == 206
    assert response.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert "Content-Range" not in response.headers
    content = body_of(response)
    assert len(content) == int(response.headers["Content-Length"])
    for part in (CONTENT[:10], CONTENT[100:200], CONTENT[-1:]):
        assert b"\r\n\r\n" + part + b"\r\n--" in content


async def test_ranges_that_add_up_to_more_than_the_blob(tidy: None, blob: Path) -> None:
    response = answer(blob, Range="bytes=0-,0-,0-")
    assert (response.status_code, body_of(response)) == (200, CONTENT)


@pytest.mark.parametrize("asked", [f"{SIZE}-", f"{SIZE}-{SIZE + 1}", "-0"])
async def test_a_range_without_a_byte(tidy: None, blob: Path, asked: str) -> None:
    with pytest.raises(SpecError) as raised:
        answer(blob, Range=f"bytes={asked}")
    assert (raised.value.status, raised.value.headers) == (416, {"Content-Range": f"bytes */{SIZE}"})


@pytest.mark.parametrize("asked", ["bytes=x", "bytes=9-5", "bytes="])
def test_a_malformed_range(asked: str) -> None:
    with pytest.raises(SpecError):
        asked_ranges(request_flow("https://registry.example/", Range=asked).request, DIGEST)


@pytest.mark.parametrize(
    ("condition", "part"), [(ETAG, True), ('"another"', False), ("Thu, 01 Jan 1970 00:00:00 GMT", False)]
)
async def test_if_range(tidy: None, blob: Path, condition: str, *, part: bool) -> None:
    response = answer(blob, Range="bytes=0-9", If_Range=condition)
    assert response.status_code == (206 if part else 200)
    assert body_of(response) == (CONTENT[:10] if part else CONTENT)


@pytest.mark.parametrize(
    ("tags", "has"),
    [
        (ETAG, True),
        (f"W/{ETAG}", True),
        (f'"a", {ETAG} ,"b"', True),
        ("*", True),
        ('"a"', False),
        ("", False),
        (str(DIGEST), False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_client_that_has_the_blob(tidy: None, blob: Path, method: str, tags: str, *, has: bool) -> None:
    assert has_it(asked(method, If_None_Match=tags), DIGEST) is has
    response = answer(blob, method, If_None_Match=tags)
    if has:
        assert (response.status_code, response.reason) == (304, "Not Modified")
        assert "Content-Length" not in response.headers
        assert response.headers["ETag"] == ETAG
        assert attached(response) is None
    else:
        assert response.status_code == 200
        if body := attached(response):
            body.close()


# Of a fill.


@pytest.fixture
async def fill(tidy: None, tmp_path: Path) -> AsyncIterator[Fill]:
    store = Store(tmp_path / "store")
    with ThreadPoolExecutor(1) as executor:
        fill = Fill(store.ingest(DIGEST, "registry.example"), FakeSource(), executor)
        yield fill
        fill.drop()
        # pytest holds the fixture until all is torn down.
        fill._reader.close()
    store.close()


async def test_a_fill_whose_size_is_not_known_is_answered_in_chunks(fill: Fill) -> None:
    for headers in ({}, {"Range": "bytes=5-"}, {"Range": "bytes=0-1,5-6"}):
        response = answer(fill, "GET", **headers)
        assert response.status_code == 200
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in response.headers
        assert fill.followers == 1
        body = attached(response)
        assert body
        body.close()


async def test_a_fill_whose_size_is_known(fill: Fill) -> None:
    fill.size = SIZE
    for headers, status, length in (({}, 200, SIZE), ({"Range": "bytes=5-"}, 206, SIZE - 5)):
        response = answer(fill, "GET", **headers)
        assert (response.status_code, response.headers["Content-Length"]) == (status, str(length))
        body = attached(response)
        assert body
        assert not body.read()
        body.close()
    with pytest.raises(SpecError):
        answer(fill, Range=f"bytes={SIZE}-")


def test_the_validator_is_the_digest() -> None:
    assert etag(DIGEST) == ETAG
