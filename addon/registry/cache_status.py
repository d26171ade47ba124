"""The ``Cache-Status`` header (RFC 9211) of each blob answer: how Pulltap came by it."""

from typing import Final

NAME: Final = "Cache-Status"

HIT: Final = "pulltap; hit"
"""Served from the store."""
STORED: Final = "pulltap; fwd=miss; stored"
"""Fetched from upstream for this request, and written to the store on its way."""
COLLAPSED: Final = "pulltap; fwd=miss; collapsed"
"""Joined a fill that another request had started."""
BYPASS: Final = "pulltap; fwd=bypass"
"""Forwarded without the store's part in it: a HEAD, a closed range, or a blob that cannot be verified."""


def bypass(reason: str) -> str:
    """`BYPASS` with the reason as its ``detail``, a String (RFC 8941, section 3.3.3)."""
    visible = "".join(each if " " <= each <= "~" else "?" for each in reason)
    escaped = visible.replace("\\", "\\\\").replace('"', '\\"')
    return f'{BYPASS}; detail="{escaped}"'
