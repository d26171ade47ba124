"""Power cuts: whatever they leave of a store, what is in it is whole, and it goes on."""

import contextlib
import json
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.place import LEASE

from ..standin import Hub
from .clients.raw import Raw
from .coldpulls import KIB, LARGE, MIB, Goods, Shelf
from .conftest import StartProxy
from .disks import Disk, disk, write_back
from .programs import eventually, need
from .proxies import Pulltap

ROUNDS = 8
MOMENTS = 5
"""During each pull, at most."""
SEED = 40
LIGHT, HEAVY = (500, 300 * KIB, 5 * MIB), (40 * KIB, LARGE)
STARTED = 10
"""Of so many moments, one is looked at by a proxy, the others by the store alone: a proxy takes a second to start."""


class Rebooted(Pulltap):
    """A proxy on a machine that has started anew."""

    def _command(self) -> list[str]:
        boot = self.folder / "boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        mounted = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
        return [need("unshare", root=True), "--mount", need("sh"), "-c", mounted, str(boot), *super()._command()]


@dataclass(frozen=True)
class Moment:
    """A moment of the disk, and what was being pulled."""

    image: Path
    goods: Goods


@pytest.fixture
def power() -> Iterator[Disk]:
    with disk() as made:
        yield made


@pytest.fixture
def rebooted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of this process is on a machine that has started anew."""
    for module in ("lease", "place"):
        monkeypatch.setattr(f"addon.store.{module}.boot", lambda: b"another boot    ")


class Pulls:
    """Cold pulls, through a proxy that is killed now and then, while moments of its disk are recorded."""

    def __init__(self, power: Disk, proxy: Pulltap, pool: Executor) -> None:
        self.moments: list[Moment] = []
        self._power = power
        self._proxy = proxy
        self._pool = pool
        self._raw = Raw(proxy.port, proxy.ca)
        self._shelf = Shelf(proxy.store)
        self._random = random.Random(SEED)

    def pull(self, goods: Goods, *, killed: bool) -> None:
        """Pull all of it, with moments at random times, and one right behind the end."""
        pull = self._pool.submit(goods.pull, self._raw, self._pool)
        if killed:
            largest = max(goods.blobs, key=lambda blob: blob.size)
            eventually(lambda: self._shelf.path(largest).exists() or self._shelf.received(largest) > MIB, "its middle")
            self._proxy.kill()
            pull.result()
            self._proxy.start()
            # What is left now has no lease any more.
            self._record(goods)
            pull = self._pool.submit(goods.pull, self._raw, self._pool)
        for _ in range(MOMENTS):
            time.sleep(self._random.uniform(0, 0.15))
            if not pull.done():
                self._record(goods)
        assert pull.result()
        self._record(goods)

    def _record(self, goods: Goods) -> None:
        files = list(self._shelf.ingests.iterdir())
        for file in self._random.sample(files, self._random.randint(0, len(files))):
            write_back(file, self._random)
        if self._random.random() < 0.5:
            self._power.write_journal()
        self.moments.append(Moment(self._power.record(), goods))


def fill_again(store: Store, goods: Goods) -> Counter[str]:
    """Take in what is not stored, behind what there is of it."""
    seen: Counter[str] = Counter()
    for blob in goods.blobs:
        digest = Digest.parse(blob.digest)
        content = goods.contents[blob.digest]
        reader = store.open(digest)
        if reader is not None:
            assert reader.read(0, reader.size + 1) == content
            reader.close()
            seen["stored"] += 1
            continue
        new = store.ingest(digest, goods.hub.names.registry)
        try:
            new.announce(blob.size)
            seen["resumed"] += new.kept > 0
            while new.absorb():
                pass
            new.write(new.offset, [content[new.offset :]])
            new.verify(blob.size)
            new.commit()
            seen["filled"] += 1
        finally:
            new.abort()
    return seen


@pytest.mark.slow
def test_what_a_power_cut_leaves_is_whole_and_goes_on(
    power: Disk, hub: Hub, start_proxy: StartProxy, rebooted: None, tmp_path: Path
) -> None:
    options = {"registry_store_min_free": "0"}
    proxy = start_proxy({**options, "registry_store": str(power.root / "store")})
    seen: Counter[str] = Counter()
    with ThreadPoolExecutor(8) as pool:
        pulls = Pulls(power, proxy, pool)
        for number in range(ROUNDS):
            sizes = HEAVY if number % 3 == 2 else LIGHT
            goods = Goods.push(hub, f"library/power{number}", sizes, seed=200 + number, bytes_per_second=8 * MIB)
            pulls.pull(goods, killed=number % 2 == 1)
        for number, moment in enumerate(pulls.moments):
            with power.after(moment.image) as root:
                shelf = Shelf(root / "store")
                assert not shelf.bad()
                for lease in shelf.ingests.glob(f"*{LEASE}"):
                    # No machine starts within the minute in which such a lease may be one that is just being made.
                    os.utime(lease, (0, 0))
                    seen["leases"] += 1
                seen["moments"] += 1
                if number % STARTED:
                    with contextlib.closing(Store(root / "store")) as store:
                        seen += fill_again(store, moment.goods)
                else:
                    options["registry_store"] = str(root / "store")
                    again = Rebooted(tmp_path / f"again-{number}", hub, options)
                    try:
                        assert moment.goods.pull(Raw(again.port, again.ca), pool)
                        shelf.expect_settled(moment.goods)
                    finally:
                        again.stop()
                    assert not again.trouble()
                shelf.expect_settled(moment.goods)
                assert json.loads((root / "store" / "oci-layout").read_text())
                assert json.loads((root / "store" / "index.json").read_text())
    least = {"moments": 20, "leases": 10, "stored": 10, "filled": 20, "resumed": 5}
    assert all(seen[what] >= number for what, number in least.items()), seen
