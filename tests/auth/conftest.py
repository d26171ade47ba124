import pytest

from ..doubles import Clock
from .fakes import Service


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def service() -> Service:
    return Service()
