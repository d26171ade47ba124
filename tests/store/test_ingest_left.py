"""What is left of an ingest: kept for the next attempt, by an owner that was killed, or of no use."""

import errno
import os

import pytest

from addon.store import lease as lease_module
from addon.store import place as place_module
from addon.store.errors import DigestMismatch
from addon.store.place import sweep

from .blobs import failing, open_files
from .ingests import CONTENT, OWNER, SIZE, Folder, absorb, killed
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
    assert folder.place.kept() == kept
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
    for module in (place_module, lease_module):
        monkeypatch.setattr(module, "boot", lambda: b"another boot....")
    ingest = folder.ingest()
    assert ingest.kept == 0
    assert folder.kept() == b""
    ingest.abort()
    assert folder.left() == []


@pytest.mark.parametrize("parts", [["0-600"], ["0-600", "700-800"]])
@pytest.mark.parametrize("content", [b"", bytes(44)])
def test_nor_where_the_power_cut_took_its_lease_along(folder: Folder, parts: list[str], content: bytes) -> None:
    killed(folder, *parts)
    folder.place.lease.write_bytes(content)
    ingest = folder.ingest()
    assert ingest.kept == 0
    assert folder.kept() == b""
    ingest.abort()
    assert folder.left() == []


def test_how_much_is_kept_of_what_has_holes_the_lease_tells(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    with process(OWNER, folder.root, "0-600", "700-800") as owner:
        # Its owner lives.
        assert folder.place.kept() == 0
        owner.kill()
        owner.wait()
    assert folder.place.kept() == 600
    with monkeypatch.context() as patched:
        patched.setattr(place_module, "boot", lambda: b"another boot....")
        assert folder.place.kept() == 0
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", failing(errno.EIO))
        assert folder.place.kept() == 0
    folder.place.lease.unlink()
    assert folder.place.kept() == 0
    assert open_files() == before


@pytest.mark.parametrize("parts", [["0-600"], ["0-600", "700-800"]])
def test_of_what_was_withdrawn_nothing_is_used(folder: Folder, parts: list[str]) -> None:
    # Its owner was killed after it had told so, and before it could remove it.
    script = OWNER.replace('print("ready"', 'ingest._lease.withdraw()\nprint("ready"')
    with process(script, folder.root, *parts) as owner:
        owner.kill()
        owner.wait()
    ingest = folder.ingest()
    assert ingest.kept == 0
    ingest.abort()
    assert folder.left() == []


def test_what_was_kept_is_used_after_the_next_boot(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:600]])
    ingest.keep()
    for module in (place_module, lease_module):
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
