"""A warm `docker pull`, through Pulltap and direct, from the same registry on loopback."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack

from bench.programs import Failed, Missing, Program, environment, need, run
from bench.sides import ROOT, Distribution, Ground, Pulltap, Side
from bench.stage import Stage
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
    for program in ("dockerd", "docker", "containerd", "docker-registry"):
        need(program)
    if os.geteuid() != 0:
        raise Missing("dockerd needs root")
    ground = stage.ground
    with ExitStack() as stack:
        folder = ground.make_folder("images")
        backing = Backing(folder)
        push_image(backing, _REPOSITORY, "latest", stage.sizes.layers)
        backing.stop()
        registry = Distribution(ground, folder, _NAME)
        stack.callback(registry.stop)
        port = registry.where.port
        direct = _Docker(ground, f"localhost:{port}", {})
        stack.callback(direct.stop)
        remap = {"STANDIN_MAP": json.dumps({f"{_NAME}:{port}": f"127.0.0.1:{port}"})}
        args = ["-s", str(ROOT / "tests/standin/remap.py")]
        pulltap = Pulltap(ground, stage.origin, hosts=[f"{_NAME}:{port}"], args=args, env=remap)
        stack.callback(pulltap.stop)
        proxy = {"HTTPS_PROXY": f"http://127.0.0.1:{pulltap.where.proxy}", "SSL_CERT_FILE": str(pulltap.where.ca)}
        through = _Docker(ground, f"{_NAME}:{port}", proxy)
        stack.callback(through.stop)
        dockers = {"direct": direct, pulltap.name: through}
        sides: list[Side] = [pulltap, stage.origin]
        for docker in dockers.values():
            docker.pull()

        def sample(side: Side) -> None:
            row.add(side.name, dockers[side.name].pull())

        stage.in_turns(sides, sample)
    return [row]


class _Docker:
    """A Docker daemon with a containerd of its own."""

    def __init__(self, ground: Ground, registry: str, trust: Mapping[str, str]) -> None:
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
