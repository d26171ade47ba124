from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from addon.store.catalog import Catalog
from addon.store.disk import Store

from .blobs import open_files
from .ingests import Folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def nothing_stays_open() -> Iterator[None]:
    before = open_files()
    yield
    assert open_files() == before


@pytest.fixture
def open_catalog(tmp_path: Path) -> Iterator[Callable[[], Catalog]]:
    """Opens the catalogue, as often as it is called, each time as another process would, and closes it in the end."""
    with ExitStack() as opened:

        def open_catalog() -> Catalog:
            catalog = Catalog(tmp_path / "catalog.db")
            opened.callback(catalog.close)
            return catalog

        yield open_catalog


@pytest.fixture
def catalog(open_catalog: Callable[[], Catalog]) -> Catalog:
    return open_catalog()
