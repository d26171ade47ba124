"""What is left on disk of a fill that broke, and of a disk that fails at that as well."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from addon.store.disk import Store
from addon.store.ingest import Ingest
from addon.transfer.leftovers import drop, let_go, withdraw

from ..doubles import digest_of
from .filling import CONTENT, ORIGIN, Start, ingests

DIGEST = digest_of(CONTENT)


@pytest.fixture
def ingest(store: Store) -> Ingest:
    """An ingest with some bytes in it."""
    ingest = store.ingest(DIGEST, ORIGIN)
    ingest.write(0, [CONTENT[:1000]])
    return ingest


def failing(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def test_what_may_be_the_blob_is_kept(store: Store, ingest: Ingest) -> None:
    let_go(ingest)
    assert [path.read_bytes() for path in ingests(store)] == [CONTENT[:1000]]


@pytest.mark.parametrize("end", [withdraw, drop])
def test_what_is_not_is_dropped(store: Store, ingest: Ingest, end: Callable[[Ingest], None]) -> None:
    end(ingest)
    assert not ingests(store)
    # Nothing happens the second time.
    end(ingest)


@pytest.mark.parametrize(("end", "name"), [(let_go, "keep"), (withdraw, "withdraw")])
def test_a_disk_that_fails_keeps_nothing(
    *,
    store: Store,
    ingest: Ingest,
    end: Callable[[Ingest], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ingest, name, failing)
    end(ingest)
    assert not ingests(store)
    assert f"blob {DIGEST.short}: what there is cannot be " in caplog.text
    assert caplog.text.rstrip().endswith("Read-only file system")


@pytest.mark.parametrize("end", [let_go, withdraw, drop])
def test_a_disk_that_is_read_only_leaves_no_file_open(
    store: Store, ingest: Ingest, end: Callable[[Ingest], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "keep", failing)
    monkeypatch.setattr(ingest, "withdraw", failing)
    with monkeypatch.context() as context:
        context.setattr(Path, "unlink", failing)
        end(ingest)
    # The next who begins goes on with it, as if its owner had been killed.
    again = store.ingest(DIGEST, ORIGIN)
    assert again.kept == 1000
    again.abort()


async def test_a_fill_that_is_given_up_on_a_disk_that_fails(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = start()
    monkeypatch.setattr(filling.fill._ingest, "keep", failing)
    filling.fill.drop()
    assert not ingests(store)


async def test_a_fill_whose_disk_becomes_read_only_ends(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = start().begin(200, {})
    filling.send(CONTENT[:1000])
    await filling.until(1000)
    with monkeypatch.context() as context:
        for name in ("write", "keep"):
            context.setattr(filling.fill._ingest, name, failing)
        context.setattr(Path, "unlink", failing)
        filling.send(CONTENT[1000:])
        await filling.over()
    assert filling.fill.interrupted
