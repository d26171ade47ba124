"""What is left of an ingest: kept for the next attempt, by an owner that was killed, or of no use."""

import fcntl
import os
import signal
from pathlib import Path

import pytest

from addon.store import ingest as ingest_module
from addon.store import lease as lease_module
from addon.store.errors import DigestMismatch
from addon.store.ingest import HOLES, KEPT_SECONDS, LEASE, sweep

from .blobs import open_files
from .ingests import CONTENT, SIZE, Folder, absorb
from .processes import finish, process

# Keep, and the next attempt.


def test_the_next_attempt_goes_on(folder: Folder) -> None:
    before = open_files()
    first = folder.ingest()
    first.write(0, [CONTENT[:600]])
    first.keep()
    first.keep()
    first.abort()
    assert folder.kept() == CONTENT[:600]
    second = folder.ingest()
    assert second.kept == 600
    # What arrives goes behind it, whether or not it has been hashed by then.
    second.write(600, [CONTENT[600:700]])
    absorb(second)
    second.write(700, [CONTENT[700:]])
    second.verify(SIZE)
    second.commit()
    assert folder.final.read_bytes() == CONTENT
    assert open_files() == before


@pytest.mark.parametrize("offset", [0, 1, 599, 600])
def test_it_may_go_on_from_further_in_front(folder: Folder, offset: int) -> None:
    folder.place.plain.write_bytes(CONTENT[:300] + b"x" * 300)
    ingest = folder.ingest()
    ingest.go_on_from(offset)
    assert ingest.kept == offset
    assert folder.kept() == (CONTENT[:300] + b"x" * 300)[:offset]
    ingest.write(offset, [CONTENT[offset:]])
    absorb(ingest)
    if offset <= 300:
        ingest.verify(SIZE)
    else:
        with pytest.raises(DigestMismatch):
            ingest.verify(SIZE)
    ingest.abort()


def test_nothing_is_not_worth_keeping(folder: Folder) -> None:
    folder.ingest().keep()
    assert folder.left() == []
    ingest = folder.ingest()
    ingest.write(5, [CONTENT[5:]])
    ingest.keep()
    assert folder.left() == []


def test_what_is_kept_outlives_a_power_cut(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:10]])
    ingest.keep()
    assert synced == [folder.place.plain.stat().st_ino]


# One owner at a time.

OWNER = """
import sys
from pathlib import Path
from tests.store.ingests import CONTENT, Folder
ingest = Folder(Path(sys.argv[1])).ingest()
for part in sys.argv[2:]:
    start, stop = map(int, part.split("-"))
    ingest.write(start, [CONTENT[start:stop]])
print("ready", flush=True)
sys.stdin.readline()
ingest.keep()
"""


def test_what_another_process_writes_is_its_own_until_it_ends(folder: Folder) -> None:
    before = open_files()
    with process(OWNER, folder.root, "0-600") as owner:
        os.utime(folder.place.plain, (0, 0))
        assert sweep(folder.ingests, everything=True) == 0
        with pytest.raises(BlockingIOError):
            folder.ingest()
        assert folder.left() == ["one", "one.lease"]
        assert folder.kept() == CONTENT[:600]
        finish(owner)
    assert open_files() == before
    assert folder.left() == ["one"]
    ingest = folder.ingest()
    assert ingest.kept == 600
    ingest.abort()


def test_nor_is_there_a_second_one_in_this_process(folder: Folder) -> None:
    before = open_files()
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:10]])
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            folder.ingest()
        assert sweep(folder.ingests, everything=True) == 0
    ingest.write(10, [CONTENT[10:]])
    ingest.commit()
    assert folder.final.read_bytes() == CONTENT
    assert open_files() == before


# Owners that were killed.


def killed(folder: Folder, *parts: str) -> None:
    """Leave what an owner leaves that has written these parts, and is killed."""
    with process(OWNER, folder.root, *parts) as owner:
        owner.kill()
        assert owner.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        ([], 0),
        (["0-0"], 0),
        (["0-600"], 600),
        (["0-600", "600-700"], 700),
        (["0-600", "700-800"], 600),
        (["0-600", "700-800", "600-700"], 700),
        (["700-800"], 0),
        (["700-800", "0-700"], 700),
    ],
)
def test_the_next_owner_goes_on_with_what_a_killed_one_left(folder: Folder, parts: list[str], kept: int) -> None:
    before = open_files()
    killed(folder, *parts)
    ingest = folder.ingest()
    assert (ingest.kept, ingest.offset) == (kept, 0)
    assert folder.left() == ["one", "one.lease"]
    absorb(ingest)
    ingest.write(kept, [CONTENT[kept:]])
    ingest.verify(SIZE)
    ingest.commit()
    assert folder.final.read_bytes() == CONTENT
    assert folder.left() == []
    assert open_files() == before


@pytest.mark.parametrize("parts", [["0-600"], ["0-600", "700-800"], ["700-800", "0-700"]])
def test_of_one_that_went_down_with_the_machine_nothing_is_used(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, parts: list[str]
) -> None:
    killed(folder, *parts)
    # Nobody saw to it that its bytes were on disk before the power went.
    for module in (ingest_module, lease_module):
        monkeypatch.setattr(module, "boot", lambda: b"another boot....")
    ingest = folder.ingest()
    assert ingest.kept == 0
    assert folder.kept() == b""
    ingest.abort()
    assert folder.left() == []


def test_what_was_kept_is_used_after_the_next_boot(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:600]])
    ingest.keep()
    for module in (ingest_module, lease_module):
        monkeypatch.setattr(module, "boot", lambda: b"another boot....")
    ingest = folder.ingest()
    assert ingest.kept == 600
    ingest.abort()


def test_who_is_killed_while_committing_leaves_a_blob_or_an_ingest(folder: Folder) -> None:
    # The last line before the point of no return, and the first behind it.
    for step, stored in (("os.fsync", False), ("module.sync_folder", True)):
        script = f"""
import os, sys
from pathlib import Path
from addon.store import ingest as module
from tests.store.ingests import CONTENT, Folder
ingest = Folder(Path(sys.argv[1])).ingest()
ingest.write(0, [CONTENT])
def stop(_):
    print("ready", flush=True)
    sys.stdin.readline()
{step} = stop
ingest.commit()
"""
        with process(script, folder.root) as owner:
            owner.kill()
            owner.wait()
        assert folder.final.exists() is stored
        ingest = folder.ingest()
        assert ingest.kept == (0 if stored else SIZE)
        ingest.abort()
        assert folder.left() == []


# Sweep.


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


def test_a_sweep_at_any_moment_takes_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    lock = fcntl.flock
    sweeping = False
    times = 0

    def flock(fd: int, operation: int) -> None:
        nonlocal sweeping, times
        if not sweeping and times < 3:
            # Between the making of a lease and its locking, the first few times.
            sweeping, times = True, times + 1
            sweep(folder.ingests, everything=True)
            sweeping = False
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    ingest = folder.ingest()
    assert times == 3
    ingest.write(0, [CONTENT])
    ingest.commit()
    assert folder.final.read_bytes() == CONTENT
    assert open_files() == before
