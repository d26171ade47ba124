"""``python -m bench``: see `bench`."""

import argparse
import datetime
import json
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bench import eviction, hits, memory, misses, pulls, scale, soak
from bench.programs import Failed, Missing
from bench.stage import QUICK, Sizes, Stage
from bench.table import Row, markdown

MEASURES: dict[str, Callable[[Stage], list[Row]]] = {
    "hit": hits.hit,
    "crowd": hits.crowd,
    "small": hits.small,
    "new-connection": hits.new_connection,
    "pull": pulls.pull,
    "segments": pulls.segments,
    "miss": misses.miss,
    "first-byte": misses.first_byte,
    "collapse": misses.collapse,
    "memory": memory.memory,
    "slow-disk": memory.slow_disk,
    "store": scale.scale,
}


def main() -> int:
    """Measure, and print one table; 1 where something could not be measured."""
    if sys.argv[1:2] == ["eviction"]:
        return eviction.main(sys.argv[2:])
    if sys.argv[1:2] == ["soak"]:
        return soak.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="./run.sh bench", description="Measure Pulltap and its peers in turns.")
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"of: {', '.join(MEASURES)}; default: all")
    parser.add_argument("--runs", type=int, default=5, help="samples of each side (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there, too")
    parser.add_argument("--tree", type=Path, action="append", default=[], help="compare with another checkout, too")
    parser.add_argument("--folder", type=Path, help="where to write blobs and stores (default: the system's)")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.measures if name not in MEASURES]:
        parser.error(f"no measure {unknown[0]!r}; there are {', '.join(MEASURES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin = datetime.datetime.now(datetime.UTC)
    say(f"{begin:%Y-%m-%d %H:%M} UTC, {machine()}\n")
    rows: list[Row] = []
    faults: list[str] = []
    sizes = QUICK if arguments.quick else Sizes()
    try:
        with Stage(
            runs=arguments.runs,
            sizes=sizes,
            trees=[tree.resolve() for tree in arguments.tree],
            where=arguments.folder,
        ) as stage:
            for name in arguments.measures or MEASURES:
                sys.stderr.write(f"bench: {name} ...\n")
                try:
                    rows += MEASURES[name](stage)
                except (Failed, Missing) as e:
                    faults.append(f"{name}: {e}")
    except Missing as e:
        sys.exit(f"bench: nothing can be measured: {e}")
    say(markdown(rows))
    for fault in faults:
        say(f"\nNOT MEASURED: {fault}")
    if arguments.json:
        found = {"at": begin.isoformat(), "machine": machine(), "rows": [row.as_json() for row in rows]}
        arguments.json.write_text(json.dumps({**found, "faults": faults}, indent=1))
    return 1 if faults else 0


def machine() -> str:
    """What it was measured on, and how busy that was."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load average {load}"
    )


def say(text: str) -> None:
    """Print."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
