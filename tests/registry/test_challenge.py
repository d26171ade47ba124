import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.registry.challenge import Challenge, bearer, parse

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull"'
HUB_PARAMS = {
    "realm": "https://auth.docker.io/token",
    "service": "registry.docker.io",
    "scope": "repository:library/a:pull",
}

TOKEN = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
tokens = st.text(TOKEN, min_size=1, max_size=12)
# qdtext and what a quoted-pair may stand for: HTAB, SP, VCHAR, obs-text (RFC 9110, section 5.6.4).
quotables = st.text([chr(c) for c in (9, *range(0x20, 0x7F), *range(0x80, 0x100))], max_size=20)
blanks = st.text(" \t", max_size=2)
commas = st.builds(
    lambda before, more, after: f"{before},{more}{after}", blanks, st.sampled_from(["", " ,", ",,"]), blanks
)


def quoted(value: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


@st.composite
def written(draw: st.DrawFn, *, always_quoted: bool = False) -> tuple[str, Challenge]:
    """A challenge as the grammar lets it be written, and what it says."""
    scheme = draw(tokens)
    params = draw(st.dictionaries(tokens.map(str.lower), tokens | quotables, max_size=4))
    if not params:
        # No parameters, or a token68 in their place.
        end = draw(st.sampled_from(["", " YWxhZGRpbg==", " abc", " a~b+c/d.e-f_g="]))
        return scheme + end, Challenge(scheme.lower())
    pieces = []
    for name, value in params.items():
        plain = not always_quoted and value and set(value) <= set(TOKEN) and draw(st.booleans())
        cased = draw(st.sampled_from([name, name.upper()]))
        pieces.append(f"{cased}{draw(blanks)}={draw(blanks)}{value if plain else quoted(value)}")
    text = pieces[0]
    for piece in pieces[1:]:
        text += draw(commas) + piece
    return f"{scheme} {draw(blanks)}{text}", Challenge(scheme.lower(), params)


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        (HUB, [Challenge("bearer", HUB_PARAMS)]),
        ('BEARER Realm="r"', [Challenge("bearer", {"realm": "r"})]),
        ("Bearer realm=r", [Challenge("bearer", {"realm": "r"})]),
        ('Bearer realm = "r" , service\t=\ts', [Challenge("bearer", {"realm": "r", "service": "s"})]),
        ('Bearer realm="a,b=\\"c\\", \\\\d"', [Challenge("bearer", {"realm": 'a,b="c", \\d'})]),
        ('Bearer realm=""', [Challenge("bearer", {"realm": ""})]),
        ('Basic realm="ECR"', [Challenge("basic", {"realm": "ECR"})]),
        ("Negotiate", [Challenge("negotiate")]),
        ("Negotiate YWJj==", [Challenge("negotiate")]),
        (
            'Negotiate, Basic realm="x", Bearer realm="y",service="z"',
            [
                Challenge("negotiate"),
                Challenge("basic", {"realm": "x"}),
                Challenge("bearer", {"realm": "y", "service": "z"}),
            ],
        ),
        ('NTLM YWJj=, Bearer realm="y"', [Challenge("ntlm"), Challenge("bearer", {"realm": "y"})]),
        # RFC 9110's own example.
        (
            'Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""',
            [
                Challenge("basic", {"realm": "simple"}),
                Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
            ],
        ),
        # Empty elements of a list are ignored (RFC 9110, section 5.6.1).
        (', ,Bearer ,realm="r",, service="s",', [Challenge("bearer", {"realm": "r", "service": "s"})]),
        # A parameter may come once; of a second one, nothing is believed.
        ('Bearer realm="https://a",realm="https://b"', [Challenge("bearer", {"realm": "https://a"})]),
        # What does not follow the grammar ends what is read.
        ("", []),
        (" , ,", []),
        ('realm="r"', []),
        ("realm = r", []),
        ("=", []),
        ('"Bearer" realm="r"', []),
        ('Bearer realm="r', [Challenge("bearer")]),
        ('Bearer service="s",realm="r', [Challenge("bearer", {"service": "s"})]),
        ('Bearer realm="a"service="b"', [Challenge("bearer")]),
        ('Bearer service="s";realm="r"', [Challenge("bearer")]),
        ('Bearer realm="a\\"', [Challenge("bearer")]),
    ],
)
def test_headers(header: str, challenges: list[Challenge]) -> None:
    assert parse([header]) == challenges


@given(st.lists(written(), min_size=1, max_size=4), st.data())
def test_what_is_of_the_grammar_is_read_back(pairs: list[tuple[str, Challenge]], data: st.DataObject) -> None:
    expected = [challenge for _, challenge in pairs]
    assert parse([text for text, _ in pairs]) == expected
    header = pairs[0][0]
    for text, _ in pairs[1:]:
        header += data.draw(commas) + text
    assert parse([header]) == expected


@given(st.lists(written(always_quoted=True), min_size=1, max_size=3), st.data())
def test_a_header_cut_short_names_no_other_realm(pairs: list[tuple[str, Challenge]], data: st.DataObject) -> None:
    header = ", ".join(text for text, _ in pairs)
    realms = {challenge.params.get("realm") for _, challenge in pairs}
    for found in parse([header[: data.draw(st.integers(0, len(header)))]]):
        assert found.params.get("realm") in realms | {None}


@given(st.lists(st.text() | st.text('Bearer realm="\\,= \t')))
def test_any_header_is_read_without_an_error(headers: list[str]) -> None:
    for challenge in parse(headers):
        assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", challenge.scheme)
        assert all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name) for name in challenge.params)


def test_what_lies_behind_8192_characters_is_not_read() -> None:
    assert parse([f'Bearer x="{"a" * 8000}",realm="r"'])[0].params["realm"] == "r"
    assert parse([f'Bearer x="{"a" * 8192}",realm="r"']) == [Challenge("bearer")]


@pytest.mark.parametrize(
    "hostile", ['Bearer x="' + "\\" * 8000, "," * 8000 + "=", "a " * 4000, "a=" * 4000, " " * 8000]
)
def test_a_hostile_header_comes_to_an_end(hostile: str) -> None:
    # With an expression that backtracks, it would take years.
    parse([hostile] * 20)


@pytest.mark.parametrize(
    ("headers", "realm"),
    [
        ([HUB], "https://auth.docker.io/token"),
        (['Basic realm="x"', 'Bearer realm="y"'], "y"),
        (['Basic realm="x", Bearer realm="y"'], "y"),
        (['Bearer realm="first"', 'Bearer realm="second"'], "first"),
        (['Bearer service="s"', 'Bearer realm="", service="s"', 'Bearer realm="named"'], "named"),
        (['Basic realm="x"'], None),
        (['Bearer service="s"'], None),
        (['Bearer realm=""'], None),
        ([], None),
    ],
)
def test_the_challenge_that_leads_to_a_token(headers: list[str], realm: str | None) -> None:
    found = bearer(parse(headers))
    assert (found and found.params["realm"]) == realm
