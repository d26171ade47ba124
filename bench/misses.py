"""Misses: how fast a blob comes through that is not there yet, and what upstream sees of it."""

import os

from bench.sides import Side
from bench.stage import GIB, Stage
from bench.table import Goal, Row


def miss(stage: Stage) -> list[Row]:
    """One client, one large blob that is fetched, written and sent on."""
    rate = Row("miss with write-through, large blob", "MB/s", Goal(1.3, at_least=True), 1e-6, more_is_better=True)
    cpu = Row("miss, CPU", "s/GiB", None)
    blob = stage.blobs.blob(stage.sizes.large)
    sides = stage.sides([rate, cpu], "nginx")

    def sample(side: Side) -> None:
        side.forget(blob)
        os.sync()
        before = side.program.cpu()
        outcome = stage.load(side.where, [blob.path], hit=False)
        cpu.add(side.name, (side.program.cpu() - before) / (outcome.bytes / GIB))
        rate.add(side.name, outcome.rate)
        # It was stored, or the next sample would be no miss but a blob that passes through.
        stage.load(side.where, [blob.path])

    stage.in_turns(sides, sample)
    return [rate, cpu]


def first_byte(stage: Stage) -> list[Row]:
    """The time to the first byte of a small miss, on a new connection."""
    time = Row("first byte of a miss, new connection", "ms", Goal(0.020, plus=True, factor=1000), 1000)
    time.beside = ("nginx",)
    blobs = stage.blobs.blobs(stage.sizes.first_bytes, 1 << 20)
    paths = [blob.path for blob in blobs]
    sides = [*stage.sides([time], "nginx"), stage.origin]
    for side in sides:
        stage.load(side.where, [stage.small.path], hit=None)

    def sample(side: Side) -> None:
        for blob in blobs:
            side.forget(blob)
        os.sync()
        outcome = stage.load(side.where, paths, requests=len(paths), fresh=True, hit=False)
        for seconds in outcome.first:
            time.add(side.name, seconds)

    stage.in_turns(sides, sample)
    return [time]


def collapse(stage: Stage) -> list[Row]:
    """50 clients at once, one blob that is not there: what upstream sends."""
    row = Row("50 clients at once, cold: bytes sent by upstream", "times the blob", Goal(1.0, alone=True))
    row.beside = ("nginx",)
    blob = stage.blobs.blob(stage.sizes.joined, seed=1)

    def sample(side: Side) -> None:
        side.forget(blob)
        stage.origin.sent()
        stage.load(side.where, [blob.path], clients=50, hit=None)
        row.add(side.name, stage.origin.sent() / blob.size)

    stage.in_turns(stage.sides([row], "nginx"), sample)
    return [row]
