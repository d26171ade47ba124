"""``./run.sh bench soak``: whether Pulltap stays as it is, however long it runs and whatever happens to it.

A proxy with a small store, so that blobs come and go all the time, before the stand-in for Docker Hub, which does
wrong what an upstream can do wrong. Clients pull, go away in the middle, ask for ranges, come together, read slowly.
A second proxy works on the same store, and is killed and started again; the store is verified beside them. What is
compared is the first proxy at rest after the warm-up, and at rest at the end. See docs/soak.md.
"""

import argparse
import datetime
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.soak_checks import Book
from bench.soak_clients import Crowd, Door
from bench.soak_faults import Chance, counts, weather
from bench.soak_probe import NAME, TRACE
from bench.soak_samples import Sample, grown, judge, markdown, take
from tests.e2e.programs import CommandFailed, workplace
from tests.e2e.proxies import Pulltap
from tests.standin import Hub, Image, RegistryMissing

KIB, MIB = 1 << 10, 1 << 20
SAMPLE_SECONDS = 10.0
CLIENTS = 8
LIMIT = 128 * MIB
"""Bytes that the store may take; what is pulled is more than twice as much."""
LIGHT = (3 * KIB, 60 * KIB, 700 * KIB, 3 * MIB)
HEAVY = (20 * KIB, 36 * MIB)
"""Bytes of the layers of images; a layer of 32 MiB or more comes over several connections."""
_CPU = 1.0
"""Processors that all of this may keep busy, so that other work goes on beside it."""
_PAUSES = (0.02, 5.0)
_REST_SECONDS = 150.0
_EVENTS = 20
"""How often the second proxy is killed, and the store verified."""
_PROBE = Path(__file__).with_name("soak_probe.py")
_RUN = Path(__file__).parents[1] / "run.sh"


class Soak:
    """One run."""

    def __init__(self, hub: Hub, folder: Path, minutes: float, seed: int) -> None:
        """Start the proxies.

        Raises:
            CommandFailed: one of them does not start.
        """
        self.seconds = minutes * 60
        self.samples: list[Sample] = []
        """Under load."""
        self.book: Book
        self._hub = hub
        hub.pull_limit.limit = sys.maxsize
        hub.add_account("alice", "wonderland", "alice/private")
        images = list(_images(hub))
        private = hub.push("alice/private", sizes=(200 * KIB, 2 * MIB), seed=seed + 1)
        hub.make_private(private.repository)
        options = {
            "registry_store": str(folder / "store"),
            "registry_store_max_size": str(LIMIT),
            "registry_store_min_free": "0",
        }
        self._proxies: list[Pulltap] = []
        with ExitStack() as started:
            for name in ("first", "second"):
                self._proxies.append(Pulltap(folder / name, hub, options, args=["-s", str(_PROBE)]))
                started.callback(self._proxies[-1].stop)
            started.pop_all()
        self.first, self._second = self._proxies
        self._second_runs = True
        doors = [Door(proxy.port, proxy.ca) for proxy in self._proxies]
        self._rules: list[Chance] = weather(hub, seed)
        self._crowd = Crowd(hub, doors, images, private, seed)
        self.book = self._crowd.book
        self._evicted_before = 0
        """By the second proxy, before it was killed."""
        self._cpu_of_killed = 0.0
        self._cpu = self._used()
        self._began = self._looked = time.monotonic()

    def stop(self) -> None:
        """End all that runs."""
        self._crowd.end()
        for proxy in self._proxies:
            try:
                proxy.stop()
            except (AssertionError, CommandFailed) as e:
                self.book.accuse(str(e)[-3000:])

    # What goes on.

    def run(self) -> tuple[Sample, Sample]:
        """Do everything, and return what was measured at rest: after the warm-up, and at the end.

        Raises:
            TimeoutError: it never came to rest.
            OSError: the first proxy has ended.
        """
        self._crowd.start(CLIENTS)
        self._go_on_until(self.seconds / 10)
        start = self._rest()
        self._crowd.go_on()
        self._go_on_until(self.seconds)
        end = self._rest()
        self._verify()
        return start, end

    def _go_on_until(self, seconds: float) -> None:
        events = itertools.cycle((self._verify, self._void_tokens, self._kill, self._start))
        between = max(self.seconds / _EVENTS / 4, 3.0)
        next_event = time.monotonic() + between
        while (left := self._began + seconds - time.monotonic()) > 0:
            time.sleep(min(left, SAMPLE_SECONDS, max(0.0, next_event - time.monotonic())))
            if time.monotonic() >= next_event:
                next(events)()
                next_event += between
            if time.monotonic() - self._looked >= SAMPLE_SECONDS:
                self._look()
        self._start()

    def _look(self) -> None:
        self.samples.append(self._sample())
        used, now = self._used(), time.monotonic()
        share = max(used - self._cpu, 0.0) / (now - self._looked)
        lowest, highest = _PAUSES
        self._crowd.pause = min(max(self._crowd.pause * min(max(share / _CPU, 0.5), 2.0), lowest), highest)
        self._cpu, self._looked = used, now
        # Nobody reads what was asked.
        self._hub.clear()
        for each in self._hub.errors:
            self.book.accuse(f"the stand-in: {each}")
        self._hub.errors.clear()
        sample = self.samples[-1]
        sys.stderr.write(
            f"soak: {sample.seconds:.0f} s: {sample.rss / MIB:.1f} MiB, {sample.fds} files, {sample.tasks} tasks, "
            f"{sample.store / MIB:.1f} MiB stored, {share:.0%} of a processor, {len(self.book.wrong)} wrong\n"
        )

    def _sample(self) -> Sample:
        return take(time.monotonic() - self._began, self.first.pid, self.first.home, self.first.store)

    def _rest(self) -> Sample:
        """Wait until nobody is connected and nothing is fetched, and look.

        Raises:
            TimeoutError: that does not happen.
        """
        if not self._crowd.hold(_REST_SECONDS):
            raise TimeoutError("the clients do not finish")
        deadline = time.monotonic() + _REST_SECONDS
        number = 0
        while True:
            sample = self._sample()
            # Two looks of the probe that both find nothing: the first one may be older than the last client.
            number = number + 1 if sample.at_rest and not sample.leases else 0
            if number >= 4:
                return sample
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"it does not come to rest: {sample.connections} connections, {sample.fills} fills, "
                    f"{sample.leases} leases, {sample.more.get('task_names')}"
                )
            time.sleep(1)

    # What happens now and then.

    def _verify(self) -> None:
        env = {**os.environ, "PULLTAP_CONFIG": str(self.first.config), "PULLTAP_HOME": str(self.first.home)}
        done = subprocess.run(
            [str(_RUN), "store", "verify"], env=env, capture_output=True, text=True, timeout=300, check=False
        )
        self.book.count("verified")
        if done.returncode:
            self.book.accuse(f"store verify ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def _kill(self) -> None:
        """As a crash does it."""
        if self._second_runs:
            self._evicted_before += self._evicted_by_second()
            self._cpu_of_killed += _cpu(self._second.pid)
            self._second_runs = False
            self._second.stop(signal.SIGKILL)
            (self._second.home / NAME).unlink()
            self.book.count("killed")

    def _start(self) -> None:
        """Start the second proxy again, on the store as it is."""
        if not self._second_runs:
            self._second.start()
            self._second_runs = True

    def _void_tokens(self) -> None:
        """Let all tokens and all links to the CDN expire."""
        self._hub.clock.advance(1300)

    def _evicted_by_second(self) -> int:
        sample = take(0, self._second.pid, self._second.home, self._second.store)
        return int(sample.more["evicted"])

    def _used(self) -> float:
        """CPU seconds of this process and the proxies."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        total = own.ru_utime + own.ru_stime + self._cpu_of_killed + _cpu(self.first.pid)
        return total + _cpu(self._second.pid) if self._second_runs else total

    # What came of it.

    def troubles(self) -> list[str]:
        """What went wrong, each kind once."""
        found = list(self.book.wrong)
        found += [f"in a log: {trouble[:3000]}" for proxy in self._proxies if (trouble := proxy.trouble())]
        return found

    def happened(self, end: Sample) -> list[str]:
        """How much of what there was."""
        faults = counts(self._rules)
        groups: dict[str, list[str]] = {"did": [], "aborted": [], "abandoned": [], "answered": [], "blob": []}
        seen = self.book.counts
        rest = []
        for name, number in sorted(seen.items()):
            kind, _, what = name.partition(" ") if name.startswith("did ") else name.partition(": ")
            if kind in groups:
                groups[kind].append(f"{what} {number:,}")
            else:
                rest.append(f"{name} {number:,}")
        evicted = end.more["evicted"] + self._evicted_before + self._evicted_by_second()
        return [
            f"{self.book.bytes / (1 << 30):.1f} GiB to clients; {evicted:,} blobs evicted; {', '.join(rest)}",
            *(f"{kind}: {', '.join(texts)}" for kind, texts in groups.items()),
            f"{sum(faults.values()):,} faults of upstream: {', '.join(f'{n} {c:,}' for n, c in faults.items())}",
            "longest waits for a head: " + ", ".join(f"{took:.1f} s ({what})" for took, what in self.book.longest),
            f"warnings: {', '.join(f'{text} {count:,}' for text, count in end.more['warnings'].items())}",
        ]


def _cpu(pid: int) -> float:
    """CPU seconds of a process that runs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _images(hub: Hub) -> Sequence[Image]:
    """Those that are pulled most come first."""
    images = [hub.push(f"library/light{number}", sizes=LIGHT, seed=number) for number in range(36)]
    for at, number in enumerate((3, 11, 19, 27)):
        images.insert(number, hub.push(f"library/heavy{at}", sizes=HEAVY, seed=1000 + at))
    return images


def main(arguments: Sequence[str]) -> int:
    """Soak, and print what came of it; 1 where something grows, or anything wrong was served."""
    parser = argparse.ArgumentParser(prog="./run.sh bench soak", description="Whether Pulltap stays as it is.")
    parser.add_argument("--minutes", type=float, default=30, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what happens at random (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--trace", action="store_true", help="say which lines of Python hold more memory (slow)")
    chosen = parser.parse_args(arguments)
    if chosen.trace:
        os.environ[TRACE] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin = datetime.datetime.now(datetime.UTC)
    say(f"{begin:%Y-%m-%d %H:%M} UTC, {chosen.minutes:g} minutes, seed {chosen.seed}\n")
    try:
        hub = Hub()
    except RegistryMissing as e:
        sys.exit(f"soak: {e}")
    with hub, workplace("pulltap-soak") as folder:
        try:
            soak = Soak(hub, folder, chosen.minutes, chosen.seed)
        except CommandFailed as e:
            sys.exit(f"soak: {e}")
        happened: list[str] = []
        rests: tuple[Sample, Sample] | None = None
        try:
            rests = soak.run()
            happened = soak.happened(rests[1])
        except (TimeoutError, OSError, CommandFailed) as e:
            soak.book.accuse(f"the soak ended early: {e}")
        finally:
            soak.stop()
        return report(soak, rests, happened, chosen.json)


def report(soak: Soak, rests: tuple[Sample, Sample] | None, happened: list[str], file: Path | None) -> int:
    """Print what came of it; the exit status."""
    lines = judge(*rests, soak.samples, LIMIT) if rests else []
    if rests:
        say(markdown(lines))
        say("\nobjects that are more: " + (", ".join(grown(*rests)) or "none"))
        for line in grown(*rests, "lines"):
            say(f"bytes that are more, by where they were allocated:\n{line}")
    say("\n" + "\n".join(f"- {text}" for text in happened))
    if file:
        samples = [sample.as_json() for sample in soak.samples]
        file.write_text(json.dumps({"rests": [rest.as_json() for rest in rests or ()], "samples": samples}, indent=1))
    troubles = soak.troubles()
    say(f"\nwrong: {len(troubles) or 'nothing'}")
    for text, number in _several(troubles):
        say(f"WRONG ({number} x): {text}")
    return 0 if rests and not troubles and all(line.good for line in lines) else 1


def _several(texts: list[str], most: int = 20) -> list[tuple[str, int]]:
    found = {text: texts.count(text) for text in dict.fromkeys(texts)}
    return list(found.items())[:most]


def say(text: str) -> None:
    """Print."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
