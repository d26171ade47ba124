"""A program that imports what a proxy does, and then forks one for each line of its input; see forks.py."""

import json
import os
import signal
import sys

import mitmproxy.tools.dump
import mitmproxy.tools.main  # noqa: F401

import addon.main  # noqa: F401
from addon.ui import launch


def main() -> int:
    """Fork until the input ends. The exit status is that of a proxy, in the process of one."""
    # Nobody waits for them here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    for line in sys.stdin:
        if os.fork() == 0:
            return _be_a_proxy(**json.loads(line))
    return 0


def _be_a_proxy(arguments: list[str], environment: dict[str, str], log: str) -> int:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.stdout.write(f"{os.getpid()}\n")
    os.environ.clear()
    os.environ.update(environment)
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for here, there in enumerate((nothing, output, output)):
        os.dup2(there, here)
    os.close(nothing)
    os.close(output)
    return launch.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
