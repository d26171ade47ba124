import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from addon.registry.digest import Digest
from addon.store import inventory as module
from addon.store.catalog import Catalog
from addon.store.errors import StoreError
from addon.store.eviction import GreedyDual
from addon.store.inventory import Inventory, Stamp

from .blobs import digest_of

ONE, TWO, THREE = (digest_of(content) for content in (b"one", b"two", b"three"))
# A blob's priority is the age and how often it was asked for.
BY_USES = GreedyDual(exponent=1, per_request=0, per_byte=1)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shared:
    """A catalogue, and what processes that share it know of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.catalogs: list[Catalog] = []

    def open(self, policy: GreedyDual = BY_USES) -> Inventory:
        self.catalogs.append(Catalog(self.path))
        return Inventory(self.catalogs[-1], self.clock, policy)

    def added(self) -> int:
        """The size of all blobs, added up anew."""
        with self.catalogs[0].reading() as db:
            (total,) = db.execute("SELECT coalesce(sum(size), 0) FROM blobs").fetchone()
        return int(total)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    shared = Shared(tmp_path / "catalog.db")
    yield shared
    for catalog in shared.catalogs:
        catalog.close()


def priorities(inventory: Inventory) -> dict[Digest, float]:
    return {entry.digest: entry.priority for entry in inventory.by_priority()}


def order(inventory: Inventory) -> list[Digest]:
    return [entry.digest for entry in inventory.by_priority()]


# What is known of a blob.


def test_a_blob_is_verified_as_long_as_its_file_is_the_same(shared: Shared) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    for each in (inventory, shared.open()):
        assert each.is_verified(ONE, Stamp(10, 5))
        assert not each.is_verified(ONE, Stamp(11, 5))
        assert not each.is_verified(ONE, Stamp(10, 6))
        assert not each.is_verified(TWO, Stamp(10, 5))


def test_what_was_dropped_is_not_verified(shared: Shared) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    inventory.drop([ONE, TWO])
    assert not inventory.is_verified(ONE, Stamp(10, 5))
    assert inventory.entries() == []


def test_uses_are_written_down_by_a_flush(shared: Shared) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    shared.clock.now = 2000
    inventory.used(ONE)
    shared.clock.now = 3000
    inventory.used(ONE)
    (entry,) = inventory.entries()
    assert (entry.uses, entry.used, entry.stored) == (0, 1000, 1000)
    inventory.flush()
    inventory.flush()
    (entry,) = inventory.entries()
    assert (entry.uses, entry.used, entry.stored) == (2, 3000, 1000)


def test_uses_of_several_processes_add_up(shared: Shared) -> None:
    first, second = shared.open(), shared.open()
    first.verified(ONE, Stamp(10, 5))
    shared.clock.now = 3000
    first.used(ONE)
    shared.clock.now = 2000
    second.used(ONE)
    first.flush()
    second.flush()
    (entry,) = second.entries()
    assert (entry.uses, entry.used, entry.priority) == (2, 3000, 3)


def test_uses_wait_where_they_cannot_be_written_down(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    inventory.used(ONE)
    inventory.used(ONE)

    def failing() -> None:
        shared.clock.now = 2000
        inventory.used(ONE)
        raise StoreError("the disk failed")

    with monkeypatch.context() as patch:
        patch.setattr(shared.catalogs[0], "writing", failing)
        with pytest.raises(StoreError):
            inventory.flush()
    inventory.flush()
    (entry,) = inventory.entries()
    assert (entry.uses, entry.used) == (3, 2000)


def test_a_use_of_what_is_gone_is_forgotten(shared: Shared) -> None:
    inventory, other = shared.open(), shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    inventory.used(ONE)
    other.drop([ONE])
    inventory.flush()
    assert inventory.entries() == []


# The total.


def test_the_total_follows_all_changes(shared: Shared) -> None:
    inventory = shared.open()
    assert inventory.total() == 0
    inventory.verified(ONE, Stamp(10, 5))
    inventory.verified(TWO, Stamp(200, 5))
    assert inventory.total() == 210
    inventory.verified(ONE, Stamp(11, 6))
    assert inventory.total() == 211
    inventory.used(ONE)
    inventory.flush()
    inventory.reconcile({TWO: (200, 1.0), THREE: (3000, 1.0)}, since=5000)
    assert inventory.total() == 3200
    inventory.evicted(inventory.entries()[:1])
    inventory.drop([ONE])
    assert inventory.total() == shared.added() > 0
    assert shared.open().total() == shared.added()


def test_a_total_that_went_wrong_is_put_right_by_a_start(shared: Shared) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    with shared.catalogs[0].writing() as db:
        db.execute("UPDATE numbers SET value = 99")
    assert shared.open().total() == inventory.total() == 10


def test_the_size_of_some(shared: Shared) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    inventory.verified(TWO, Stamp(200, 5))
    assert inventory.size_of([ONE, ONE, THREE]) == 10
    assert inventory.size_of([]) == 0


# What is to go first.


def test_what_is_used_most_goes_last(shared: Shared) -> None:
    inventory = shared.open()
    for digest in (ONE, TWO, THREE):
        inventory.verified(digest, Stamp(10, 5))
    for digest in (ONE, ONE, THREE):
        inventory.used(digest)
    inventory.flush()
    assert order(inventory) == [TWO, THREE, ONE]
    assert priorities(inventory) == {TWO: 1, THREE: 2, ONE: 3}


def test_of_equals_the_one_goes_that_was_not_used_for_longest(shared: Shared) -> None:
    inventory = shared.open()
    for now, digest in enumerate([TWO, THREE, ONE]):
        shared.clock.now = now
        inventory.verified(digest, Stamp(10, 5))
    assert order(inventory) == [TWO, THREE, ONE]


def test_what_comes_behind_an_eviction_is_worth_more(shared: Shared) -> None:
    inventory = shared.open()
    for now, digest in enumerate([ONE, TWO]):
        shared.clock.now = now
        inventory.verified(digest, Stamp(10, 5))
        for _ in range(4):
            inventory.used(digest)
    inventory.flush()
    (entry, _) = inventory.by_priority()
    inventory.evicted([entry])
    other = shared.open()
    other.verified(THREE, Stamp(10, 5))
    # The age is 5 by now, so that one use outweighs the five before.
    assert order(other) == [TWO, THREE]
    assert priorities(other) == {TWO: 5, THREE: 6}
    inventory.used(TWO)
    inventory.flush()
    assert priorities(other) == {THREE: 6, TWO: 11}


def test_what_is_removed_by_hand_makes_nothing_older(shared: Shared) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    inventory.drop([ONE])
    inventory.evicted([])
    inventory.verified(TWO, Stamp(10, 5))
    assert priorities(inventory) == {TWO: 1}


def test_age_never_goes_back(shared: Shared) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    inventory.verified(TWO, Stamp(10, 5))
    inventory.used(TWO)
    inventory.flush()
    first, second = inventory.by_priority()
    inventory.evicted([second])
    inventory.evicted([first])
    inventory.verified(THREE, Stamp(10, 5))
    assert priorities(inventory) == {THREE: 3}


def test_what_came_back_while_it_was_evicted_stays(shared: Shared) -> None:
    inventory, other = shared.open(), shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    (entry,) = inventory.entries()
    # Its file is gone by now, and another process has it anew before the row is.
    shared.clock.now = 2000
    other.verified(ONE, Stamp(10, 6))
    inventory.evicted([entry])
    assert order(inventory) == [ONE]
    assert inventory.total() == 10


def test_a_look_at_its_bytes_leaves_a_blobs_priority(shared: Shared) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    inventory.used(ONE)
    inventory.flush()
    shared.clock.now = 2000
    inventory.verified(ONE, Stamp(10, 5))
    (entry,) = inventory.entries()
    assert (entry.priority, entry.uses, entry.used, entry.verified) == (2, 1, 1000, 2000)


def test_all_come_in_order_however_many_are_asked_for_at_once(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = shared.open()
    digests = [Digest("sha256", hashlib.sha256(b"%d" % n).hexdigest()) for n in range(20)]
    for n, digest in enumerate(digests):
        # Three of the same priority and time are more than a page.
        shared.clock.now = n // 3
        inventory.verified(digest, Stamp(10, 5))
    whole = order(inventory)
    assert sorted(whole, key=str) == sorted(digests, key=str)
    assert [digests.index(digest) // 3 for digest in whole] == sorted(n // 3 for n in range(20))
    monkeypatch.setattr(module, "_PAGE", 2)
    assert order(inventory) == whole


def test_what_goes_while_one_looks_is_passed_by(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 1)
    inventory = shared.open()
    for now, digest in enumerate([ONE, TWO, THREE]):
        shared.clock.now = now
        inventory.verified(digest, Stamp(10, 5))
    entries = inventory.by_priority()
    assert next(entries).digest == ONE
    inventory.drop([ONE, TWO])
    assert [entry.digest for entry in entries] == [THREE]


# What others do in the folders.


def test_what_somebody_put_there_is_taken_in(shared: Shared) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    inventory.used(ONE)
    inventory.flush()
    (entry,) = inventory.entries()
    inventory.evicted([entry])
    inventory.reconcile({TWO: (200, 77.0)}, since=5000)
    (entry,) = inventory.entries()
    assert (entry.digest, entry.size, entry.used, entry.verified) == (TWO, 200, 77, 0)
    # It has as good a chance as what is fetched now.
    assert entry.priority == 3
    assert not inventory.is_verified(TWO, Stamp(200, 77))
    assert inventory.stalest() == entry
    assert inventory.digests() == {str(TWO)}


def test_what_was_stored_meanwhile_is_not_dropped(shared: Shared) -> None:
    inventory = shared.open()
    inventory.verified(ONE, Stamp(10, 5))
    shared.clock.now = 2000
    inventory.verified(TWO, Stamp(10, 5))
    inventory.reconcile({}, since=1500)
    assert inventory.digests() == {str(TWO)}


def test_a_catalogue_that_cannot_be_used_is_told(shared: Shared) -> None:
    inventory = shared.open()
    shared.catalogs[0].close()
    for ask in (inventory.total, inventory.entries, lambda: list(inventory.by_priority()), inventory.digests):
        with pytest.raises(StoreError):
            ask()
