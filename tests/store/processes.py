"""Other processes that use the same store."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

READY = "ready"
"""What a script prints once it is where the test wants it."""


@contextmanager
def process(script: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """A Python process that runs the script, and has come so far that it is ready; in the end, it is killed."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout
            assert started.stdout.readline() == f"{READY}\n"
            yield started
        finally:
            started.kill()


def tell(started: "subprocess.Popen[str]") -> None:
    """Let it go on: it waits for a line."""
    assert started.stdin
    started.stdin.write("\n")
    started.stdin.flush()


def finish(started: "subprocess.Popen[str]") -> str:
    """Let it go on, wait until it ends by itself, and return what it printed."""
    printed, _ = started.communicate("\n", timeout=60)
    assert started.returncode == 0
    return printed
