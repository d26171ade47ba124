"""A store that is too small for what is pulled: pulls go on, it keeps to its limits, and what matters stays."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..standin import Fault, Hub, Image
from .beside import Beside
from .clients.raw import Raw
from .conftest import Clients, StartProxy
from .mounts import Mount
from .programs import eventually
from .proxies import Pulltap
from .stores import fill, is_open, is_whole, pull, small, stored

MIB = 1024 * 1024
HIT, STORED = "pulltap; hit", "pulltap; fwd=miss; stored"


def images(hub: Hub, name: str, count: int, *sizes: int) -> list[Image]:
    return [small(hub, f"{name}-{number}", *sizes) for number in range(count)]


def files(store: Path) -> dict[int, int]:
    """All that is stored, on its way in, or set aside: bytes by inode, which a file keeps under any name."""
    found: dict[int, int] = {}
    folders = ("pulltap/ingest", "blobs/sha256", "pulltap/quarantine", "pulltap/ingest")
    for folder in folders:
        for entry in os.scandir(store / folder):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            found.setdefault(status.st_ino, status.st_size)
    return found


def at_least(store: Path) -> int:
    """Bytes that the store had at one moment: what is there both times that one looks, was there in between."""
    before, after = files(store), files(store)
    return sum(size for inode, size in before.items() if inode in after)


@contextmanager
def watched(look: Callable[[], int]) -> Iterator[list[int]]:
    """Look at something all the time; all that was seen."""
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(look())
            over.wait(0.001)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield seen
        finally:
            over.set()
            watching.result()
    assert len(seen) > 10, "too few looks to mean anything"


def expect_right(proxy: Pulltap) -> None:
    """All that is stored is what its name says, and nothing is left of what had no room."""
    paths = list((proxy.store / "blobs").glob("*/*"))
    assert paths
    assert all(map(is_whole, paths))
    eventually(lambda: not list((proxy.store / "pulltap" / "ingest").iterdir()), "an empty ingest folder")


def test_pulls_of_more_than_fits_go_on_within_the_limit(hub: Hub, start_proxy: StartProxy, clients: Clients) -> None:
    limit = 6 * MIB
    # Two processes share the store, and the limit.
    proxies = [start_proxy({"registry_store_max_size": "6m"})]
    proxies.append(start_proxy({"registry_store_max_size": "6m", "registry_store": str(proxies[0].store)}))
    every = images(hub, "crowd", 12, 1000, 300_000, MIB)
    with watched(lambda: at_least(proxies[0].store)) as seen, ThreadPoolExecutor(4) as pool:
        pulls = [pool.submit(pull, hub, proxies[at % 2], image) for at, image in enumerate(every)]
        skopeo = clients.skopeo(proxies[0])
        for image in every[::4]:
            skopeo.pull(image.reference)
        for each in pulls:
            # Whatever had to pass for want of room, came whole all the same.
            assert each.result()
    assert max(seen) <= limit
    assert max(seen) > limit * 2 // 3, "the limit was never near"
    expect_right(proxies[0])
    hub.clear()
    # What had to go is fetched again.
    assert STORED in {status for image in every for status in pull(hub, proxies[0], image)}
    assert at_least(proxies[0].store) <= limit
    expect_right(proxies[0])


def test_the_disk_keeps_what_is_to_stay_free(hub: Hub, start_proxy: StartProxy) -> None:
    with Mount.tmpfs(24 * MIB) as disk:
        store = disk.root / "store"
        proxy = start_proxy({"registry_store": str(store), "registry_store_min_free": "8m"})
        every = images(hub, "disk", 10, 300_000, 3 * MIB)
        with watched(lambda: shutil.disk_usage(disk.root).free) as seen, ThreadPoolExecutor(3) as pool:
            for statuses in pool.map(lambda image: pull(hub, proxy, image), every):
                assert STORED in statuses
        assert min(seen) >= 8 * MIB
        assert min(seen) < 12 * MIB, "the limit was never near"
        expect_right(proxy)
        # Somebody else needs it: the next pull finds that out.
        (disk.root / "of-somebody-else").write_bytes(bytes(6 * MIB))
        fill(hub, proxy, small(hub, "disk-after", 300_000, 2 * MIB))
        assert shutil.disk_usage(disk.root).free >= 8 * MIB
        # No room at all, whatever goes: pulls pass, and are stored again once there is some.
        assert Beside.of(proxy, hub).store("gc", "--to", "0", "--yes").status == 0
        (disk.root / "of-somebody-else").write_bytes(bytes(18 * MIB))
        unlucky = small(hub, "disk-full", 2 * MIB)
        raw = Raw(proxy.port, proxy.ca)
        reply = raw.follow("GET", hub.url(unlucky.blob_path(unlucky.layers[0])))
        assert reply.body == hub.content(unlucky.layers[0])
        assert not stored(proxy, unlucky.layers[0]).exists()
        (disk.root / "of-somebody-else").unlink()
        proxy.wait_for_log("blobs are stored again")
        fill(hub, proxy, unlucky)
        proxy.stop()


def test_what_is_read_or_on_its_way_stays(hub: Hub, start_proxy: StartProxy) -> None:
    limit = 64 * MIB
    proxy = start_proxy({"registry_store_max_size": "64m"})
    raw = Raw(proxy.port, proxy.ca)
    read, coming = (small(hub, name, 24 * MIB) for name in ("slowly-read", "slowly-coming"))
    fill(hub, proxy, read)
    slow = raw.open("GET", hub.url(read.blob_path(read.layers[0])))
    begin = slow.read(MIB)
    fault = hub.faults.add(Fault(host=hub.names.cdn, stall_after=2 * MIB))
    growing = raw.open("GET", hub.url(coming.blob_path(coming.layers[0])))
    start = growing.read(MIB)
    with watched(lambda: at_least(proxy.store)) as seen:
        for image in images(hub, "pushing", 6, 5 * MIB):
            fill(hub, proxy, image)
            for _ in range(3):
                # So that what is read would be the first to go.
                pull(hub, proxy, image)
        assert stored(proxy, read.layers[0]).exists()
        fault.release.set()
        assert start + growing.rest().body == hub.content(coming.layers[0])
        eventually(stored(proxy, coming.layers[0]).exists, "the commit")
    assert max(seen) <= limit
    assert begin + slow.rest().body == hub.content(read.layers[0])
    slow.close()
    growing.close()
    # Then it is like any other.
    eventually(lambda: not is_open(proxy, stored(proxy, read.layers[0])), "the end of its reader")
    for image in images(hub, "pushing-on", 8, 8 * MIB):
        fill(hub, proxy, image)
    assert not stored(proxy, read.layers[0]).exists()
    assert set(pull(hub, proxy, read)) <= {STORED, HIT}
    expect_right(proxy)


def test_what_is_pinned_stays_and_what_finds_no_room_passes(hub: Hub, start_proxy: StartProxy) -> None:
    proxy = start_proxy({"registry_store_max_size": "8m"})
    beside, raw = Beside.of(proxy, hub), Raw(proxy.port, proxy.ca)
    pinned, other = small(hub, "pinned", 3 * MIB), small(hub, "pinned-too", 3 * MIB)
    assert beside.store("pin", "pinned", "pinned-too").status == 0
    fill(hub, proxy, pinned)
    for image in images(hub, "passer-by", 4, 2 * MIB):
        fill(hub, proxy, image)
    hub.clear()
    assert set(pull(hub, proxy, pinned)) == {HIT}
    fill(hub, proxy, other)
    hub.clear()
    # Nothing that may go would make room for this one; nor would anything for one that is larger than the store.
    for size in (3 * MIB, 9 * MIB):
        layer = small(hub, f"too-much-{size}", size).layers[0]
        reply = raw.follow("GET", hub.url(f"/v2/library/too-much-{size}/blobs/{layer.digest}"))
        assert reply.body == hub.content(layer)
        assert not stored(proxy, layer).exists()
    assert "passes through" in proxy.log()
    assert set(pull(hub, proxy, pinned) + pull(hub, proxy, other)) == {HIT}
    # Once it is pinned no longer, it makes room.
    assert beside.store("unpin", "pinned").status == 0
    fill(hub, proxy, small(hub, f"too-much-{3 * MIB}", 3 * MIB))
    assert not stored(proxy, pinned.layers[0]).exists()
    assert set(pull(hub, proxy, other)) == {HIT}


def test_what_is_used_often_outlives_what_was_used_once(hub: Hub, start_proxy: StartProxy) -> None:
    proxy = start_proxy({"registry_store_max_size": "8m"})
    popular = small(hub, "popular", MIB, MIB)
    fill(hub, proxy, popular)
    for _ in range(8):
        assert set(pull(hub, proxy, popular)) == {HIT}
    # Twice as much as fits beside it.
    for image in images(hub, "once", 6, MIB, MIB):
        fill(hub, proxy, image)
    hub.clear()
    assert set(pull(hub, proxy, popular)) == {HIT}
    assert not hub.blob_requests()
