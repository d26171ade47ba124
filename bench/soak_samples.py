"""What is measured during a soak, and whether it is level."""

import contextlib
import json
import os
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.soak_probe import NAME

MIB = 1 << 20
GROWTH = 20.0
"""MiB an hour by which memory may seem to grow."""
OBJECTS = 0.02
"""The share by which the objects of Python may be more at the end: caches fill up."""
CATALOG = 1 * MIB
"""Bytes by which the catalogue may be larger at the end."""
THREADS = min(32, (os.cpu_count() or 1) + 4) + 8 + 4
"""As many as there may be: those of asyncio's pool and of the fills' own, which begin when they are first needed, and
few more."""
FILES = 2
"""Files that a thread of a pool holds open: its own connection to the catalogue."""
_TRIES = 3


@dataclass(frozen=True)
class Sample:
    """One look at a proxy and its store; sizes in bytes."""

    seconds: float
    """Since the begin."""
    rss: int
    pss: int
    fds: int
    threads: int
    tasks: int
    objects: int
    blocks: int
    """Pieces of memory that Python has given out; known at rest only."""
    connections: int
    fills: int
    ingests: int
    """Files."""
    leases: int
    """Those of them that say that somebody is at it."""
    store: int
    catalog: int
    more: dict[str, Any] = field(default_factory=dict, compare=False)
    """What else the probe says."""

    @property
    def at_rest(self) -> bool:
        """Whether nobody is connected and nothing is fetched."""
        return not self.connections and not self.fills

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def take(seconds: float, pid: int, home: Path, store: Path) -> Sample:
    """Look at a proxy that runs with the probe.

    Raises:
        OSError: it is gone.
    """
    probe = json.loads((home / NAME).read_text())
    memory = Path(f"/proc/{pid}/smaps_rollup").read_text()
    ours = store / "pulltap"
    ingests = _names(ours / "ingest")
    return Sample(
        seconds=seconds,
        rss=kib(memory, "Rss"),
        pss=kib(memory, "Pss"),
        fds=len(_names(Path(f"/proc/{pid}/fd"))),
        threads=len(_names(Path(f"/proc/{pid}/task"))),
        tasks=probe["tasks"],
        objects=probe["objects"],
        blocks=probe.get("blocks", 0),
        connections=probe["connections"],
        fills=probe["fills"],
        ingests=len(ingests),
        leases=sum(name.endswith(".lease") for name in ingests),
        # A blob that is committed meanwhile is seen twice, now and then.
        store=min(size(store) for _ in range(_TRIES)),
        catalog=sum(_size(ours / f"catalog.db{suffix}") for suffix in ("", "-wal")),
        more={key: probe[key] for key in ("task_names", "evicted", "warnings", "kinds", "lines") if key in probe},
    )


def kib(text: str, key: str) -> int:
    """A value of one of the kernel's lists, in bytes; 0 where it is not there."""
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def size(store: Path) -> int:
    """Bytes of all that counts against a store's limit."""
    folders = [store / "pulltap/ingest", store / "pulltap/quarantine", *(store / "blobs").iterdir()]
    return sum(_size(path) for folder in folders for path in folder.iterdir())


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_size
    return 0


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@dataclass(frozen=True)
class Slope:
    """The line of least squares through some points."""

    per_hour: float
    error: float
    """Its standard error, as if the points were independent of each other."""


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """How values change, by their times in seconds."""
    times, values = [at for at, _ in points], [value for _, value in points]
    if len(set(times)) < 3:
        return Slope(0.0, float("inf"))
    line = statistics.linear_regression(times, values)
    rest = sum((value - line.intercept - line.slope * at) ** 2 for at, value in points)
    error = (rest / (len(points) - 2) / sum((at - statistics.fmean(times)) ** 2 for at in times)) ** 0.5
    return Slope(line.slope * 3600, error * 3600)


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    name: str
    start: str
    end: str
    most: str
    rule: str
    verdict: str
    good: bool


def judge(start: Sample, end: Sample, samples: Sequence[Sample], limit: int) -> list[Line]:
    """Compare two samples that were taken at rest, and look at all of those under load between them.

    Args:
        start: after the warm-up.
        end: at the end.
        samples: those under load, in order, from the begin on.
        limit: what the store may take, in bytes.
    """

    def line(
        name: str, value: Callable[[Sample], float], rule: str, *, good: bool, said: str = "", shown: str = ",.0f"
    ) -> Line:
        most = max(value(sample) for sample in [start, *samples, end])
        first, last, highest = (format(figure, shown) for figure in (value(start), value(end), most))
        return Line(name, first, last, highest, rule, said or ("level" if good else "grows"), good)

    def memory(name: str, value: Callable[[Sample], float]) -> Line:
        found = slope([(sample.seconds, value(sample)) for sample in late(samples)])
        good = level(found)
        said = f"{'level' if good else 'grows'}: {found.per_hour:+.1f} ± {found.error:.1f} an hour"
        return line(name, value, f"≤ {GROWTH:+g} an hour", good=good, said=said, shown=",.1f")

    def same(name: str, value: Callable[[Sample], int]) -> Line:
        return line(name, value, "at rest no more", good=value(end) <= value(start))

    more = end.objects / start.objects - 1
    leases = line("leases", lambda each: each.leases, "at rest none", good=not end.leases)
    within = max(sample.store for sample in [start, *samples, end]) <= limit
    said, bound = "kept" if within else "exceeded", f"≤ {limit / MIB:,.0f}"
    return [
        memory("resident memory, MiB", lambda each: each.rss / MIB),
        memory("proportional memory, MiB", lambda each: each.pss / MIB),
        line(
            "file descriptors",
            lambda each: each.fds,
            f"at rest no more, but {FILES} for each thread more",
            good=end.fds <= start.fds + FILES * max(end.threads - start.threads, 0),
        ),
        line("threads", lambda each: each.threads, f"≤ {THREADS}", good=end.threads <= THREADS),
        same("asyncio tasks", lambda each: each.tasks),
        line(
            "objects of Python",
            lambda each: each.objects,
            f"at rest ≤ {OBJECTS:+.0%}",
            good=more <= OBJECTS,
            said=f"{'level' if more <= OBJECTS else 'grow'}: {more:+.1%}",
        ),
        line("files in ingest", lambda each: each.ingests, "", good=True, said="-"),
        leases,
        line("store, MiB", lambda each: each.store / MIB, bound, good=within, said=said, shown=",.1f"),
        line(
            "catalog.db, MiB",
            lambda each: each.catalog / MIB,
            f"≤ {CATALOG / MIB:+g}",
            good=end.catalog - start.catalog <= CATALOG,
            shown=",.2f",
        ),
    ]


def late(samples: Sequence[Sample]) -> list[Sample]:
    """Those of the last two thirds of the time."""
    if not samples:
        return []
    begin = samples[-1].seconds / 3
    return [sample for sample in samples if sample.seconds >= begin]


def level(found: Slope) -> bool:
    """Whether memory does not grow: a short run says so little that only what is beyond its error counts."""
    return found.per_hour - 2 * found.error <= GROWTH


def markdown(lines: Sequence[Line]) -> str:
    """The table."""
    head = ["| | at start | at end | most | allowed | |", "| --- | ---: | ---: | ---: | --- | --- |"]
    rows = []
    for each in lines:
        verdict = each.verdict if each.good else f"**{each.verdict}**"
        rows.append(f"| {' | '.join([each.name, each.start, each.end, each.most, each.rule, verdict])} |")
    return "\n".join([*head, *rows])


def grown(start: Sample, end: Sample, what: str = "kinds", most: int = 12) -> list[str]:
    """Of which kinds of objects there are more at the end, or which lines hold more bytes; the first one grew most."""
    before, after = start.more.get(what, {}), end.more.get(what, {})
    more = {kind: count - before.get(kind, 0) for kind, count in after.items() if kind in before}
    first = sorted(more.items(), key=lambda each: -each[1])[:most]
    return [f"{kind} {count:+,}" for kind, count in first if count > 0]
