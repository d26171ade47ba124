import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from addon.store import ingest as module
from addon.store.blob import BlobReader
from addon.store.errors import DigestMismatch, NoRoom
from addon.store.ingest import Ingest, sync_folder
from addon.store.inventory import Stamp
from addon.store.lease import Follower
from addon.store.place import Place

from .blobs import digest_of, open_files
from .ingests import CONTENT, DIGEST, SIZE, Folder, absorb, everything


def test_a_blob_arrives(folder: Folder) -> None:
    ingest = folder.ingest()
    assert (ingest.digest, ingest.offset, ingest.kept) == (DIGEST, 0, 0)
    ingest.write(0, [CONTENT[:1000], b"", CONTENT[1000:1001]])
    ingest.write(1001, [])
    assert ingest.offset == 1001
    ingest.write(1001, [memoryview(CONTENT)[1001:]])
    ingest.verify(SIZE)
    # Until here, nobody sees it.
    assert not folder.final.exists()
    ingest.commit()
    assert folder.final.read_bytes() == CONTENT
    assert folder.left() == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_blobs_of_any_size_by_either_algorithm(tmp_path: Path, content: bytes, algorithm: str) -> None:
    ingest = Ingest(Place(tmp_path / "one"), tmp_path / "blob", digest_of(content, algorithm))
    ingest.write(0, [content])
    ingest.verify(len(content))
    ingest.commit()
    assert (tmp_path / "blob").read_bytes() == content


def test_only_its_owner_may_read_it(folder: Folder) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:100]])
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.ingests.iterdir()} == {0o600}
    ingest.write(100, [CONTENT[100:]])
    ingest.commit()
    assert stat.S_IMODE(folder.final.stat().st_mode) == 0o600


# Verify.


@pytest.mark.parametrize("size", [SIZE, None])
def test_the_right_bytes(folder: Folder, size: int | None) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    ingest.verify(size)
    ingest.abort()


@pytest.mark.parametrize(
    ("received", "size", "message"),
    [
        (CONTENT[:-1], SIZE, f"got {SIZE - 1} bytes of {SIZE}"),
        (CONTENT + b"x", SIZE, f"got {SIZE + 1} bytes of {SIZE}"),
        (b"", SIZE, "got 0 bytes of"),
        # Even where the digest is right.
        (CONTENT, SIZE + 1, f"got {SIZE} bytes of {SIZE + 1}"),
        (CONTENT, 0, "of 0"),
        (CONTENT[:-1], None, f"the {SIZE - 1} bytes received have the digest"),
        (b"x" + CONTENT[1:], SIZE, str(digest_of(b"x" + CONTENT[1:]))),
        (b"", None, str(digest_of(b""))),
    ],
)
def test_the_wrong_bytes(folder: Folder, received: bytes, size: int | None, message: str) -> None:
    ingest = folder.ingest()
    ingest.write(0, [received])
    with pytest.raises(DigestMismatch, match=message) as mismatch:
        ingest.verify(size)
    assert str(DIGEST) in str(mismatch.value)
    ingest.abort()


def test_what_is_not_hashed_is_not_there(folder: Folder) -> None:
    ingest = folder.ingest()
    ingest.write(100, [CONTENT[100:]])
    ingest.write(0, [CONTENT[:100]])
    with pytest.raises(DigestMismatch, match="got 100 bytes"):
        ingest.verify(SIZE)
    absorb(ingest)
    ingest.verify(SIZE)
    ingest.abort()


# Commit and abort.


def test_a_commit_is_durable_before_and_after_it_is_seen(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bool, bool]] = []

    def fsync(fd: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), folder.final.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    ingest.commit()
    # The file while nobody sees it, then the folder with its name.
    assert synced == [(False, False), (True, True)]


def test_the_stamp_is_told_once_the_blob_is_there(folder: Folder) -> None:
    told: list[Stamp] = []

    def stored(stamp: Stamp) -> None:
        status = folder.final.stat()
        assert stamp == Stamp(SIZE, status.st_mtime_ns)
        # Who follows still finds it under way.
        assert folder.place.lease.exists()
        told.append(stamp)

    ingest = Ingest(folder.place, folder.final, DIGEST, stored=stored)
    ingest.write(0, [CONTENT])
    assert told == []
    ingest.commit()
    assert len(told) == 1


def test_an_abort_leaves_nothing(folder: Folder) -> None:
    before = open_files()
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    for _ in range(2):
        ingest.abort()
        ingest.keep()
        ingest.withdraw()
    assert folder.left() == []
    assert not folder.final.exists()
    assert open_files() == before


def test_an_end_after_the_commit_does_nothing(folder: Folder) -> None:
    before = open_files()
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    ingest.commit()
    # They take the numbers that have just become free.
    with folder.final.open("rb") as other, folder.final.open("rb") as another:
        ingest.keep()
        ingest.withdraw()
        ingest.abort()
        assert other.read() == another.read() == CONTENT
    assert folder.left() == []
    assert open_files() == before


def test_a_commit_that_fails_can_be_aborted(folder: Folder) -> None:
    before = open_files()
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    folder.final.parent.rmdir()
    with pytest.raises(OSError, match="No such file"):
        ingest.commit()
    ingest.abort()
    assert folder.left() == []
    assert open_files() == before


@pytest.mark.parametrize("content", [CONTENT, None])
def test_what_took_its_place_is_not_committed(folder: Folder, content: bytes | None) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    folder.place.plain.unlink()
    if content is not None:
        folder.place.plain.write_bytes(content)
    with pytest.raises(OSError, match=r"was replaced by another file|No such file"):
        ingest.commit()
    assert not folder.final.exists()
    ingest.abort()


def test_a_commit_over_the_same_blob_disturbs_no_reader(folder: Folder) -> None:
    folder.final.write_bytes(CONTENT)
    reader = BlobReader(os.open(folder.final, os.O_RDONLY), SIZE)
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    ingest.commit()
    assert everything(reader) == folder.final.read_bytes() == CONTENT
    reader.close()


def test_a_folder_is_synced_or_it_is_told(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()

    def fsync(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(folder.ingests)
    with pytest.raises(NotADirectoryError):
        sync_folder(Path(__file__))
    assert open_files() == before


# What others see.


def test_others_are_told_how_long_it_is_and_how_far(folder: Folder) -> None:
    ingest = folder.ingest()
    follower = Follower(folder.place.lease)
    assert (follower.progress().offset, follower.progress().size) == (0, None)
    ingest.write(0, [CONTENT[:10]])
    assert (follower.progress().offset, follower.progress().size) == (10, None)
    ingest.announce(SIZE)
    assert (follower.progress().offset, follower.progress().size) == (10, SIZE)
    # What lies behind a hole cannot be read yet.
    ingest.write(20, [CONTENT[20:]])
    assert follower.progress().offset == 10
    ingest.write(10, [CONTENT[10:20]])
    assert follower.progress().offset == 20
    absorb(ingest)
    assert follower.progress().offset == SIZE
    ingest.abort()
    follower.close()


# Readers.


@pytest.mark.parametrize("end", [Ingest.commit, Ingest.abort, Ingest.keep, Ingest.withdraw])
def test_readers_read_along_and_outlive_every_end(folder: Folder, end: Callable[[Ingest], None]) -> None:
    before = open_files()
    ingest = folder.ingest()
    early = ingest.reader()
    assert everything(early) == b""
    ingest.write(0, [CONTENT[:50]])
    late = ingest.reader()
    assert (early.size, late.size) == (0, 50)
    assert everything(early) == everything(late) == CONTENT[:50]
    ingest.write(50, [CONTENT[50:]])
    end(ingest)
    assert everything(early) == everything(late) == CONTENT
    # Their file may be taken up by another, though they still have it.
    folder.ingest().abort()
    early.close()
    late.close()
    assert open_files() == before


def test_what_offset_tells_can_be_read(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = folder.ingest()
    reader = ingest.reader()
    write = os.pwrite

    def short(fd: int, content: bytes, offset: int) -> int:
        # A disk may take less than it was given.
        assert len(everything(reader)) >= ingest.offset
        return write(fd, content[:7], offset)

    monkeypatch.setattr(os, "pwrite", short)
    ingest.write(0, [CONTENT[:100], CONTENT[100:200]])
    ingest.write(500, [CONTENT[500:]])
    ingest.write(200, [CONTENT[200:500]])
    absorb(ingest)
    ingest.verify(SIZE)
    assert everything(reader) == CONTENT
    reader.close()
    ingest.abort()


# No room.


def test_a_full_disk_is_told_and_what_there_is_can_be_kept(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:10]])

    def full(_fd: int, _content: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            ingest.write(10, [CONTENT[10:]])
    assert ingest.offset == 10
    ingest.keep()
    assert folder.kept() == CONTENT[:10]


class Rooms:
    """A room that has so many bytes, and remembers what it was asked."""

    def __init__(self, largest: int, times: int) -> None:
        self.largest = largest
        self.times = times
        """How often there is room for more."""
        self.reserved = 0

    def check(self, size: int) -> None:
        if size > self.largest:
            raise NoRoom("too large")

    def claim(self, *_claim: object) -> None:
        self.reserved += 1
        if self.reserved > self.times:
            raise NoRoom("no room")


def test_room_is_made_before_anything_is_written(folder: Folder) -> None:
    room = Rooms(SIZE, times=0)
    ingest = Ingest(folder.place, folder.final, DIGEST, room=room)
    ingest.announce(SIZE)
    with pytest.raises(NoRoom, match="no room"):
        ingest.write(0, [CONTENT[:10]])
    assert (ingest.offset, room.reserved) == (0, 1)
    assert folder.kept() == b""
    ingest.abort()


def test_for_a_blob_whose_size_is_known_room_is_made_once(folder: Folder) -> None:
    room = Rooms(SIZE, times=1)
    ingest = Ingest(folder.place, folder.final, DIGEST, room=room)
    ingest.announce(SIZE)
    for start in range(0, SIZE, 1000):
        ingest.write(start, [CONTENT[start : start + 1000]])
    assert room.reserved == 1
    ingest.verify(SIZE)
    ingest.commit()


def test_a_blob_that_outgrows_its_size_needs_room_again(folder: Folder) -> None:
    room = Rooms(SIZE, times=1)
    ingest = Ingest(folder.place, folder.final, DIGEST, room=room)
    ingest.announce(100)
    ingest.write(0, [CONTENT[:100]])
    with pytest.raises(NoRoom):
        ingest.write(100, [CONTENT[100:]])
    ingest.keep()
    assert folder.kept() == CONTENT[:100]


def test_for_a_blob_of_unknown_size_room_is_made_step_by_step(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEP", 4000)
    room = Rooms(SIZE, times=2)
    ingest = Ingest(folder.place, folder.final, DIGEST, room=room)
    ingest.write(0, [CONTENT[:1000]])
    assert room.reserved == 1
    ingest.write(1000, [CONTENT[1000:2000]])
    assert room.reserved == 1
    ingest.write(2000, [CONTENT[2000:6000]])
    assert room.reserved == 2
    with pytest.raises(NoRoom):
        ingest.write(6000, [CONTENT[6000:]])
    # What has come is there for the next attempt.
    ingest.keep()
    assert folder.kept() == CONTENT[:6000]


def test_a_blob_that_is_too_large_is_not_begun(folder: Folder) -> None:
    room = Rooms(SIZE - 1, times=9)
    ingest = Ingest(folder.place, folder.final, DIGEST, room=room)
    with pytest.raises(NoRoom, match="too large"):
        ingest.announce(SIZE)
    follower = Follower(folder.place.lease)
    assert follower.progress().size is None
    follower.close()
    ingest.abort()
