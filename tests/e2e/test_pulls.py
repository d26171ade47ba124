"""Real clients pull real images twice; what the stand-in counted says what was local."""

import hashlib

import pytest

from ..standin import Hub
from .clients.containerd import Containerd
from .clients.containers import Podman, Skopeo
from .clients.docker import Docker
from .proxies import Pulltap


def _whole(proxy: Pulltap) -> int:
    """How many blobs are stored, once each was found to be what its name says."""
    blobs = [path for path in proxy.store.glob("blobs/*/*") if path.is_file()]
    for blob in blobs:
        assert hashlib.new(blob.parent.name, blob.read_bytes()).hexdigest() == blob.name
    return len(blobs)


@pytest.mark.parametrize("client", ["docker", "containerd", "podman"])
def test_the_second_pull_asks_upstream_for_no_blob(
    hub: Hub, proxy: Pulltap, client: str, request: pytest.FixtureRequest
) -> None:
    runtime: Docker | Containerd | Podman = request.getfixturevalue(client)
    reference = hub.small.reference
    first = runtime.pull(reference)
    assert hub.blob_requests()
    assert _whole(proxy) >= 6
    runtime.remove(reference)
    hub.clear()
    assert runtime.pull(reference) == first
    assert not hub.blob_requests()
    assert hub.count(path_contains="/manifests/") > 0


def test_skopeo_copies_the_same_bytes_twice(hub: Hub, proxy: Pulltap, skopeo: Skopeo) -> None:
    first = skopeo.pull(hub.small.reference)
    assert hub.blob_requests()
    hub.clear()
    second = skopeo.pull(hub.small.reference)
    assert not hub.blob_requests()
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
