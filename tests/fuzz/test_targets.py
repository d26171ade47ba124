"""The parsers against some hundred inputs each, the same ones each time. A longer hunt: ``python -m tests.fuzz``."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import __main__ as hunt
from .targets import ALPHABETS, SEEDS, TARGETS

ROOT = Path(__file__).parents[2]


def test_every_target_has_seeds_and_an_alphabet() -> None:
    assert set(SEEDS) == set(ALPHABETS) == set(TARGETS)


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, seeds in SEEDS.items() for seed in seeds])
def test_seeds(name: str, seed: str) -> None:
    TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes(name: str) -> None:
    @settings(max_examples=150)
    @given(hunt.inputs(name))
    def holds(text: str) -> None:
        TARGETS[name](text)

    holds()


def test_a_target_that_does_not_hold_is_found() -> None:
    @settings(max_examples=500, database=None)
    @given(st.text(ALPHABETS["digest"]))
    def holds(text: str) -> None:
        assert "//" not in text

    with pytest.raises(AssertionError):
        holds()


def test_a_hunt_can_be_begun() -> None:
    begun = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--with", "hypothesis", "0.2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert begun.returncode == 0, begun.stdout + begun.stderr
    for name in TARGETS:
        assert f"{name}: " in begun.stdout
