"""A mitmproxy script (``-s soak_probe.py``) that counts, once a second, what could grow for ever.

The counts go to a file in mitmproxy's confdir, as JSON. While there is no connection and no fill, it collects garbage
first, so that only what somebody holds is counted, and says what kinds of objects those are. It is no task, and opens
no file for longer than it takes to write it, so it is not among what it counts.
"""

import asyncio
import gc
import json
import logging
import os
import re
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

from mitmproxy import ctx

NAME = "soak-probe.json"
"""The file's name."""
TRACE = "SOAK_TRACE"
"""Environment variable: if set, tracemalloc runs, and the file says which lines hold the most memory."""
_SECONDS = 1.0
_KINDS = 60
_FILLS = ("fill ", "start ", "follow ")
"""How the names of tasks begin that work on fills."""


class _Log(logging.Handler):
    """Counts what went to make room, and what was warned of."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.evicted = 0
        self.warnings: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Count (called with a lock held, in any thread)."""
        arguments = record.args
        if record.name == "addon.store.room" and "went to make room" in record.msg and isinstance(arguments, tuple):
            self.evicted += int(str(arguments[0]))
        if record.levelno >= logging.WARNING and record.levelname != "ALERT":
            self.warnings[f"{record.levelname} {str(record.msg)[:120]}"] += 1


class Probe:
    """Writes the file."""

    def __init__(self) -> None:
        self._log = _Log()
        self._number = 0

    def running(self) -> None:
        """Begin (mitmproxy's hook for the end of the start)."""
        logging.getLogger().addHandler(self._log)
        self._file = Path(ctx.options.confdir).expanduser() / NAME
        if os.environ.get(TRACE):
            tracemalloc.start(6)
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._number += 1
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(self._counts()))
        fresh.replace(self._file)
        self._timer = self._loop.call_later(_SECONDS, self._tick)

    def _counts(self) -> dict[str, Any]:
        names = [task.get_name() for task in asyncio.all_tasks()]
        connections = len(ctx.master.addons.get("proxyserver").connections)
        fills = sum(name.startswith(_FILLS) for name in names)
        counts: dict[str, Any] = {
            "number": self._number,
            "connections": connections,
            "fills": fills,
            "tasks": len(names),
            "task_names": Counter(re.sub(r"[0-9a-f]*[0-9][0-9a-f.:]*", "#", name)[:60] for name in names),
            "evicted": self._log.evicted,
            "warnings": self._log.warnings,
        }
        if connections or fills:
            return {**counts, "objects": len(gc.get_objects())}
        gc.collect()
        objects = gc.get_objects()
        kinds = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in objects)
        counts |= {
            "objects": len(objects),
            "blocks": sys.getallocatedblocks(),
            "kinds": dict(kinds.most_common(_KINDS)),
        }
        if tracemalloc.is_tracing():
            lines = tracemalloc.take_snapshot().statistics("traceback")[:_KINDS]
            counts["lines"] = {"\n".join(line.traceback.format()): line.size for line in lines}
        return counts


addons = [Probe()]
