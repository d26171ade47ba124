"""The sweep of what is left of ingests, and what else lies in their folder."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from addon.store.place import HOLES, KEPT_SECONDS, LEASE, sweep

from .blobs import failing, open_files
from .ingests import CONTENT, SIZE, Folder, killed


def age(path: Path, seconds: float) -> None:
    modified = path.stat().st_mtime - seconds
    os.utime(path, (modified, modified))


@pytest.mark.parametrize(
    ("name", "content", "seconds", "freed"),
    [
        ("one", b"so far", 0, 0),
        ("one", b"so far", KEPT_SECONDS - 3600, 0),
        ("one", b"so far", KEPT_SECONDS + 3600, 6),
        ("one", b"", 0, 0),
        (f"one{HOLES}", b"so far", 0, 6),
        (f"one{LEASE}", b"no record", 0, 0),
    ],
)
def test_what_is_of_no_use_is_swept(folder: Folder, name: str, content: bytes, seconds: int, freed: int) -> None:
    before = open_files()
    path = folder.ingests / name
    path.write_bytes(content)
    age(path, seconds)
    stays = content and not freed and name == "one"
    assert sweep(folder.ingests) == freed
    assert folder.left() == (["one"] if stays else [])
    assert sweep(folder.ingests, everything=True) == (len(content) if stays else 0)
    assert folder.left() == []
    assert open_files() == before


@pytest.mark.parametrize(
    ("parts", "freed", "kept"),
    [(["0-600"], 0, 600), (["0-600", "700-800"], 200, 600), (["700-800"], 800, None), ([], 0, None)],
)
def test_what_a_killed_owner_left_is_swept_together(
    folder: Folder, parts: list[str], freed: int, kept: int | None
) -> None:
    killed(folder, *parts)
    assert sweep(folder.ingests) == freed
    assert folder.left() == (["one"] if kept else [])
    assert folder.kept() == (CONTENT[:kept] if kept else None)


def test_a_lease_that_nobody_came_to_write_is_swept_after_a_while(folder: Folder) -> None:
    folder.place.lease.touch()
    sweep(folder.ingests, everything=True)
    # Somebody may be just taking it.
    assert folder.left() == ["one.lease"]
    age(folder.place.lease, 3600)
    sweep(folder.ingests)
    assert folder.left() == []


def test_a_sweep_at_any_moment_takes_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    lock = fcntl.flock
    sweeping = False
    times = 0

    def flock(fd: int, operation: int) -> None:
        nonlocal sweeping, times
        if not sweeping and folder.place.lease.exists():
            # Between the making of the lease and its locking.
            sweeping, times = True, times + 1
            sweep(folder.ingests, everything=True)
            sweeping = False
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    ingest = folder.ingest()
    # It was found taken by nobody.
    assert times == 1
    ingest.write(0, [CONTENT])
    ingest.commit()
    assert folder.final.read_bytes() == CONTENT
    assert open_files() == before


def test_what_is_left_without_its_lease_is_on_disk(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    killed(folder, "0-600", "700-800")
    sweep(folder.ingests)
    assert folder.left() == ["one"]
    assert synced == [folder.place.plain.stat().st_ino]
    # What was kept was synced then.
    sweep(folder.ingests)
    assert len(synced) == 1


# What does not belong there.


def a_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "target")


STRANGE = pytest.mark.parametrize("make", [a_link, os.mkfifo])
PARTS = pytest.mark.parametrize("name", ["one", f"one{HOLES}", f"one{LEASE}"])


@PARTS
@STRANGE
def test_what_is_no_file_is_put_away(folder: Folder, name: str, make: Callable[[Path], None]) -> None:
    before = open_files()
    target = folder.root / "target"
    target.write_bytes(b"theirs")
    make(folder.ingests / name)
    assert folder.place.kept() == 0
    assert sweep(folder.ingests) == 0
    assert folder.left() == []
    assert target.read_bytes() == b"theirs"
    assert open_files() == before


@PARTS
@STRANGE
def test_nor_is_anything_written_to_it(folder: Folder, name: str, make: Callable[[Path], None]) -> None:
    before = open_files()
    target = folder.root / "target"
    target.write_bytes(b"theirs")
    make(folder.ingests / name)
    if name == f"one{HOLES}":
        # Nobody could tell it from what was left.
        ingest = folder.ingest()
        ingest.write(700, [CONTENT[700:]])
        ingest.write(0, [CONTENT[:700]])
        ingest.abort()
        assert folder.left() == []
    else:
        for _ in range(2):
            with pytest.raises(OSError, match=r"symbolic link|it is no file"):
                folder.ingest()
        assert folder.left() == [name]
    assert target.read_bytes() == b"theirs"
    assert open_files() == before


@pytest.mark.parametrize("make", [a_link, os.mkfifo])
def test_what_took_the_place_of_a_killed_owners_file_is_put_away(folder: Folder, make: Callable[[Path], None]) -> None:
    killed(folder, "0-600", "700-800")
    folder.place.holes.unlink()
    make(folder.place.holes)
    ingest = folder.ingest()
    assert ingest.kept == 0
    assert folder.left() == ["one", "one.lease"]
    ingest.abort()


@PARTS
def test_folders_stay_where_they_are(folder: Folder, name: str) -> None:
    before = open_files()
    (folder.ingests / name).mkdir()
    assert sweep(folder.ingests, everything=True) == 0
    assert folder.left() == [name]
    if name != f"one{HOLES}":
        with pytest.raises(IsADirectoryError):
            folder.ingest()
    assert open_files() == before


# A disk that fails.


def test_a_file_system_without_locks_is_told(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    folder.place.plain.write_bytes(CONTENT)
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with pytest.raises(OSError, match="No locks"):
        sweep(folder.ingests)
    with pytest.raises(OSError, match="No locks"):
        folder.ingest()
    assert open_files() == before


@pytest.mark.parametrize(("name", "number"), [("unlink", errno.EROFS), ("replace", errno.EIO)])
def test_what_cannot_be_put_away_is_told(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    before = open_files()
    killed(folder, "0-600", "700-800")
    with monkeypatch.context() as patched:
        patched.setattr(Path, name, failing(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            sweep(folder.ingests)
        with pytest.raises(OSError, match=os.strerror(number)):
            folder.ingest()
    assert open_files() == before
    # Nobody has it still.
    folder.ingest().abort()
    assert folder.left() == []


def test_an_ingest_that_cannot_be_made_leaves_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    real = os.open

    def too_many(path: Path, flags: int, mode: int = 0o777) -> int:
        if path == folder.place.plain:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", too_many)
    with pytest.raises(OSError, match="Too many"):
        folder.ingest()
    assert folder.left() == []
    assert open_files() == before


@pytest.mark.parametrize("name", ["fsync", "ftruncate"])
def test_what_cannot_be_kept_can_be_dropped(folder: Folder, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = open_files()
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:600]])
    monkeypatch.setattr(os, name, failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        ingest.keep()
    ingest.abort()
    assert folder.left() == []
    assert open_files() == before


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_commit_that_fails_can_be_dropped(folder: Folder, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = open_files()
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    with monkeypatch.context() as patched:
        patched.setattr(Path if name == "replace" else os, name, failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            ingest.commit()
    ingest.abort()
    assert folder.left() == []
    assert not folder.final.exists()
    assert open_files() == before


def test_a_blob_whose_folder_cannot_be_synced_is_there_all_the_same(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    monkeypatch.setattr("addon.store.ingest.sync_folder", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        ingest.commit()
    ingest.abort()
    # Nobody has told that it is verified; so it will be, before its first use.
    assert folder.final.stat().st_size == SIZE
    assert folder.left() == []
    assert open_files() == before


def test_an_ingest_that_cannot_be_withdrawn_can_be_dropped(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            ingest.withdraw()
    ingest.abort()
    assert folder.left() == []
    assert open_files() == before
