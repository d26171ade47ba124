"""The challenges of a ``WWW-Authenticate`` header.

Source: RFC 9110, section 11.6.1 and 11.2::

    WWW-Authenticate = #challenge
    challenge        = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
    auth-param       = token BWS "=" BWS ( token / quoted-string )

and the distribution registry's token specification, which gives ``realm``, ``service`` and ``scope`` their meaning.
A header that does not follow the grammar yields the challenges in front of the fault, never an error: a registry that
writes nonsense is a registry without a usable challenge.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*(?P<scheme>{_TOKEN})(?=[\s,]|$)(?!\s*=)")
_PARAM = re.compile(
    rf'[\s,]*(?P<name>{_TOKEN})[ \t]*=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>{_TOKEN}))(?=[\s,]|$)', re.DOTALL
)
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
# A header of this length is no challenge any more; what lies behind it is not read.
_LONGEST = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: its scheme in lower case, its parameters by their lower-case names."""

    scheme: str
    params: Mapping[str, str] = field(default_factory=dict)


def parse(headers: Iterable[str]) -> list[Challenge]:
    """All challenges of a response, in order.

    Args:
        headers: the values of its ``WWW-Authenticate`` lines.
    """
    return [challenge for header in headers for challenge in _challenges(header[:_LONGEST])]


def bearer(challenges: Iterable[Challenge]) -> Challenge | None:
    """The first Bearer challenge that names a realm, which is where a token can be had."""
    return next((c for c in challenges if c.scheme == "bearer" and c.params.get("realm")), None)


def _challenges(header: str) -> Iterable[Challenge]:
    position = 0
    while match := _SCHEME.match(header, position):
        position = match.end()
        params: dict[str, str] = {}
        if token68 := _TOKEN68.match(header, position):
            position = token68.end()
        else:
            while param := _PARAM.match(header, position):
                position = param.end()
                value = param["plain"] if param["quoted"] is None else re.sub(r"\\(.)", r"\1", param["quoted"])
                params.setdefault(param["name"].lower(), value)
        yield Challenge(match["scheme"].lower(), params)
