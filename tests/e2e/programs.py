"""Programs that the tests run: found or skipped by name, ended by their own process group, waited for by events."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

BOUND = 60.0
"""Seconds after which something that should have happened has failed."""
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class CommandFailed(Exception):
    """A command ended with an error; the text is what it printed."""


def missing(what: str) -> None:
    """Skip the test for want of something; where CI is set nothing may be wanting."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI must have it")
    pytest.skip(what)


def need(program: str, *, root: bool = False) -> str:
    """The path of an installed program, or a skipped test."""
    found = shutil.which(program, path=_PATH)
    if not found:
        missing(f"{program} is not installed")
    if root and os.geteuid() != 0:
        missing(f"{program} needs root")
    return str(found)


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment with nothing of the user's own in it."""
    return {"PATH": _PATH, "HOME": str(home), "LANG": "C.UTF-8", "TMPDIR": str(home), **more}


def run(command: Sequence[str], env: Mapping[str, str], *, stdin: str = "", timeout: float = 300) -> str:
    """Run a command to its end; its standard output. Raises CommandFailed."""
    done = subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        shown = " ".join(command)
        raise CommandFailed(f"{shown}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def eventually(
    happened: Callable[[], bool], what: str, bound: float = BOUND, *, alive: Callable[[], bool] = lambda: True
) -> None:
    """Poll until something has happened. Raises TimeoutError at the bound, or once it can no longer happen."""
    deadline = time.monotonic() + bound
    while not happened():
        if not alive() or time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.01)


class Daemon:
    """A program in the background, in a process group of its own; its output goes to a file."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = Path(command[0]).name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def log(self) -> str:
        """All it has printed."""
        return self._log.read_text(errors="replace")

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], bound: float = BOUND) -> None:
        """Block until it is ready; if it never gets there, end it and raise CommandFailed with its output."""
        try:
            eventually(ready, self.name, bound, alive=self.running)
        except TimeoutError:
            state = "is not ready" if self.running() else f"ended with {self._process.returncode}"
            self.stop(signal.SIGKILL)
            raise CommandFailed(f"{self.name} {state}:\n{self.log()}") from None

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """End it and all its children; the exit status. Raises CommandFailed if it had to be killed."""
        self._signal(signum)
        try:
            status = self._process.wait(BOUND)
            eventually(lambda: not self._signal(0), f"{self.name} left children")
        except (subprocess.TimeoutExpired, TimeoutError) as error:
            self._signal(signal.SIGKILL)
            self._process.wait(BOUND)
            raise CommandFailed(f"{self.name} had to be killed ({error}):\n{self.log()}") from None
        return status

    def _signal(self, signum: int) -> bool:
        """Send a signal to the whole group; False where nobody is left."""
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            return False
        return True


@contextmanager
def workplace(name: str) -> Iterator[Path]:
    """A folder with a short path (a socket's may have 107 bytes), gone afterwards with all mounts below it."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    try:
        yield folder
    finally:
        for mount in reversed(_mounts_below(folder)):
            subprocess.run(["umount", "--lazy", mount], check=True)
        shutil.rmtree(folder)


def _mounts_below(folder: Path) -> list[str]:
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return []
    points = [line.split(" ")[1] for line in mounts.read_text().splitlines()]
    return [point for point in points if Path(point).is_relative_to(folder)]
