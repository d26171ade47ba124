"""A proxy that is killed two hundred times, at any moment of its life: what it stored is right, and it goes on."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from ..standin import Blob, Hub
from .clients.raw import Raw
from .coldpulls import KIB, LARGE, MIB, Goods, Shelf
from .conftest import StartProxy
from .forks import Zygote
from .programs import BOUND, eventually
from .proxies import Pulltap

KILLS = 200
LANES = 3
"""Proxies, with a store each, that are killed side by side: most of the time they start, which takes one processor."""
SEED = 20

LIGHT, HEAVY = (500, 300 * KIB, 3 * MIB), (40 * KIB, LARGE)
# When a proxy is killed: while it starts; at any moment of a pull; at the head of a blob, at its end, in its commit.
MOMENTS = {"start": 5, "pull": 5, "head": 4, "end": 4, "commit": 2}


class Lane:
    """One proxy and its store, from one kill to the next."""

    def __init__(self, name: str, hub: Hub, proxy: Pulltap) -> None:
        self.seen: Counter[str] = Counter()
        """How many kills there were, what they hit, and what came of that."""
        self._random = random.Random(f"{SEED} {name}")
        self._proxy = proxy
        self._raw = Raw(proxy.port, proxy.ca)
        self._shelf = Shelf(proxy.store)
        self._light = Goods.push(hub, f"library/{name}-light", LIGHT, self._random.randrange(1 << 30))
        self._heavy = Goods.push(hub, f"library/{name}-heavy", HEAVY, self._random.randrange(1 << 30))
        self._goods = self._light
        # In seconds, as of the last times.
        self._start_takes = 0.7
        self._pull_takes = {self._light.image: 0.2, self._heavy.image: 0.5}

    def run(self, kills: int, failed: threading.Event) -> Counter[str]:
        """Kill the proxy so many times, unless another lane has failed; it runs in the end."""
        try:
            with ThreadPoolExecutor(8) as pool, Zygote(self._proxy):
                self._proxy.kill()
                while self.seen["kills"] < kills and not failed.is_set():
                    (moment,) = self._random.choices(list(MOMENTS), list(MOMENTS.values()))
                    if moment == "start":
                        self._proxy.launch()
                        self._wait(self._start_takes)
                        self._kill(moment)
                    else:
                        self._start(pool)
                        self._break_a_cold_pull(moment, pool)
                self._start(pool)
        except BaseException:
            failed.set()
            raise
        return self.seen

    def _start(self, pool: Executor) -> None:
        """Start it, pull what it was pulling, and see to it that nothing is wrong, and nothing left over."""
        began = time.monotonic()
        self._proxy.start()
        self._start_takes = time.monotonic() - began
        eventually(lambda: not self._shelf.untidy(), "a tidy folder of ingests")
        kept = {blob: size for blob in self._goods.blobs if (size := self._shelf.kept(blob))}
        asked = {blob: len(self._goods.asked(blob)) for blob in kept}
        began = time.monotonic()
        assert self._goods.pull(self._raw, pool), f"nobody killed it, and yet it cut a pull:\n{self._proxy.log()}"
        image = self._goods.image
        self._pull_takes[image] = max(time.monotonic() - began, 0.9 * self._pull_takes[image])
        self._shelf.expect_settled(self._goods)
        for blob, size in kept.items():
            # One byte at least, where the size is known: that it may be read, only upstream can say.
            start = size if blob is self._goods.loose else min(size, blob.size - 1)
            assert self._goods.asked(blob)[asked[blob]].startswith(f"bytes={start}-"), "not resumed"
            self.seen["resumed"] += 1

    def _break_a_cold_pull(self, moment: str, pool: Executor) -> None:
        self._shelf.clear()
        self._goods = self._random.choice([self._light, self._light, self._light, self._heavy])
        blob = self._random.choice(self._goods.blobs)
        asked = len(self._goods.asked(blob))
        pull = pool.submit(self._goods.pull, self._raw, pool)
        match moment:
            case "pull":
                self._wait(1.2 * self._pull_takes[self._goods.image])
            case "head":
                _until(lambda: len(self._goods.asked(blob)) > asked)
                self._wait(0.01)
            case "end":
                _until(lambda: self._is_nearly_there(blob))
                self._wait(0.01)
            case "commit":
                _until(self._shelf.path(blob).exists)
        self._kill(moment)
        pull.result()

    def _is_nearly_there(self, blob: Blob) -> bool:
        lease = self._shelf.lease(blob)
        return self._shelf.path(blob).exists() or (lease is not None and lease.offset > 0.9 * blob.size)

    def _wait(self, longest: float) -> None:
        """Wait for a random time, in seconds: a crash waits for no event."""
        time.sleep(self._random.uniform(0, longest))

    def _kill(self, moment: str) -> None:
        self._proxy.kill()
        self.seen.update(["kills", f"at {moment}"])
        if moment != "start":
            stages = {stage for blob in self._goods.blobs if (stage := self._stage(blob))}
            self.seen.update([*stages, "in a fill"] if stages else ["beside all fills"])
        assert not self._shelf.bad()

    def _stage(self, blob: Blob) -> str:
        """How far the fill of a blob was when its proxy was killed; empty where there was none."""
        lease = self._shelf.lease(blob)
        if lease is None:
            return ""
        if self._shelf.path(blob).exists():
            return "in commit"
        if lease.offset == 0:
            return "in head"
        return "in body" if lease.offset < blob.size else "in verify"


def _until(happened: Callable[[], bool]) -> None:
    """Wait for what takes but a few milliseconds, and see it at once."""
    deadline = time.monotonic() + BOUND
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.0003)


@pytest.mark.slow
def test_whatever_a_kill_hits_what_is_stored_is_right_and_the_rest_goes_on(hub: Hub, start_proxy: StartProxy) -> None:
    hub.pull_limit.limit = 10 * KILLS
    lanes = [Lane(f"lane{number}", hub, start_proxy()) for number in range(LANES)]
    shares = [KILLS // LANES + (number < KILLS % LANES) for number in range(LANES)]
    failed = threading.Event()
    with ThreadPoolExecutor(LANES) as pool:
        runs = [pool.submit(lane.run, share, failed) for lane, share in zip(lanes, shares, strict=True)]
    seen = sum((run.result() for run in runs), Counter[str]())
    assert seen["kills"] == KILLS
    # Half of what it is on a quiet machine, and on a busy one.
    least = {"at start": 30, "in a fill": 50, "in head": 5, "in body": 20, "in verify": 10, "resumed": 60}
    assert all(seen[what] >= number for what, number in least.items()), seen
