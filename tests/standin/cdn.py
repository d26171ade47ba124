"""The CDN: signed URLs that end, bytes and single ranges of them, and nothing for who brings a credential."""

import datetime
import hashlib
import hmac
import re
import secrets
import urllib.parse
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path

from .backing import Backing
from .tokens import Clock
from .wire import PIECE, Answer, Request

PREFIX = "/registry-v2/docker/registry/v2/blobs/"
LIFETIME = 1200
"""Seconds for which a signed URL is good."""


class Cdn:
    """Serves the backing registry's blobs from its disk."""

    def __init__(self, backing: Backing, clock: Clock) -> None:
        self._backing = backing
        self._clock = clock
        self._key = secrets.token_bytes(32)

    def signed(self, digest: str) -> str:
        """Path and query under which the blob can be had for a while."""
        algorithm, _, digits = digest.partition(":")
        path = f"{PREFIX}{algorithm}/{digits[:2]}/{digits}/data"
        expires = int(self._clock.now()) + LIFETIME
        query = {"Expires": expires, "Signature": self._signature(path, expires), "Key-Pair-Id": "KSTANDIN"}
        return f"{path}?{urllib.parse.urlencode(query)}"

    def answer(self, request: Request) -> Answer:
        """One request to the CDN."""
        if request.header("Authorization"):
            return _error(400, "InvalidArgument", "Only one auth mechanism allowed")
        query = {key: values[0] for key, values in request.parameters().items()}
        expires = int(query.get("Expires", "0"))
        wanted = self._signature(request.path, expires)
        if not hmac.compare_digest(wanted, query.get("Signature", "")) or expires < self._clock.now():
            return _error(403, "AccessDenied", "Access denied")
        if request.method not in ("GET", "HEAD"):
            return _error(405, "MethodNotAllowed", "Method not allowed")
        digits = request.path.split("/")[-2]
        blob = self._backing.blob_path(f"sha256:{digits}")
        if not blob.is_file():
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        return _file(blob, digits, request)

    def _signature(self, path: str, expires: int) -> str:
        return hmac.new(self._key, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()


def _file(blob: Path, digits: str, request: Request) -> Answer:
    stat = blob.stat()
    modified = datetime.datetime.fromtimestamp(int(stat.st_mtime), datetime.UTC)
    # S3's is an MD5; for a reader it is as opaque.
    etag = f'"{digits[:32]}"'
    common = (
        ("Content-Type", "application/octet-stream"),
        ("Date", format_datetime(datetime.datetime.now(datetime.UTC), usegmt=True)),
        ("Last-Modified", format_datetime(modified, usegmt=True)),
        ("ETag", etag),
        ("Accept-Ranges", "bytes"),
        ("Server", "AmazonS3"),
    )
    asked = request.header("Range")
    if asked and request.header("If-Range") in (None, etag):
        part = _single_range(asked, stat.st_size)
        if part is None:
            unmet = ("Content-Range", f"bytes */{stat.st_size}")
            return _error(416, "InvalidRange", "The requested range is not satisfiable", unmet)
        if part != (0, 0):
            first, end = part
            length = ("Content-Length", str(end - first))
            content_range = ("Content-Range", f"bytes {first}-{end - 1}/{stat.st_size}")
            return Answer(206, (*common, length, content_range), _read(blob, first, end))
    length = ("Content-Length", str(stat.st_size))
    return Answer(200, (*common, length), _read(blob, 0, stat.st_size))


def _single_range(asked: str, size: int) -> tuple[int, int] | None:
    """First byte and end of a Range; (0, 0) where it is to be ignored, None where it cannot be met."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if not found or found[0] == "bytes=-":
        return 0, 0  # several ranges, or none: the whole blob
    if not found[1]:
        suffix = min(int(found[2]), size)
        return (size - suffix, size) if suffix else None
    first = int(found[1])
    last = min(int(found[2]), size - 1) if found[2] else size - 1
    if found[2] and int(found[2]) < first:
        return 0, 0
    return (first, last + 1) if first < size else None


def _read(blob: Path, first: int, end: int) -> Iterator[bytes]:
    with blob.open("rb") as file:
        file.seek(first)
        while first < end and (piece := file.read(min(PIECE, end - first))):
            first += len(piece)
            yield piece


def _error(status: int, code: str, message: str, *headers: tuple[str, str]) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer.of(status, body.encode(), ("Content-Type", "application/xml"), *headers)
