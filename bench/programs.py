"""Programs of a run: found or named as missing, started, accounted for by the kernel, ended with all their children."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

BOUND = 60.0
"""Seconds after which something that should have happened has failed."""
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_TICKS = os.sysconf("SC_CLK_TCK")


class Missing(Exception):
    """Something that is not installed here; the text names it."""


class Failed(Exception):
    """A program did not do what it was to do; the text holds what it printed."""


def need(program: str) -> str:
    """The path of an installed program.

    Raises:
        Missing: there is none.
    """
    found = shutil.which(program, path=_PATH)
    if not found:
        raise Missing(f"{program} is not installed")
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment with nothing of the user's own in it."""
    return {"PATH": _PATH, "HOME": str(home), "LANG": "C.UTF-8", "TMPDIR": str(home), **more}


def run(command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 600) -> str:
    """Run a command to its end; its standard output.

    Raises:
        Failed: it ended with an error.
    """
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command[:12])}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Program:
    """A program in the background, in a session of its own."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, ready: Callable[[], bool]) -> None:
        """Start it, and wait until it is ready.

        Raises:
            Failed: it never was.
        """
        self._name = Path(command[0]).name
        self._log = log
        begin = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self.pid = self._process.pid
        while not ready():
            if self._process.poll() is not None or time.monotonic() > begin + BOUND:
                self.stop()
                raise Failed(f"{self._name} is not ready:\n{self.log()}")
            time.sleep(0.005)
        self.start_seconds = time.monotonic() - begin

    def log(self) -> str:
        """All it has printed."""
        return self._log.read_text(errors="replace")

    def cpu(self) -> float:
        """CPU seconds so far, in user and kernel mode, of it and all its children, also of those that ended."""
        return sum(sum(int(field) for field in _stat(pid)[13 - 2 : 17 - 2]) for pid in _family(self.pid)) / _TICKS

    def peak(self) -> int:
        """The highest resident memory so far, in bytes, children included."""
        return sum(_status(pid, "VmHWM") for pid in _family(self.pid))

    def resident(self) -> int:
        """The resident memory now, in bytes, children included."""
        return sum(_status(pid, "VmRSS") for pid in _family(self.pid))

    def stop(self) -> None:
        """End it and all its children; does nothing once ended."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            if not self._signal(signum):
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        self._process.wait(20)
        deadline = time.monotonic() + 20
        while self._signal(signal.SIGKILL) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _signal(self, signum: int) -> bool:
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            return False
        return True


def _family(pid: int) -> Iterator[int]:
    """The process and all below it."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s stat from the third on; none for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _status(pid: int, key: str) -> int:
    with contextlib.suppress(OSError):
        if found := re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()):
            return int(found[1]) * 1024
    return 0
