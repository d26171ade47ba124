import re

import pytest

from addon.registry import cache_status

# RFC 9211: a member of the list is the cache's name, an sf-token; its parameters are booleans (stored) or tokens (fwd).
MEMBER = re.compile(
    r"(?P<cache>[A-Za-z*][!#$%&'*+.^_`|~:/0-9A-Za-z-]*)(?P<params>(?:; *[a-z*][a-z0-9_.*-]*(?:=[a-z-]+)?)*)"
)
FORWARDED = {"bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"}
ALL = [cache_status.HIT, cache_status.STORED, cache_status.COLLAPSED, cache_status.BYPASS]


@pytest.mark.parametrize("value", ALL)
def test_each_value_is_of_the_rfc(value: str) -> None:
    match = MEMBER.fullmatch(value)
    assert match
    assert match["cache"] == "pulltap"
    pairs = [param.strip().partition("=") for param in match["params"].split(";")[1:]]
    params = {name: text for name, _, text in pairs}
    assert params.keys() <= {"hit", "fwd", "stored", "collapsed"}
    # "Hit" and "fwd" are exclusive; the other two speak of a request that was forwarded.
    assert ("hit" in params) != ("fwd" in params)
    assert "hit" not in params or params == {"hit": ""}
    assert params.get("fwd", "miss") in FORWARDED


def test_the_values_can_be_told_apart() -> None:
    assert len(set(ALL)) == len(ALL)


def test_the_names_that_others_rely_on() -> None:
    assert cache_status.NAME == "Cache-Status"
    assert ALL == ["pulltap; hit", "pulltap; fwd=miss; stored", "pulltap; fwd=miss; collapsed", "pulltap; fwd=bypass"]


# RFC 8941, section 3.3.3: a String is printable ASCII, with the quote and the backslash escaped.
STRING = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])*"')


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        ("the disk is full", "the disk is full"),
        ("", ""),
        ('cannot use "C:\\store"', 'cannot use "C:\\store"'),
        ("\\", "\\"),
        ('"', '"'),
        ("a\r\nSet-Cookie: b\x00\x7f\x1b[2J", "a??Set-Cookie: b???[2J"),
        ("kein Platz für tschüß", "kein Platz f?r tsch??"),
        ("\udcff", "?"),
        (", x; hit", ", x; hit"),
    ],
)
def test_a_bypass_tells_why(reason: str, detail: str) -> None:
    value = cache_status.bypass(reason)
    start = f"{cache_status.BYPASS}; detail="
    assert value.startswith(start)
    text = value.removeprefix(start)
    assert STRING.fullmatch(text)
    assert re.sub(r"\\(.)", r"\1", text[1:-1]) == detail
    value.encode("ascii")
