"""The answer to a blob request: its head, and the body that follows, whole or in parts.

Source: OCI Distribution Specification 1.1, "Pulling blobs"; RFC 9110 for ranges (14) and conditions (13).
"""

import time
from email.utils import formatdate

from mitmproxy import http

from addon.registry import cache_status, ranges
from addon.registry.digest import Digest
from addon.registry.ranges import ByteRange, Span
from addon.store.blob import BlobReader
from addon.transfer.body import Body, MultipartBody, Over, StoredBody
from addon.transfer.followed import Followed
from addon.transfer.passing import Continued, GoOn
from addon.transfer.stream import attach

_YEAR = 365 * 24 * 3600


def etag(digest: Digest) -> str:
    """The validator of a blob: its digest, since a blob never changes."""
    return f'"{digest}"'


def asked_ranges(request: http.Request, digest: Digest) -> list[ByteRange]:
    """The ranges that a request asks for; none where its condition says that it wants the whole blob.

    Raises:
        SpecError: 416, a malformed range.
    """
    if request.method != "GET" or request.headers.get("if-range", etag(digest)) != etag(digest):
        return []
    return ranges.parse(request.headers.get("range"))


def has_it(request: http.Request, digest: Digest) -> bool:
    """Whether the client says that it has the blob (``If-None-Match``)."""
    named = request.headers.get("if-none-match", "")
    return any(tag.strip().removeprefix("W/") in ("*", etag(digest)) for tag in named.split(","))


def blob_answer(
    source: BlobReader | Followed,
    digest: Digest,
    request: http.Request,
    wanted: list[ByteRange],
    status: str,
    *,
    go_on: GoOn | None = None,
    over: Over | None = None,
) -> http.Response:
    """The answer to a request for a blob that is stored, or on its way.

    Args:
        source: where its bytes come from; a reader is taken over, and closed with the body.
        digest: the blob.
        request: the request.
        wanted: what `asked_ranges` found.
        status: the value of ``Cache-Status``.
        go_on: finds the rest where a fill is interrupted.
        over: is told of each body of a stored blob that is closed.

    Raises:
        SpecError: 416, no byte is in the ranges; the source is then closed, as with the next.
        OSError: too many files are open.
    """
    size = source.size
    body: Body | None = None
    try:
        if has_it(request, digest):
            return _answer(304, b"Not Modified", digest, status, [])
        spans = ranges.spans(wanted, size) if size is not None else []
        if not spans:
            span = None if size is None else Span(0, size)
            length = (b"Transfer-Encoding", b"chunked") if size is None else (b"Content-Length", b"%d" % size)
            response = _answer(200, b"OK", digest, status, [_OCTETS, length])
            if request.method == "GET":
                body = _body(source, span, go_on, over)
        elif len(wanted) == 1 and size is not None:
            part = (b"Content-Range", spans[0].content_range(size).encode())
            length = (b"Content-Length", b"%d" % len(spans[0]))
            response = _answer(206, b"Partial Content", digest, status, [_OCTETS, length, part])
            body = _body(source, spans[0], go_on, over)
        else:
            assert size is not None
            body = parts = MultipartBody([(span, _body(source, span, go_on, over)) for span in spans], size)
            kind = (b"Content-Type", parts.content_type.encode())
            length = (b"Content-Length", b"%d" % parts.length)
            response = _answer(206, b"Partial Content", digest, status, [kind, length])
        if body is not None:
            attach(response, body)
        return response
    finally:
        if isinstance(source, BlobReader):
            source.close()


_OCTETS = (b"Content-Type", b"application/octet-stream")


def _body(source: BlobReader | Followed, span: Span | None, go_on: GoOn | None, over: Over | None) -> Body:
    if isinstance(source, Followed):
        body = source.body(span)
        return body if go_on is None else Continued(body, go_on)
    return StoredBody(source.again(source.size), span or Span(0, source.size), over)


def _answer(code: int, reason: bytes, digest: Digest, status: str, more: list[tuple[bytes, bytes]]) -> http.Response:
    now = time.time()
    headers = [
        (b"Date", formatdate(now, usegmt=True).encode()),
        *more,
        (b"Docker-Content-Digest", str(digest).encode()),
        (b"Docker-Distribution-Api-Version", b"registry/2.0"),
        (b"ETag", etag(digest).encode()),
        (b"Accept-Ranges", b"bytes"),
        (b"Cache-Control", b"max-age=%d" % _YEAR),
        (cache_status.NAME.encode(), status.encode()),
    ]
    return http.Response(b"HTTP/1.1", code, reason, http.Headers(headers), b"", None, now, None)
