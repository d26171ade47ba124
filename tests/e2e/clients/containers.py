"""Podman and skopeo, which share the containers/image library and its settings."""

from pathlib import Path

from ..programs import need, run
from . import Via, client_environment, full_name

_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


def _environment(folder: Path, via: Via) -> dict[str, str]:
    """None of the machine's own registries, aliases, logins or policies.

    Only what they learn of where blobs are goes to /var/lib/containers/cache, as root; no setting moves it.
    """
    (folder / "registries.conf").write_text("unqualified-search-registries = []\n")
    (folder / "containers.conf").write_text("")
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{folder / "run"}"\ngraphroot = "{folder / "root"}"\n'
    )
    (folder / "policy.json").write_text(_POLICY)
    (folder / "auth.json").write_text("{}")
    return client_environment(
        folder,
        via,
        CONTAINERS_REGISTRIES_CONF=str(folder / "registries.conf"),
        CONTAINERS_CONF=str(folder / "containers.conf"),
        CONTAINERS_STORAGE_CONF=str(folder / "storage.conf"),
        REGISTRY_AUTH_FILE=str(folder / "auth.json"),
        XDG_RUNTIME_DIR=str(folder),
    )


class Podman:
    """No daemon; every command opens the same store."""

    def __init__(self, folder: Path, via: Via) -> None:
        self._env = _environment(folder, via)
        self._command = [
            need("podman", root=True),
            *(
                "--root",
                str(folder / "root"),
                "--runroot",
                str(folder / "run"),
                "--tmpdir",
                str(folder / "tmp"),
            ),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
        ]
        self._policy = ["--signature-policy", str(folder / "policy.json")]

    def pull(self, reference: str) -> str:
        """Pull an image; its id. Raises CommandFailed."""
        return self.podman("pull", "--quiet", *self._policy, full_name(reference)).strip()

    def push(self, reference: str, name: str) -> None:
        """Push an image under a name. Raises CommandFailed."""
        self.podman("push", *self._policy, reference, f"docker://{full_name(name)}")

    def remove(self, *references: str) -> None:
        """Remove images by name or id."""
        self.podman("rmi", "--force", *references)

    def login(self, account: str, password: str, registry: str = "docker.io") -> None:
        """Log in. Raises CommandFailed."""
        command = [*self._command, "login", "--username", account, "--password-stdin", registry]
        run(command, self._env, stdin=password)

    def podman(self, *args: str) -> str:
        """Any other command; its output. Raises CommandFailed."""
        return run([*self._command, *args], self._env)


class Skopeo:
    """Copies images to folders and back."""

    def __init__(self, folder: Path, via: Via) -> None:
        self._env = _environment(folder, via)
        self._folder = folder
        registries = folder / "registries.d"
        registries.mkdir()
        self._command = [
            need("skopeo"),
            *("--policy", str(folder / "policy.json"), "--registries.d", str(registries)),
        ]
        self._copies = 0

    def pull(self, reference: str, *args: str) -> Path:
        """Copy an image to a new `dir:` folder, with one file per blob, named by its digest's hex."""
        self._copies += 1
        target = self._folder / f"copy-{self._copies}"
        self.skopeo("copy", *args, f"docker://{full_name(reference)}", f"dir:{target}")
        return target

    def push(self, source: Path, reference: str, *args: str) -> None:
        """Copy such a folder to a registry. Raises CommandFailed."""
        self.skopeo("copy", *args, f"dir:{source}", f"docker://{full_name(reference)}")

    def login(self, account: str, password: str, registry: str = "docker.io") -> None:
        """Log in. Raises CommandFailed."""
        command = [*self._command, "login", "--username", account, "--password-stdin", registry]
        run(command, self._env, stdin=password)

    def skopeo(self, *args: str) -> str:
        """Any other command; its output. Raises CommandFailed."""
        return run([*self._command, *args], self._env)
