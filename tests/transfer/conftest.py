"""What the tests of transfers share."""

import gc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mitmproxy.test import taddons

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.transfer import fill
from addon.transfer import fills as fills_module
from addon.transfer.fill import Fill
from addon.transfer.fills import Fills

from ..doubles import FakeSource, digest_of, mitmproxy_with, nothing_left
from .filling import CONTENT, ORIGIN, Filling, Start


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


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attempt is waited for."""
    monkeypatch.setattr(fill, "_FIRST_PAUSE_SECONDS", 0)


@pytest.fixture
async def store(tidy: None, tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def start(store: Store, executor: ThreadPoolExecutor, at_once: None) -> Start:
    """Starts fills of contents, or of digests."""

    def start(content: bytes | Digest = CONTENT, connections: int = 1) -> Filling:
        digest = content if isinstance(content, Digest) else digest_of(content)
        source, troubles = FakeSource(), list[Exception]()
        fill = Fill(store.ingest(digest, ORIGIN), source, executor, connections, troubles.append)
        return Filling(fill, source, troubles)

    return start


@pytest.fixture
async def mitmproxy() -> AsyncIterator[taddons.context]:
    with mitmproxy_with() as running:
        yield running


@pytest.fixture
async def fills(
    store: Store, mitmproxy: taddons.context, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fills]:
    # Progress is shown all the time.
    monkeypatch.setattr(fills_module, "_PROGRESS_SECONDS", 0.001)
    fills = Fills(store, most=4, connections=1)
    yield fills
    await fills.close()
    # pytest holds the fixture until all is torn down, and the cancelled task holds a fill.
    fills._progress = None
