"""Catalogues that are new, damaged, of another version, or no catalogues."""

import fcntl
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from addon.store import catalog as module
from addon.store.catalog import Catalog
from addon.store.errors import StoreError

from .blobs import open_files
from .catalogs import names, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


# New ones, and old ones.


def test_a_new_one_says_so_until_it_is_settled(open_catalog: Callable[[], Catalog], path: Path) -> None:
    for _ in range(2):
        # Whoever was about to settle it may have been killed, or be another process that has only just made it.
        new = open_catalog()
        assert new.renewed
        new.close()
    new, other = open_catalog(), open_catalog()
    for each in (new, other, other):
        each.settle()
    assert not open_catalog().renewed
    damage_all(path)
    assert open_catalog().renewed


def test_one_that_is_removed_meanwhile_is_not_made_anew(catalog: Catalog, path: Path) -> None:
    write(catalog, "n1")
    for file in path.parent.iterdir():
        file.unlink()
    with ThreadPoolExecutor(1) as pool, pytest.raises(StoreError, match="somebody has removed it"):
        # A thread that never used it.
        pool.submit(names, catalog).result()
    assert list(path.parent.iterdir()) == []


def test_its_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "50% of #1? ä"
    folder.mkdir()
    catalog = Catalog(folder / "catalog.db")
    write(catalog, "n1")
    catalog.close()
    assert [file.name for file in folder.iterdir()] == ["catalog.db"]
    assert [file.name for file in tmp_path.iterdir()] == [folder.name]


# Damage.


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def damage_header(path: Path) -> None:
    overwrite(path, 0, b"\0" * 100)


def damage_schema(path: Path) -> None:
    overwrite(path, 100, b"\xff" * 3996)


def damage_tree(path: Path) -> None:
    # Behind the first page, which holds the schema.
    overwrite(path, 4096, b"\xff" * 4096)


def damage_all(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


def cut(path: Path) -> None:
    os.truncate(path, 4096 + 100)


@pytest.mark.parametrize("damage", [damage_header, damage_schema, damage_tree, damage_all, cut])
@pytest.mark.parametrize("leftovers", [False, True])
def test_a_damaged_catalog_makes_room(
    path: Path, open_catalog: Callable[[], Catalog], damage: Callable[[Path], None], leftovers: bool
) -> None:
    before = open_files()
    catalog = open_catalog()
    for n in range(200):
        write(catalog, f"n{n}" * 10)
    catalog.close()
    damage(path)
    damaged = path.read_bytes()
    if leftovers:
        path.with_name("catalog.db-wal").write_bytes(b"left over")
        path.with_name("catalog.db-shm").write_bytes(b"left over")
    again = open_catalog()
    assert again.renewed
    assert names(again) == []
    write(again, "n1")
    again.close()
    assert open_files() == before
    assert names(open_catalog()) == ["n1"]
    # For whoever wants to know what happened.
    assert path.with_name("catalog.damaged").read_bytes() == damaged


def test_what_a_damaged_one_had_still_to_take_in_goes_with_it(path: Path, open_catalog: Callable[[], Catalog]) -> None:
    catalog = open_catalog()
    for n in range(200):
        write(catalog, f"n{n}" * 10)
    with catalog.reading() as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    write(catalog, "n200")
    log = path.with_name("catalog.db-wal").read_bytes()
    catalog.close()
    damage_all(path)
    # As after a crash.
    path.with_name("catalog.db-wal").write_bytes(log)
    assert names(open_catalog()) == []


def test_no_other_process_opens_it_meanwhile(
    path: Path, open_catalog: Callable[[], Catalog], monkeypatch: pytest.MonkeyPatch
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
    open_catalog()
    # While it was found damaged, and while it was made anew; then the next one's turn has come.
    assert waited == [path, path]
    open_catalog()


def test_it_may_be_damaged_more_than_once(path: Path, open_catalog: Callable[[], Catalog]) -> None:
    for _ in range(2):
        damage_all(path)
        open_catalog().close()
    assert names(open_catalog()) == []


def test_an_empty_file_is_an_empty_catalog(path: Path, open_catalog: Callable[[], Catalog]) -> None:
    path.touch(mode=0o600)
    catalog = open_catalog()
    assert catalog.renewed
    assert names(catalog) == []
    assert not path.with_name("catalog.damaged").exists()


def test_that_of_a_newer_version_is_left_alone(
    path: Path, catalog: Catalog, open_catalog: Callable[[], Catalog]
) -> None:
    write(catalog, "n1")
    with catalog.writing() as db:
        db.execute(f"PRAGMA user_version = {module._VERSION + 1}")
    catalog.close()
    before, files = path.read_bytes(), open_files()
    with pytest.raises(
        StoreError,
        match=rf"cannot use .*catalog\.db: a newer Pulltap made it \(its version is {module._VERSION + 1}\)",
    ):
        open_catalog()
    assert path.read_bytes() == before
    assert not path.with_name("catalog.damaged").exists()
    assert open_files() == files


# A disk that fails.


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    (path.parent / "elsewhere").touch()
    path.symlink_to("elsewhere")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("obstacle", [a_folder, a_link, a_pipe])
def test_what_is_no_file_is_refused(path: Path, obstacle: Callable[[Path], None]) -> None:
    before = open_files()
    obstacle(path)
    there = sorted(file.name for file in path.parent.iterdir())
    with pytest.raises(StoreError, match=r"cannot use .*catalog\.db: "):
        Catalog(path)
    assert sorted(file.name for file in path.parent.iterdir()) == there
    assert open_files() == before


def test_without_its_folder_it_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot use .*catalog\.db: .*No such"):
        Catalog(tmp_path / "gone" / "catalog.db")
