"""Blobs are looked at again: flipped bits are found, at a rate that nobody feels, by one process at a time."""

import asyncio
import errno
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.tally import Count
from addon.transfer import upkeep as module
from addon.transfer.upkeep import Upkeep

from ..doubles import BOUND
from ..store.blobs import digest_of, put
from ..store.processes import READY, process
from .calls import Calls, threads, until

DAY = 24 * 3600


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
async def upkeep(tidy: None, store: Store) -> AsyncIterator[Upkeep]:
    upkeep = Upkeep(store)
    yield upkeep
    await upkeep.stop()
    assert threads() == []


@pytest.fixture
async def looks(monkeypatch: pytest.MonkeyPatch, store: Store) -> Calls:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.001)
    return Calls(monkeypatch, store.inventory, "stalest")


def aged(store: Store, content: bytes, days: float = 8) -> Digest:
    """Store a blob that nobody looked at for so long."""
    digest = put(store, content)
    with store._catalog.writing() as db:
        db.execute("UPDATE blobs SET verified = ? WHERE digest = ?", (time.time() - days * DAY, str(digest)))
    return digest


def spoil(store: Store, digest: Digest) -> None:
    """Flip a bit, without a trace in the file's times."""
    path, status = store.path(digest), store.path(digest).stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def young(store: Store) -> set[Digest]:
    """The blobs that were looked at a short while ago."""
    return {entry.digest for entry in store.inventory.entries() if time.time() - entry.verified < DAY}


def quarantine(store: Store) -> set[Digest]:
    return {Digest(*path.name.partition(".")[0].split("-")) for path in store.layout.quarantine.iterdir()}


# One blob after the other.


def test_nothing_is_to_be_done_in_an_empty_store(store: Store) -> None:
    assert not Upkeep(store).scrub_one()


def test_what_was_looked_at_this_week_is_left_alone(store: Store) -> None:
    digest = aged(store, b"a layer", 6.9)
    before = store.inventory.entries()
    assert not Upkeep(store).scrub_one()
    assert store.inventory.entries() == before
    assert digest not in young(store)


def test_a_good_blob_has_been_looked_at(store: Store) -> None:
    digest = aged(store, b"a layer")
    upkeep = Upkeep(store)
    assert upkeep.scrub_one()
    assert young(store) == {digest}
    assert not upkeep.scrub_one()
    reader = store.open(digest)
    assert reader is not None
    assert reader.verified
    reader.close()


def test_the_one_that_nobody_looked_at_for_longest_comes_first(store: Store) -> None:
    middle, first, last = aged(store, b"middle", 20), aged(store, b"first", 30), aged(store, b"last", 10)
    by_hand = digest_of(b"by hand")
    store.path(by_hand).write_bytes(b"by hand")
    store.reconcile()
    upkeep = Upkeep(store)
    order: list[Digest] = []
    while upkeep.scrub_one():
        order += young(store) - set(order)
    assert order == [by_hand, first, middle, last]


def test_a_flipped_bit_is_found(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = aged(store, b"good", 9), aged(store, b"turned bad", 10)
    spoil(store, bad)
    reader = store.open(bad)
    assert reader is not None
    assert reader.verified, "nobody would notice"
    reader.close()
    upkeep = Upkeep(store)
    upkeep._dirty = False
    while upkeep.scrub_one():
        pass
    assert store.open(bad) is None
    assert quarantine(store) == {bad}
    assert [entry.digest for entry in store.inventory.entries()] == [good]
    assert store.tally.totals()[Count.BAD] == 1
    assert f"blob {bad} turned bad" in caplog.text
    # Images that it belongs to are no longer whole.
    assert upkeep._dirty


def test_what_was_removed_by_hand_is_not_looked_for_again(store: Store) -> None:
    gone, there = aged(store, b"gone", 20), aged(store, b"there", 10)
    store.path(gone).unlink()
    upkeep = Upkeep(store)
    while upkeep.scrub_one():
        pass
    assert young(store) == {there}
    assert [entry.digest for entry in store.inventory.entries()] == [there]
    assert quarantine(store) == set()


def test_a_blob_that_cannot_be_read_stops_no_other(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    linked, there = aged(store, b"linked", 20), aged(store, b"there", 10)
    store.path(linked).rename(store.root / "elsewhere")
    store.path(linked).symlink_to(store.root / "elsewhere")
    upkeep = Upkeep(store)
    while upkeep.scrub_one():
        pass
    assert young(store) == {there}
    assert f"blob {linked} cannot be looked at: it is a symbolic link" in caplog.text


def test_nor_does_one_that_cannot_be_written_down(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(store, b"a layer", 20)
    aged(store, b"another", 10)
    looked: list[Digest] = []

    def verify(digest: Digest, _progress: object) -> bool:
        looked.append(digest)
        return True

    monkeypatch.setattr(store, "verify", verify)
    upkeep = Upkeep(store)
    while upkeep.scrub_one():
        pass
    assert looked == [digest_of(b"a layer"), digest_of(b"another")]


def test_where_too_many_files_are_open_it_says_nothing_about_a_blob(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = aged(store, b"a layer")

    def verify(_digest: Digest, _progress: object) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    upkeep = Upkeep(store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "verify", verify)
        with pytest.raises(OSError, match="Too many open files"):
            upkeep.scrub_one()
    assert upkeep.scrub_one()
    assert young(store) == {digest}


# The rate.


class Waits:
    """In the place of the event that tells of the end: how long the scrub would have waited."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return False


def test_it_takes_its_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mebibyte = 1 << 20
    monkeypatch.setattr(module, "SCRUB_RATE", mebibyte)
    aged(store, bytes(3 * mebibyte))
    upkeep, waits = Upkeep(store), Waits()
    monkeypatch.setattr(upkeep, "_ending", waits)
    assert upkeep.scrub_one()
    # Nobody waits here, so that what is to be waited for adds up.
    assert waits.seconds == pytest.approx([1, 2, 3], abs=0.9)
    monkeypatch.setattr(module, "SCRUB_RATE", 1 << 50)
    aged(store, b"a layer")
    assert upkeep.scrub_one()
    assert waits.seconds[3:] == [0.0]


# Several processes.

HOLDER = f"""
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("{READY}", flush=True)
sys.stdin.readline()
"""


def test_one_process_at_a_time_reads_the_blobs(store: Store) -> None:
    digest = aged(store, b"a layer")
    upkeep = Upkeep(store)
    with process(HOLDER, store.layout.ours / "scrub.lock") as holder:
        assert not upkeep.scrub_one()
        assert digest not in young(store)
        # A lock goes with its owner, however that ends.
        holder.kill()
        holder.wait()
        assert upkeep.scrub_one()
    assert young(store) == {digest}


def test_what_another_one_has_just_looked_at_is_not_looked_at_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(store, b"a layer")
    one, other = Upkeep(store), Upkeep(store)
    outcomes: list[bool] = []
    verify = store.verify

    def slowly(*args: object) -> bool | None:
        outcomes.append(other.scrub_one())
        return verify(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "verify", slowly)
    assert one.scrub_one()
    assert outcomes == [False]
    assert not other.scrub_one()
    assert outcomes == [False]


# In the background.


async def test_it_goes_on_by_itself(upkeep: Upkeep, store: Store, looks: Calls) -> None:
    digests = [aged(store, b"layer %d" % n) for n in range(3)]
    spoil(store, digests[1])
    upkeep.start()
    await until(lambda: quarantine(store) == {digests[1]}, looks)
    await until(lambda: young(store) == {digests[0], digests[2]}, looks)
    later = aged(store, b"later")
    await until(lambda: later in young(store), looks)
    assert looks.threads == {"pulltap-scrub_0"}


async def test_a_slow_one_holds_up_neither_the_rest_nor_the_end(
    upkeep: Upkeep, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.001)
    # One byte a second: this blob would take weeks.
    monkeypatch.setattr(module, "SCRUB_RATE", 1)
    large, small = aged(store, bytes(3 << 20), 20), put(store, b"small")
    scrubs, flushes = Calls(monkeypatch, store, "verify"), Calls(monkeypatch, store, "flush")
    upkeep.start()
    await scrubs.reached(1)
    store.inventory.used(small)
    await until(lambda: [entry.uses for entry in store.inventory.entries() if entry.digest == small] == [1], flushes)
    async with asyncio.timeout(BOUND):
        await upkeep.stop()
    assert large not in young(store)
    assert store.path(large).exists()


async def test_after_a_failure_it_waits_and_goes_on(
    upkeep: Upkeep, store: Store, looks: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "RECONCILE_SECONDS", 0.001)
    digest = aged(store, b"a layer")
    for error in (StoreError("no catalogue"), OSError("no disk")):
        looks.error = error
        upkeep.start()
        await looks.more(2)
        assert f"scrub of the store: {error}" in caplog.text
    assert digest not in young(store)
    looks.error = None
    await until(lambda: digest in young(store), looks)
