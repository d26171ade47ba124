"""A `docker pull`, through Pulltap and direct, from the same registry on loopback."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from bench.blobs import Blob
from bench.programs import Failed, Missing, Program, environment, need, run
from bench.sides import ROOT, Cdn, Distribution, Ground, Pulltap, Side
from bench.stage import MIB, Stage
from bench.table import Goal, Row
from tests.standin.backing import Backing
from tests.standin.images import push_image

_REPOSITORY = "bench/image"
_NAME = "registry.bench.example"
"""The registry's name for Docker, which sends no request for localhost through a proxy."""


def pull(stage: Stage) -> list[Row]:
    """An image of 40 layers, which Pulltap has; Docker forgets it each time."""
    row = Row(f"warm docker pull, {len(stage.sizes.layers)} layers", "s", Goal(1.1))
    row.note = "direct is the same Docker with the same registry, over TLS on loopback"
    with _Scene(stage, stage.sizes.layers) as scene:
        for docker in scene.dockers.values():
            docker.pull()

        def sample(side: Side) -> None:
            row.add(side.name, scene.dockers[side.name].pull())

        stage.in_turns(scene.sides, sample)
    return [row]


def segments(stage: Stage) -> list[Row]:
    """An image of one large layer, which neither Pulltap nor Docker has, from a CDN that limits each connection."""
    size, rate = stage.sizes.layer, stage.sizes.connection_rate
    name = f"cold docker pull, one layer of {size // MIB} MiB, {rate / 1e6:g} MB/s per connection"
    row = Row(name, "s", Goal(0.5))
    row.note = "direct is the same Docker with the same registry and CDN, over TLS on loopback"
    # Docker's own share is to be small: there is nothing to decompress, and vfs writes a single layer once.
    with _Scene(stage, (size,), tar=True, rate=rate, driver="vfs") as scene:
        assert scene.cdn
        cdn = scene.cdn

        def sample(side: Side) -> None:
            for blob in scene.blobs:
                side.forget(blob)
            os.sync()
            cdn.sent()
            row.add(side.name, scene.dockers[side.name].pull())
            if (sent := cdn.sent()) < size:
                raise Failed(f"{side.name}: the pull was not cold, the CDN sent {sent} bytes")

        stage.in_turns(scene.sides, sample)
    return [row]


class _Scene:
    """A registry with one image, a Docker that pulls from it directly, and one that pulls through Pulltap."""

    def __init__(
        self, stage: Stage, layers: tuple[int, ...], *, tar: bool = False, rate: int | None = None, driver: str = ""
    ) -> None:
        """Set it up.

        Args:
            stage: on which it stands.
            layers: the bytes of noise in each of the image's layers.
            tar: whether the layers are tar files, in place of gzip without compression.
            rate: bytes per second and connection of a CDN that has the blobs; None: the registry gives them itself.
            driver: where Docker unpacks to; its own choice by default.

        Raises:
            Missing: something is not installed, or may not be used.
        """
        for program in ("dockerd", "docker", "containerd", "docker-registry"):
            need(program)
        if os.geteuid() != 0:
            raise Missing("dockerd needs root")
        ground = stage.ground
        with ExitStack() as stack:
            folder = ground.make_folder("images")
            backing = Backing(folder)
            try:
                image = push_image(backing, _REPOSITORY, "latest", layers, tar=tar)
            finally:
                backing.stop()
            self.blobs = [Blob(each.digest, each.size, backing.blob_path(each.digest)) for each in image.blobs]
            self.cdn = None if rate is None else Cdn(ground, backing.root, rate)
            if self.cdn:
                stack.callback(self.cdn.stop)
            registry = Distribution(ground, folder, _NAME, self.cdn)
            stack.callback(registry.stop)
            port = registry.where.port
            direct = _Docker(ground, f"localhost:{port}", {}, driver)
            stack.callback(direct.stop)
            remap = {"STANDIN_MAP": json.dumps({f"{_NAME}:{port}": f"127.0.0.1:{port}"})}
            args = ["-s", str(ROOT / "tests/standin/remap.py")]
            pulltap = Pulltap(ground, stage.origin, hosts=[f"{_NAME}:{port}"], args=args, env=remap)
            stack.callback(pulltap.stop)
            proxy = {"HTTPS_PROXY": f"http://127.0.0.1:{pulltap.where.proxy}", "SSL_CERT_FILE": str(pulltap.where.ca)}
            through = _Docker(ground, f"{_NAME}:{port}", proxy, driver)
            stack.callback(through.stop)
            self.dockers = {"direct": direct, pulltap.name: through}
            self.sides: list[Side] = [pulltap, stage.origin]
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class _Docker:
    """A Docker daemon with a containerd of its own."""

    def __init__(self, ground: Ground, registry: str, trust: Mapping[str, str], driver: str) -> None:
        folder = ground.make_folder("docker")
        self._reference = f"{registry}/{_REPOSITORY}:latest"
        socket = folder / "d.sock"
        self._env = environment(folder, DOCKER_HOST=f"unix://{socket}", DOCKER_CONFIG=str(folder / "login"), **trust)
        containerd = [need("containerd"), "--config", str(ground.fill_in("containerd.toml", folder, 0))]
        (folder / "daemon.json").write_text("{}")
        command = [
            need("dockerd"),
            *("--host", f"unix://{socket}", "--containerd", str(folder / "c.sock")),
            *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
            *("--pidfile", str(folder / "d.pid"), "--config-file", str(folder / "daemon.json")),
            *("--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"),
            "--userland-proxy=false",
            *(("--storage-driver", driver) if driver else ()),
        ]
        self._containerd = Program(containerd, self._env, folder / "c.log", (folder / "c.sock").exists)
        try:
            self._program = Program(command, self._env, folder / "d.log", self._serves)
        except Failed:
            self._containerd.stop()
            raise

    def pull(self) -> float:
        """Pull the image, and forget it; the seconds that the pull took."""
        begin = time.monotonic()
        self._docker("pull", "--quiet", self._reference)
        seconds = time.monotonic() - begin
        self._docker("image", "rm", "--force", self._reference)
        os.sync()
        return seconds

    def stop(self) -> None:
        """End both."""
        self._program.stop()
        self._containerd.stop()

    def _docker(self, *args: str) -> str:
        return run([need("docker"), *args], self._env)

    def _serves(self) -> bool:
        try:
            self._docker("version")
        except Failed:
            return False
        return True
