"""What the documents say about the tests is true of the tests."""

import re

import pytest

from .test_house import ROOT

NAMED = sorted(
    {
        (page.name, name)
        for page in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"`(tests/[a-z0-9_/]+\.py(?:::[a-z0-9_]+)?)`", page.read_text())
    }
)


def test_tests_are_named() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize(("page", "name"), NAMED)
def test_a_test_that_is_named_is_there(page: str, name: str) -> None:
    path, _, function = name.partition("::")
    assert (ROOT / path).is_file(), f"{page} names {path}"
    if function:
        defined = rf"^(async )?def {function}\("
        assert re.search(defined, (ROOT / path).read_text(), re.MULTILINE), f"{page} names {name}"
