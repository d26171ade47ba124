"""What the store has been good for."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from addon.store.catalog import Catalog
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.tally import Count, Tally

from .blobs import put


def counted(tally: Tally) -> dict[str, int]:
    """What is counted, but for what is zero."""
    return {str(count): total for count, total in tally.totals().items() if total}


def test_all_begins_with_nothing(store: Store) -> None:
    assert store.tally.totals() == dict.fromkeys(Count, 0)
    store.tally.flush()
    assert counted(store.tally) == {}


def test_counts_add_up(store: Store) -> None:
    store.tally.add(Count.HITS)
    store.tally.add(Count.HITS, 2)
    store.tally.add(Count.HIT_BYTES, 5 << 40)
    assert counted(store.tally) == {"hits": 3, "hit_bytes": 5 << 40}
    store.tally.add(Count.HITS)
    assert counted(store.tally) == {"hits": 4, "hit_bytes": 5 << 40}


def test_they_outlive_a_restart(tmp_path: Path) -> None:
    for n in (1, 2):
        store = Store(tmp_path / "store")
        store.tally.add(Count.MISSES)
        store.close()
        again = Store(tmp_path / "store")
        assert counted(again.tally) == {"misses": n}
        again.close()


def test_they_are_those_of_all_processes(store: Store) -> None:
    other = Store(store.root)
    other.tally.add(Count.COLLAPSED, 3)
    store.tally.add(Count.COLLAPSED, 4)
    assert counted(store.tally) == {"collapsed": 4}, "the other one has not written it down yet"
    other.flush()
    assert counted(store.tally) == counted(other.tally) == {"collapsed": 7}
    other.close()


def test_threads_share_them(store: Store) -> None:
    def work(_: int) -> None:
        store.tally.add(Count.HITS)
        store.tally.flush()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(100)))
    assert counted(store.tally) == {"hits": 100}


def test_what_cannot_be_written_down_waits(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.db")
    tally = Tally(catalog)
    tally.add(Count.HITS, 2)
    with catalog.writing() as db:
        db.execute("ALTER TABLE numbers RENAME TO away")
    for _ in range(2):
        with pytest.raises(StoreError, match="no such table"):
            tally.flush()
    tally.add(Count.HITS)
    with catalog.writing() as db:
        db.execute("ALTER TABLE away RENAME TO numbers")
    assert counted(tally) == {"hits": 3}
    catalog.close()


def test_they_are_no_other_numbers(store: Store) -> None:
    put(store, b"a layer")
    store.room.shrink(0)
    put(store, b"another")
    assert counted(store.tally) == {}
    store.tally.add(Count.BAD)
    assert store.inventory.total() == len(b"another")
