"""Which bytes of a blob a request asks for.

Source: RFC 9110, section 14.1 and 14.2::

    Range            = ranges-specifier
    ranges-specifier = range-unit "=" range-set
    range-set        = 1#range-spec
    int-range        = first-pos "-" [ last-pos ]
    suffix-range     = "-" suffix-length

A unit other than bytes is ignored, as the RFC demands. A malformed byte range is refused, as it allows: a client that
asks for a piece in a way that nobody understands must not mistake the whole blob for it.
"""

import re
from dataclasses import dataclass

from addon.registry.errors import ErrorCode, SpecError

_UNIT = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=")
_SPEC = re.compile(r"[ \t]*(?:(?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})?|-(?P<suffix>[0-9]{1,19}))[ \t]*", re.ASCII)
_CONTENT_RANGE = re.compile(
    r"\s*bytes[ \t]+(?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})/(?P<size>[0-9]{1,19}|\*)\s*", re.ASCII | re.IGNORECASE
)
# More pieces than any client asks for at once; beyond, the whole blob is cheaper for everybody (RFC 9110, 14.2).
_MOST = 64


@dataclass(frozen=True, slots=True)
class Span:
    """A run of bytes: ``start`` is its first offset, ``stop`` the offset behind its last."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def content_range(self, size: int) -> str:
        """The value of ``Content-Range`` for this part of a blob of ``size`` bytes (RFC 9110, section 14.4)."""
        return f"bytes {self.start}-{self.stop - 1}/{size}"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One range as it was asked for: offsets of its first and last byte, or the length of a suffix."""

    first: int | None
    last: int | None

    @property
    def open_ended(self) -> bool:
        """Whether it reaches to the end of the blob, whatever its size (``bytes=N-``)."""
        return self.first is not None and self.last is None

    def within(self, size: int) -> Span | None:
        """The bytes it selects of a blob of ``size`` bytes; None where it selects none."""
        if self.first is None:
            start, stop = max(0, size - (self.last or 0)), size
        else:
            start, stop = self.first, size if self.last is None else min(self.last + 1, size)
        return Span(start, stop) if start < stop else None


def parse(header: str | None) -> list[ByteRange]:
    """Read a ``Range`` header; an empty list means the whole blob.

    Raises:
        SpecError: 416, where the header speaks of bytes, but not by the grammar.
    """
    if not header or not (unit := _UNIT.match(header)) or unit[1].lower() != "bytes":
        return []
    ranges = []
    specs = [spec for spec in header[unit.end() :].split(",") if spec.strip()]
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise malformed(header)
        if match["suffix"] is not None:
            ranges.append(ByteRange(None, int(match["suffix"])))
        else:
            first, last = int(match["first"]), int(match["last"]) if match["last"] else None
            if last is not None and last < first:
                raise malformed(header)
            ranges.append(ByteRange(first, last))
    if not ranges:
        raise malformed(header)
    return ranges if len(ranges) <= _MOST else []


def parse_content_range(header: str | None) -> tuple[Span, int | None] | None:
    """Read a ``Content-Range`` (RFC 9110, section 14.4): which bytes come, and of how many, where it tells.

    None for a header that is missing, malformed, or contradicts itself.
    """
    match = _CONTENT_RANGE.fullmatch(header or "")
    if match is None:
        return None
    span = Span(int(match["first"]), int(match["last"]) + 1)
    size = None if match["size"] == "*" else int(match["size"])
    if span.start >= span.stop or (size is not None and span.stop > size):
        return None
    return span, size


def spans(ranges: list[ByteRange], size: int) -> list[Span]:
    """The parts of a blob of ``size`` bytes that are asked for; empty means all of it.

    Several ranges that add up to more than the blob are answered with all of it: that is less to send, and keeps a
    client from asking for the same bytes a hundred times (RFC 9110, section 14.2).

    Raises:
        SpecError: 416, where there are ranges, and none of them selects a byte.
    """
    selected = [span for each in ranges if (span := each.within(size))]
    if ranges and not selected:
        raise unsatisfiable(size)
    return selected if sum(map(len, selected)) <= size else []


def malformed(header: str) -> SpecError:
    """The refusal of a range that is not of the grammar."""
    return SpecError(416, ErrorCode.SIZE_INVALID, f"malformed Range: {header[:80]!r}")


def unsatisfiable(size: int) -> SpecError:
    """The refusal of a range that selects no byte of a blob of ``size`` bytes (RFC 9110, section 15.5.17)."""
    return SpecError(
        416,
        ErrorCode.SIZE_INVALID,
        f"range not satisfiable: the blob has {size} bytes",
        {"Content-Range": f"bytes */{size}"},
    )
