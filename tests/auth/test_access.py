import base64

import pytest

from addon.auth import access
from addon.auth.access import ANONYMOUS, Verdicts, credential_of

from ..doubles import Clock

REGISTRY, REPOSITORY, CREDENTIAL = "registry-1.docker.io", "library/alpine", credential_of("Bearer abc")


@pytest.mark.parametrize("authorization", [None, ""])
def test_no_authorization_is_anonymous(authorization: str | None) -> None:
    assert credential_of(authorization) == ANONYMOUS


def test_a_name_says_which_credential_but_not_what_it_is() -> None:
    password = "correct horse"
    basic = "Basic " + base64.b64encode(f"alice:{password}".encode()).decode()
    name = credential_of(basic)
    assert name == credential_of(basic)
    assert name not in (
        ANONYMOUS,
        credential_of("Bearer abc"),
        credential_of(basic + " "),
        credential_of(basic.lower()),
    )
    assert basic.removeprefix("Basic ") not in name
    assert "alice" not in name


def test_bytes_that_are_no_text_are_a_credential_of_their_own() -> None:
    # As mitmproxy gives them.
    one, other = (b"Bearer " + bytes([n]) for n in (0xFE, 0xFF))
    names = {credential_of(header.decode("utf-8", "surrogateescape")) for header in (one, other)}
    assert len(names | {ANONYMOUS}) == 3


def test_a_verdict_is_about_one_credential_in_one_repository_of_one_registry(clock: Clock) -> None:
    verdicts = Verdicts(clock)
    assert not verdicts.may_pull(REGISTRY, REPOSITORY, CREDENTIAL)
    verdicts.record(REGISTRY, REPOSITORY, CREDENTIAL)
    assert verdicts.may_pull(REGISTRY, REPOSITORY, CREDENTIAL)
    assert not verdicts.may_pull("ghcr.io", REPOSITORY, CREDENTIAL)
    assert not verdicts.may_pull(REGISTRY, "library/alpine2", CREDENTIAL)
    assert not verdicts.may_pull(REGISTRY, REPOSITORY, ANONYMOUS)
    assert not verdicts.may_pull(f"http://{REGISTRY}", REPOSITORY, CREDENTIAL)


def test_a_verdict_holds_for_a_quarter_of_an_hour(clock: Clock) -> None:
    verdicts = Verdicts(clock)
    verdicts.record(REGISTRY, REPOSITORY, CREDENTIAL)
    clock.now += 15 * 60 - 1
    assert verdicts.may_pull(REGISTRY, REPOSITORY, CREDENTIAL)
    clock.now += 1
    assert not verdicts.may_pull(REGISTRY, REPOSITORY, CREDENTIAL)


def test_only_upstream_makes_it_hold_longer(clock: Clock) -> None:
    verdicts = Verdicts(clock)
    for _ in range(4):
        verdicts.record(REGISTRY, REPOSITORY, CREDENTIAL)
        clock.now += 10 * 60
        assert verdicts.may_pull(REGISTRY, REPOSITORY, CREDENTIAL)
    # Being asked about does not.
    clock.now += 5 * 60
    assert not verdicts.may_pull(REGISTRY, REPOSITORY, CREDENTIAL)


def test_an_expired_verdict_stands_for_a_grace(clock: Clock) -> None:
    verdicts = Verdicts(clock, grace=60)
    verdicts.record(REGISTRY, REPOSITORY, CREDENTIAL)
    clock.now += 15 * 60
    assert not verdicts.may_pull(REGISTRY, REPOSITORY, CREDENTIAL)
    assert verdicts.could_pull(REGISTRY, REPOSITORY, CREDENTIAL)
    assert not verdicts.could_pull(REGISTRY, REPOSITORY, ANONYMOUS)
    assert not verdicts.could_pull(REGISTRY, "library/alpine2", CREDENTIAL)
    assert not verdicts.could_pull("ghcr.io", REPOSITORY, CREDENTIAL)
    clock.now += 59
    assert verdicts.could_pull(REGISTRY, REPOSITORY, CREDENTIAL)
    clock.now += 1
    assert not verdicts.could_pull(REGISTRY, REPOSITORY, CREDENTIAL)


def test_without_a_grace_an_expired_verdict_is_over(clock: Clock) -> None:
    verdicts = Verdicts(clock, grace=0)
    verdicts.record(REGISTRY, REPOSITORY, CREDENTIAL)
    clock.now += 15 * 60
    assert not verdicts.could_pull(REGISTRY, REPOSITORY, CREDENTIAL)


def test_a_refusal_ends_a_verdict_and_its_grace(clock: Clock) -> None:
    verdicts = Verdicts(clock, grace=60)
    verdicts.record(REGISTRY, REPOSITORY, CREDENTIAL)
    verdicts.record(REGISTRY, REPOSITORY, ANONYMOUS)
    verdicts.forget(REGISTRY, REPOSITORY, CREDENTIAL)
    verdicts.forget("ghcr.io", REPOSITORY, ANONYMOUS)
    assert not verdicts.may_pull(REGISTRY, REPOSITORY, CREDENTIAL)
    assert not verdicts.could_pull(REGISTRY, REPOSITORY, CREDENTIAL)
    assert verdicts.may_pull(REGISTRY, REPOSITORY, ANONYMOUS)


def test_only_so_many_verdicts_are_kept(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_MOST_VERDICTS", 3)
    verdicts = Verdicts(clock, grace=60)
    for number in range(10):
        verdicts.record(REGISTRY, f"library/{number}", CREDENTIAL)
    known = [number for number in range(10) if verdicts.could_pull(REGISTRY, f"library/{number}", CREDENTIAL)]
    assert known == [7, 8, 9]
