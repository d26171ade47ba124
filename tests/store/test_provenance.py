import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from addon.registry.digest import Digest
from addon.store import provenance as module
from addon.store.errors import StoreError
from addon.store.provenance import Provenance

from .blobs import digest_of

DIGEST = digest_of(b"a layer")
ROW = ("registry-1.docker.io", "library/alpine")


def numbered(n: int) -> Digest:
    return Digest("sha256", f"{n:064x}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "provenance.db"


@pytest.fixture
def open_table(path: Path) -> Iterator[Callable[[], Provenance]]:
    """Opens the table, as often as it is called, and closes it each time in the end."""
    tables: list[Provenance] = []

    def open_table() -> Provenance:
        tables.append(Provenance(path))
        return tables[-1]

    yield open_table
    for table in tables:
        table.close()


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
    table.close()
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


def test_more_is_known_than_is_kept_in_memory(table: Provenance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("addon.store.provenance._REMEMBERED", 10)
    small = Provenance(table._path.with_name("small.db"))
    for n in range(50):
        small.record(*ROW, numbered(n))
    assert all(small.belongs(*ROW, numbered(n)) for n in range(50))
    assert not small.belongs(*ROW, numbered(50))
    small.close()


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
from addon.store.provenance import Provenance
print("ready", flush=True)
sys.stdin.readline()
table = Provenance(Path(sys.argv[1]))
for n in range(50):
    table.record("ghcr.io", sys.argv[2], Digest("sha256", f"{n:064x}"))
table.close()
"""


def test_processes_share_it_from_its_making_on(path: Path, open_table: Callable[[], Provenance]) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"team/{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for n in range(4)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    table = open_table()
    assert all(table.belongs("ghcr.io", f"team/{n}", numbered(m)) for n in range(4) for m in range(50))


# Damage.


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def damage_header(path: Path) -> None:
    overwrite(path, 0, b"\0" * 100)


def damage_tree(path: Path) -> None:
    # Behind the first page, which holds the schema.
    overwrite(path, 4096, b"\xff" * 4096)


def damage_all(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


@pytest.mark.parametrize("damage", [damage_header, damage_tree, damage_all])
@pytest.mark.parametrize("leftovers", [False, True])
def test_a_damaged_table_makes_room(
    path: Path, open_table: Callable[[], Provenance], damage: Callable[[Path], None], leftovers: bool
) -> None:
    table = open_table()
    for n in range(200):
        table.record(*ROW, numbered(n))
    table.close()
    damage(path)
    damaged = path.read_bytes()
    if leftovers:
        path.with_name("provenance.db-wal").write_bytes(b"left over")
        path.with_name("provenance.db-shm").write_bytes(b"left over")
    again = open_table()
    assert not again.belongs(*ROW, numbered(1))
    again.record(*ROW, DIGEST)
    again.close()
    assert open_table().belongs(*ROW, DIGEST)
    # For whoever wants to know what happened.
    assert path.with_name("provenance.damaged").read_bytes() == damaged


def test_no_other_process_opens_it_meanwhile(
    path: Path, open_table: Callable[[], Provenance], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = module._connect
    waited = []

    def connect_alone(path: Path) -> sqlite3.Connection:
        # Another process would wait here.
        other = os.open(path.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        waited.append(path)
        return connect(path)

    monkeypatch.setattr(module, "_connect", connect_alone)
    damage_all(path)
    open_table()
    # While it was found damaged, and while it was made anew; then the next one's turn has come.
    assert waited == [path, path]
    open_table()


def test_it_may_be_damaged_more_than_once(path: Path, open_table: Callable[[], Provenance]) -> None:
    for _ in range(2):
        damage_all(path)
        open_table().close()
    assert not open_table().belongs(*ROW, DIGEST)


def test_an_empty_file_is_an_empty_table(path: Path, open_table: Callable[[], Provenance]) -> None:
    path.touch()
    assert not open_table().belongs(*ROW, DIGEST)
    assert not path.with_name("provenance.damaged").exists()


# A disk that fails.


def test_what_cannot_be_opened_is_a_store_error(tmp_path: Path) -> None:
    folder = tmp_path / "provenance.db"
    folder.mkdir()
    with pytest.raises(StoreError, match=r"cannot use .*provenance\.db: "):
        Provenance(folder)
    with pytest.raises(StoreError, match=r"cannot use .*provenance\.db: .*No such"):
        Provenance(tmp_path / "gone" / "provenance.db")
    assert folder.is_dir()


@pytest.mark.parametrize(
    "work",
    [
        lambda table: table.record(*ROW, DIGEST),
        lambda table: table.belongs(*ROW, DIGEST),
        lambda table: table.delivered_by(ROW[0], DIGEST),
    ],
)
def test_what_fails_later_is_a_store_error(table: Provenance, path: Path, work: Callable[[Provenance], object]) -> None:
    other = sqlite3.connect(path)
    other.execute("DROP TABLE provenance")
    other.close()
    with pytest.raises(StoreError, match=r"cannot use .*provenance\.db: no such table"):
        work(table)


def test_a_failure_is_not_remembered_as_recorded(table: Provenance, path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("ALTER TABLE provenance RENAME TO away")
    with pytest.raises(StoreError):
        table.record(*ROW, DIGEST)
    other.execute("ALTER TABLE away RENAME TO provenance")
    other.close()
    assert not table.belongs(*ROW, DIGEST)
    table.record(*ROW, DIGEST)
    assert table.belongs(*ROW, DIGEST)


def test_a_closed_table_is_a_store_error(table: Provenance) -> None:
    table.close()
    table.close()
    for work in (table.record, table.belongs):
        with pytest.raises(StoreError, match="closed"):
            work(*ROW, DIGEST)
