import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import pytest

from addon.store import catalog as module
from addon.store.catalog import Catalog
from addon.store.errors import StoreError

from .blobs import open_files
from .catalogs import names, write
from .processes import finish, process, tell


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


def test_what_is_written_is_seen_by_others_and_after_a_restart(
    catalog: Catalog, open_catalog: Callable[[], Catalog]
) -> None:
    other = open_catalog()
    write(catalog, "n1")
    assert names(other) == ["n1"]
    write(other, "n2")
    catalog.close()
    other.close()
    assert names(open_catalog()) == ["n1", "n2"]


def test_only_its_owner_may_read_it(catalog: Catalog, path: Path) -> None:
    write(catalog, "n1")
    files = list(path.parent.iterdir())
    assert {file.name for file in files} >= {"catalog.db", "catalog.db-wal"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


# Transactions.


def test_all_of_a_transaction_is_seen_or_none(catalog: Catalog, open_catalog: Callable[[], Catalog]) -> None:
    other = open_catalog()

    def fail() -> None:
        with catalog.writing() as db:
            db.execute("INSERT INTO numbers (name, value) VALUES ('n1', 1)")
            # Who reads waits for nobody.
            assert names(other) == []
            raise ValueError("on second thoughts")

    with pytest.raises(ValueError, match="on second thoughts"):
        fail()
    assert names(catalog) == names(other) == []
    write(catalog, "n2")
    assert names(other) == ["n2"]


def test_what_is_durable_waits_for_the_disk_and_nothing_else_does(catalog: Catalog) -> None:
    def level(*, durable: bool) -> int:
        with catalog.writing(durable=durable) as db:
            (level,) = db.execute("PRAGMA synchronous").fetchone()
        return int(level)

    # Each commit (FULL) or each checkpoint (NORMAL), but not never: what a checkpoint moves was durable before.
    assert [level(durable=durable) for durable in (False, True, False)] == [1, 2, 1]
    with pytest.raises(StoreError), catalog.writing(durable=True) as db:
        db.execute("no such statement")
    assert level(durable=False) == 1


def test_a_full_disk_is_told_and_leaves_no_transaction(catalog: Catalog) -> None:
    with catalog.reading() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        with catalog.writing() as db:
            for n in range(1000):
                db.execute("INSERT INTO numbers (name, value) VALUES (?, 1)", (f"n{n}" * 100,))

    # SQLite gives up the transaction by itself here.
    with pytest.raises(StoreError, match="disk is full"):
        fill()
    assert names(catalog) == []
    write(catalog, "n1")
    assert names(catalog) == ["n1"]


def test_who_waits_too_long_is_told(
    catalog: Catalog, open_catalog: Callable[[], Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0)
    other = open_catalog()
    with catalog.writing(), pytest.raises(StoreError, match=r"cannot use .*catalog\.db: database is locked"):
        write(other, "n1")
    write(other, "n1")


def test_a_statement_that_fails_leaves_no_transaction(catalog: Catalog) -> None:

    def fail() -> None:
        with catalog.writing() as db:
            db.execute("INSERT INTO numbers (name, value) VALUES ('n1', 1)")
            db.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(StoreError, match="no such table: nowhere"):
        fail()
    write(catalog, "n2")
    assert names(catalog) == ["n2"]


# Several at once.


def test_each_thread_has_its_own_connection(catalog: Catalog) -> None:
    before = open_files()
    with ThreadPoolExecutor(8) as pool:
        together = Barrier(8)

        def work(n: int) -> None:
            together.wait()
            for m in range(10):
                write(catalog, f"n{n}{m}")

        list(pool.map(work, range(8)))
    assert len(names(catalog)) == 80
    catalog.close()
    assert open_files() < before


WRITER = """
import sys
from pathlib import Path
from addon.store.catalog import Catalog
print("ready", flush=True)
sys.stdin.readline()
catalog = Catalog(Path(sys.argv[1]))
for n in range(50):
    with catalog.writing(durable=n % 10 == 0) as db:
        db.execute("INSERT INTO numbers (name, value) VALUES (?, 1)", (f"n{sys.argv[2]}-{n}",))
catalog.close()
"""


def test_processes_share_it_from_its_making_on(path: Path, open_catalog: Callable[[], Catalog]) -> None:
    with ExitStack() as stack:
        writers = [stack.enter_context(process(WRITER, path, n)) for n in range(4)]
        for writer in writers:
            tell(writer)
        for writer in writers:
            finish(writer)
    assert len(names(open_catalog())) == 200
    assert not path.with_suffix(".damaged").exists()


KILLED = """
import sys
from pathlib import Path
from addon.store.catalog import Catalog
catalog = Catalog(Path(sys.argv[1]))
with catalog.writing() as db:
    db.execute("INSERT INTO numbers (name, value) VALUES ('n1', 1)")
with catalog.writing() as db:
    db.execute("INSERT INTO numbers (name, value) VALUES ('n2', 1)")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_who_is_killed_while_writing_leaves_what_it_had_written(
    path: Path, open_catalog: Callable[[], Catalog]
) -> None:
    with process(KILLED, path) as writer:
        writer.kill()
        writer.wait()
    catalog = open_catalog()
    assert names(catalog) == ["n1"]
    write(catalog, "n3")


# Closing.


def test_a_closed_catalog_is_a_store_error(catalog: Catalog, path: Path) -> None:
    catalog.close()
    catalog.close()
    before = open_files()
    with pytest.raises(StoreError, match="closed"):
        names(catalog)
    with pytest.raises(StoreError, match="closed"):
        write(catalog, "n1")
    with ThreadPoolExecutor(1) as pool, pytest.raises(StoreError, match="closed"):
        # A thread that never used it.
        pool.submit(names, catalog).result()
    assert open_files() == before
