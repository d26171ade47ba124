import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.registry.digest import Digest
from addon.registry.errors import ErrorCode, SpecError
from addon.registry.routes import Kind, Route, is_name, is_tag, parse

DIGEST = f"sha256:{'a' * 64}"
GOOD_NAMES = (
    "a",
    "library/alpine",
    "a/b/c/d/e",
    "0/1",
    "foo.bar",
    "foo_bar",
    "foo__bar",
    "foo-bar",
    "foo---bar",
    "a-b.c_d__e/f",
    "blobs",
    "blobs/uploads",
    "manifests/tags/list",
    "a" * 255,
    "a/" * 127 + "a",
)
BAD_NAMES = (
    "A",
    "foo.",
    ".foo",
    "foo..bar",
    "foo___bar",
    "foo._bar",
    "foo-_bar",
    "-foo",
    "foo-",
    "_foo",
    "foo//bar",
    "foo/",
    "foo/../bar",
    "..",
    ".",
    "foo bar",
    "foo\n",
    "foo\x1b[0m",
    "foo:bar",
    "foo@bar",
    "föö",
    "٣",
    "a" * 256,
    "a/" * 127 + "ab",
)

words = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
separators = st.sampled_from([".", "_", "__", "-", "--", "---"])
components = st.builds(
    lambda first, rest: first + "".join(s + word for s, word in rest), words, st.lists(st.tuples(separators, words))
)
names = st.lists(components, min_size=1, max_size=5).map("/".join).filter(lambda name: len(name) <= 255)
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map(lambda encoded: Digest("sha256", encoded))


def of_the_grammar(name: str) -> bool:
    """The specification's grammar again, read one character at a time instead of by an expression."""
    if not 0 < len(name) <= 255:
        return False
    for component in name.split("/"):
        separator = "-"
        ended_in_word = False
        for character in component:
            if character in string.ascii_lowercase + string.digits:
                if not ended_in_word and separator not in (".", "_", "__") and set(separator) != {"-"}:
                    return False
                separator, ended_in_word = "", True
            else:
                if not separator and not ended_in_word:
                    return False
                separator, ended_in_word = separator + character, False
        if not ended_in_word or not component[0].isalnum():
            return False
    return True


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/v2/", Route(Kind.PING)),
        ("/v2", Route(Kind.PING)),
        ("/v2/?ns=docker.io", Route(Kind.PING)),
        ("/v2/_catalog", Route(Kind.CATALOG)),
        ("/v2/_catalog?n=10&last=a", Route(Kind.CATALOG)),
        ("/v2/library/alpine/manifests/latest", Route(Kind.MANIFEST, "library/alpine", "latest")),
        (f"/v2/library/alpine/manifests/{DIGEST}", Route(Kind.MANIFEST, "library/alpine", DIGEST)),
        ("/v2/alpine/manifests/3.20?ns=docker.io", Route(Kind.MANIFEST, "alpine", "3.20")),
        (f"/v2/library/alpine/blobs/{DIGEST}", Route(Kind.BLOB, "library/alpine", DIGEST)),
        (f"/v2/alpine/blobs/{DIGEST}?ns=docker.io", Route(Kind.BLOB, "alpine", DIGEST)),
        (f"/v2/a/b/c/blobs/{DIGEST}", Route(Kind.BLOB, "a/b/c", DIGEST)),
        ("/v2/alpine/blobs/sha256%3aabc", Route(Kind.BLOB, "alpine", "sha256:abc")),
        ("/v2/library%2Falpine/blobs/x", Route(Kind.BLOB, "library/alpine", "x")),
        ("/v2/alpine/blobs/uploads/", Route(Kind.UPLOAD, "alpine")),
        ("/v2/alpine/blobs/uploads", Route(Kind.UPLOAD, "alpine")),
        (f"/v2/alpine/blobs/uploads/?mount={DIGEST}&from=busybox", Route(Kind.UPLOAD, "alpine")),
        ("/v2/alpine/blobs/uploads/0a-1b?_state=x/y", Route(Kind.UPLOAD, "alpine", "0a-1b")),
        ("/v2/alpine/blobs/upload/2.0a-1b", Route(Kind.UPLOAD, "alpine", "2.0a-1b")),
        ("/v2/alpine/tags/list?n=2", Route(Kind.TAGS, "alpine")),
        (f"/v2/alpine/referrers/{DIGEST}?artifactType=x", Route(Kind.REFERRERS, "alpine", DIGEST)),
        # The repository takes as much as it can.
        ("/v2/a/blobs/b/blobs/c", Route(Kind.BLOB, "a/blobs/b", "c")),
        ("/v2/a/manifests/b/manifests/c", Route(Kind.MANIFEST, "a/manifests/b", "c")),
        ("/v2/tags/list/tags/list", Route(Kind.TAGS, "tags/list")),
        # Malformed, but of a kind: the registry says what is wrong.
        ("/v2/UPPER/manifests/latest", Route(Kind.MANIFEST, "UPPER", "latest")),
        ("/v2/a//blobs/x", Route(Kind.BLOB, "a/", "x")),
        ("/v2/alpine/manifests/%0a", Route(Kind.MANIFEST, "alpine", "\n")),
        # Nothing of the specification.
        ("/v2/alpine", Route(Kind.OTHER)),
        ("/v2//blobs/x", Route(Kind.OTHER)),
        ("/v2/blobs/x", Route(Kind.OTHER)),
        ("/v2/alpine/blobs/", Route(Kind.OTHER)),
        ("/v2/alpine/blobs/x/y", Route(Kind.OTHER)),
        ("/v2/alpine/tags/list/more", Route(Kind.OTHER)),
        ("/v2/_catalog/x", Route(Kind.OTHER)),
        ("/v2/token?scope=x", Route(Kind.OTHER)),
        ("/", None),
        ("", None),
        ("*", None),
        ("/v1/search", None),
        ("/v22/", None),
        ("/v2x", None),
        ("/V2/", None),
        ("//v2/", None),
        ("/token?x=/v2/", None),
        ("/artifactory/v2/alpine/manifests/latest", None),
    ],
)
def test_what_a_path_asks_for(target: str, route: Route | None) -> None:
    assert parse(target) == route


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_names(name: str) -> None:
    assert of_the_grammar(name)
    assert Route(Kind.BLOB, name, DIGEST).blob() == Digest.parse(DIGEST)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(name: str) -> None:
    assert not of_the_grammar(name)
    with pytest.raises(SpecError) as refused:
        Route(Kind.BLOB, name, DIGEST).blob()
    assert (refused.value.status, refused.value.code) == (400, ErrorCode.NAME_INVALID)
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("digest", ["latest", "sha256:abc", f"sha256:{'A' * 64}", "sha256:..", f"{DIGEST}\n"])
def test_bad_digests(digest: str) -> None:
    with pytest.raises(SpecError) as refused:
        Route(Kind.BLOB, "alpine", digest).blob()
    assert (refused.value.status, refused.value.code) == (400, ErrorCode.DIGEST_INVALID)
    assert refused.value.message.isprintable()


def test_a_digest_that_nobody_can_verify_is_well_formed() -> None:
    assert not Route(Kind.BLOB, "alpine", "md5:abc").blob().verifiable


@given(names, digests, st.sampled_from(["", "?ns=docker.io", "?"]))
def test_blob_paths_are_read_back(name: str, digest: Digest, query: str) -> None:
    route = parse(f"/v2/{name}/blobs/{digest}{query}")
    assert route == Route(Kind.BLOB, name, str(digest))
    assert route.blob() == digest


@given(names, st.sets(st.integers(0, 400)))
def test_escapes_change_nothing(name: str, escaped: set[int]) -> None:
    path = f"{name}/manifests/latest"
    target = "".join(f"%{ord(c):02x}" if i in escaped else c for i, c in enumerate(path))
    assert parse(f"/v2/{target}") == Route(Kind.MANIFEST, name, "latest")


@given(st.one_of(st.text(), st.text("/v2%.?_-blosmanifetgrupd:").map(lambda text: f"/v2/{text}")))
def test_any_target_is_of_some_kind(target: str) -> None:
    route = parse(target)
    if route is None:
        return
    assert target.startswith(("/v2", "/%", "%", "/v"))
    assert (route.kind in (Kind.PING, Kind.CATALOG, Kind.OTHER)) == (route.repository == "")


@given(st.one_of(names, st.text(), st.text("ab0._-/")), st.one_of(digests.map(str), st.text()))
def test_a_blob_is_only_named_by_the_grammar(name: str, reference: str) -> None:
    code = None
    try:
        assert str(Route(Kind.BLOB, name, reference).blob()) == reference
    except SpecError as e:
        code = e.code
    if not of_the_grammar(name):
        assert code is ErrorCode.NAME_INVALID
    else:
        assert code in (None, ErrorCode.DIGEST_INVALID)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_what_is_a_name(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_name(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize("tag", ["latest", "3.20", "_", "V1.0-rc.1", "0", "x" * 128, "a..b", "a--"])
def test_what_is_a_tag(tag: str) -> None:
    assert is_tag(tag)


@pytest.mark.parametrize(
    "tag", ["", ".x", "-x", "x" * 129, "a b", "a/b", "a:b", "a\n", "\na", "é", "a+b", "\u0663", "\0"]
)
def test_what_is_no_tag(tag: str) -> None:
    assert not is_tag(tag)


NAMED = Digest.parse(DIGEST)
OTHER = Digest("sha256", "b" * 64)
STRANGE = Digest("sha384", "a" * 96)


@pytest.mark.parametrize(
    ("route", "digest", "may_be"),
    [
        (Route(Kind.MANIFEST, "library/alpine", "3"), NAMED, True),
        (Route(Kind.MANIFEST, "library/alpine", DIGEST), NAMED, True),
        (Route(Kind.MANIFEST, "library/alpine", DIGEST), OTHER, False),
        (Route(Kind.MANIFEST, "library/alpine", "sha256:abc"), NAMED, False),
        (Route(Kind.MANIFEST, "library/alpine", "a b"), NAMED, False),
        (Route(Kind.MANIFEST, "library/Alpine", "3"), NAMED, False),
        (Route(Kind.MANIFEST, "library/alpine", "3"), STRANGE, False),
        (Route(Kind.MANIFEST, "library/alpine", str(STRANGE)), STRANGE, False),
        (Route(Kind.BLOB, "library/alpine", DIGEST), NAMED, False),
        (Route(Kind.REFERRERS, "library/alpine", DIGEST), NAMED, False),
    ],
)
def test_which_manifest_may_be_meant(route: Route, digest: Digest, may_be: bool) -> None:
    assert route.is_manifest_of(digest) is may_be
