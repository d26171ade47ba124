"""When a stored blob is looked at again."""

import pytest

from addon.registry.digest import Digest
from addon.transfer.doubts import GIVEN_SECONDS, SETTLED_SECONDS, Doubts

from ..doubles import Clock

ONE, OTHER = Digest("sha256", "a" * 64), Digest("sha256", "b" * 64)
CLIENT, NEIGHBOUR = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def doubts(clock: Clock) -> Doubts:
    return Doubts(clock)


def test_nobody_doubts_what_was_not_given(doubts: Doubts) -> None:
    assert not doubts.about(CLIENT, ONE, whole=True)


def test_a_client_that_asks_again_has_found_something_wrong(doubts: Doubts, clock: Clock) -> None:
    doubts.given(CLIENT, ONE)
    assert doubts.about(CLIENT, ONE, whole=True)
    assert not doubts.about(CLIENT, OTHER, whole=True)
    assert not doubts.about(NEIGHBOUR, ONE, whole=True)
    # Who wants the rest of it goes on where a connection broke.
    assert not doubts.about(CLIENT, ONE, whole=False)
    clock.now += GIVEN_SECONDS - 1
    assert doubts.about(CLIENT, ONE, whole=True)
    clock.now += 1
    assert not doubts.about(CLIENT, ONE, whole=True)


def test_what_was_found_good_is_not_doubted_for_a_while(doubts: Doubts, clock: Clock) -> None:
    doubts.given(CLIENT, ONE)
    doubts.given(CLIENT, OTHER)
    doubts.settle(ONE)
    assert not doubts.about(CLIENT, ONE, whole=True)
    assert doubts.about(CLIENT, OTHER, whole=True)
    clock.now += SETTLED_SECONDS - 1
    doubts.given(CLIENT, ONE)
    assert not doubts.about(CLIENT, ONE, whole=True)
    clock.now += 1
    assert doubts.about(CLIENT, ONE, whole=True)


def test_where_the_disk_failed_everybody_doubts_until_it_was_looked_at(doubts: Doubts, clock: Clock) -> None:
    doubts.settle(ONE)
    doubts.failed(ONE)
    clock.now += 10 * GIVEN_SECONDS
    assert doubts.about(CLIENT, ONE, whole=True)
    assert doubts.about(NEIGHBOUR, ONE, whole=False)
    assert not doubts.about(CLIENT, OTHER, whole=True)
    doubts.settle(ONE)
    assert not doubts.about(CLIENT, ONE, whole=True)


def test_so_many_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("addon.transfer.doubts._MOST_GIVEN", 3)
    doubts = Doubts()
    for n in range(10):
        doubts.given(f"192.0.2.{n}", ONE)
    assert sum(doubts.about(f"192.0.2.{n}", ONE, whole=True) for n in range(10)) == 3
