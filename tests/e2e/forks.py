"""Proxies that are forked from a process that has done all imports, since a start takes its time for nothing else.

All that follows the imports is as behind `./run.sh`.
"""

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .programs import BOUND, CommandFailed, Daemon, eventually
from .proxies import Pulltap

_PROGRAM = Path(__file__).with_name("zygote.py")
_STARTER = "addon.ui.launch"


class Forked(Daemon):
    """A proxy whose parent is another process."""

    def __init__(self, pid: int, log: Path) -> None:
        self.name = "a forked proxy"
        self.pid = pid
        self._log = log
        self._handle = os.pidfd_open(pid)

    def running(self) -> bool:
        """See `Daemon.running`."""
        return not self._ends_within(0)

    def wait_until(self, ready: Callable[[], bool], bound: float = BOUND) -> None:
        """See `Daemon.wait_until`."""
        try:
            eventually(ready, self.name, bound, alive=self.running)
        except TimeoutError:
            self.stop(signal.SIGKILL)
            raise CommandFailed(f"{self.name} is not ready:\n{self.log()}") from None

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """End it; see `Daemon.stop`. Its exit status is not known."""
        try:
            if self.running():
                signal.pidfd_send_signal(self._handle, signum)
            if not self._ends_within(BOUND):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
                raise CommandFailed(f"{self.name} had to be killed:\n{self.log()}")
        finally:
            os.close(self._handle)
        return 0

    def _ends_within(self, seconds: float) -> bool:
        return bool(select.select([self._handle], [], [], seconds)[0])


class Zygote:
    """Starts a proxy that runs already, from its next start on."""

    def __init__(self, proxy: Pulltap) -> None:
        # What run.sh has made of its own command.
        python, *command = Path(f"/proc/{proxy.pid}/cmdline").read_text().split("\0")[:-1]
        self._arguments = command[command.index(_STARTER) + 1 :]
        self._process = subprocess.Popen(
            [python, "-P", "-u", str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"
        proxy.spawn = self.fork

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(BOUND)
        self._process.stdout.close()

    def fork(self, _command: Sequence[str], env: Mapping[str, str], log: Path) -> Forked:
        """Start the proxy."""
        order = {"arguments": self._arguments, "environment": dict(env), "log": str(log)}
        assert self._process.stdin
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        return Forked(int(self._line()), log)

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()
