import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from addon.store import lease as module
from addon.store.lease import Follower, Lease, Progress, boot

from .blobs import open_files
from .leases import killed, look
from .processes import finish, process, tell

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "one.lease"
    # A lease leaves nothing beside itself.
    assert {file.name for file in tmp_path.iterdir()} <= {"one.lease", "target"}


# One owner.


def test_one_at_a_time_has_it(path: Path) -> None:
    lease = Lease(path)
    assert lease.left is None
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            Lease(path)
    lease.release()
    again = Lease(path)
    assert again.left is None
    again.release()


def test_once_released_nothing_is_left(path: Path) -> None:
    lease = Lease(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lease.release()
    assert not path.exists()
    # Another one's is not taken away by a second time.
    other = Lease(path)
    lease.release()
    assert look(path)[1]
    other.release()


OWNER = """
import sys
from pathlib import Path
from addon.store.lease import Lease
print("ready", flush=True)
sys.stdin.readline()
try:
    lease = Lease(Path(sys.argv[1]))
except BlockingIOError:
    print("overtaken", flush=True)
else:
    lease.announce(1000)
    lease.publish(10)
    print("has it", lease.left.offset if lease.left else None, flush=True)
    sys.stdin.readline()
    lease.release()
"""


def race(stack: ExitStack, path: Path, racers: int) -> list[str]:
    """What processes say that want it at the same time; they go on once the stack closes."""
    started = [stack.enter_context(process(OWNER, path)) for _ in range(racers)]
    for each in started:
        tell(each)
    said = []
    for each in started:
        assert each.stdout
        said.append(each.stdout.readline().strip())
        stack.callback(finish, each)
    return sorted(said)


def test_of_processes_that_race_one_has_it(path: Path) -> None:
    with ExitStack() as stack:
        assert race(stack, path, 4) == ["has it None", *["overtaken"] * 3]
    assert not path.exists()


def test_it_outlives_no_owner_that_is_killed(path: Path) -> None:
    with process(OWNER, path) as owner:
        tell(owner)
        assert owner.stdout
        assert owner.stdout.readline() == "has it None\n"
        assert look(path) == (Progress(10, 1000, boot()), True)
        with pytest.raises(BlockingIOError):
            Lease(path)
        owner.kill()
        assert owner.wait() == -signal.SIGKILL
    # Its file is there, and tells what it did last.
    assert look(path) == (Progress(10, 1000, boot()), False)
    lease = Lease(path)
    assert lease.left == Progress(10, 1000, boot())
    lease.release()


def test_of_processes_that_race_for_what_is_left_one_knows_of_it(path: Path) -> None:
    for _ in range(5):
        killed(path, 7)
        with ExitStack() as stack:
            assert race(stack, path, 3) == ["has it 7", "overtaken", "overtaken"]


def test_nobody_comes_between_a_killed_owner_and_its_successor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(path, 7)
    real = Path.replace
    seen = []

    def replace(self: Path, target: Path) -> Path:
        # Who follows finds either that of the killed owner, or the next.
        seen.append(look(path))
        replaced = real(self, target)
        seen.append(look(path))
        return replaced

    monkeypatch.setattr(Path, "replace", replace)
    lease = Lease(path)
    assert seen == [(Progress(7, None, boot()), True), (Progress(0, None), True)]
    assert lease.left == Progress(7, None, boot())
    lease.release()


def test_nobody_finds_one_that_says_nothing_yet(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock
    taken: list[int] = []

    def flock(fd: int, operation: int) -> None:
        if path.exists():
            # It is made, and not locked yet: another process would wait here.
            taken.append(fd)
            other = os.open(path.parent, os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(other)
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lease = Lease(path)
    assert len(taken) == 1
    assert not lease.lost
    lease.release()


@pytest.mark.parametrize("content", [b"", b"\0" * 44, b"x" * 100])
def test_what_a_power_cut_took_is_lost(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    lease = Lease(path)
    assert lease.left is None
    assert lease.lost
    lease.publish(5)
    assert look(path)[0].offset == 5
    lease.release()
    again = Lease(path)
    assert not again.lost
    again.release()


# What others see.


def test_followers_see_how_far_it_is(path: Path) -> None:
    lease = Lease(path)
    follower = Follower(path)
    assert follower.progress() == Progress(0, None, boot())
    lease.announce(1 << 40)
    lease.publish(5)
    assert follower.progress() == Progress(5, 1 << 40, boot())
    lease.publish(1 << 40)
    assert follower.progress() == Progress(1 << 40, 1 << 40, boot())
    assert follower.held()
    lease.release()
    # Also once it is over, though its file is gone.
    assert not follower.held()
    assert follower.progress().offset == 1 << 40
    follower.close()


def test_followers_see_that_it_was_withdrawn(path: Path) -> None:
    lease = Lease(path)
    follower = Follower(path)
    lease.announce(10)
    lease.publish(10)
    lease.withdraw()
    assert follower.progress() == Progress(0, 10, boot(), withdrawn=True)
    lease.release()
    assert follower.progress().withdrawn
    follower.close()


def test_others_see_what_there_is_room_for(path: Path) -> None:
    lease = Lease(path)
    lease.announce(100)
    lease.publish(5)
    lease.claim(1000)
    assert look(path)[0] == Progress(5, 100, boot(), room=1000)
    lease.publish(6)
    assert look(path)[0] == Progress(6, 100, boot(), room=1000)
    lease.release()


def test_a_blob_may_be_empty(path: Path) -> None:
    lease = Lease(path)
    lease.announce(0)
    lease.publish(0)
    assert look(path)[0] == Progress(0, 0, boot())
    lease.release()


def test_a_follower_of_a_killed_owner_does_not_take_the_next_one_for_it(path: Path) -> None:
    killed(path, 7)
    follower = Follower(path)
    # Having looked, it is in nobody's way.
    assert not follower.held()
    lease = Lease(path)
    lease.publish(3)
    assert not follower.held()
    assert follower.progress().offset == 7
    assert look(path) == (Progress(3, None, boot()), True)
    follower.close()
    lease.release()


@pytest.mark.parametrize("content", [b"", b"\0" * 10, b"\0" * 100, b"x" * 100])
def test_what_is_half_written_is_read_again_the_next_time(path: Path, content: bytes) -> None:
    lease = Lease(path)
    lease.publish(5)
    follower = Follower(path)
    assert follower.progress().offset == 5
    path.write_bytes(content)
    assert follower.progress() == Progress(5, None, boot())
    lease.publish(6)
    assert follower.progress().offset == 6
    follower.close()
    lease.release()


@pytest.mark.parametrize("at", [0, 8, 16, 24, -1])
def test_any_byte_that_is_wrong_is_found(path: Path, at: int) -> None:
    lease = Lease(path)
    lease.announce(1000)
    lease.publish(5)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert look(path)[0] == Progress(0, None)
    lease.publish(6)
    assert look(path)[0].offset == 6
    lease.release()


def test_nobody_follows_what_is_not_there(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Follower(path)


def test_a_forgotten_follower_is_closed(path: Path) -> None:
    lease = Lease(path)
    before = open_files()
    for _ in range(10):
        Follower(path)
    follower = Follower(path)
    follower.close()
    # Takes the number that has just become free.
    with path.open("rb") as other:
        follower.close()
        assert other.read()
    assert open_files() == before
    lease.release()


# Looking and taking disturb each other nowhere.


def test_who_looks_keeps_nobody_from_taking_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(path, 7)
    follower = Follower(path)
    lock = fcntl.flock
    # It looks just when the other one is about to lock it.
    lock(follower._fd, fcntl.LOCK_SH)
    refused = []

    def flock(fd: int, operation: int) -> None:
        try:
            lock(fd, operation)
        except BlockingIOError:
            refused.append(operation)
            raise
        finally:
            if len(refused) == 3:
                lock(follower._fd, fcntl.LOCK_UN)

    monkeypatch.setattr(fcntl, "flock", flock)
    lease = Lease(path)
    assert refused == [fcntl.LOCK_EX | fcntl.LOCK_NB] * 3
    assert lease.left == Progress(7, None, boot())
    follower.close()
    lease.release()


def test_one_that_is_given_back_meanwhile_is_taken_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock
    times = 0

    def flock(fd: int, operation: int) -> None:
        nonlocal times
        # The first one is that of the folder.
        times += path.exists()
        if times in (1, 2):
            # Once it is gone, once there is another one in its place.
            path.unlink()
        if times == 2:
            path.touch()
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lease = Lease(path)
    assert times == 3
    assert look(path)[1]
    lease.release()


# Boots.


def test_one_boot_is_told_from_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = tmp_path / "target"

    def booted(content: bytes) -> bytes:
        told.write_bytes(content)
        boot.cache_clear()
        return boot()

    monkeypatch.setattr(module, "Path", lambda _: told)
    one = booted(b"0d4b6a41-6b1e-4cb0-9f4c-9e5b1b6f0f2a\n")
    assert len(one) == 16
    assert booted(b"0d4b6a41-6b1e-4cb0-9f4c-9e5b1b6f0f2b\n") != one
    # Where the system does not say, all boots are the same.
    assert booted(b"none") == booted(b"\xff") == bytes(16)
    told.unlink()
    boot.cache_clear()
    assert boot() == bytes(16)
    monkeypatch.undo()
    boot.cache_clear()
