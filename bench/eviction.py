"""Which blobs should go: hit rates of the store's policy, of others, and of hindsight, on made-up traces.

The traces (`bench.traces`) are the same on every machine, and so are the figures. A trace is replayed with stores of
several sizes, in parts of all the bytes that it ever asks for.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import mean

from addon.store.eviction import POLICY, GreedyDual
from bench.policies import Cache, Gdsf, Hits, Lru, Lru2, S3Fifo, Sieve, belady, bound, replay
from bench.traces import Trace, Traffic, generate

SEEDS = (1, 2, 3)
PARTS = (0.02, 0.05, 0.1, 0.2, 0.4)
OURS = "GDSF, cost: size + 1 MiB, root of uses"
"""As the store does it."""
Replay = Callable[[Trace, float], Hits]


def _policy(make: Callable[[float], Cache]) -> Replay:
    return lambda trace, capacity: replay(trace, make(capacity))


def _gdsf(policy: GreedyDual) -> Replay:
    return _policy(lambda capacity: Gdsf(capacity, policy))


POLICIES: dict[str, Replay] = {
    "LRU": _policy(Lru),
    "LRU-2": _policy(Lru2),
    "SIEVE": _policy(Sieve),
    "S3-FIFO": _policy(S3Fifo),
    "GDSF, cost: 1": _gdsf(GreedyDual(exponent=1, per_request=1, per_byte=0)),
    "GDSF, cost: size (LFU-DA)": _gdsf(GreedyDual(exponent=1, per_request=0, per_byte=1)),
    "GDSF, cost: size + 1 MiB": _gdsf(GreedyDual(1, POLICY.per_request, POLICY.per_byte)),
    OURS: _gdsf(POLICY),
    "Belady's, in hindsight": belady,
    "bound for any (PFOO-U)": bound,
}


def compare(traces: Sequence[Trace], parts: Sequence[float] = PARTS) -> dict[str, list[Hits]]:
    """Hit rates of each policy for each size of the store, from 0 to 1, the mean of all traces."""
    found: dict[str, list[Hits]] = {}
    for name, run in POLICIES.items():
        found[name] = []
        for part in parts:
            hits = [run(trace, trace.size * part) for trace in traces]
            found[name].append(
                Hits(
                    mean(each.requests / len(trace.blobs) for each, trace in zip(hits, traces, strict=True)),
                    mean(each.size / trace.volume for each, trace in zip(hits, traces, strict=True)),
                )
            )
    return found


def markdown(found: dict[str, list[Hits]], parts: Sequence[float] = PARTS) -> str:
    """The table: of each policy and each size, the hit rates of bytes and of requests in per cent."""
    lines = [f"| hit rate of bytes / of requests, % | {' | '.join(f'{part:.0%}' for part in parts)} |"]
    lines.append(f"| --- |{' --- |' * len(parts)}")
    for name, rates in found.items():
        shown = f"**{name}**" if name == OURS else name
        cells = (f"{hits.size * 100:.1f} / {hits.requests * 100:.1f}" for hits in rates)
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Replay, and print one table."""
    parser = argparse.ArgumentParser(prog="./run.sh bench eviction", description="Compare eviction policies.")
    parser.add_argument("--days", type=int, default=Traffic().days, help="length of the traces (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="a trace for each (default: 1 2 3)")
    parsed = parser.parse_args(arguments)
    begin = time.monotonic()
    traces = [generate(seed, Traffic(days=parsed.days)) for seed in parsed.seeds]
    for seed, trace in zip(parsed.seeds, traces, strict=True):
        _say(
            f"trace {seed}: {len(trace.blobs):,} requests of {trace.volume / (1 << 30):,.0f} GiB, "
            f"for {len(set(trace.blobs)):,} blobs of {trace.size / (1 << 30):,.0f} GiB"
        )
    _say(f"\n{markdown(compare(traces))}\n")
    sys.stderr.write(f"bench: {time.monotonic() - begin:.0f} s\n")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
