"""Real clients against the stand-in, without Pulltap: they pull, log in and push as they do at Docker Hub."""

import hashlib
from collections.abc import Callable

import pytest

from ..standin import Fault, Hub, Image
from .clients import Via
from .clients.containerd import Containerd
from .clients.containers import Podman
from .clients.docker import Docker
from .conftest import Clients
from .programs import CommandFailed
from .proxies import BareProxy

Runtime = Docker | Podman | Containerd
MakeRuntime = Callable[[Clients, Via], Runtime]

RUNTIMES = [
    pytest.param(lambda clients, via: clients.docker(via), id="docker"),
    pytest.param(lambda clients, via: clients.podman(via), id="podman"),
    pytest.param(lambda clients, via: clients.containerd(via), id="containerd"),
]


def _holds(runtime: Runtime, image: Image, identity: str) -> bool:
    """Whether what a pull returned stands for that image."""
    return identity.removeprefix("sha256:") == (
        image.manifest if isinstance(runtime, Containerd) else image.config
    ).digest.removeprefix("sha256:")


@pytest.mark.parametrize("make", RUNTIMES)
@pytest.mark.parametrize("kind", ["index", "single"])
def test_pull(hub: Hub, bare_proxy: BareProxy, clients: Clients, make: MakeRuntime, kind: str) -> None:
    image = hub.small if kind == "index" else hub.single
    runtime = make(clients, bare_proxy)
    assert _holds(runtime, image, runtime.pull(image.reference))
    for blob in image.blobs:
        assert hub.count(host=hub.names.registry, path_contains=blob.digest, status=307) == 1
    assert hub.count(host=hub.names.cdn, status=200) == len(image.blobs)

    hub.clear()
    runtime.remove(image.reference)
    assert _holds(runtime, image, runtime.pull(image.reference))
    assert hub.count(host=hub.names.cdn, status=200) == len(image.blobs)


def test_pull_through_mitmproxy(hub: Hub, decrypting_proxy: BareProxy, clients: Clients) -> None:
    docker = clients.docker(decrypting_proxy)
    assert _holds(docker, hub.small, docker.pull(hub.small.reference))


def test_skopeo_copies_bytes(hub: Hub, bare_proxy: BareProxy, clients: Clients) -> None:
    folder = clients.skopeo(bare_proxy).pull(hub.small.reference)
    for blob in hub.small.blobs:
        content = (folder / blob.digest.removeprefix("sha256:")).read_bytes()
        assert content == hub.content(blob)
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == blob.digest


def test_curl_follows_to_the_cdn(hub: Hub, bare_proxy: BareProxy, clients: Clients) -> None:
    layer = hub.small.layers[0]
    credential = ": ".join(hub.bearer("library/small"))
    url = hub.url(hub.small.blob_path(layer))
    reply = clients.curl(bare_proxy).get(url, "--location", "--header", credential)
    assert reply.status == 200
    assert reply.body == hub.content(layer)


def test_docker_login_and_push(hub: Hub, bare_proxy: BareProxy, clients: Clients) -> None:
    hub.add_account("alice", "wonderland", "alice/by-docker")
    hub.make_private("alice/by-docker")
    docker = clients.docker(bare_proxy)
    docker.pull(hub.single.reference)
    docker.tag(hub.single.reference, "alice/by-docker:1")
    with pytest.raises(CommandFailed, match="denied"):
        docker.push("alice/by-docker:1")
    with pytest.raises(CommandFailed, match="unauthorized"):
        docker.login("alice", "wrong")
    docker.login("alice", "wonderland")
    docker.push("alice/by-docker:1")
    docker.remove("alice/by-docker:1", hub.single.reference)
    assert _holds(docker, hub.single, docker.pull("alice/by-docker:1"))
    docker.remove("alice/by-docker:1")
    docker.logout()
    with pytest.raises(CommandFailed, match="denied"):
        docker.pull("alice/by-docker:1")


def test_podman_login_and_push(hub: Hub, bare_proxy: BareProxy, clients: Clients) -> None:
    hub.add_account("alice", "wonderland", "alice/by-podman")
    podman = clients.podman(bare_proxy)
    identity = podman.pull(hub.single.reference)
    with pytest.raises(CommandFailed, match="invalid username/password"):
        podman.login("alice", "wrong")
    podman.login("alice", "wonderland")
    podman.push(identity, "alice/by-podman:1")
    podman.remove(identity)
    assert podman.pull("alice/by-podman:1") == identity


def test_skopeo_login_and_push(hub: Hub, bare_proxy: BareProxy, clients: Clients) -> None:
    hub.add_account("alice", "wonderland", "alice/by-skopeo")
    skopeo = clients.skopeo(bare_proxy)
    folder = skopeo.pull(hub.single.reference)
    skopeo.login("alice", "wonderland")
    skopeo.push(folder, "alice/by-skopeo:1")
    again = skopeo.pull("alice/by-skopeo:1")
    assert (again / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


def test_ctr_with_a_login(hub: Hub, bare_proxy: BareProxy, clients: Clients) -> None:
    image = hub.push("alice/for-ctr", sizes=(1000,))
    hub.make_private("alice/for-ctr")
    hub.add_account("alice", "wonderland", "alice/for-ctr")
    containerd = clients.containerd(bare_proxy)
    with pytest.raises(CommandFailed, match="insufficient_scope"):
        containerd.pull(image.reference)
    assert containerd.pull(image.reference, "--user", "alice:wonderland") == image.manifest.digest
    assert {blob.digest for blob in image.blobs} <= containerd.content()


def test_pull_limit(hub: Hub, bare_proxy: BareProxy, clients: Clients) -> None:
    assert hub.small.repository == "library/small"
    hub.pull_limit.limit = 0
    with pytest.raises(CommandFailed, match=r"toomanyrequests: You have reached your pull rate limit"):
        clients.docker(bare_proxy).pull(hub.small.reference)


def test_containerd_resumes(hub: Hub, bare_proxy: BareProxy, clients: Clients) -> None:
    cut = hub.small.layers[3]
    hub.faults.add(Fault(host=hub.names.cdn, path_contains=cut.digest.removeprefix("sha256:"), cut_after=5000))
    containerd = clients.containerd(bare_proxy)
    assert containerd.pull(hub.small.reference) == hub.small.manifest.digest
    asked = [record.header("Range") for record in hub.find(host=hub.names.cdn) if cut.digest[7:] in record.path]
    assert asked == [None, "bytes=5000-"]


@pytest.mark.parametrize("make", RUNTIMES)
def test_wrong_bytes_are_refused(hub: Hub, bare_proxy: BareProxy, clients: Clients, make: MakeRuntime) -> None:
    digest = hub.small.layers[3].digest.removeprefix("sha256:")
    hub.faults.add(Fault(host=hub.names.cdn, path_contains=digest, corrupt_at=4000, times=None))
    with pytest.raises(CommandFailed, match=r"verification failed|Digest did not match|unexpected commit digest"):
        make(clients, bare_proxy).pull(hub.small.reference)
