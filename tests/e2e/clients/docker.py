"""dockerd, and the docker command line as its client."""

import json
from collections.abc import Mapping
from pathlib import Path

from ..programs import CommandFailed, Daemon, need, run
from . import TRUST, Via, client_environment
from .containerd import Containerd


class Docker:
    """A daemon of our own, without network and firewall rules.

    It gets a containerd of ours, since it would otherwise take the system's where one is running. `config` is
    its daemon.json; `environment` stands in the place of what usually says which proxy to use and whom to trust.
    """

    def __init__(
        self,
        folder: Path,
        via: Via,
        config: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._docker = need("docker")
        dockerd = need("dockerd", root=True)
        socket = folder / "d.sock"
        self._env = client_environment(folder, via, DOCKER_HOST=f"unix://{socket}", DOCKER_CONFIG=str(folder / "login"))
        if environment is not None:
            self._env = {key: value for key, value in self._env.items() if key not in TRUST} | dict(environment)
        settings = folder / "daemon.json"
        settings.write_text(json.dumps(dict(config or {})))
        self._containerd = Containerd(folder, via)
        command = [
            dockerd,
            *("--host", f"unix://{socket}", "--containerd", str(self._containerd.socket)),
            *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
            *("--pidfile", str(folder / "d.pid"), "--config-file", str(settings)),
            *("--storage-driver", "vfs", "--bridge", "none"),
            *("--iptables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"),
        ]
        try:
            self._daemon = Daemon(command, self._env, folder / "dockerd.log")
            self._daemon.wait_until(self._serves)
        except CommandFailed:
            self._containerd.stop()
            raise

    def pull(self, reference: str) -> str:
        """Pull an image; its id. Raises CommandFailed."""
        self.docker("pull", reference)
        return self.image_id(reference)

    def push(self, reference: str) -> None:
        """Push an image. Raises CommandFailed."""
        self.docker("push", reference)

    def image_id(self, reference: str) -> str:
        """The id of an image that it has. Raises CommandFailed."""
        return self.docker("image", "inspect", "--format", "{{.Id}}", reference).strip()

    def tag(self, reference: str, name: str) -> None:
        """Give an image another name."""
        self.docker("tag", reference, name)

    def remove(self, *references: str) -> None:
        """Remove images by name or id, and the layers that only they use."""
        self.docker("image", "rm", "--force", *references)

    def login(self, account: str, password: str, registry: str = "") -> None:
        """Log in, to Docker Hub or elsewhere. Raises CommandFailed."""
        self._run("login", "--username", account, "--password-stdin", *filter(None, [registry]), stdin=password)

    def logout(self, registry: str = "") -> None:
        """Forget a login."""
        self.docker("logout", *filter(None, [registry]))

    def docker(self, *args: str) -> str:
        """Any other command; its output. Raises CommandFailed."""
        return self._run(*args)

    def log(self) -> str:
        """What the daemon has printed."""
        return self._daemon.log()

    def stop(self) -> None:
        """End the daemons."""
        try:
            self._daemon.stop()
        finally:
            self._containerd.stop()

    def _run(self, *args: str, stdin: str = "") -> str:
        return run([self._docker, *args], self._env, stdin=stdin)

    def _serves(self) -> bool:
        try:
            self.docker("version")
        except CommandFailed:
            return False
        return True
