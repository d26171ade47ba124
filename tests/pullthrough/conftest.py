"""What the tests of the hook for blobs share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from addon.parts import Parts
from addon.registry.digest import Digest
from addon.transfer import fill, fills

from ..doubles import Clock, FakeUpstream, mitmproxy_with, nothing_left
from ..hub import Hub, parts_with
from .proxies import CONTENT, REPOSITORY, Proxy, Start


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def start(
    tmp_path: Path, hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Start]:
    """Starts proxies with other settings than the usual ones."""
    monkeypatch.setattr(fill, "_FIRST_PAUSE_SECONDS", 0)
    monkeypatch.setattr(fills, "_PROGRESS_SECONDS", 0.001)
    started: list[Parts] = []

    def start(**changes: object) -> Proxy:
        started.append(parts_with(hub, tmp_path / "store", monkeypatch, clock, **changes))
        return Proxy(started[-1])

    async with nothing_left(caplog):
        with mitmproxy_with():
            yield start
            for parts in started:
                await parts.close()
                # pytest holds the fixture until all is torn down, and these hold fills.
                parts.fills._progress = None
                assert isinstance(parts.upstream, FakeUpstream)
                parts.upstream.asked.clear()


@pytest.fixture
def proxy(start: Start) -> Proxy:
    return start()


@pytest.fixture
def digest(hub: Hub) -> Digest:
    return hub.push(REPOSITORY, CONTENT)
