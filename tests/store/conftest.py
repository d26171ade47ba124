from collections.abc import Iterator
from pathlib import Path

import pytest

from addon.store.disk import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()
