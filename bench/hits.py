"""Hits: how fast they leave, and what they cost."""

from bench.sides import Side
from bench.stage import GIB, Stage
from bench.table import Goal, Row

CACHES = ("distribution", "nginx")


def hit(stage: Stage) -> list[Row]:
    """One client, one large blob."""
    rate = Row("hit, 1 client, large blob", "MB/s", Goal(1.0, at_least=True), 1e-6, more_is_better=True)
    cpu = Row("hit, CPU", "s/GiB", Goal(0.9))
    blob = stage.blobs.blob(stage.sizes.large)
    sides = stage.sides([rate, cpu], *CACHES)
    stage.warm(sides, [blob])

    def sample(side: Side) -> None:
        before = side.program.cpu()
        outcome = stage.load(side.where, [blob.path])
        rate.add(side.name, outcome.rate)
        cpu.add(side.name, (side.program.cpu() - before) / (outcome.bytes / GIB))

    stage.in_turns(sides, sample)
    return [rate, cpu]


def crowd(stage: Stage) -> list[Row]:
    """Many clients at once, on several blobs."""
    sizes = stage.sizes
    name = f"hit, {sizes.crowd} clients at once"
    rate = Row(name, "MB/s", Goal(0.9, at_least=True), 1e-6, more_is_better=True)
    fair = Row(f"{name}, slowest over median", "x", Goal(2.0, alone=True))
    blobs = stage.blobs.blobs(4, sizes.middle)
    sides = stage.sides([rate, fair], *CACHES)
    stage.warm(sides, blobs)

    def sample(side: Side) -> None:
        outcome = stage.load(side.where, [blob.path for blob in blobs], clients=sizes.crowd)
        rate.add(side.name, outcome.rate)
        fair.add(side.name, outcome.unfairness)

    stage.in_turns(sides, sample)
    return [rate, fair]


def small(stage: Stage) -> list[Row]:
    """Small blobs on kept-alive connections."""
    rate = Row("small hits, 16 kept connections", "requests/s", Goal(0.8, at_least=True), more_is_better=True)
    cpu = Row("small hits, CPU", "ms/request", None, 1000)
    rate.beside = cpu.beside = CACHES
    sides = stage.sides([rate, cpu], "bare mitmdump", *CACHES)
    stage.warm(sides, [stage.small])

    def sample(side: Side) -> None:
        before = side.program.cpu()
        many = stage.sizes.kept * (10 if side.name in CACHES else 1)
        outcome = stage.load(side.where, [stage.small.path], clients=16, requests=many)
        rate.add(side.name, outcome.requests / outcome.seconds)
        cpu.add(side.name, (side.program.cpu() - before) / outcome.requests)

    stage.in_turns(sides, sample)
    return [rate, cpu]


def new_connection(stage: Stage) -> list[Row]:
    """A connection for each request: CONNECT, TLS, one small hit."""
    cpu = Row("small hit on a new connection, CPU", "ms/request", Goal(1.0), 1000)
    time = Row("small hit on a new connection, time", "ms", None, 1000)
    cpu.beside = time.beside = CACHES
    cpu.note = "nginx and distribution are no proxies: TLS and the request, without CONNECT"
    sides = stage.sides([cpu, time], "bare mitmdump", *CACHES)
    stage.warm(sides, [stage.small])

    def sample(side: Side) -> None:
        many = stage.sizes.fresh * (10 if side.name in CACHES else 1)
        before = side.program.cpu()
        outcome = stage.load(side.where, [stage.small.path], requests=many, fresh=True)
        cpu.add(side.name, (side.program.cpu() - before) / outcome.requests)
        time.add(side.name, outcome.seconds / outcome.requests)

    stage.in_turns(sides, sample)
    return [cpu, time]
