"""A store of one blob against one of many: a hit's time, memory, and the time that a start takes."""

import statistics
from contextlib import ExitStack
from pathlib import Path

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.inventory import Stamp
from bench.blobs import REPOSITORY
from bench.sides import Pulltap
from bench.stage import Stage
from bench.table import OURS, Goal, Row

ONE = "with 1 blob"


def scale(stage: Stage) -> list[Row]:
    """The figure of the large store, and beside it that of the small one."""
    many = stage.sizes.store
    time = Row(f"hit with {many:,} blobs in the store, time", "ms", Goal(1.1), 1000)
    memory = Row(f"resident memory with {many:,} blobs", "MiB", Goal(1.1), 1 / (1 << 20))
    start = Row(f"start with {many:,} blobs", "s", Goal(2.0, alone=True))
    crowded = stage.folder / "crowded"
    with ExitStack() as stack:
        first = Pulltap(stage.ground, stage.origin, store=crowded)
        first.stop()
        _crowd(crowded, many, f"localhost:{stage.origin.where.port}")
        single = stage.folder / "single"
        for number in range(stage.runs):
            for name, store in _turn([(ONE, single), (OURS, crowded)], number):
                side = Pulltap(stage.ground, stage.origin, store=store)
                stack.callback(side.stop)
                start.add(name, side.program.start_seconds)
                stage.load(side.where, [stage.small.path], hit=None)
                stage.load(side.where, [stage.small.path], requests=stage.sizes.kept * 3)
                outcome = stage.load(side.where, [stage.small.path], requests=stage.sizes.kept * 3)
                time.add(name, statistics.median(outcome.last))
                memory.add(name, side.program.resident())
                side.stop()
    return [time, memory, start]


def _turn(stores: list[tuple[str, Path]], number: int) -> list[tuple[str, Path]]:
    return stores[::-1] if number % 2 else stores


def _crowd(folder: Path, many: int, registry: str) -> None:
    """Fill a store with tiny blobs, and say of each that it was verified, and where it came from."""
    store = Store(folder)
    digests = []
    for number in range(many):
        content = str(number).encode()
        digest = Digest.of(content)
        store.path(digest).write_bytes(content)
        status = store.path(digest).stat()
        store.inventory.verified(digest, Stamp(status.st_size, status.st_mtime_ns))
        digests.append(digest)
    store.provenance.record(registry, REPOSITORY, *digests)
    store.close()
