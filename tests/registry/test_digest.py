import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.registry.digest import ALGORITHMS, Digest

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
LENGTHS = {"sha256": 64, "sha512": 128}

registered = st.sampled_from(ALGORITHMS).flatmap(
    lambda algorithm: st.text("0123456789abcdef", min_size=LENGTHS[algorithm], max_size=LENGTHS[algorithm]).map(
        lambda encoded: f"{algorithm}:{encoded}"
    )
)
# Algorithms that begin with x, so that none of them is a registered one.
unregistered = st.from_regex(r"x[a-z0-9]{0,9}([+._-][a-z0-9]{1,9}){0,3}:[a-zA-Z0-9=_-]{1,200}", fullmatch=True)


@pytest.mark.parametrize(
    "text",
    [
        EMPTY,
        f"sha512:{'0' * 128}",
        f"sha384:{'a' * 96}",
        # The specification's own examples.
        "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
        "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
        "a:=",
        "r2d2.c-3_po:" + "x" * 500,
    ],
)
def test_of_the_grammar(text: str) -> None:
    assert str(Digest.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "latest",
        "sha256",
        "sha256:",
        f":{'a' * 64}",
        f"sha256:{'a' * 63}",
        f"sha256:{'a' * 65}",
        f"sha256:{'A' * 64}",
        f"sha256:{'g' * 64}",
        f"sha256:{chr(0x660) * 64}",
        f"sha256:{'a' * 64}\n",
        f" sha256:{'a' * 64}",
        f"sha256:{'a' * 64}:",
        f"sha256-{'a' * 64}",
        f"SHA256:{'a' * 64}",
        f"sha512:{'a' * 64}",
        "sha256:../../../etc/passwd",
        "x:../y",
        "x:a/b",
        "+x:a",
        "x+:a",
        "x++y:a",
        "x y:a",
        "é:a",
        "x:é",
        "x:" + "a" * 511,
    ],
)
def test_not_of_the_grammar(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a (sha256 |sha512 )?digest: "):
        Digest.parse(text)


def test_an_error_shows_no_more_than_the_beginning() -> None:
    with pytest.raises(ValueError, match="not a digest") as refused:
        Digest.parse("\x1b" + "a" * 100_000)
    assert len(str(refused.value)) < 120
    assert str(refused.value).isprintable()


@given(st.one_of(registered, unregistered))
def test_what_is_of_the_grammar_is_read_and_written_back(text: str) -> None:
    digest = Digest.parse(text)
    assert str(digest) == text
    assert f"{digest.algorithm}:{digest.encoded}" == text
    assert digest.verifiable == (digest.algorithm in ALGORITHMS)
    assert text.startswith(digest.short)
    assert Digest.parse(str(digest)) == digest
    assert len({digest, Digest.parse(text)}) == 1


@given(st.one_of(st.text(), st.text("sha25612:+._-/=af"), registered.map(lambda text: text + "\n")))
def test_any_other_text_is_a_value_error(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except ValueError:
        return
    assert str(digest) == text
    # It is to become a file's name and a header's value.
    assert re.fullmatch(r"[a-z0-9+._-]+", digest.algorithm)
    assert digest.algorithm[0].isalnum()
    assert re.fullmatch(r"[a-zA-Z0-9=_-]+", digest.encoded)


@given(st.sampled_from(ALGORITHMS), st.integers(1, 140))
def test_a_registered_algorithm_has_one_length(algorithm: str, length: int) -> None:
    text = f"{algorithm}:{'0' * length}"
    if length == LENGTHS[algorithm]:
        assert Digest.parse(text).verifiable
    else:
        with pytest.raises(ValueError, match=f"not a {algorithm} digest"):
            Digest.parse(text)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_hasher_is_of_the_algorithm(algorithm: str) -> None:
    expected = hashlib.new(algorithm, b"a layer").hexdigest()
    hasher = Digest.parse(f"{algorithm}:{expected}").hasher()
    hasher.update(b"a ")
    hasher.update(b"layer")
    assert hasher.hexdigest() == expected


def test_short_is_what_people_read() -> None:
    assert Digest.parse(EMPTY).short == "sha256:e3b0c44298fc"


def test_only_what_can_be_verified_is_verifiable() -> None:
    assert Digest.parse(EMPTY).verifiable
    assert not Digest.parse(f"sha384:{'a' * 96}").verifiable
    assert not Digest.parse(f"md5:{'a' * 32}").verifiable


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_digest_of_bytes(algorithm: str) -> None:
    assert str(Digest.of(b"a layer", algorithm)) == f"{algorithm}:{hashlib.new(algorithm, b'a layer').hexdigest()}"


def test_without_an_algorithm_the_usual_one_is_taken() -> None:
    assert str(Digest.of(b"")) == EMPTY


@pytest.mark.parametrize("algorithm", ["sha384", "md5", "shake_128", "nothing", ""])
def test_a_digest_that_nobody_could_verify_is_not_made(algorithm: str) -> None:
    with pytest.raises(ValueError, match=f"digests of {algorithm} cannot be made here"):
        Digest.of(b"a layer", algorithm)
