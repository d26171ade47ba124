import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from addon.store import ingest as module
from addon.store.disk import Store
from addon.store.errors import DigestMismatch
from addon.store.ingest import Ingest, sweep

from .blobs import digest_of, open_files, put, read

CONTENT = b"a layer, " * 1000


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Ingest]:
    """Makes ingests of `CONTENT` in a folder of their own."""
    digest = digest_of(CONTENT)
    (tmp_path / "ingest").mkdir()
    (tmp_path / "blobs").mkdir()
    return lambda: Ingest(tmp_path / "ingest" / "one", tmp_path / "blobs" / digest.encoded, digest)


def files(store: Store, folder: str) -> list[str]:
    return sorted(path.name for path in (store.root / folder).rglob("*") if path.is_file())


def test_a_blob_arrives(store: Store) -> None:
    digest = digest_of(CONTENT)
    ingest = store.ingest(digest)
    assert (ingest.digest, ingest.offset) == (digest, 0)
    ingest.append([CONTENT[:1000], b"", CONTENT[1000:1001]])
    ingest.append([])
    assert ingest.offset == 1001
    ingest.append([CONTENT[1001:]])
    ingest.verify(len(CONTENT))
    # Until here, nobody sees it.
    assert store.open(digest) is None
    assert files(store, "blobs") == []
    ingest.commit()
    assert read(store, digest) == CONTENT
    assert files(store, "blobs") == [digest.encoded]
    assert files(store, "pulltap/ingest") == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_blobs_of_any_size_by_either_algorithm(store: Store, content: bytes, algorithm: str) -> None:
    digest = put(store, content, algorithm)
    assert (store.root / "blobs" / algorithm / digest.encoded).read_bytes() == content
    assert read(store, digest) == content


def test_only_its_owner_may_read_it(store: Store) -> None:
    path = store.path(put(store, CONTENT))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# Verify.


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_the_right_bytes(fresh: Callable[[], Ingest], size: int | None) -> None:
    ingest = fresh()
    ingest.append([CONTENT])
    ingest.verify(size)
    ingest.abort()


@pytest.mark.parametrize(
    ("received", "size", "message"),
    [
        (CONTENT[:-1], len(CONTENT), f"got {len(CONTENT) - 1} bytes of {len(CONTENT)}"),
        (CONTENT + b"x", len(CONTENT), f"got {len(CONTENT) + 1} bytes of {len(CONTENT)}"),
        (b"", len(CONTENT), "got 0 bytes of"),
        # Even where the digest is right.
        (CONTENT, len(CONTENT) + 1, f"got {len(CONTENT)} bytes of {len(CONTENT) + 1}"),
        (CONTENT, 0, "of 0"),
        (CONTENT[:-1], None, f"the {len(CONTENT) - 1} bytes received have the digest"),
        (b"x" + CONTENT[1:], len(CONTENT), str(digest_of(b"x" + CONTENT[1:]))),
        (b"", None, str(digest_of(b""))),
    ],
)
def test_the_wrong_bytes(fresh: Callable[[], Ingest], received: bytes, size: int | None, message: str) -> None:
    ingest = fresh()
    ingest.append([received])
    with pytest.raises(DigestMismatch, match=message) as mismatch:
        ingest.verify(size)
    assert str(digest_of(CONTENT)) in str(mismatch.value)
    ingest.abort()


# Commit and abort.


def test_a_commit_is_durable_before_and_after_it_is_seen(
    fresh: Callable[[], Ingest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "blobs" / digest_of(CONTENT).encoded
    synced: list[tuple[bool, bool]] = []

    def fsync(fd: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), final.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    ingest = fresh()
    ingest.append([CONTENT])
    ingest.commit()
    # The file while nobody sees it, then the folder with its name.
    assert synced == [(False, False), (True, True)]


def test_an_abort_leaves_nothing(store: Store) -> None:
    before = open_files()
    ingest = store.ingest(digest_of(CONTENT))
    ingest.append([CONTENT])
    ingest.abort()
    ingest.abort()
    assert files(store, "blobs") == files(store, "pulltap/ingest") == []
    assert store.open(digest_of(CONTENT)) is None
    assert open_files() == before


def test_an_abort_after_the_commit_does_nothing(store: Store) -> None:
    before = open_files()
    digest = digest_of(CONTENT)
    ingest = store.ingest(digest)
    ingest.append([CONTENT])
    ingest.commit()
    # Takes the number that has just become free.
    with store.path(digest).open("rb") as other:
        ingest.abort()
        assert other.read(5) == CONTENT[:5]
    assert read(store, digest) == CONTENT
    assert open_files() == before


def test_a_commit_that_fails_can_be_aborted(fresh: Callable[[], Ingest], tmp_path: Path) -> None:
    before = open_files()
    ingest = fresh()
    ingest.append([CONTENT])
    (tmp_path / "blobs").rmdir()
    with pytest.raises(OSError, match="No such file"):
        ingest.commit()
    ingest.abort()
    assert list((tmp_path / "ingest").iterdir()) == []
    assert open_files() == before


def test_two_may_take_the_same_blob_in(store: Store) -> None:
    digest = digest_of(CONTENT)
    first, second, third = (store.ingest(digest) for _ in range(3))
    for ingest in (first, second, third):
        ingest.append([CONTENT])
    first.commit()
    reader = store.open(digest)
    assert reader is not None
    second.commit()
    third.abort()
    assert reader.read(0, len(CONTENT)) == CONTENT
    assert read(store, digest) == CONTENT
    assert files(store, "pulltap/ingest") == []
    reader.close()


# Readers.


def test_readers_follow_and_outlive_commit_and_abort(store: Store) -> None:
    committed, aborted = store.ingest(digest_of(CONTENT)), store.ingest(digest_of(CONTENT))
    for ingest, end in ((committed, committed.commit), (aborted, aborted.abort)):
        early = ingest.reader()
        assert early.read(0, 100) == b""
        ingest.append([CONTENT[:50]])
        late = ingest.reader()
        assert (early.size, late.size) == (0, 50)
        assert early.read(0, 100) == late.read(0, 100) == CONTENT[:50]
        ingest.append([CONTENT[50:]])
        end()
        assert early.read(40, len(CONTENT)) == late.read(40, len(CONTENT)) == CONTENT[40:]
        early.close()
        late.close()


def test_what_offset_tells_can_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = store.ingest(digest_of(CONTENT))
    reader = ingest.reader()
    write = os.write

    def short(fd: int, data: bytes) -> int:
        # A disk may take less than it was given.
        assert len(reader.read(0, len(CONTENT) + 1)) >= ingest.offset
        return write(fd, data[:7])

    monkeypatch.setattr(os, "write", short)
    ingest.append([CONTENT[:100], CONTENT[100:]])
    ingest.verify(len(CONTENT))
    assert reader.read(0, len(CONTENT)) == CONTENT
    reader.close()
    ingest.abort()


def test_a_full_disk_is_told_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = store.ingest(digest_of(CONTENT))
    ingest.append([CONTENT[:10]])

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            ingest.append([CONTENT[10:]])
    assert ingest.offset == 10
    ingest.abort()
    assert files(store, "pulltap/ingest") == []


# What is left over.

OWNER = """
import sys
from pathlib import Path
from addon.registry.digest import Digest
from addon.store.ingest import Ingest
path = Path(sys.argv[1])
ingest = Ingest(path, path.with_name("final"), Digest.parse(sys.argv[2]))
ingest.append([b"so far"])
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_another_process_writes_stays_until_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "one"
    command = [sys.executable, "-c", OWNER, str(path), str(digest_of(CONTENT))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "ready\n"
        sweep(path)
        assert path.read_bytes() == b"so far"
        owner.kill()
        owner.wait()
        # Its file outlives it, its lock does not.
        assert path.exists()
        sweep(path)
        assert not path.exists()


def test_what_this_process_writes_stays(fresh: Callable[[], Ingest], tmp_path: Path) -> None:
    ingest = fresh()
    sweep(tmp_path / "ingest" / "one")
    ingest.append([CONTENT])
    ingest.commit()
    assert (tmp_path / "blobs" / digest_of(CONTENT).encoded).read_bytes() == CONTENT


@pytest.mark.parametrize("times", [1, 3])
def test_a_sweep_between_making_and_locking_takes_nothing(
    fresh: Callable[[], Ingest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    before = open_files()
    path = tmp_path / "ingest" / "one"
    swept = []

    def flock(fd: int, operation: int) -> None:
        if not operation & fcntl.LOCK_NB and len(swept) < times:
            swept.append(path.exists())
            sweep(path)
        lock(fd, operation)

    lock = fcntl.flock
    monkeypatch.setattr(module.fcntl, "flock", flock)
    ingest = fresh()
    assert swept == [True] * times
    sweep(path)
    ingest.append([CONTENT])
    ingest.commit()
    assert (tmp_path / "blobs" / digest_of(CONTENT).encoded).read_bytes() == CONTENT
    assert open_files() == before


def test_a_file_system_without_locks_is_told(fresh: Callable[[], Ingest], monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()

    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with pytest.raises(OSError, match="No locks"):
        fresh()
    assert open_files() == before


def test_a_sweep_follows_no_link_and_minds_no_gap(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(CONTENT)
    link = tmp_path / "link"
    link.symlink_to(target)
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (link, folder, tmp_path / "gone"):
        sweep(path)
    assert target.read_bytes() == CONTENT
    assert folder.is_dir()


def test_no_ingest_takes_a_file_that_is_there(fresh: Callable[[], Ingest], tmp_path: Path) -> None:
    (tmp_path / "ingest" / "one").write_bytes(CONTENT)
    with pytest.raises(FileExistsError):
        fresh()
    assert (tmp_path / "ingest" / "one").read_bytes() == CONTENT
