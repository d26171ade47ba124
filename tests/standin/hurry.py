"""A mitmproxy script (`-s hurry.py`) that makes Pulltap impatient: what else takes a minute is over in a second or two.

It cuts large blobs into smaller segments, too, so that a test's need be no larger.
"""

from addon.transfer import fill, fills, trouble, upstream

MIB = 1024 * 1024
SEGMENT = 2 * MIB
"""Bytes of a segment; blobs of four are large."""

_SHORTENED: dict[object, dict[str, float]] = {
    upstream: {"HEADER_SECONDS": 2.0, "STALL_SECONDS": 1.0},
    fill: {
        "SLOW_SECONDS": 1.0,
        "_FIRST_PAUSE_SECONDS": 0.02,
        "_LONGEST_PAUSE_SECONDS": 0.1,
        "SEGMENT": SEGMENT,
        "LARGE": 4 * SEGMENT,
    },
    fills: {"STUCK_SECONDS": 1.0},
    trouble: {"PROBE_SECONDS": 0.1},
}


def load(_loader: object) -> None:
    """Shorten them, before the first request (mitmproxy's hook for a script that was loaded)."""
    for module, values in _SHORTENED.items():
        for name, value in values.items():
            assert getattr(module, name) > value, f"{name} is short enough, or is read no longer"
            setattr(module, name, value)
