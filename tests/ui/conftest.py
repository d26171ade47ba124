"""What the tests of pulls into the store, and of its commands, share."""

import argparse
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from addon.parts import Parts
from addon.store.disk import Store
from addon.transfer import fill, fills
from addon.ui import store_cli

from ..doubles import FakeUpstream, mitmproxy_with, nothing_left, settings
from ..hub import parts_with
from ..store.pulled import Pulls
from .commanded import Done, Run
from .warmed import SlowHub, Start, Warm


@pytest.fixture
def hub() -> SlowHub:
    return SlowHub()


@pytest.fixture(scope="session")
def _light_heap() -> Iterator[None]:
    """Let `nothing_left` look at what a test made alone: mitmproxy's modules take it longer than the test itself."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
async def start(
    _light_heap: None, tmp_path: Path, hub: SlowHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Start]:
    """Makes parts with other settings than the usual ones."""
    monkeypatch.setattr(fill, "_FIRST_PAUSE_SECONDS", 0)
    monkeypatch.setattr(fills, "_PROGRESS_SECONDS", 0.001)
    started: list[Parts] = []

    def start(**changes: object) -> Parts:
        started.append(parts_with(hub, tmp_path / "store", monkeypatch, None, **changes))
        return started[-1]

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
def parts(start: Start) -> Parts:
    return start()


@pytest.fixture
def warm(hub: SlowHub, parts: Parts) -> Warm:
    return Warm(hub, parts)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The store as a proxy has it open."""
    store = Store(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def pulls(store: Store) -> Pulls:
    return Pulls(store)


@pytest.fixture
def run(store: Store, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command beside that proxy."""

    def run(*words: str, **changes: object) -> Done:
        parser = argparse.ArgumentParser()
        store_cli.add_to(parser.add_subparsers())
        usual = {"store": str(store.root)}
        status = store_cli.run(parser.parse_args(["store", *words]), settings(**{**usual, **changes}))
        return Done(status, capsys.readouterr().out.splitlines())

    return run
