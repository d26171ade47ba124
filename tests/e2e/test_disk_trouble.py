"""A store whose disk is full, read-only, stuck or gone: pulls go on past it, and storing goes on once that is over."""

import contextlib
import itertools
import re
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ..standin import ACCEPT, Fault, Hub
from .clients.raw import Reply
from .conftest import Clients, StartProxy
from .mounts import MIB, Mount
from .programs import eventually
from .proxies import Pulltap
from .wanted import BYPASS, HIT, HURRY, STORED, Outcome, Wanted

SIZE = 600_000
"""Less than is tried to be stored when it is tried whether it works again: what a broken fill leaves makes no room."""
MIDDLE = SIZE // 2
CLIENTS = 8
BEGUN, OVER = "nothing is stored, and blobs pass through, until this is over", "blobs are stored again"


@pytest.fixture
def tmpfs() -> Iterator[Mount]:
    with Mount.tmpfs(16 * MIB) as mount:
        yield mount


@pytest.fixture
def ext4() -> Iterator[Mount]:
    with Mount.ext4(32 * MIB) as mount:
        yield mount


@dataclass(frozen=True)
class Store:
    """A Pulltap whose store lies on a disk of its own."""

    hub: Hub
    proxy: Pulltap

    @classmethod
    def on(cls, disk: Mount, hub: Hub, start: StartProxy, **options: object) -> "Store":
        where = {"registry_store": str(disk.root / "store"), "registry_store_min_free": "0"}
        return cls(hub, start({**where, **options}, args=["-s", str(HURRY)]))

    def new(self, size: int = SIZE) -> Wanted:
        return Wanted.new(self.hub, self.proxy, size)

    def stored(self) -> Wanted:
        """A blob that is stored."""
        wanted = self.new()
        self.expect_stored(wanted)
        return wanted

    def expect_stored(self, *blobs: Wanted) -> None:
        """They come, are stored, and come from the store the next time."""
        for wanted in blobs:
            assert status(wanted) == STORED
            eventually(wanted.path.exists, "the commit")
            assert status(wanted) == HIT
            wanted.assert_nothing_bad()

    def expect_passing(self, *blobs: Wanted, why: str) -> None:
        """They come, to many clients at once, and are not stored: the registry's own answer says where they are."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            for reply in pool.map(Wanted.get, blobs * (CLIENTS // len(blobs))):
                expect_passing(reply, why)
        for wanted in blobs:
            assert wanted.raw.follow("GET", wanted.url).body == wanted.content
            assert not wanted.path.exists()

    def expect_told_once(self) -> None:
        """One line says that there is trouble, and one that it is over; none is for a single blob."""
        eventually(lambda: OVER in self.proxy.log(), "the end of the trouble")
        log = self.proxy.log()
        assert (log.count(BEGUN), log.count(OVER)) == (1, 1)
        assert "is not stored: " not in log
        assert "passes through: " not in log

    def is_well(self) -> bool:
        """Whether all trouble that was told is over."""
        log = self.proxy.log()
        return log.count(BEGUN) == log.count(OVER)

    def health(self) -> tuple[int, str]:
        page = self.proxy.get("/healthz")
        return page.status, page.body.decode()

    @contextmanager
    def growing(self, wanted: Wanted, readers: int = 3) -> Iterator[list[Reply]]:
        """A fill that stalls in its middle, and clients that read along; behind it, what they got."""
        stalled = self.hub.faults.add(Fault(host=self.hub.names.cdn, stall_after=MIDDLE))
        replies: list[Reply] = []
        streams = []
        for _ in range(readers):
            streams.append(wanted.raw.open("GET", wanted.url))
            # From here on, it is under way.
            assert streams[-1].read(1) == wanted.content[:1]
        yield replies
        stalled.release.set()
        with ThreadPoolExecutor(readers) as pool:
            replies += pool.map(lambda stream: stream.rest(), streams)
        for stream, reply in zip(streams, replies, strict=True):
            stream.close()
            assert (reply.status, reply.whole) == (200, True)
            assert reply.body == wanted.content[1:]


def expect_passing(reply: Reply, why: str) -> None:
    assert reply.status == 307
    assert re.fullmatch(f'{BYPASS}; detail="({why})"', str(reply.header("Cache-Status")))


def status(wanted: Wanted) -> str | None:
    """How all of it comes, which it does."""
    reply = wanted.get()
    wanted.expect(reply, Outcome.WHOLE)
    return reply.header("Cache-Status")


# --- the same for every kind of trouble ---

TROUBLES = {
    "full": r"the disk is full|the store would be \d+ bytes beyond what its disk leaves it, .*",
    "read-only": "the disk is read-only",
    "locked": "Operation not permitted",
    "unmounted": "the disk of {store} is not there",
}
"""What happens to the disk, and what clients are told."""


@contextmanager
def trouble(what: str, disk: Mount, store: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        match what:
            case "full":
                stack.enter_context(disk.full())
            case "read-only":
                stack.enter_context(disk.read_only())
            case "locked":
                stack.enter_context(disk.locked(store / "pulltap" / "ingest", store / "blobs" / "sha256"))
            case _:
                stack.enter_context(disk.unmounted())
        yield


@pytest.mark.parametrize("what", TROUBLES)
def test_pulls_go_on_and_storing_comes_back(what: str, tmpfs: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    store = Store.on(tmpfs, hub, start_proxy)
    root = store.proxy.store
    growing, others = store.new(), [store.new() for _ in range(4)]
    # Where it is full, what is stored goes to make room.
    stored = store.stored() if what in ("read-only", "locked") else None
    with contextlib.ExitStack() as stack:
        with store.growing(growing):
            stack.enter_context(trouble(what, tmpfs, root))
        why = TROUBLES[what].replace("{store}", str(root))
        told = re.compile(f"the store {root} cannot be written: ({why})\n")
        eventually(lambda: store.health()[0] == 503 and bool(told.fullmatch(store.health()[1])), "the trouble")
        store.expect_passing(*others, why=why)
        store.expect_passing(growing, why=why)
        assert others[0].raw.request("GET", hub.url(hub.small.manifest_path), [ACCEPT]).status == 200
        if stored:
            assert status(stored) == HIT
    store.expect_told_once()
    assert store.health() == (200, "ok\n")
    store.expect_stored(growing, *others)


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_trouble_that_is_there_before_any_blob(what: str, tmpfs: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    store = Store.on(tmpfs, hub, start_proxy)
    blobs = [store.new() for _ in range(CLIENTS)]
    with trouble(what, tmpfs, store.proxy.store), ThreadPoolExecutor(CLIENTS) as pool:
        for reply in pool.map(Wanted.get, blobs):
            expect_passing(reply, TROUBLES[what])
    store.expect_told_once()
    store.expect_stored(*blobs)


# --- what else disks do ---


def test_what_was_opened_read_only_does_not_stay_so(tmpfs: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    store = Store.on(tmpfs, hub, start_proxy)
    stored = store.stored()
    # That it belongs to a second repository is to be written down, by whichever thread.
    hub.push_blob("library/elsewhere", stored.content)
    elsewhere = replace(stored, repository="library/elsewhere")
    with tmpfs.read_only(), ThreadPoolExecutor(CLIENTS) as pool:
        for reply in pool.map(Wanted.get, [elsewhere] * CLIENTS):
            expect_passing(reply, "cannot use .*: attempt to write a readonly database")
        assert status(stored) == HIT
    assert status(elsewhere) == HIT


@pytest.mark.parametrize("part", [".", "pulltap", "blobs"])
def test_a_store_that_somebody_removes_is_made_anew(part: str, tmpfs: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    store = Store.on(tmpfs, hub, start_proxy)
    stored, growing = store.stored(), store.new()
    with store.growing(growing):
        shutil.rmtree(store.proxy.store / part)
    # Where blobs can be taken in all the same, nobody notices before they are to be put where they belong.
    store.expect_told_once()
    store.expect_stored(growing)
    # It went, or nobody knows any more for which registry it came.
    store.expect_stored(stored)


def test_a_disk_that_fails_is_out_of_use_for_good(ext4: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    store = Store.on(ext4, hub, start_proxy)
    stored, growing, other = store.stored(), store.new(), store.new()
    with store.growing(growing):
        ext4.fail()
    why = "the disk is read-only"
    eventually(lambda: store.health()[0] == 503, "the trouble")
    store.expect_passing(growing, other, why=why)
    assert status(stored) == HIT
    assert store.proxy.log().count(BEGUN) == 1


def test_a_disk_that_is_stuck_is_left_alone(ext4: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    store = Store.on(ext4, hub, start_proxy)
    stored, growing, other = store.stored(), store.new(), store.new()
    with contextlib.ExitStack() as stack:
        with store.growing(growing):
            stack.enter_context(ext4.frozen())
        why = r"the disk is slow: it takes more than 1\.0 s for \d+ bytes"
        store.expect_passing(growing, other, why=why)
        # It would have to be asked for this one, too, and nobody knows whether it answers.
        expect_passing(stored.get(), why)
        for _ in range(20):
            # Each is something to write down.
            assert other.raw.request("GET", hub.url(hub.small.manifest_path), [ACCEPT]).status == 200
        assert store.health()[0] == 503
    store.expect_told_once()
    store.expect_stored(growing, other)
    assert status(stored) == HIT


def test_a_disk_that_is_stuck_when_a_blob_comes(ext4: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    store = Store.on(ext4, hub, start_proxy)
    other = store.new()
    with ext4.frozen(), ThreadPoolExecutor(1) as pool:
        reply = pool.submit(other.get)
        # Nobody else waits meanwhile.
        assert store.proxy.get("/").status == 200
        assert not reply.done()
        assert reply.result().status == 307
        store.expect_passing(other, why=r"the disk is slow: it takes more than 1\.0 s for an empty file")
    store.expect_told_once()
    store.expect_stored(other)


# --- blobs for which there is no room ---


def test_a_blob_that_is_larger_than_the_store(tmpfs: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    store = Store.on(tmpfs, hub, start_proxy, registry_store_max_size="1m")
    large, small = store.new(2 * MIB), store.new()
    why = rf"a blob of {2 * MIB} bytes is larger than the store may be \({MIB} bytes\)"
    store.expect_passing(large, why=why)
    store.expect_stored(small)
    # Where nobody says how long it is, that shows only later.
    hub.faults.add(Fault(host=hub.names.cdn, framing="chunked"))
    assert status(large) == STORED
    assert not large.path.exists()
    store.expect_stored(store.new())
    assert BEGUN not in store.proxy.log()


def test_a_blob_that_is_larger_than_its_disk(tmpfs: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    """What goes on past the store is as whole as what goes through it; and nobody else is turned away for it."""
    store = Store.on(tmpfs, hub, start_proxy)
    image = hub.push("library/large-for-its-disk", sizes=(20 * MIB,))
    assert store.new().raw.request("GET", hub.url(image.manifest_path), [ACCEPT]).status == 200
    large = Wanted(hub, store.proxy, image.repository, image.layers[0].digest, hub.content(image.layers[0]))
    with ThreadPoolExecutor(4) as pool:
        for reply in pool.map(Wanted.get, [large] * 4):
            large.expect(reply, Outcome.WHOLE)
    assert not large.path.exists()
    store.expect_stored(store.new())
    assert BEGUN not in store.proxy.log()


def test_a_disk_that_is_smaller_than_what_is_to_stay_free(tmpfs: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    store = Store.on(tmpfs, hub, start_proxy, registry_store_min_free="1g")
    first, others = store.new(), [store.new() for _ in range(4)]
    assert status(first) == STORED
    store.proxy.wait_for_log(BEGUN)
    for wanted in others:
        expect_passing(wanted.get(), TROUBLES["full"])
    assert store.proxy.log().count(BEGUN) == 1
    assert not list(store.proxy.store.glob("blobs/*/*"))


# --- too many open files ---


@contextmanager
def few_files(pid: int, more: int) -> Iterator[None]:
    """A process may open so many files more than it has."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(file.name) for file in Path(f"/proc/{pid}/fd").iterdir()}
    unused = (number for number in itertools.count() if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(itertools.islice(unused, more, None)), before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_too_many_open_files(tmpfs: Mount, hub: Hub, start_proxy: StartProxy) -> None:
    """Wherever the last one is taken: the client gets the blob, or is led to it."""
    store = Store.on(tmpfs, hub, start_proxy)
    stored = store.stored()
    passed = set()
    for more in range(9):
        wanted = store.new()
        with wanted.raw.connect(hub.names.registry) as connection:
            # That the client is connected, and Pulltap to the registry, takes some; without those, nothing works.
            assert connection.request("HEAD", urlsplit(wanted.url).path).status == 307
            with few_files(store.proxy.pid, more):
                reply = connection.request("GET", urlsplit(wanted.url).path)
                if reply.status == 307:
                    expect_passing(reply, "too many files are open")
                    passed.add(more)
                else:
                    wanted.expect(reply, Outcome.WHOLE)
                    assert connection.request("GET", urlsplit(stored.url).path).body == stored.content
        eventually(store.is_well, "the end of the trouble")
        assert status(wanted) in (STORED, HIT)
        assert status(stored) == HIT
    assert 0 in passed
    assert 8 not in passed
    assert "is not stored: " not in store.proxy.log()
    assert "passes through: " not in store.proxy.log()


# --- real clients ---


def test_docker_and_podman_pull_past_a_full_disk(
    tmpfs: Mount, hub: Hub, start_proxy: StartProxy, clients: Clients
) -> None:
    store = Store.on(tmpfs, hub, start_proxy)
    docker, podman = clients.docker(store.proxy), clients.podman(store.proxy)
    with tmpfs.full():
        assert docker.pull(hub.small.reference)
        assert podman.pull(hub.small.reference)
        assert not list(store.proxy.store.glob("blobs/*/*"))
    store.expect_told_once()
    docker.remove(hub.small.reference)
    assert docker.pull(hub.small.reference)
    stored = {path.name for path in store.proxy.store.glob("blobs/*/*")}
    assert {blob.digest.partition(":")[2] for blob in hub.small.blobs} <= stored
