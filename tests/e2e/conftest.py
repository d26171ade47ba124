"""Fixtures: the stand-in, the proxies, the clients. Each leaves nothing running and nothing behind.

    def test_second_pull_is_local(hub, docker):
        docker.pull(hub.small.reference)
        docker.remove(hub.small.reference)
        hub.clear()
        docker.pull(hub.small.reference)
        assert not hub.blob_requests()

`docker`, `podman`, `skopeo`, `containerd`, `curl` and `raw` go through `proxy`, which is Pulltap as shipped;
`start_proxy` starts one with other options, and `clients` makes clients of any proxy.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ..standin import Hub, Names, RegistryMissing
from .clients import Via
from .clients.containerd import Containerd
from .clients.containers import Podman, Skopeo
from .clients.curl import Curl
from .clients.docker import Docker
from .clients.raw import Raw
from .programs import missing, workplace
from .proxies import BareProxy, Proxy, Pulltap

StartProxy = Callable[..., Pulltap]
OTHER = Names("registry.example.com", "auth.example.com", "cdn.example.com", "registry.example.com")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked e2e."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def docker_hub() -> Iterator[Hub]:
    """The stand-in of the whole session; tests take `hub`."""
    with _hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def other_registry(docker_hub: Hub) -> Iterator[Hub]:
    """The second registry of the whole session; tests take `other_hub`."""
    with _hub(OTHER, docker_hub) as hub:
        yield hub


@pytest.fixture
def hub(docker_hub: Hub) -> Iterator[Hub]:
    """Docker Hub's stand-in, without records, faults, accounts. What earlier tests pushed may still be there."""
    yield from _fresh(docker_hub)


@pytest.fixture
def other_hub(other_registry: Hub) -> Iterator[Hub]:
    """A stand-in under other names (registry.example.com), with blobs, accounts and records of its own."""
    yield from _fresh(other_registry)


@pytest.fixture
def start_proxy(hub: Hub, tmp_path: Path) -> Iterator[StartProxy]:
    """Start Pulltap with other settings, as `start(options, registries, args)`; more than once, too."""
    started: list[Pulltap] = []

    def start(
        options: Mapping[str, object] | None = None,
        registries: Mapping[str, object] | None = None,
        args: Sequence[str] = (),
    ) -> Pulltap:
        proxy = Pulltap(tmp_path / f"proxy-{len(started)}", hub, options, registries, args)
        started.append(proxy)
        return proxy

    yield start
    _end(started)


@pytest.fixture
def proxy(start_proxy: StartProxy) -> Pulltap:
    """Pulltap with the shipped config."""
    return start_proxy()


@pytest.fixture(scope="session")
def tunnel(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareProxy]:
    """The bare proxy of the whole session, since it remembers nothing; tests take `bare_proxy`."""
    bare = BareProxy(tmp_path_factory.mktemp("bare") / "tunnel", docker_hub)
    yield bare
    _end([bare])


@pytest.fixture
def bare_proxy(hub: Hub, tunnel: BareProxy) -> BareProxy:
    """A tunnel to the stand-in, without Pulltap: what a direct request would have got."""
    tunnel.restore_names()
    return tunnel


@pytest.fixture
def decrypting_proxy(hub: Hub, tmp_path: Path) -> Iterator[BareProxy]:
    """A mitmproxy without Pulltap, which decrypts as Pulltap does."""
    bare = BareProxy(tmp_path / "decrypting", hub, decrypt=True)
    yield bare
    _end([bare])


@pytest.fixture
def direct(bare_proxy: BareProxy) -> Raw:
    """The bare client, past Pulltap: the other side of a comparison."""
    return Raw(bare_proxy.port, bare_proxy.ca)


class Clients:
    """Makes clients of a proxy, and ends them with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def docker(
        self, via: Via, config: Mapping[str, object] | None = None, environment: Mapping[str, str] | None = None
    ) -> Docker:
        """A dockerd of its own; `config` is its daemon.json, `environment` instead of the usual proxy and trust."""
        client = Docker(self._folder("docker"), via, config, environment)
        self._stack.callback(client.stop)
        return client

    def containerd(self, via: Via) -> Containerd:
        """A containerd of its own."""
        client = Containerd(self._folder("containerd"), via)
        self._stack.callback(client.stop)
        return client

    def podman(self, via: Via) -> Podman:
        """A Podman with a store of its own."""
        return Podman(self._folder("podman"), via)

    def skopeo(self, via: Via) -> Skopeo:
        """A skopeo with folders of its own."""
        return Skopeo(self._folder("skopeo"), via)

    def curl(self, via: Via) -> Curl:
        """A curl."""
        return Curl(self._folder("curl"), via)

    def raw(self, via: Via) -> Raw:
        """The bare client, for comparisons byte by byte."""
        return Raw(via.port, via.ca)

    def _folder(self, name: str) -> Path:
        return self._stack.enter_context(workplace(name))


@pytest.fixture
def clients() -> Iterator[Clients]:
    """Makes clients of a given proxy: clients.docker(bare_proxy)."""
    with ExitStack() as stack:
        yield Clients(stack)


@pytest.fixture
def docker(clients: Clients, proxy: Pulltap) -> Docker:
    """dockerd, through Pulltap."""
    return clients.docker(proxy)


@pytest.fixture
def containerd(clients: Clients, proxy: Pulltap) -> Containerd:
    """A containerd and ctr, through Pulltap."""
    return clients.containerd(proxy)


@pytest.fixture
def podman(clients: Clients, proxy: Pulltap) -> Podman:
    """Podman, through Pulltap."""
    return clients.podman(proxy)


@pytest.fixture
def skopeo(clients: Clients, proxy: Pulltap) -> Skopeo:
    """skopeo, through Pulltap."""
    return clients.skopeo(proxy)


@pytest.fixture
def curl(clients: Clients, proxy: Pulltap) -> Curl:
    """curl, through Pulltap."""
    return clients.curl(proxy)


@pytest.fixture
def raw(clients: Clients, proxy: Pulltap) -> Raw:
    """The bare client, through Pulltap."""
    return clients.raw(proxy)


@contextmanager
def _hub(names: Names | None = None, sibling: Hub | None = None) -> Iterator[Hub]:
    try:
        hub = Hub(names, sibling.authority if sibling else None)
    except RegistryMissing as error:
        missing(str(error))
        raise
    with hub:
        yield hub


def _fresh(hub: Hub) -> Iterator[Hub]:
    hub.reset()
    yield hub
    hub.faults.clear()
    assert not hub.errors, "\n".join(hub.errors)


def _end(proxies: Sequence[Proxy]) -> None:
    with ExitStack() as stack:
        for proxy in proxies:
            stack.callback(proxy.stop)
    for proxy in proxies:
        assert not proxy.trouble(), proxy.trouble()
