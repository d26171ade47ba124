"""``./run.sh warm …``: pulls images into the store, through mitmproxy's core but without a listening proxy.

So whatever the config says about the way to the network (upstream proxies, CA certificates) holds here as well.
"""

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from mitmproxy import ctx, options
from mitmproxy.addons import dumper, termlog
from mitmproxy.tools import cmdline, dump
from mitmproxy.tools import main as tools
from rich.progress import Progress, TaskID

from addon.registry.reference import Reference
from addon.ui.terminal import INTERRUPTED, bars, console
from addon.ui.warming import Part, WarmError, Warming, own_platform, told

ADDON = Path(__file__).parents[1] / "main.py"


def run(chosen: argparse.Namespace, passed_on: Sequence[str]) -> int:
    """Carry the command out.

    Args:
        chosen: its words.
        passed_on: arguments for mitmdump.

    Returns:
        The exit status.

    Raises:
        ValueError: a word means nothing.
    """
    errand = _Errand([Reference.parse(image) for image in chosen.images], chosen.platform or [own_platform()])

    def master(opts: options.Options) -> dump.DumpMaster:
        made = dump.DumpMaster(opts, with_termlog=False, with_dumper=False)
        # They have options that the config file may name, but are not to be heard.
        made.addons.add(termlog.TermLog(out=nowhere), dumper.Dumper(nowhere), errand)
        return made

    home = os.environ["PULLTAP_HOME"]
    arguments = ["--no-server", "--set", f"confdir={home}", "-s", str(ADDON), *passed_on]
    problems = _Problems(errand)
    logging.getLogger().addHandler(problems)
    try:
        with Path(os.devnull).open("w") as nowhere:
            tools.run(master, cmdline.mitmdump, arguments)  # type: ignore[arg-type]
    finally:
        logging.getLogger().removeHandler(problems)
    return errand.status


class _Problems(logging.Handler):
    """Shows what Pulltap and mitmproxy warn of."""

    def __init__(self, errand: "_Errand") -> None:
        super().__init__(logging.WARNING)
        self._errand = errand

    def emit(self, record: logging.LogRecord) -> None:
        # What becomes of the fills when somebody stops them is known to who did so.
        if self._errand.status != INTERRUPTED:
            self._errand.errors.print(self.format(record))


class _Errand:
    """The addon that fetches, and then ends mitmproxy."""

    def __init__(self, references: list[Reference], platforms: list[str]) -> None:
        self.status = 1
        self.out = console()
        self.errors = console(stderr=True)
        if self.out.is_terminal and self.errors.is_terminal:
            # Only what goes the same way as the bars goes above them, and not between them.
            self.errors = self.out
        self._references = references
        self._platforms = platforms
        self._task: asyncio.Task[None] | None = None

    def running(self) -> None:
        """Begin (mitmproxy's hook for the end of the start)."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            # In the place of mitmproxy's own handler, which would break the fills under those who wait for them.
            asyncio.get_running_loop().add_signal_handler(signum, self._stop)
        self._task = asyncio.create_task(self._run(), name="warm")

    async def done(self) -> None:
        """Come to an end (mitmproxy's hook for that)."""
        if self._task is not None and not self._task.done():
            self._stop()
            await asyncio.gather(self._task, return_exceptions=True)

    def _stop(self) -> None:
        if self._task is not None:
            self.status = INTERRUPTED
            self._task.cancel()

    async def _run(self) -> None:
        try:
            parts = ctx.master.addons.get("pulltap").in_use()
            failed = 0
            for reference in self._references:
                with bars(self.out, transient=True) as progress:
                    watch = _Watch(progress)
                    try:
                        warmed = await Warming(parts, reference).run(self._platforms, watch)
                    except WarmError as e:
                        failed += 1
                        self.errors.print(f"run.sh warm: {e}")
                        continue
                self.out.print(told(warmed))
            self.status = 1 if failed else 0
        except asyncio.CancelledError:
            self.errors.print("stopped; what has come is kept")
            raise
        finally:
            self._task = None
            ctx.master.shutdown()


class _Watch:
    """Shows each blob as a bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, part: Part) -> None:
        name = part.descriptor.digest.short
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=part.descriptor.size)
        self._progress.update(self._tasks[name], completed=part.received, description=f"{name} {part.note}".rstrip())
