"""What is compared: Pulltap and its peers, each a program of its own, and the upstream that all of them share."""

import http.client
import os
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from bench.blobs import Blob, Blobs, give_to_registry
from bench.load import Where
from bench.programs import Program, environment, free_port, listens, need
from tests.standin.certs import Authority

ROOT = Path(__file__).parents[1]
_CONFIG = Path(__file__).with_name("config")
# Of the shipped config, what is not about where things are: the bare mitmdump gets it, too.
_QUIET = ("connection_strategy", "http2", "termlog_verbosity", "flow_detail")


class Ground:
    """What all sides stand on: a folder, the blobs, and who signs certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = Blobs(folder)
        self._authority = Authority(folder / "certificates")
        self.ca = self._authority.pem
        self._sides = 0

    def certificate_for(self, name: str) -> Path:
        """A certificate and its key, in one file."""
        self._authority.server_context(name)
        return self._authority.folder / f"{name}.pem"

    def make_folder(self, name: str) -> Path:
        """A fresh folder for a side."""
        self._sides += 1
        folder = self.folder / f"{self._sides}-{name}"
        folder.mkdir()
        return folder

    def fill_in(self, template: str, folder: Path, port: int, **more: object) -> Path:
        """A configuration file out of ``bench/config``, with this run's places in it."""
        text = (_CONFIG / template).read_text()
        places = {
            "FOLDER": folder,
            "PORT": port,
            "CERTIFICATE": self.certificate_for("localhost"),
            "AUTHORITY": self.ca,
            "CONTENT": self.blobs.content,
            "USER": "root" if os.geteuid() == 0 else "nobody",
            **more,
        }
        for name, value in places.items():
            text = text.replace(f"@{name}@", str(value))
        file = folder / template
        file.write_text(text)
        return file


class Side:
    """One of those that are compared; it runs from when it is made until `stop`."""

    name: str
    program: Program
    where: Where

    def have(self, blobs: Sequence[Blob]) -> None:
        """See to it that a request for these blobs is a hit, where that is not a load's business."""

    def forget(self, blob: Blob) -> None:
        """See to it that the next request for this blob is a miss."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it."""
        self.program.stop()


class Origin(Side):
    """nginx with files: the upstream of all others, and the direct way."""

    name = "direct"

    def __init__(self, ground: Ground) -> None:
        self._serve(ground, "origin.nginx.conf")

    def _serve(self, ground: Ground, template: str, **more: object) -> None:
        port = free_port()
        folder = ground.make_folder("origin")
        self.where = Where(port, ground.ca)
        self._log = folder / "access.log"
        self._read = 0
        self.program = _nginx(ground, template, folder, port, **more)

    def sent(self) -> int:
        """Bytes of blobs that it has sent since it was last asked; a request is logged a little after its end."""
        time.sleep(0.3)
        lines = self._log.read_text().splitlines()
        fresh, self._read = lines[self._read :], len(lines)
        return sum(int(line.split()[2]) for line in fresh if "/blobs/" in line)

    def forget(self, blob: Blob) -> None:
        """It keeps nothing."""


class Cdn(Origin):
    """nginx with a registry's files, which gives each connection `rate` bytes a second."""

    name = "cdn"

    def __init__(self, ground: Ground, registry: Path, rate: int) -> None:
        self._serve(ground, "cdn.nginx.conf", REGISTRY=registry, RATE=rate)


class Nginx(Side):
    """nginx with proxy_cache."""

    name = "nginx"

    def __init__(self, ground: Ground, origin: Origin) -> None:
        port = free_port()
        self._folder = ground.make_folder("nginx")
        self.where = Where(port, ground.ca, hit="nginx; HIT", miss="nginx; MISS")
        self.program = _nginx(ground, "cache.nginx.conf", self._folder, port, ORIGIN=origin.where.port)

    def forget(self, blob: Blob) -> None:
        """Remove the file, which nginx takes for a miss."""
        for file in (self._folder / "cache").glob("*/*/*"):
            with file.open("rb") as content:
                if blob.path.encode() in content.read(4096):
                    file.unlink()


class Distribution(Side):
    """The distribution registry, with its own files and its own TLS."""

    name = "distribution"

    def __init__(
        self, ground: Ground, folder: Path | None = None, name: str = "localhost", cdn: Cdn | None = None
    ) -> None:
        """Start it.

        Args:
            ground: what it stands on.
            folder: where there may be a storage already.
            name: what its certificate says.
            cdn: where it redirects to for blobs.
        """
        program = need("docker-registry")
        port = free_port()
        self.folder = folder or ground.make_folder("distribution")
        self.where = Where(port, ground.ca)
        places: dict[str, object] = {"CERTIFICATE": ground.certificate_for(name)}
        template = "registry.yml"
        if cdn is not None:
            template, places["CDN"] = "redirect.yml", cdn.where.port
        config = ground.fill_in(template, self.folder, port, **places)
        command = [program, "serve", str(config)]
        self.program = Program(command, environment(self.folder), self.folder / "log", lambda: listens(port))

    def have(self, blobs: Sequence[Blob]) -> None:
        """Link the files into its storage."""
        for blob in blobs:
            give_to_registry(self.folder / "registry", blob)


class _Mitmproxy(Side):
    """A mitmdump with a confdir of its own."""

    def __init__(
        self,
        ground: Ground,
        folder: Path,
        origin: Origin,
        *,
        options: Mapping[str, object],
        args: Sequence[str],
        env: Mapping[str, str],
        statuses: tuple[str, str] = ("", ""),
    ) -> None:
        proxy = free_port()
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(options)))
        command = [*self._start(folder), "--set", f"confdir={folder}"]
        command += ["--listen-host", "127.0.0.1", "-p", str(proxy), *args]
        trust = folder / "trusted.pem"
        self.where = Where(origin.where.port, trust, proxy, *statuses)
        self.program = Program(command, environment(folder, **env), folder / "log", self._ready(proxy))
        trust.write_bytes(ground.ca.read_bytes() + (folder / "mitmproxy-ca-cert.pem").read_bytes())

    def _start(self, folder: Path) -> list[str]:
        """The command without its arguments."""
        beside = Path(sys.executable).with_name("mitmdump")
        return [str(beside if beside.exists() else need("mitmdump"))]

    def _ready(self, proxy: int) -> Callable[[], bool]:
        return lambda: listens(proxy)


class Bare(_Mitmproxy):
    """mitmdump without Pulltap, as quiet, which answers out of its memory."""

    name = "bare mitmdump"

    def __init__(self, ground: Ground, origin: Origin, body: Blob) -> None:
        options = {key: value for key, value in shipped().items() if key in _QUIET}
        args = ["-s", str(_CONFIG / "bare.py")]
        env = {"BENCH_BODY": str(body.file)}
        super().__init__(ground, ground.make_folder("bare"), origin, options=options, args=args, env=env)


class Pulltap(_Mitmproxy):
    """Pulltap with the shipped configuration, as ``./run.sh`` starts it; `tree` is the checkout."""

    def __init__(
        self,
        ground: Ground,
        origin: Origin,
        tree: Path = ROOT,
        *,
        store: Path | None = None,
        hosts: Sequence[str] = (),
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = "pulltap" if tree == ROOT else str(tree)
        self._tree = tree
        folder = ground.make_folder("pulltap")
        self.store = store or folder / "store"
        options = {
            **shipped(tree),
            "registry_hosts": [f"localhost:{origin.where.port}", *hosts],
            "registry_store": str(self.store),
            "ssl_verify_upstream_trusted_ca": str(ground.ca),
        }
        env = {"PYTHONPATH": str(tree), **(env or {})}
        args = ["-s", str(tree / "addon/main.py"), *args]
        statuses = ("pulltap; hit", "pulltap; fwd=miss")
        super().__init__(ground, folder, origin, options=options, args=args, env=env, statuses=statuses)

    def _start(self, folder: Path) -> list[str]:
        """As run.sh does it; other checkouts may be older."""
        if not (self._tree / "addon/ui/launch.py").exists():
            return super()._start(folder)
        return [sys.executable, "-P", "-m", "addon.ui.launch", "mitmdump", str(folder / "config.yaml")]

    def _ready(self, proxy: int) -> Callable[[], bool]:
        return lambda: _healthy(proxy)

    def forget(self, blob: Blob) -> None:
        """Remove the file."""
        (self.store / "blobs/sha256" / blob.encoded).unlink(missing_ok=True)


def shipped(tree: Path = ROOT) -> dict[str, object]:
    """The shipped configuration of a checkout."""
    content = yaml.safe_load((tree / "mitm-config.yaml").read_text())
    assert isinstance(content, dict)
    return {key: value for key, value in content.items() if key not in ("listen_host", "listen_port")}


def _nginx(ground: Ground, template: str, folder: Path, port: int, **more: object) -> Program:
    program = need("nginx")
    config = ground.fill_in(template, folder, port, **more)
    command = [program, "-p", str(folder), "-c", str(config)]
    context = ssl.create_default_context(cafile=str(ground.ca))
    return Program(command, environment(folder), folder / "log", lambda: _greets(port, context))


def _greets(port: int, context: ssl.SSLContext) -> bool:
    return _ask(http.client.HTTPSConnection("localhost", port, context=context, timeout=10), "/v2/") is not None


def _healthy(port: int) -> bool:
    return _ask(http.client.HTTPConnection("127.0.0.1", port, timeout=10), "/healthz") == 200


def _ask(connection: http.client.HTTPConnection, path: str) -> int | None:
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
