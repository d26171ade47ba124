"""A copy of the project, and the little world that its run.sh sees."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("cat", "cksum", "cp", "dirname", "env", "ln", "mkdir", "readlink", "rm", "rmdir", "sh", "sleep")

# Answers what run.sh asks of a Python. `venv` copies it, `pip install` puts tools beside it that print their arguments.
PYTHON = """#!/bin/sh
echo "$*" >>"$LOG"
case "$*" in
  "-c "*) echo "VERSION $0" ;;
  "-I -c import ensurepip") ;;
  "-I -m venv "*)
    mkdir -p "$4/bin" "$4/lib/pythonVERSION/site-packages"
    cp "$0" "$4/bin/python"
    echo "home = $0" >"$4/pyvenv.cfg" ;;
  "-I -m pip install"*)
    while [ -e "$LOG.hold" ]; do sleep 0.02; done
    echo "pip says much"
    if [ -e "$LOG.fail" ]; then echo "pip says no" >&2; exit 1; fi
    for tool in mitmdump mitmproxy mitmweb mypy pytest ruff; do
      cp "$TOOL" "${0%/*}/$tool"
    done ;;
  "-P -m addon.ui.launch "*)
    tool=$4
    shift 5
    exec "${0%/*}/$tool" "$@" ;;
esac
"""
TOOL = """#!/bin/sh
name=${0##*/}
echo "$name"
for arg; do echo "[$arg]"; done
[ ! -e "$LOG.$name.fail" ]
"""
UV = """#!/bin/sh
echo "uv $*" >>"$LOG"
case "$*" in
  --version) echo "uv 1.0" ;;
  venv*) exec "$4" -I -m venv "$5" ;;
  *"pip install"*) exec "$6" -I -m pip install ;;
  "python find"*) [ -z "${UV_HAS-}" ] || echo "$UV_HAS" ;;
  "python install"*) exit 1 ;;
esac
"""
SHIM = """#!/bin/sh
echo "pyenv: ${0##*/}: command not found" >&2
exit 127
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass
class Checkout:
    """A copy of the project in a folder with a space, and the little world that its run.sh sees."""

    shell: str
    root: Path
    log: Path
    env: dict[str, str] = field(default_factory=dict)

    def python(self, path: str, version: str = "3.13") -> Path:
        """A Python of that version, at a path below the world's own folder."""
        return script(self.root.parent / path, PYTHON.replace("VERSION", version))

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.shell, str(self.root / "run.sh"), *args],
            env=self.env | env,
            cwd=self.root.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        with self.start(*args, **env) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def output(self, *args: str, **env: str) -> list[str]:
        """The lines that it prints; it must succeed."""
        done = self.run(*args, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def complaint(self, *args: str, status: int = 1, **env: str) -> str:
        """What it says on stderr; it must fail, and print nothing else."""
        done = self.run(*args, **env)
        assert (done.returncode, done.stdout) == (status, "")
        return done.stderr

    def calls(self, start: str = "") -> list[str]:
        """The calls of Python and uv so far that begin with the given words."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith(start)]

    @property
    def link(self) -> Path:
        return Path(self.env["HOME"], ".local/share/pulltap/config.yaml")
