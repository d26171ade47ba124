"""Made-up traces of what a cache of container layers is asked for, from a seed.

Where the requests come from is modelled, and their skew follows: repositories whose images are built on shared base
images, and whose popularity follows Zipf's law and drifts; tags that are pushed anew, with their lower layers kept; CI
that pulls all of an image each time; machines that keep what they have and fetch what is new, each night and when a tag
is pushed; and a scanner that pulls each image once. Layers have log-normal sizes, from hundreds of bytes to gigabytes.
"""

import bisect
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

MIB = 1 << 20
_DAY = 1.0
_NIGHT, _OFFICE, _SCAN = (0.08, 0.17), (0.35, 0.80), 0.05
"""Times of the day."""
_BLOB = 0.5 / 86400
"""Between two requests of one pull."""
_IMAGE = 30.0 / 86400
"""Between two images that one machine pulls."""
_ROLLOUT = 600.0 / 86400
"""Within which a machine fetches a tag that was pushed, if it watches it."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What is asked for, one after the other."""

    blobs: Sequence[int]
    """By number."""
    sizes: Sequence[int]
    """Bytes of each blob."""

    @property
    def size(self) -> int:
        """Bytes of all blobs that are asked for, each counted once."""
        return sum(self.sizes[blob] for blob in set(self.blobs))

    @property
    def volume(self) -> int:
        """Bytes of all requests."""
        return sum(self.sizes[blob] for blob in self.blobs)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What comes in."""

    days: int = 28
    bases: int = 20
    """Base images."""
    base_days: int = 21
    """Between two versions of a base image."""
    repositories: int = 250
    skew: float = 1.0
    """The exponent of Zipf's law."""
    drift: float = 0.06
    """The part of the repositories that change their rank each day."""
    pushes: float = 0.3
    """Tags that a repository gets each day, the median of them."""
    pulls: int = 150
    """By CI, of whole images, each day."""
    old: float = 0.1
    """The part of these that is for an older tag."""
    machines: int = 30
    images: int = 8
    """That each machine runs."""
    scan_days: int = 7
    """Between two scans of everything."""
    median: float = 1.5 * MIB
    """Bytes of a layer."""
    sigma: float = 2.3
    """Of its logarithm."""
    largest: int = 4096 * MIB


@dataclass
class _Repository:
    base: int
    own: list[int]
    rate: float
    tags: list[list[int]] = field(default_factory=list)


@dataclass
class _Machine:
    runs: list[int]
    at: float
    has: set[int] = field(default_factory=set)


def generate(seed: int, traffic: Traffic | None = None) -> Trace:
    """A trace."""
    return _World(random.Random(seed), traffic or Traffic()).trace()  # noqa: S311 - no secret is made of it


class _World:
    def __init__(self, random: random.Random, traffic: Traffic) -> None:
        self._random = random
        self._traffic = traffic
        self._sizes: list[int] = []
        self._requests: list[tuple[float, int, int]] = []
        self._zipf = _zipf(traffic.repositories, traffic.skew)
        bases = _zipf(traffic.bases, 1.0)
        self._bases = [[self._layer() for _ in range(random.randint(1, 5))] for _ in range(traffic.bases)]
        self._repositories = [
            _Repository(
                base=self._pick(bases),
                own=[self._layer() for _ in range(random.randint(1, 7))],
                rate=random.lognormvariate(math.log(traffic.pushes), 1.2),
            )
            for _ in range(traffic.repositories)
        ]
        for repository in self._repositories:
            for _ in range(1 + min(5, int(repository.rate * 10))):
                self._push(repository)
        self._ranks = random.sample(range(traffic.repositories), traffic.repositories)
        self._machines = [
            _Machine([self._popular() for _ in range(traffic.images)], random.uniform(*_NIGHT))
            for _ in range(traffic.machines)
        ]

    def trace(self) -> Trace:
        for day in range(self._traffic.days):
            self._day(day * _DAY)
            for _ in range(int(self._traffic.repositories * self._traffic.drift / 2)):
                one, other = (self._random.randrange(self._traffic.repositories) for _ in range(2))
                self._ranks[one], self._ranks[other] = self._ranks[other], self._ranks[one]
            if day % self._traffic.scan_days == self._traffic.scan_days - 1:
                for number, repository in enumerate(self._repositories):
                    self._pull(day * _DAY + _SCAN + number * _IMAGE, repository.tags[-1])
        return Trace([blob for _, _, blob in sorted(self._requests)], self._sizes)

    def _day(self, day: float) -> None:
        chance = self._random
        for number in range(self._traffic.bases):
            if chance.random() * self._traffic.base_days < 1:
                kept = chance.randrange(len(self._bases[number]))
                fresh = [self._layer() for _ in self._bases[number][kept:]]
                self._bases[number] = self._bases[number][:kept] + fresh
        for machine in self._machines:
            self._night(machine, day)
        events: list[tuple[float, _Repository | None]] = [
            (day + chance.uniform(*_OFFICE), repository)
            for repository in self._repositories
            for _ in range(10)
            if chance.random() < repository.rate / 10
        ]
        events += [(day + min(max(chance.gauss(0.6, 0.15), 0), 1), None) for _ in range(self._traffic.pulls)]
        for now, pushed in sorted(events, key=lambda event: event[0]):
            if pushed is None:
                self._pull(now, self._tag(self._repositories[self._popular()]))
                continue
            self._push(pushed)
            for machine in self._machines:
                watched = any(self._repositories[number] is pushed for number in machine.runs)
                if watched and chance.random() < 0.3:
                    self._pull(now + chance.uniform(0, _ROLLOUT), pushed.tags[-1], machine.has)

    def _night(self, machine: _Machine, day: float) -> None:
        if self._random.random() < 0.02:
            # Its disk was cleaned up.
            machine.has.clear()
        if self._random.random() < 0.05:
            machine.runs[self._random.randrange(len(machine.runs))] = self._popular()
        for place, number in enumerate(machine.runs):
            self._pull(day + machine.at + place * _IMAGE, self._repositories[number].tags[-1], machine.has)

    def _push(self, repository: _Repository) -> None:
        """A new tag: some of the upper layers are new, and what the base image is by now lies below them."""
        if repository.tags:
            kept = self._random.randrange(len(repository.own))
            repository.own[kept:] = [self._layer() for _ in repository.own[kept:]]
        config = self._blob(self._random.lognormvariate(math.log(6000), 0.6))
        repository.tags.append([config, *self._bases[repository.base], *repository.own])

    def _tag(self, repository: _Repository) -> list[int]:
        if self._random.random() >= self._traffic.old:
            return repository.tags[-1]
        return repository.tags[-1 - min(len(repository.tags) - 1, int(self._random.expovariate(0.3)))]

    def _pull(self, now: float, image: list[int], has: set[int] | None = None) -> None:
        for place, blob in enumerate(image):
            if has is None or blob not in has:
                self._requests.append((now + place * _BLOB, len(self._requests), blob))
        if has is not None:
            has.update(image)

    def _popular(self) -> int:
        return self._ranks[self._pick(self._zipf)]

    def _pick(self, cumulated: list[float]) -> int:
        return bisect.bisect(cumulated, self._random.random() * cumulated[-1])

    def _layer(self) -> int:
        return self._blob(self._random.lognormvariate(math.log(self._traffic.median), self._traffic.sigma))

    def _blob(self, size: float) -> int:
        self._sizes.append(int(min(max(size, 200), self._traffic.largest)))
        return len(self._sizes) - 1


def _zipf(count: int, exponent: float) -> list[float]:
    return list(itertools.accumulate(1 / rank**exponent for rank in range(1, count + 1)))
