"""What the tests of transfers share."""

import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from ..doubles import nothing_left


@pytest.fixture(scope="session")
def _quick_collections() -> Iterator[None]:
    """The garbage collector need not look at all that was imported each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
async def tidy(_quick_collections: None, caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No task and no open file is left behind by the test."""
    async with nothing_left(caplog):
        yield
