"""Catalogues that are removed, or cannot be written, while they are in use."""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event, current_thread, main_thread

import pytest

from addon.store import catalog as module
from addon.store.catalog import Catalog
from addon.store.errors import StoreError

from .blobs import open_files
from .catalogs import names, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


@pytest.fixture
def other_thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def remove(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()


def replace(path: Path) -> None:
    remove(path)
    Catalog(path).close()


@pytest.mark.parametrize("lose", [remove, replace])
def test_one_that_is_gone_is_begun_anew_for_all_threads(
    catalog: Catalog, path: Path, other_thread: ThreadPoolExecutor, lose: Callable[[Path], None]
) -> None:
    other_thread.submit(write, catalog, "n1").result()
    before = open_files()
    assert catalog.is_there()
    lose(path)
    assert not catalog.is_there()

    def settle() -> None:
        assert catalog.renewed
        write(catalog, "n2")
        catalog.settle()

    catalog.reopen(settle)
    assert catalog.is_there()
    assert names(catalog) == ["n2"]
    assert other_thread.submit(names, catalog).result() == ["n2"]
    other_thread.submit(write, catalog, "n3").result()
    # Of the old one, nothing is open any more.
    assert open_files() == before
    catalog.close()
    assert open_files() < before
    again = Catalog(path)
    assert not again.renewed
    assert names(again) == ["n2", "n3"]
    again.close()


def test_one_that_is_there_is_left_alone(catalog: Catalog) -> None:
    write(catalog, "n1")

    def settle() -> None:
        raise AssertionError

    catalog.reopen(settle)
    assert names(catalog) == ["n1"]


def test_nobody_asks_it_before_it_is_settled(
    catalog: Catalog, path: Path, other_thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(path)
    anew, waits = catalog._anew, Event()

    def settle() -> None:
        # A thread that never used it.
        asked.append(other_thread.submit(names, catalog))
        assert waits.wait(20)
        write(catalog, "n1")

    class Watched:
        def __enter__(self) -> None:
            if current_thread() is not main_thread():
                waits.set()
            anew.acquire()

        def __exit__(self, *_: object) -> None:
            anew.release()

    asked: list[Future[list[str]]] = []
    monkeypatch.setattr(catalog, "_anew", Watched())
    catalog.reopen(settle)
    assert asked[0].result() == ["n1"]


def test_what_is_under_way_ends_with_the_old_one(
    catalog: Catalog, path: Path, other_thread: ThreadPoolExecutor
) -> None:
    began, gone = Event(), Event()

    def under_way() -> None:
        with catalog.writing() as db:
            began.set()
            assert gone.wait(60)
            db.execute("SELECT count(*) FROM numbers").fetchone()

    working = other_thread.submit(under_way)
    assert began.wait(60)
    remove(path)
    catalog.reopen(lambda: None)
    write(catalog, "n1")
    gone.set()
    working.result()
    assert other_thread.submit(names, catalog).result() == ["n1"]


def test_one_that_cannot_be_settled_is_not_used(catalog: Catalog, path: Path, other_thread: ThreadPoolExecutor) -> None:
    remove(path)
    before = open_files()

    for name in ("n1", "n2"):

        def settle(name: str = name) -> None:
            write(catalog, name)
            raise StoreError("no room for rows")

        with pytest.raises(StoreError, match="no room for rows"):
            catalog.reopen(settle)
        assert not catalog.is_there()
        assert open_files() == before
        # Nor by a thread that never used it.
        with pytest.raises(StoreError, match="somebody has removed it"):
            other_thread.submit(names, catalog).result()
        assert names(catalog) == []
    # The next attempt finds it so.
    catalog.reopen(lambda: write(catalog, "n3"))
    assert catalog.renewed
    assert names(catalog) == ["n1", "n2", "n3"]


def test_one_that_cannot_be_begun_leaves_nothing_open(
    catalog: Catalog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(path)
    before = open_files()
    real = Path.stat

    def failing(file: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if file == path:
            raise OSError(errno.EIO, "Input/output error")
        return real(file, follow_symlinks=follow_symlinks)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", failing)
        with pytest.raises(StoreError, match="Input/output"):
            catalog.reopen(lambda: None)
    assert open_files() == before


@pytest.mark.parametrize("work", [write, lambda catalog, name: catalog.settle()])
def test_a_disk_that_can_be_written_again_is_written(
    catalog: Catalog,
    other_thread: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[Catalog, str], None],
) -> None:
    write(catalog, "n0")

    def read_only(path: Path) -> sqlite3.Connection:
        # What SQLite does by itself, without a word, where the file cannot be written.
        return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_connect", read_only)
        open_then = []
        for _ in range(3):
            with pytest.raises(StoreError, match="readonly database"):
                other_thread.submit(work, catalog, "n1").result()
            open_then.append(open_files())
        # SQLite keeps one file open for the next time, as long as another connection has it locked.
        assert len(set(open_then)) == 1
        # Who only reads is not disturbed.
        assert other_thread.submit(names, catalog).result() == ["n0"]
        with pytest.raises(StoreError, match="readonly database"):
            other_thread.submit(work, catalog, "n1").result()
    other_thread.submit(work, catalog, "n1").result()
    write(catalog, "n2")
    assert "n2" in other_thread.submit(names, catalog).result()
