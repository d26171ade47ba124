from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from addon.registry.digest import Digest
from addon.store.catalog import Catalog
from addon.store.errors import StoreError
from addon.store.inventory import Inventory, Stamp
from addon.store.provenance import Provenance

from .blobs import digest_of
from .processes import finish, process, tell

DIGEST = digest_of(b"a layer")
ROW = ("registry-1.docker.io", "library/alpine")
DAY = 24 * 3600


def numbered(n: int) -> Digest:
    return Digest("sha256", f"{n:064x}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


@pytest.fixture
def open_table(path: Path) -> Iterator[Callable[[], Provenance]]:
    """Opens the table, as often as it is called, each time as another process would, and closes it in the end."""
    with ExitStack() as opened:

        def open_table() -> Provenance:
            catalog = Catalog(path)
            opened.callback(catalog.close)
            return Provenance(catalog)

        yield open_table


@pytest.fixture
def table(open_table: Callable[[], Provenance]) -> Provenance:
    return open_table()


def test_a_blob_belongs_where_upstream_said_so(table: Provenance) -> None:
    assert not table.belongs(*ROW, DIGEST)
    assert not table.delivered_by(ROW[0], DIGEST)
    table.record(*ROW, DIGEST)
    table.record(*ROW, DIGEST)
    assert table.belongs(*ROW, DIGEST)
    assert table.delivered_by(ROW[0], DIGEST)


@pytest.mark.parametrize(
    ("registry", "repository", "digest", "delivered"),
    [
        (ROW[0], "library/alpin", DIGEST, True),
        (ROW[0], "library/alpine/more", DIGEST, True),
        (ROW[0], "", DIGEST, True),
        (ROW[0], "LIBRARY/ALPINE", DIGEST, True),
        (ROW[0], "library/%", DIGEST, True),
        ("ghcr.io", ROW[1], DIGEST, False),
        ("REGISTRY-1.docker.io", ROW[1], DIGEST, False),
        (f"http://{ROW[0]}", ROW[1], DIGEST, False),
        (ROW[0], ROW[1], numbered(1), False),
        (ROW[0], ROW[1], Digest("sha512", DIGEST.encoded), False),
    ],
)
def test_it_belongs_nowhere_else(
    table: Provenance, registry: str, repository: str, digest: Digest, delivered: bool
) -> None:
    table.record(*ROW, DIGEST)
    for _ in range(2):
        assert not table.belongs(registry, repository, digest)
        assert table.delivered_by(registry, digest) is delivered


def test_it_outlives_a_restart(open_table: Callable[[], Provenance], table: Provenance) -> None:
    table.record(*ROW, DIGEST)
    again = open_table()
    assert again.belongs(*ROW, DIGEST)
    assert again.delivered_by(ROW[0], DIGEST)


def test_what_another_writes_is_seen(open_table: Callable[[], Provenance]) -> None:
    one, other = open_table(), open_table()
    assert not other.belongs(*ROW, DIGEST)
    one.record(*ROW, DIGEST)
    assert other.belongs(*ROW, DIGEST)
    other.record(*ROW, DIGEST)
    assert one.belongs(*ROW, DIGEST)


def test_more_is_known_than_is_kept_in_memory(
    open_table: Callable[[], Provenance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("addon.store.provenance._REMEMBERED", 10)
    small = open_table()
    for n in range(50):
        small.record(*ROW, numbered(n))
    assert all(small.belongs(*ROW, numbered(n)) for n in range(50))
    assert not small.belongs(*ROW, numbered(50))


def test_all_its_repositories_in_order(table: Provenance) -> None:
    assert table.repositories(DIGEST) == []
    rows = [("ghcr.io", "b"), ("ghcr.io", "a"), ("docker.io", "c")]
    for row in rows:
        table.record(*row, DIGEST)
    table.record("ghcr.io", "other", numbered(1))
    table.disown([DIGEST])
    assert table.repositories(DIGEST) == sorted(rows)


# Blobs of which nobody knows whose they are.


def test_what_nobody_delivered_an_operator_put_there(table: Provenance) -> None:
    assert table.unclaimed(DIGEST)
    table.record(*ROW, numbered(1))
    assert table.unclaimed(DIGEST)
    table.record(*ROW, DIGEST)
    assert not table.unclaimed(DIGEST)


def test_what_was_disowned_is_nobodys_until_it_is_delivered(table: Provenance) -> None:
    table.disown([DIGEST, numbered(1)])
    table.disown([])
    for digest in (DIGEST, numbered(1)):
        # Somebody's it was.
        assert not table.unclaimed(digest)
        assert not table.delivered_by(ROW[0], digest)
        assert not table.belongs(*ROW, digest)
    table.record(*ROW, DIGEST)
    assert table.belongs(*ROW, DIGEST)
    assert table.unclaimed(numbered(2))


def test_where_a_blob_came_from_is_kept_for_a_month_after_it_went(path: Path) -> None:
    now = 1000.0 * DAY
    catalog = Catalog(path)
    table, inventory = Provenance(catalog, lambda: now), Inventory(catalog, lambda: now)
    for n in (1, 2):
        table.record(*ROW, numbered(n))
    inventory.verified(numbered(1), Stamp(1, 1))
    now += 29 * DAY
    table.record(*ROW, numbered(3))
    assert table.prune() == 0
    now += 2 * DAY
    # The first is stored, the third was delivered a short while ago.
    assert table.prune() == 1
    assert [table.belongs(*ROW, numbered(n)) for n in (1, 2, 3)] == [True, False, True]
    assert table.unclaimed(numbered(2))
    catalog.close()


# Several at once.


def test_threads_share_it(table: Provenance) -> None:
    def work(n: int) -> bool:
        table.record(*ROW, numbered(n % 20))
        return table.belongs(*ROW, numbered(n % 20)) and not table.belongs("ghcr.io", ROW[1], numbered(n % 20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))


WRITER = """
import sys
from pathlib import Path
from addon.registry.digest import Digest
from addon.store.catalog import Catalog
from addon.store.provenance import Provenance
print("ready", flush=True)
sys.stdin.readline()
catalog = Catalog(Path(sys.argv[1]))
table = Provenance(catalog)
for n in range(50):
    table.record("ghcr.io", sys.argv[2], Digest("sha256", f"{n:064x}"))
catalog.close()
"""


def test_processes_share_it_from_its_making_on(path: Path, open_table: Callable[[], Provenance]) -> None:
    with ExitStack() as stack:
        writers = [stack.enter_context(process(WRITER, path, f"team/{n}")) for n in range(4)]
        for writer in writers:
            tell(writer)
        for writer in writers:
            finish(writer)
    table = open_table()
    assert all(table.belongs("ghcr.io", f"team/{n}", numbered(m)) for n in range(4) for m in range(50))


# A disk that fails.


@pytest.mark.parametrize(
    "work",
    [
        lambda table: table.record(*ROW, DIGEST),
        lambda table: table.disown([DIGEST]),
        lambda table: table.belongs(*ROW, DIGEST),
        lambda table: table.delivered_by(ROW[0], DIGEST),
        lambda table: table.unclaimed(DIGEST),
        lambda table: table.repositories(DIGEST),
        lambda table: table.prune(),
    ],
)
def test_what_fails_is_a_store_error(path: Path, work: Callable[[Provenance], object]) -> None:
    catalog = Catalog(path)
    with catalog.writing() as db:
        db.execute("DROP TABLE provenance")
    with pytest.raises(StoreError, match=r"cannot use .*catalog\.db: no such table"):
        work(Provenance(catalog))
    catalog.close()


def test_a_failure_is_not_remembered_as_recorded(path: Path) -> None:
    catalog = Catalog(path)
    table = Provenance(catalog)
    with catalog.writing() as db:
        db.execute("ALTER TABLE provenance RENAME TO away")
    with pytest.raises(StoreError):
        table.record(*ROW, DIGEST)
    with catalog.writing() as db:
        db.execute("ALTER TABLE away RENAME TO provenance")
    assert not table.belongs(*ROW, DIGEST)
    table.record(*ROW, DIGEST)
    assert table.belongs(*ROW, DIGEST)
    catalog.close()
