"""Leases where something else lies, or the disk fails."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from addon.store.lease import Follower, Lease

from .blobs import failing
from .leases import killed, look

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "one.lease"
    # A lease leaves nothing beside itself.
    assert {file.name for file in tmp_path.iterdir()} <= {"one.lease", "target"}


def a_link(path: Path) -> None:
    path.with_name("target").write_bytes(b"theirs")
    path.symlink_to("target")


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to("target")


@pytest.mark.parametrize("make", [a_link, a_link_to_nowhere, os.mkfifo, Path.mkdir])
def test_what_is_no_file_is_refused(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    works: list[Callable[[Path], object]] = [Lease, Follower]
    for work in works:
        with pytest.raises(OSError, match=r"symbolic link|it is no file|Is a directory") as refused:
            work(path)
        assert not isinstance(refused.value, (BlockingIOError, FileNotFoundError))
    if make is a_link:
        assert path.with_name("target").read_bytes() == b"theirs"
    if make is a_link_to_nowhere:
        assert not path.with_name("target").exists()


def test_a_file_system_without_locks_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with pytest.raises(OSError, match="No locks"):
        Lease(path)
    follower = Follower(path)
    with pytest.raises(OSError, match="No locks"):
        follower.held()
    follower.close()


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(("call", "number"), [("pread", errno.EIO), ("pwrite", errno.ENOSPC)])
def test_a_disk_that_fails_leaves_nobody_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, left: bool, call: str, number: int
) -> None:
    if left:
        killed(path, 7)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            Lease(path)
    Lease(path).release()


def test_a_successor_that_fails_leaves_nobody_with_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(path, 7)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            Lease(path)
    lease = Lease(path)
    # What is left can be gone on with all the same.
    assert lease.left is not None
    assert lease.left.offset == 7
    lease.release()


def test_progress_that_cannot_be_told_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(path)
    lease.publish(5)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(OSError, match="No space"):
            lease.publish(6)
        with pytest.raises(OSError, match="No space"):
            lease.withdraw()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            look(path)
    assert look(path)[0].offset == 5
    lease.release()


def test_a_lease_that_cannot_be_removed_is_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", failing(errno.EROFS))
        with pytest.raises(OSError, match="Read-only"):
            lease.release()
    assert not look(path)[1]
    Lease(path).release()
