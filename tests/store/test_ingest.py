import errno
import fcntl
import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.store import ingest as module
from addon.store.blob import BlobReader
from addon.store.errors import DigestMismatch
from addon.store.ingest import HOLES, KEPT_SECONDS, Ingest, sweep

from .blobs import digest_of, open_files

CONTENT = bytes(range(256)) * 40
DIGEST = digest_of(CONTENT)
SIZE = len(CONTENT)


class Folder:
    """Where ingests of `CONTENT` are made, and where they are to end."""

    def __init__(self, path: Path) -> None:
        self.ingests = path / "ingest"
        self.ingests.mkdir()
        self.final = path / "blobs" / DIGEST.encoded
        self.final.parent.mkdir()
        self.plain = self.ingests / "one"

    def ingest(self) -> Ingest:
        return Ingest(self.plain, self.final, DIGEST)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.ingests.iterdir())

    def kept(self) -> bytes | None:
        """What the next attempt goes on with."""
        return self.plain.read_bytes() if self.plain.exists() else None


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def absorb(ingest: Ingest) -> None:
    while ingest.absorb():
        pass


def everything(reader: BlobReader) -> bytes:
    return reader.read(0, SIZE + 1)


def test_a_blob_arrives(folder: Folder) -> None:
    ingest = folder.ingest()
    assert (ingest.digest, ingest.offset, ingest.kept) == (DIGEST, 0, 0)
    ingest.write(0, [CONTENT[:1000], b"", CONTENT[1000:1001]])
    ingest.write(1001, [])
    assert ingest.offset == 1001
    ingest.write(1001, [CONTENT[1001:]])
    ingest.verify(SIZE)
    # Until here, nobody sees it.
    assert not folder.final.exists()
    ingest.commit()
    assert folder.final.read_bytes() == CONTENT
    assert folder.left() == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_blobs_of_any_size_by_either_algorithm(tmp_path: Path, content: bytes, algorithm: str) -> None:
    ingest = Ingest(tmp_path / "one", tmp_path / "blob", digest_of(content, algorithm))
    ingest.write(0, [content])
    ingest.verify(len(content))
    ingest.commit()
    assert (tmp_path / "blob").read_bytes() == content


def test_only_its_owner_may_read_it(folder: Folder) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
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


def test_an_abort_leaves_nothing(folder: Folder) -> None:
    before = open_files()
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    for _ in range(2):
        ingest.abort()
        ingest.keep()
    assert folder.left() == []
    assert not folder.final.exists()
    assert open_files() == before


def test_an_end_after_the_commit_does_nothing(folder: Folder) -> None:
    before = open_files()
    ingest = folder.ingest()
    ingest.write(0, [CONTENT])
    ingest.commit()
    # Takes the number that has just become free.
    with folder.final.open("rb") as other:
        ingest.keep()
        ingest.abort()
        assert other.read() == CONTENT
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
    folder.plain.unlink()
    if content is not None:
        folder.plain.write_bytes(content)
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


# Readers.


@pytest.mark.parametrize("end", [Ingest.commit, Ingest.abort, Ingest.keep])
def test_readers_follow_and_outlive_every_end(folder: Folder, end: Callable[[Ingest], None]) -> None:
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


# Out of order.


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Pieces of `CONTENT`, all of it, in some order."""
    cuts = sorted({0, SIZE, *draw(st.lists(st.integers(0, SIZE), max_size=8))})
    return draw(st.permutations(list(itertools.pairwise(cuts))))


@given(arrivals(), st.integers(0, 9), st.lists(st.booleans(), min_size=9, max_size=9), st.integers(1000, 20000))
def test_pieces_may_come_in_any_order_and_in_two_attempts(
    pieces: list[tuple[int, int]], broken: int, absorbs: list[bool], step: int
) -> None:
    def receive(ingest: Ingest, pieces: list[tuple[int, int]]) -> None:
        reader = ingest.reader()
        for (start, stop), absorbed in zip(pieces, absorbs, strict=False):
            middle = (start + stop) // 2
            ingest.write(start, [CONTENT[start:middle], CONTENT[middle:stop]])
            if absorbed:
                absorb(ingest)
            assert everything(reader)[: ingest.offset] == CONTENT[: ingest.offset]
        absorb(ingest)
        reader.close()

    with TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_STEP", step)
        folder = Folder(Path(path))
        first = folder.ingest()
        receive(first, pieces[:broken])
        first.keep()
        # All up to the first hole, and nothing behind it.
        hole = min((start for start, _ in pieces[broken:]), default=SIZE)
        assert folder.kept() == (CONTENT[:hole] if hole else None)
        assert folder.left() == (["one"] if hole else [])
        second = folder.ingest()
        assert (second.kept, second.offset) == (hole, 0)
        receive(second, [piece for piece in pieces if piece[0] >= hole])
        assert second.offset == SIZE
        second.verify(SIZE)
        second.commit()
        assert folder.final.read_bytes() == CONTENT
        assert folder.left() == []


def test_a_step_at_a_time(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEP", 4000)
    ingest = folder.ingest()
    ingest.write(100, [CONTENT[100:]])
    assert not ingest.absorb()
    assert ingest.offset == 0
    ingest.write(0, [CONTENT[:100]])
    offsets = []
    while ingest.absorb():
        offsets.append(ingest.offset)
    assert offsets == [4100, 8100]
    assert ingest.offset == SIZE
    ingest.abort()


def test_what_is_missing_is_told(folder: Folder) -> None:
    folder.plain.write_bytes(CONTENT[:100])
    ingest = folder.ingest()
    os.truncate(folder.plain, 50)
    with pytest.raises(OSError, match="ends at 50, before 100"):
        absorb(ingest)
    ingest.abort()


def test_while_there_are_holes_its_name_says_so(folder: Folder) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:10]])
    assert folder.left() == ["one"]
    ingest.write(20, [CONTENT[20:]])
    (name,) = folder.left()
    assert name.startswith("one.")
    assert name.endswith(HOLES)
    ingest.keep()
    assert folder.left() == ["one"]
    assert folder.kept() == CONTENT[:10]


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
    folder.plain.write_bytes(CONTENT[:300] + b"x" * 300)
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


def test_what_was_kept_meanwhile_by_another_stays(folder: Folder) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:10]])
    ingest.write(20, [CONTENT[20:]])
    # The plain name has become free, and another attempt took it.
    other = folder.ingest()
    other.write(0, [CONTENT[:5]])
    ingest.keep()
    other.keep()
    assert folder.left() == ["one"]
    assert folder.kept() == CONTENT[:5]


def test_beside_another_process_nothing_is_kept(folder: Folder) -> None:
    # Under such a name nobody would go on with it.
    ingest = Ingest(folder.plain.with_name(f"one.deadbeef{HOLES}"), folder.final, DIGEST)
    ingest.write(0, [CONTENT[:10]])
    ingest.keep()
    assert folder.left() == []


# Locks, and what is left over.

OWNER = """
import sys
from pathlib import Path
from addon.registry.digest import Digest
from addon.store.ingest import Ingest
path = Path(sys.argv[1])
ingest = Ingest(path, path.with_name("final"), Digest.parse(sys.argv[2]))
ingest.write(0, [b"so far"])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["one", f"one{HOLES}"])
def test_what_another_process_writes_is_its_own_until_it_is_gone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    command = [sys.executable, "-c", OWNER, str(path), str(DIGEST)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "ready\n"
        os.utime(path, (0, 0))
        sweep(path)
        assert path.read_bytes() == b"so far"
        with pytest.raises(BlockingIOError):
            Ingest(path, tmp_path / "final", DIGEST)
        assert path.read_bytes() == b"so far"
        owner.kill()
        owner.wait()
    # Its file outlives it, its lock does not.
    ingest = Ingest(path, tmp_path / "final", DIGEST)
    assert ingest.kept == 6
    ingest.abort()


@pytest.mark.parametrize(
    ("name", "content", "age", "stays"),
    [
        ("one", b"so far", 0, True),
        ("one", b"so far", KEPT_SECONDS - 3600, True),
        ("one", b"so far", KEPT_SECONDS + 3600, False),
        ("one", b"", 0, False),
        (f"one.deadbeef{HOLES}", b"so far", 0, False),
    ],
)
def test_what_is_left_over_is_swept(tmp_path: Path, name: str, content: bytes, age: int, stays: bool) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    modified = path.stat().st_mtime - age
    os.utime(path, (modified, modified))
    sweep(path)
    assert path.exists() is stays


def test_what_this_process_writes_is_not_swept(folder: Folder) -> None:
    ingest = folder.ingest()
    sweep(folder.plain)
    ingest.write(10, [CONTENT[10:]])
    for name in folder.left():
        sweep(folder.ingests / name)
    ingest.write(0, [CONTENT[:10]])
    absorb(ingest)
    ingest.commit()
    assert folder.final.read_bytes() == CONTENT


def test_a_sweep_between_making_and_locking_takes_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    lock = fcntl.flock
    times = 0

    def flock(fd: int, operation: int) -> None:
        nonlocal times
        times += 1
        # The first, third and fifth call are the ingest's, the others the sweep's.
        if times in (1, 3, 5):
            sweep(folder.plain)
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    ingest = folder.ingest()
    assert times == 7
    ingest.write(0, [CONTENT])
    ingest.commit()
    assert folder.final.read_bytes() == CONTENT
    assert open_files() == before


def test_a_file_system_without_locks_is_told(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()

    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    folder.plain.touch()
    monkeypatch.setattr(fcntl, "flock", flock)
    for work in (folder.ingest, lambda: sweep(folder.plain)):
        with pytest.raises(OSError, match="No locks"):
            work()
    assert open_files() == before


def test_no_link_is_followed(folder: Folder) -> None:
    target = folder.final.with_name("target")
    folder.plain.symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        folder.ingest()
    assert not target.exists()
    target.write_bytes(b"")
    sweep(folder.plain)
    assert target.exists()


def test_a_sweep_minds_no_folder_and_no_gap(tmp_path: Path) -> None:
    (tmp_path / f"folder{HOLES}").mkdir()
    sweep(tmp_path / f"folder{HOLES}")
    sweep(tmp_path / "gone")
    assert (tmp_path / f"folder{HOLES}").is_dir()
