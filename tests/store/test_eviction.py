import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.store.eviction import POLICY, GreedyDual

MIB = 1 << 20


@pytest.mark.parametrize(
    ("policy", "priority"),
    [
        # As Squid's LFUDA has it: size plays no part.
        (GreedyDual(exponent=1, per_request=0, per_byte=1), 10 + 9),
        # GDSF with the same cost for all.
        (GreedyDual(exponent=1, per_request=1, per_byte=0), 10 + 9 / 4),
        # GreedyDual-Size: neither does it matter how often.
        (GreedyDual(exponent=0, per_request=1, per_byte=0), 10 + 1 / 4),
        (GreedyDual(exponent=0.5, per_request=8, per_byte=2), 10 + 3 * (8 + 8) / 4),
    ],
)
def test_weights_make_the_published_policies(policy: GreedyDual, priority: float) -> None:
    assert policy.priority(10, 9, 4) == pytest.approx(priority)


def test_what_the_store_does() -> None:
    assert POLICY.priority(0, 1, MIB) == pytest.approx(2)
    assert POLICY.priority(0, 4, MIB) == pytest.approx(4)
    assert POLICY.priority(5, 1, 1 << 40) == pytest.approx(6, abs=1e-3)


def test_an_empty_blob_has_a_priority_too() -> None:
    assert math.isfinite(POLICY.priority(0, 1, 0))
    assert POLICY.priority(0, 1, 0) == POLICY.priority(0, 1, 1)


@given(st.floats(0, 1e9), st.integers(1, 10**9), st.integers(0, 1 << 42))
def test_it_grows_with_age_and_uses_and_shrinks_with_size(age: float, uses: int, size: int) -> None:
    priority = POLICY.priority(age, uses, size)
    assert priority > age
    assert POLICY.priority(age + 1, uses, size) >= priority
    assert POLICY.priority(age, uses + 1, size) >= priority
    assert POLICY.priority(age, uses, size + 1) <= priority
