from collections.abc import Iterator
from pathlib import Path

import pytest

from addon.store.disk import Store

from .ingests import Folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
