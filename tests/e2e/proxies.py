"""The proxies under test: Pulltap as `./run.sh` starts it, and a bare mitmdump to compare with."""

import contextlib
import http.client
import itertools
import json
import os
import random
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from ..standin import Hub
from .clients.raw import Raw, Reply
from .programs import Daemon, environment, eventually, need

ROOT = Path(__file__).parents[2]
REMAP = ROOT / "tests" / "standin" / "remap.py"
_TROUBLE = re.compile(r"Traceback \(most recent call last\)|mitmproxy has crashed|Addon error")


class Proxy:
    """A mitmproxy that finds the stand-in behind the real names.

    `url` is what clients are told, `ca` what they must trust beside or instead of the stand-in's own.
    """

    ca: Path
    _start_bound = 60.0

    def __init__(self, folder: Path, hub: Hub) -> None:
        folder.mkdir()
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.spawn: Callable[[Sequence[str], Mapping[str, str], Path], Daemon] = Daemon
        """By which it is started."""
        self._hub = hub
        self._daemon: Daemon | None = None
        self._names: dict[str, str] = {}
        self._map_file = folder / "map.json"
        self.restore_names()

    def map_name(self, name: str, target: str) -> None:
        """From the next connection on, `host:port` leads to another `host:port`, or to `error: …`."""
        self._write_map(self._names | {name: target})

    def map_hub(self, hub: Hub) -> None:
        """From the next connection on, find another stand-in, too."""
        self._write_map(self._names | hub.map)

    def restore_names(self) -> None:
        """From the next connection on, all names are as at first."""
        self._write_map(dict(self._hub.map))

    def log(self) -> str:
        """All that it has printed, over all restarts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def wait_for_log(self, text: str) -> None:
        """Block until it has printed that. Raises TimeoutError."""
        eventually(lambda: text in self.log(), f"not in the log: {text}")

    def launch(self) -> None:
        """Start it, and do not wait for it."""
        self._daemon = self.spawn(self._command(), self._environment(), self._log)

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self.launch()
        assert self._daemon
        self._daemon.wait_until(self._ready, self._start_bound)

    def stop(self, signum: signal.Signals = signal.SIGINT) -> None:
        """End it as Ctrl-C does, or otherwise. One that has ended without being told to is an error."""
        if self._daemon:
            daemon, self._daemon = self._daemon, None
            alive = daemon.running()
            daemon.stop(signum)
            assert alive, f"it ended by itself:\n{self.log()}"

    def kill(self) -> None:
        """End it as a crash does: it is told nothing, and nothing of what it was about to do is done."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """End it, and start it on the same port, with the same store."""
        self.stop()
        self.start()

    @property
    def pid(self) -> int:
        """Of the process group."""
        assert self._daemon
        return self._daemon.pid

    def get(self, path: str) -> Reply:
        """One of the proxy's own pages."""
        return Raw.plain("127.0.0.1", self.port).request("GET", path)

    def trouble(self) -> str:
        """The log from the first line on that no log may have; empty where all is well."""
        log = self.log()
        found = _TROUBLE.search(log)
        return log[found.start() :] if found else ""

    @property
    def _log(self) -> Path:
        return self.folder / "proxy.log"

    def _write_map(self, names: dict[str, str]) -> None:
        self._names = names
        fresh = self._map_file.with_suffix(".new")
        fresh.write_text(json.dumps(self._names))
        fresh.replace(self._map_file)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        raise NotImplementedError

    def _ready(self) -> bool:
        raise NotImplementedError


class BareProxy(Proxy):
    """mitmdump without Pulltap: a mere tunnel, so that a client's TLS ends at the stand-in, or decrypting."""

    def __init__(self, folder: Path, hub: Hub, *, decrypt: bool = False) -> None:
        super().__init__(folder, hub)
        self._decrypt = decrypt
        self.ca = folder / "mitmproxy-ca-cert.pem" if decrypt else hub.ca
        self.start()

    def _command(self) -> list[str]:
        beside = Path(sys.executable).with_name("mitmdump")
        mitmdump = str(beside) if beside.exists() else need("mitmdump")
        ignore = [] if self._decrypt else ["--ignore-hosts", ".*"]
        return [
            mitmdump,
            *("--listen-host", "127.0.0.1", "-p", str(self.port), *ignore),
            *("-s", str(REMAP), "--set", f"confdir={self.folder}", "--set", "connection_strategy=lazy"),
            *("--set", f"ssl_verify_upstream_trusted_ca={self._hub.ca}"),
        ]

    def _environment(self) -> dict[str, str]:
        return environment(self.folder, STANDIN_MAP=str(self._map_file), PYTHONUNBUFFERED="1")

    def _ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        except OSError:
            return False
        return True


class Pulltap(Proxy):
    """`./run.sh`, with a home, a store and a config of its own.

    The config is the shipped one with `options` and `registries` laid over it. `args` go to mitmdump. The
    store lies in `store`, and outlives `restart`.
    """

    _start_bound = 600.0  # seconds; the very first start builds the environment

    def __init__(
        self,
        folder: Path,
        hub: Hub,
        options: Mapping[str, object] | None = None,
        registries: Mapping[str, object] | None = None,
        args: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, hub)
        self.home = folder / "home"
        # As on a user's machine: what clients trusted before (the token service is tunnelled), and Pulltap's CA.
        self.ca = folder / "trusted.pem"
        self.config = folder / "config.yaml"
        self._args = list(args)
        self.configure({"registry_store": str(folder / "store"), **(options or {})}, registries)
        self.start()

    def start(self) -> None:
        """Start it, and put together what its clients trust."""
        super().start()
        self.ca.write_bytes(self._hub.ca.read_bytes() + (self.home / "mitmproxy-ca-cert.pem").read_bytes())

    @property
    def store(self) -> Path:
        """Where the blobs lie."""
        content = yaml.safe_load(self.config.read_text())
        return Path(content["registry_store"])

    def configure(self, options: Mapping[str, object], registries: Mapping[str, object] | None = None) -> None:
        """Write the config anew; a running proxy sees it at its next start."""
        shipped = ROOT / "mitm-config.yaml"
        content = yaml.safe_load(shipped.read_text()) if shipped.exists() else None
        content = {**(content or {}), **options}
        if registries is not None:
            content["registries"] = dict(registries)
        self.config.write_text(yaml.safe_dump(content))

    def _command(self) -> list[str]:
        return [
            str(ROOT / "run.sh"),
            *("-p", str(self.port), "-s", str(REMAP)),
            *("--set", f"ssl_verify_upstream_trusted_ca={self._hub.ca}", *self._args),
        ]

    def _environment(self) -> dict[str, str]:
        users = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        return {
            **users,
            "PULLTAP_HOME": str(self.home),
            "PULLTAP_CONFIG": str(self.config),
            "STANDIN_MAP": str(self._map_file),
            "PYTHONUNBUFFERED": "1",  # so that the log is there when it is looked at
        }

    def _ready(self) -> bool:
        try:
            return self.get("/healthz").status == 200
        except (OSError, http.client.HTTPException):
            return False


# Below those that the system gives to whoever asks for none in particular, and those of programs; each of several test
# runs side by side begins elsewhere.
_PORTS = itertools.cycle(random.SystemRandom().sample(range(12_000, 30_000), 18_000))


def free_port() -> int:
    """A port that nobody listens on, and that nobody else is given meanwhile."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is none")
