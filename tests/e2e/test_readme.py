"""The README's recipes, run as they stand there: only the port, the CA's path and the user's home are put in."""

import re
import subprocess
from pathlib import Path

import pytest

from ..standin import Hub
from .clients import TRUST, client_environment
from .clients.containers import _environment as containers_environment
from .conftest import Clients
from .programs import need, run, workplace
from .proxies import REMAP, ROOT, Pulltap

README = (ROOT / "README.md").read_text()
PROXY = "http://127.0.0.1:3128"
CA = "~/.local/share/pulltap/mitmproxy-ca-cert.pem"
HOME_CA = CA.replace("~", "/home/you")


def recipe(name: str, proxy: Pulltap) -> str:
    """The block that follows `<!-- run: name -->`, for this proxy."""
    found = re.search(rf"<!-- run: {re.escape(name)} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"no recipe {name}"
    text = found[1]
    for ca in (CA, HOME_CA):
        text = text.replace(ca, str(proxy.ca))
    return text.replace(PROXY, proxy.url)


@pytest.fixture
def alpine(hub: Hub) -> str:
    """What the recipes pull."""
    return hub.push("library/alpine", sizes=(3000, 400_000)).reference


def pulled_twice(hub: Hub, proxy: Pulltap, script: str, env: dict[str, str], clean: str) -> None:
    """Run a recipe, clean up after it, run it again: the second time, no blob comes from upstream."""
    run(["bash", "-euc", script], env)
    assert hub.blob_requests()
    assert list(proxy.store.glob("blobs/sha256/*"))
    run(["bash", "-euc", clean], env)
    hub.clear()
    run(["bash", "-euc", script], env)
    assert hub.requests
    assert not hub.blob_requests()


def test_curl(hub: Hub, proxy: Pulltap, alpine: str, tmp_path: Path) -> None:
    need("curl")
    script = recipe("curl", proxy)
    env = client_environment(tmp_path, proxy)
    assert '"latest"' in run(["bash", "-euc", script], {"PATH": env["PATH"], "HOME": str(tmp_path)})


def test_docker(hub: Hub, proxy: Pulltap, alpine: str, clients: Clients) -> None:
    lines = recipe("docker", proxy).replace("/etc/pulltap-ca.pem", str(proxy.ca)).splitlines()
    assert lines[0] == "[Service]"
    settings = dict(line.removeprefix("Environment=").split("=", 1) for line in lines[1:])
    docker = clients.docker(proxy, environment=settings)
    first = docker.pull("alpine")
    docker.remove("alpine")
    hub.clear()
    assert docker.pull("alpine") == first
    assert not hub.blob_requests()


def test_podman(hub: Hub, proxy: Pulltap, alpine: str) -> None:
    need("podman", root=True)
    with workplace("podman") as folder:
        env = containers_environment(folder, proxy)
        pulled_twice(hub, proxy, recipe("podman", proxy), _bare(env), "podman rmi --force docker.io/library/alpine")


def test_containers_conf(hub: Hub, proxy: Pulltap, alpine: str) -> None:
    need("podman", root=True)
    with workplace("podman") as folder:
        env = containers_environment(folder, proxy)
        Path(env["CONTAINERS_CONF"]).write_text(recipe("containers.conf", proxy))
        pulled_twice(
            hub,
            proxy,
            "podman pull docker.io/library/alpine",
            _bare(env),
            "podman rmi --force docker.io/library/alpine",
        )


def test_containerd(hub: Hub, proxy: Pulltap, alpine: str, clients: Clients) -> None:
    containerd = clients.containerd(proxy)
    with workplace("ctr") as folder:
        env = client_environment(
            folder, proxy, CONTAINERD_ADDRESS=str(containerd.socket), CONTAINERD_SNAPSHOTTER="native"
        )
        clean = "ctr images rm --sync docker.io/library/alpine:latest"
        pulled_twice(hub, proxy, recipe("containerd", proxy), _bare(env), clean)


def test_skopeo(hub: Hub, proxy: Pulltap, alpine: str) -> None:
    need("skopeo")
    with workplace("skopeo") as folder:
        env = containers_environment(folder, proxy)
        script = recipe("skopeo", proxy).replace("skopeo copy", f"skopeo --policy {folder}/policy.json copy")
        pulled_twice(hub, proxy, f"cd {folder}\n{script}", _bare(env), f"rm -r {folder}/alpine")


def test_the_stores_commands(hub: Hub, proxy: Pulltap, alpine: str) -> None:
    need("skopeo")
    # The registry is the stand-in, and there is nobody to ask.
    more = {"warm": f"-- -s {REMAP} --set ssl_verify_upstream_trusted_ca={hub.ca}", "rm": "--yes", "gc": "--yes"}
    lines = [line.partition("#")[0].split() for line in recipe("store", proxy).splitlines()]
    actions = [words[2] if words[1] == "store" else words[1] for words in lines]
    assert actions == ["warm", "ls", "stats", "verify", "pin", "unpin", "rm", "gc"]
    with workplace("skopeo") as folder:
        archive = recipe("archive", proxy).replace("$HOME/.cache/pulltap", str(proxy.store))
        archive = archive.replace("skopeo copy", f"cd {folder}; skopeo --policy {folder}/policy.json copy")
        for words, action in zip(lines, actions, strict=True):
            command = " ".join([str(ROOT / words[0]), *words[1:], more.get(action, "")])
            said = run(["bash", "-euc", command], proxy._environment())
            assert said
            if action == "ls":
                assert "docker.io/library/alpine:latest" in said
                run(["bash", "-euc", archive], containers_environment(folder, proxy))
                assert (folder / "alpine.tar").stat().st_size > 400_000
    assert not [path for path in proxy.store.glob("blobs/*/*") if path.stat().st_size > 400_000]


def test_every_recipe_is_run() -> None:
    named = set(re.findall(r"<!-- run: (\S+) -->", README))
    assert named == {"curl", "docker", "podman", "containers.conf", "containerd", "skopeo", "store", "archive"}


def test_the_start_says_what_to_type_and_that_works(hub: Hub, proxy: Pulltap, alpine: str, tmp_path: Path) -> None:
    need("curl")
    said = re.search(r"^  try +(curl .*)$", proxy.log(), re.MULTILINE)
    assert said
    done = subprocess.run(["bash", "-euc", said[1]], env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True)
    assert b'"latest"' in done.stdout


def _bare(env: dict[str, str]) -> dict[str, str]:
    """Without proxy and trust: the recipe is to set them."""
    return {key: value for key, value in env.items() if key not in TRUST}
