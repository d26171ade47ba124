"""`./run.sh store …`, `./run.sh warm …` and the like: beside a running proxy, or with none at all."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..standin import Hub
from .proxies import REMAP, ROOT, Pulltap
from .screen import Screen


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str


class Beside:
    """One config, with its home and its store, for commands."""

    def __init__(self, config: Path, home: Path, names: Path, hub: Hub) -> None:
        """See `of` and `alone`; `names` is the map of the stand-in's names."""
        self._config = config
        self._home = home
        self._names = names
        self._hub = hub

    @classmethod
    def of(cls, proxy: Pulltap, hub: Hub) -> "Beside":
        """The commands that belong to a proxy; it may run or not."""
        return cls(proxy.config, proxy.home, proxy.folder / "map.json", hub)

    @classmethod
    def alone(cls, folder: Path, hub: Hub, options: Mapping[str, object] | None = None) -> "Beside":
        """A config without any proxy; the store lies in `store`."""
        folder.mkdir(exist_ok=True)
        names = folder / "map.json"
        names.write_text(json.dumps(hub.map))
        config = folder / "config.yaml"
        shipped = yaml.safe_load((ROOT / "mitm-config.yaml").read_text())
        config.write_text(yaml.safe_dump({**shipped, "registry_store": str(folder / "store"), **(options or {})}))
        return cls(config, folder / "home", names, hub)

    @property
    def store_path(self) -> Path:
        """Where the blobs lie."""
        return Path(yaml.safe_load(self._config.read_text())["registry_store"])

    def store(self, *words: str) -> Done:
        """Run `./run.sh store …` to its end; there is no terminal."""
        return self._run("store", *words)

    def warm(self, *words: str) -> Done:
        """Run `./run.sh warm …` to its end; there is no terminal."""
        return self._run(*self._warm(words))

    def start_warm(self, *words: str) -> subprocess.Popen[str]:
        """Start `./run.sh warm …`, in a process group of its own."""
        return self._start(*self._warm(words))

    def store_on(self, folder: Path, *words: str, columns: int = 100) -> Screen:
        """Run `./run.sh store …` in a terminal."""
        return Screen(folder, self._command("store", *words), self._environment(), columns=columns)

    def warm_on(self, folder: Path, *words: str, columns: int = 100) -> Screen:
        """Run `./run.sh warm …` in a terminal."""
        return Screen(folder, self._command(*self._warm(words)), self._environment(), columns=columns)

    def console_on(self, folder: Path, port: int) -> Screen:
        """Run `./run.sh console` in a terminal."""
        command = self._command("console", "-p", str(port), *self._standin())
        return Screen(folder, command, self._environment(), columns=120, lines=40)

    def _warm(self, words: tuple[str, ...]) -> list[str]:
        return ["warm", *words, "--", *self._standin()]

    def _standin(self) -> list[str]:
        return ["-s", str(REMAP), "--set", f"ssl_verify_upstream_trusted_ca={self._hub.ca}"]

    def _command(self, *words: str) -> list[str]:
        return [str(ROOT / "run.sh"), *words]

    def _run(self, *words: str) -> Done:
        with self._start(*words) as process:
            out, err = process.communicate(timeout=120)
        return Done(process.returncode, out, err)

    def _start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(*words),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        users = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        return {
            **users,
            "PULLTAP_HOME": str(self._home),
            "PULLTAP_CONFIG": str(self._config),
            "STANDIN_MAP": str(self._names),
        }


def interrupt(process: subprocess.Popen[str]) -> Done:
    """Do as Ctrl-C does, and wait for the end."""
    os.killpg(process.pid, signal.SIGINT)
    with process:
        out, err = process.communicate(timeout=60)
    return Done(process.returncode, out, err)
