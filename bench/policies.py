"""Eviction policies to compare, and what is possible in hindsight.

All of them take in each blob that fits at all, as a cache does that its clients read along from; a blob that is larger
than the cache passes.
"""

import heapq
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from addon.store.eviction import GreedyDual
from bench.traces import Trace


@dataclass(frozen=True, slots=True)
class Hits:
    """What did not have to come from upstream."""

    requests: float
    size: float
    """Bytes."""


class Cache(ABC):
    """A cache of so many bytes, replayed."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.used = 0
        self._sizes: dict[int, int] = {}

    def get(self, blob: int, size: int) -> bool:
        """Ask for a blob; True where it was there. It is there afterwards, if it fits."""
        if blob in self._sizes:
            self._hit(blob, size)
            return True
        if size <= self.capacity:
            while self.used + size > self.capacity:
                self._evict()
            self._sizes[blob] = size
            self.used += size
            self._take(blob, size)
        return False

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def _drop(self, blob: int) -> int:
        size = self._sizes.pop(blob)
        self.used -= size
        return size

    @abstractmethod
    def _hit(self, blob: int, size: int) -> None: ...

    @abstractmethod
    def _take(self, blob: int, size: int) -> None: ...

    @abstractmethod
    def _evict(self) -> None: ...


class Lru(Cache):
    """What was not used for longest goes, as with `cachetools.LRUCache`."""

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._order: OrderedDict[int, None] = OrderedDict()

    def _hit(self, blob: int, size: int) -> None:
        self._order.move_to_end(blob)

    def _take(self, blob: int, size: int) -> None:
        self._order[blob] = None

    def _evict(self) -> None:
        self._drop(self._order.popitem(last=False)[0])


class _Ranked(Cache):
    """What has the lowest rank goes."""

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._ranks: dict[int, tuple[float, int]] = {}
        self._heap: list[tuple[tuple[float, int], int]] = []
        self._now = 0

    def _rank(self, blob: int, rank: float) -> None:
        self._now += 1
        self._ranks[blob] = rank, self._now
        heapq.heappush(self._heap, (self._ranks[blob], blob))

    def _lowest(self) -> tuple[int, float]:
        while True:
            rank, blob = heapq.heappop(self._heap)
            if self._ranks.get(blob) == rank:
                del self._ranks[blob]
                self._drop(blob)
                return blob, rank[0]


class Lru2(_Ranked):
    """Whose last use but one is longest ago goes: E. O'Neil, P. O'Neil, G. Weikum, SIGMOD 1993.

    What was used once goes before all others; uses are remembered of what has gone, too.
    """

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._last: dict[int, int] = {}

    def _hit(self, blob: int, size: int) -> None:
        self._rank(blob, self._last.get(blob, -math.inf))
        self._last[blob] = self._now

    _take = _hit

    def _evict(self) -> None:
        self._lowest()


class Gdsf(_Ranked):
    """The store's policy, with the store's weights or others."""

    def __init__(self, capacity: float, policy: GreedyDual) -> None:
        super().__init__(capacity)
        self._policy = policy
        self._age = 0.0
        self._uses: dict[int, int] = {}

    def _hit(self, blob: int, size: int) -> None:
        self._uses[blob] = self._uses.get(blob, 0) + 1
        self._rank(blob, self._policy.priority(self._age, self._uses[blob], size))

    _take = _hit

    def _evict(self) -> None:
        blob, self._age = self._lowest()
        del self._uses[blob]


class Sieve(Cache):
    """A hand goes from the oldest to the newest, and takes what was not used since it came by: Y. Zhang, NSDI 2024."""

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._visited: dict[int, bool] = {}
        self._newer: dict[int | None, int | None] = {None: None}
        """Of each blob the next newer one; None is both ends of the queue."""
        self._older: dict[int | None, int | None] = {None: None}
        self._hand: int | None = None

    def _hit(self, blob: int, size: int) -> None:
        self._visited[blob] = True

    def _take(self, blob: int, size: int) -> None:
        self._visited[blob] = False
        newest = self._older[None]
        self._newer[newest], self._newer[blob] = blob, None
        self._older[blob], self._older[None] = newest, blob

    def _evict(self) -> None:
        hand = self._hand
        while True:
            if hand is None:
                hand = self._newer[None]
                assert hand is not None
            if not self._visited[hand]:
                break
            self._visited[hand] = False
            hand = self._newer[hand]
        older, newer = self._older.pop(hand), self._newer.pop(hand)
        self._newer[older], self._older[newer] = newer, older
        self._hand = newer
        del self._visited[hand]
        self._drop(hand)


class S3Fifo(Cache):
    """Three queues: a small one for what is new, the main one, and the names of what went: J. Yang, SOSP 2023.

    The small one has a tenth of the bytes. What was used in it moves to the main one, as does what comes back while its
    name is known; the main one gives what was used another turn.
    """

    _MOST_USES = 3

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._small: OrderedDict[int, int] = OrderedDict()
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghosts: OrderedDict[int, int] = OrderedDict()
        self._small_used = 0
        self._ghosts_used = 0
        self._uses: dict[int, int] = {}

    def _hit(self, blob: int, size: int) -> None:
        self._uses[blob] = min(self._uses[blob] + 1, self._MOST_USES)

    def _take(self, blob: int, size: int) -> None:
        self._uses[blob] = 0
        if blob in self._ghosts:
            self._ghosts_used -= self._ghosts.pop(blob)
            self._main[blob] = size
        else:
            self._small[blob] = size
            self._small_used += size

    def _evict(self) -> None:
        if self._small and (self._small_used >= self.capacity / 10 or not self._main):
            self._evict_small()
        else:
            self._evict_main()

    def _evict_small(self) -> None:
        while self._small:
            blob, size = self._small.popitem(last=False)
            self._small_used -= size
            if not self._uses[blob]:
                del self._uses[blob]
                self._drop(blob)
                self._ghosts[blob] = size
                self._ghosts_used += size
                while self._ghosts_used > self.capacity * 9 / 10:
                    self._ghosts_used -= self._ghosts.popitem(last=False)[1]
                return
            self._uses[blob] = 0
            self._main[blob] = size

    def _evict_main(self) -> None:
        while True:
            blob, size = self._main.popitem(last=False)
            if not self._uses[blob]:
                del self._uses[blob]
                self._drop(blob)
                return
            self._uses[blob] -= 1
            self._main[blob] = size


def replay(trace: Trace, cache: Cache) -> Hits:
    """What a cache saves."""
    requests = size = 0
    for blob in trace.blobs:
        if cache.get(blob, trace.sizes[blob]):
            requests += 1
            size += trace.sizes[blob]
    return Hits(requests, size)


def belady(trace: Trace, capacity: float) -> Hits:
    """What can be had by knowing the future: whatever is asked for latest goes, or does not come in.

    With blobs of one size nothing is better (L. Belady, 1966). With sizes as they are it is a policy like others, but a
    good one for bytes.
    """
    nexts = _nexts(trace)
    there: dict[int, float] = {}
    heap: list[tuple[float, int]] = []
    used = requests = size = 0
    for place, blob in enumerate(trace.blobs):
        if there.pop(blob, None) is not None:
            requests += 1
            size += trace.sizes[blob]
            used -= trace.sizes[blob]
        if trace.sizes[blob] <= capacity:
            there[blob] = nexts[place]
            used += trace.sizes[blob]
            heapq.heappush(heap, (-nexts[place], blob))
        while used > capacity:
            following, last = heapq.heappop(heap)
            if there.get(last) == -following:
                del there[last]
                used -= trace.sizes[last]
    return Hits(requests, size)


def bound(trace: Trace, capacity: float) -> Hits:
    """What no policy can exceed: PFOO-U of D. Berger, N. Beckmann, M. Harchol-Balter, SIGMETRICS 2018.

    To hit, a blob has to be kept since the request before, and takes its size for so long. All requests together have
    the capacity for as long as the trace is; those are taken that cost least, as if the cache could be larger at one
    time and smaller at another. The number of requests and of bytes are two bounds, each for itself.
    """
    kept = [
        (following - place, trace.sizes[trace.blobs[place]])
        for place, following in enumerate(_nexts(trace))
        if following < math.inf and trace.sizes[trace.blobs[place]] <= capacity
    ]
    room = capacity * len(trace.blobs)
    by_request = _fill(room, kept, cost=lambda each: each[0] * each[1], worth=lambda _: 1)
    by_byte = _fill(room, kept, cost=lambda each: each[0], worth=lambda each: each[1])
    return Hits(by_request, by_byte)


_Kept = tuple[float, int]
"""For how many requests, and how many bytes."""


def _fill(room: float, kept: list[_Kept], cost: Callable[[_Kept], float], worth: Callable[[_Kept], int]) -> float:
    total = 0.0
    for each in sorted(kept, key=cost):
        takes = each[0] * each[1]
        if takes > room:
            return total + worth(each) * room / takes
        room -= takes
        total += worth(each)
    return total


def _nexts(trace: Trace) -> list[float]:
    """Of each request, where the next one for the same blob is."""
    known: dict[int, int] = {}
    nexts = [math.inf] * len(trace.blobs)
    for place in range(len(trace.blobs) - 1, -1, -1):
        blob = trace.blobs[place]
        nexts[place] = known.get(blob, math.inf)
        known[blob] = place
    return nexts
