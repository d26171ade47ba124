"""What the measures of a run share: the sides that run, the load, the sizes, and taking turns."""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.blobs import Blob, Blobs
from bench.load import Load
from bench.programs import Missing
from bench.sides import ROOT, Bare, Distribution, Ground, Nginx, Origin, Pulltap, Side
from bench.table import Row

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Sizes:
    """How much is done; all sizes in bytes."""

    large: int = GIB
    middle: int = 256 * MIB
    small: int = 10 * KIB
    crowd: int = 32
    kept: int = 150
    """Requests of each of the 16 kept-alive clients."""
    fresh: int = 150
    """Requests on new connections."""
    first_bytes: int = 20
    """Misses of which the first byte is timed."""
    joined: int = 64 * MIB
    slow_rate: int = MIB
    """Bytes per second of a slow client."""
    store: int = 100_000
    """Blobs in a large store."""
    layers: tuple[int, ...] = (100 * KIB,) * 30 + (2 * MIB,) * 8 + (20 * MIB,) * 2
    """Of the image that is pulled."""
    layer: int = 512 * MIB
    """The only one of the image that is pulled cold."""
    connection_rate: int = 20_000_000
    """Bytes per second that its CDN gives each connection."""


QUICK = Sizes(
    large=8 * MIB,
    middle=2 * MIB,
    crowd=8,
    kept=5,
    fresh=10,
    first_bytes=3,
    joined=2 * MIB,
    slow_rate=64 * KIB,
    store=500,
    layers=(10 * KIB,) * 3,
    # Smaller ones come over one connection.
    layer=32 * MIB,
)


class Stage:
    """A run's stage; leaving it ends all that was started and removes all that was written."""

    def __init__(self, *, runs: int, sizes: Sizes, trees: Sequence[Path] = (), where: Path | None = None) -> None:
        """Set it up.

        Raises:
            Missing: something without which nothing can be measured is not installed.
        """
        self.runs = runs
        self.sizes = sizes
        self._trees = trees
        self._kept: dict[str, Side | Missing] = {}
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pulltap-bench-", dir=where))
            self.folder = Path(folder)
            self.load = Load(self.folder)
            self.ground = Ground(self.folder)
            self.origin = Origin(self.ground)
            stack.callback(self.origin.stop)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def blobs(self) -> Blobs:
        """The upstream's blobs."""
        return self.ground.blobs

    @property
    def small(self) -> Blob:
        """The small blob, which is also what the bare mitmdump answers with."""
        return self.blobs.blob(self.sizes.small)

    def pulltaps(self) -> list[Side]:
        """Pulltap as it stands here, and each other checkout that is to be compared with it."""
        sides = [
            self._side(str(tree), partial(Pulltap, self.ground, self.origin, tree)) for tree in (ROOT, *self._trees)
        ]
        return [side for side in sides if isinstance(side, Side)]

    def sides(self, rows: Sequence[Row], *peers: str) -> list[Side]:
        """Pulltap and these peers, running; one that is not installed is noted in the rows."""
        make: dict[str, Callable[[], Side]] = {
            "nginx": lambda: Nginx(self.ground, self.origin),
            "distribution": lambda: Distribution(self.ground),
            "bare mitmdump": lambda: Bare(self.ground, self.origin, self.small),
        }
        found = self.pulltaps()
        for name in peers:
            peer = self._side(name, make[name])
            if isinstance(peer, Side):
                found.append(peer)
            else:
                for row in rows:
                    row.missing.append(f"{name} ({peer})")
        return found

    def _side(self, name: str, make: Callable[[], Side]) -> Side | Missing:
        if name not in self._kept:
            try:
                side = make()
            except Missing as e:
                self._kept[name] = e
            else:
                self._stack.callback(side.stop)
                self._kept[name] = side
        return self._kept[name]

    def warm(self, sides: Iterable[Side], blobs: Sequence[Blob]) -> None:
        """See to it that each side has these blobs, and its pages are in memory; what was written is on disk."""
        for side in sides:
            side.have(blobs)
            for blob in blobs:
                self.load(side.where, [blob.path], hit=None)
            os.sync()
            for blob in blobs:
                self.load(side.where, [blob.path])

    def in_turns(self, sides: Sequence[Side], sample: Callable[[Side], None]) -> None:
        """One sample of each side, over and over, beginning with another one each time."""
        for number in range(self.runs):
            at = number % len(sides)
            for side in [*sides[at:], *sides[:at]]:
                sample(side)
