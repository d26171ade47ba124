"""Trouble of the store: when it begins, when it ends, and that it is told once."""

import asyncio
import errno
import itertools
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from addon.store.errors import NoRoom, StoreError
from addon.transfer import trouble as module
from addon.transfer.trouble import Trouble, told
from addon.transfer.writing import DiskTrouble

from ..doubles import BOUND

FULL = OSError(errno.ENOSPC, "No space left on device")
BEGINS = "nothing is stored, and blobs pass through, until this is over: "
ENDS = "blobs are stored again"


class Disk:
    """A disk that fails at each try as long as it has an error."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.tries = 0
        self.gate = threading.Event()
        """What each try waits for; open from the start."""
        self.gate.set()

    def probe(self) -> None:
        self.tries += 1
        assert self.gate.wait(BOUND)
        if self.error is not None:
            raise self.error


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def trouble(tidy: None, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trouble]:
    monkeypatch.setattr(module, "PROBE_SECONDS", 0)
    trouble = Trouble(disk.probe)
    yield trouble
    await asyncio.wait_for(trouble.close(), BOUND)
    assert len(asyncio.all_tasks()) == 1, "something is still tried"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        for _ in itertools.takewhile(lambda _: not condition(), itertools.count()):
            await asyncio.sleep(0)


def why(trouble: Trouble) -> str:
    return trouble.reason


def is_stuck(trouble: Trouble) -> bool:
    return trouble.stuck


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == module.__name__]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FULL, "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up"),
        (OSError(errno.EROFS, "Read-only file system"), "the disk is read-only"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open"),
        (OSError(errno.ENFILE, "Too many open files in system"), "too many files are open on this machine"),
        (OSError(errno.EIO, "Input/output error"), "the disk is failing"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError("the ingest ends at 7"), "the ingest ends at 7"),
        (StoreError("cannot use catalog.db"), "cannot use catalog.db"),
    ],
)
def test_errors_in_a_few_words(error: Exception, words: str) -> None:
    assert told(error) == words


async def test_it_is_told_once_and_ends_by_itself(
    trouble: Trouble, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    assert not why(trouble)
    disk.error = FULL
    for _ in range(5):
        trouble.note(FULL)
    assert why(trouble) == "the disk is full"
    await until(lambda: disk.tries >= 3)
    trouble.note(FULL)
    assert lines(caplog) == [f"{BEGINS}the disk is full"]
    disk.error = None
    await until(lambda: why(trouble) == "")
    assert lines(caplog) == [f"{BEGINS}the disk is full", ENDS]
    assert trouble._task
    await asyncio.wait_for(trouble._task, BOUND)


async def test_it_may_begin_again(trouble: Trouble, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        trouble.note(DiskTrouble("the disk is slow"))
        await until(lambda: why(trouble) == "")
    assert lines(caplog) == [f"{BEGINS}the disk is slow", ENDS] * 2


async def test_a_disk_that_is_stuck_is_so_until_it_answers(trouble: Trouble, disk: Disk) -> None:
    trouble.note(FULL)
    assert not is_stuck(trouble)
    disk.error = FULL
    disk.gate.clear()
    trouble.note(DiskTrouble("the disk is slow"))
    trouble.note(FULL)
    assert is_stuck(trouble)
    disk.gate.set()
    await until(lambda: not is_stuck(trouble))
    assert why(trouble) == "the disk is full"


async def test_the_reason_is_the_latest(trouble: Trouble, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    disk.error = OSError(errno.EROFS, "Read-only file system")
    trouble.note(OSError(errno.EIO, "Input/output error"))
    assert why(trouble) == "the disk is failing"
    await until(lambda: why(trouble) == "the disk is read-only")
    disk.error = StoreError("cannot use catalog.db")
    await until(lambda: why(trouble) == "cannot use catalog.db")
    assert len(lines(caplog)) == 1


async def test_no_room_for_one_blob_is_no_trouble(
    trouble: Trouble, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.gate.clear()
    for _ in range(5):
        trouble.note(NoRoom("the store has no room"))
    assert not why(trouble)
    disk.gate.set()
    assert trouble._task
    await asyncio.wait_for(trouble._task, BOUND)
    assert not why(trouble)
    assert disk.tries == 1
    assert not lines(caplog)


async def test_no_room_for_anything_is_trouble(trouble: Trouble, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    disk.error = NoRoom("the store has no room within the disk")
    trouble.note(NoRoom("the store has no room"))
    await until(lambda: why(trouble) == "the store has no room within the disk")
    assert lines(caplog) == [f"{BEGINS}the store has no room within the disk"]
    disk.error = None
    await until(lambda: why(trouble) == "")
    assert lines(caplog)[1:] == [ENDS]


async def test_trouble_while_it_is_tried_whether_there_is_some(
    trouble: Trouble, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.gate.clear()
    trouble.note(NoRoom("the store has no room"))
    trouble.note(FULL)
    assert why(trouble) == "the disk is full"
    disk.gate.set()
    await until(lambda: why(trouble) == "")
    assert lines(caplog) == [f"{BEGINS}the disk is full", ENDS]


async def test_what_is_no_trouble_changes_none(trouble: Trouble, disk: Disk) -> None:
    disk.error = FULL
    trouble.note(FULL)
    trouble.note(NoRoom("the store has no room"))
    assert why(trouble) == "the disk is full"


async def test_closing_does_not_wait_for_a_stuck_disk(tidy: None, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_SECONDS", 0)
    trouble = Trouble(disk.probe)
    disk.gate.clear()
    trouble.note(FULL)
    await until(lambda: disk.tries == 1)
    await asyncio.wait_for(trouble.close(), BOUND)
    disk.gate.set()
    # Nothing was begun: nothing is to be ended.
    await Trouble(disk.probe).close()
