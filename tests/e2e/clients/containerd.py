"""containerd, and `ctr` as its client."""

from pathlib import Path

from ..programs import CommandFailed, Daemon, need, run
from . import Via, client_environment, full_name

# The optional plugins that would make folders outside of ours, or look for kernel modules.
_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
"""


class Containerd:
    """A daemon of our own. `ctr` fetches by itself in containerd 1, the daemon does in 2; both know the proxy."""

    def __init__(self, folder: Path, via: Via) -> None:
        self._ctr = need("ctr")
        self.socket = folder / "c.sock"
        self._env = client_environment(folder, via)
        config = folder / "containerd.toml"
        config.write_text(_CONFIG.format(root=folder / "root", state=folder / "state", socket=self.socket))
        command = [need("containerd", root=True), "--config", str(config)]
        self._daemon = Daemon(command, self._env, folder / "containerd.log")
        self._daemon.wait_until(self._serves)

    def pull(self, reference: str, *args: str) -> str:
        """Pull an image; the digest that its name now stands for. Raises CommandFailed."""
        self.ctr("images", "pull", "--snapshotter", "native", *args, full_name(reference))
        return self.images()[full_name(reference)]

    def remove(self, reference: str) -> None:
        """Remove an image, and whatever only it uses."""
        self.ctr("images", "rm", "--sync", full_name(reference))

    def images(self) -> dict[str, str]:
        """Digests by name."""
        rows = [line.split() for line in self.ctr("images", "ls").splitlines()[1:]]
        return {row[0]: row[2] for row in rows}

    def content(self) -> set[str]:
        """The digests of all blobs it has."""
        return set(self.ctr("content", "ls", "-q").split())

    def ctr(self, *args: str) -> str:
        """Any other command; its output. Raises CommandFailed."""
        return run([self._ctr, "-a", str(self.socket), "-n", "test", *args], self._env)

    def log(self) -> str:
        """What the daemon has printed."""
        return self._daemon.log()

    def stop(self) -> None:
        """End the daemon."""
        self._daemon.stop()

    def _serves(self) -> bool:
        try:
            self.ctr("version")
        except CommandFailed:
            return False
        return True
