import pytest

from .fakes import Clock, Service


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def service() -> Service:
    return Service()
