"""What the tests of transfers share."""

from collections.abc import AsyncIterator

import pytest

from ..doubles import nothing_left


@pytest.fixture
async def tidy() -> AsyncIterator[None]:
    """No task and no open file is left behind by the test."""
    async with nothing_left():
        yield
