"""The store as other tools see it: an OCI image layout, which they read, fill, move, and agree with Pulltap about."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..standin import Blob, Hub, Image, watchful
from .clients.containerd import Containerd
from .clients.containers import Skopeo
from .conftest import OTHER, Clients, StartProxy
from .programs import environment, eventually, need, run
from .proxies import BareProxy, Pulltap
from .stores import indexed, pull, wait_until_stored

WATCHFUL = ["-s", watchful.__file__]
HIT, STORED = "pulltap; hit", "pulltap; fwd=miss; stored"


def name(image: Image, registry: str = "docker.io") -> str:
    """As the index has it."""
    return f"{registry}/{image.reference}"


def expect_listed(store: Path, *images: Image) -> None:
    """Those are listed, as soon as the upkeep has come to it."""
    eventually(lambda: {name(image) for image in images} <= indexed(store).keys(), "the images in index.json")


def path(store: Path, blob: Blob) -> Path:
    return store / "blobs" / blob.digest.replace(":", "/")


def expect_copied(folder: Path, hub: Hub, image: Image) -> None:
    """A `dir:` of skopeo's holds the image, whole."""
    for blob in image.blobs:
        assert (folder / blob.digest.partition(":")[2]).read_bytes() == hub.content(blob)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["digest"] == image.config.digest


# --- what real clients pulled ---


@dataclass(frozen=True)
class Filled:
    """A store that real clients have filled, through a proxy that still runs."""

    proxy: Pulltap
    images: dict[str, Image]
    """By the client that pulled it."""
    containerd: Containerd

    @property
    def store(self) -> Path:
        return self.proxy.store


@pytest.fixture(scope="module")
def filled(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    docker_hub.reset()
    images = {
        "docker": docker_hub.small,
        "podman": docker_hub.push("library/one-platform", sizes=(1000, 200_000), seed=300),
        "skopeo --all": docker_hub.push("library/both-platforms", sizes=(1000, 300_000), seed=310, index=True),
        "containerd": docker_hub.single,
    }
    with ExitStack() as stack:
        proxy = Pulltap(tmp_path_factory.mktemp("filled") / "proxy", docker_hub)
        stack.callback(proxy.stop)
        clients = Clients(stack)
        clients.docker(proxy).pull(images["docker"].reference)
        clients.podman(proxy).pull(images["podman"].reference)
        clients.skopeo(proxy).pull(images["skopeo --all"].reference, "--all")
        containerd = clients.containerd(proxy)
        containerd.pull(images["containerd"].reference)
        expect_listed(proxy.store, *images.values())
        yield Filled(proxy, images, containerd)
    assert not proxy.trouble(), proxy.trouble()


@pytest.fixture
def skopeo(clients: Clients, filled: Filled) -> Skopeo:
    """Reads the store, and needs no proxy."""
    return clients.skopeo(filled.proxy)


def test_what_was_pulled_is_listed_as_the_registry_has_it(filled: Filled) -> None:
    assert json.loads((filled.store / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    listed = indexed(filled.store)
    assert listed.keys() == {name(image) for image in filled.images.values()}
    for image in filled.images.values():
        entry = listed[name(image)]
        manifest = image.manifest
        assert (entry["mediaType"], entry["digest"], entry["size"]) == (
            manifest.media_type,
            manifest.digest,
            manifest.size,
        )
        assert path(filled.store, manifest).stat().st_size == manifest.size


def test_each_file_is_what_sha256sum_says(filled: Filled, tmp_path: Path) -> None:
    files = sorted((filled.store / "blobs" / "sha256").iterdir())
    sums = run([need("sha256sum"), *map(str, files)], environment(tmp_path)).splitlines()
    assert [line.split()[0] for line in sums] == [file.name for file in files]
    assert len(files) >= sum(len(image.blobs) for image in filled.images.values())
    assert {each.name for each in filled.store.iterdir()} == {"blobs", "index.json", "oci-layout", "pulltap"}


@pytest.mark.parametrize("client", ["docker", "podman", "skopeo --all"])
def test_skopeo_copies_it_whole(hub: Hub, filled: Filled, skopeo: Skopeo, client: str, tmp_path: Path) -> None:
    image = filled.images[client]
    source = f"oci:{filled.store}:{name(image)}"
    skopeo.skopeo("copy", source, f"dir:{tmp_path}/copy")
    expect_copied(tmp_path / "copy", hub, image)
    assert json.loads(skopeo.skopeo("inspect", source))["Digest"] == image.manifest.digest
    skopeo.skopeo("copy", source, f"docker-archive:{tmp_path}/image.tar:a/name:tag")
    with tarfile.open(tmp_path / "image.tar") as archive:
        member = archive.extractfile("manifest.json")
        assert member
        (content,) = json.load(member)
    assert content["Config"] == f"{image.config.digest.partition(':')[2]}.json"
    if client == "skopeo --all":
        skopeo.skopeo("copy", "--all", source, f"dir:{tmp_path}/all")
        copied = json.loads((tmp_path / "all" / "manifest.json").read_text())
        assert f"sha256:{hashlib.sha256((tmp_path / 'all' / 'manifest.json').read_bytes()).hexdigest()}" == (
            image.manifest.digest
        )
        assert len(copied["manifests"]) == 2


def test_umoci_accepts_it(filled: Filled, tmp_path: Path) -> None:
    umoci, env = need("umoci"), environment(tmp_path)
    listed = run([umoci, "ls", "--layout", str(filled.store)], env).split()
    assert listed == sorted(name(image) for image in filled.images.values())
    image = filled.images["podman"]
    shown = json.loads(run([umoci, "stat", "--json", "--image", f"{filled.store}:{name(image)}"], env))
    assert [each["layer"]["digest"] for each in shown["history"]] == [layer.digest for layer in image.layers]


def test_containerd_imports_it(filled: Filled, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "store.tar", "w") as archive:
        for part in ("oci-layout", "index.json", "blobs"):
            archive.add(filled.store / part, part)
    containerd = filled.containerd
    containerd.remove(filled.images["containerd"].reference)
    # Images of Docker's types with the others.
    containerd.ctr("images", "import", "--snapshotter", "native", str(tmp_path / "store.tar"))
    assert containerd.images() == {name(image): image.manifest.digest for image in filled.images.values()}


def test_it_may_be_carried_away_and_works_there_without_a_network(
    hub: Hub, filled: Filled, start_proxy: StartProxy, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "store.tar", "w") as archive:
        # While its proxy runs: all that matters is in the files.
        archive.add(filled.store, "store")
    there = tmp_path / "elsewhere"
    with tarfile.open(tmp_path / "store.tar") as archive:
        archive.extractall(there, filter="tar")
    store = there / "store"
    image = filled.images["docker"]
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    copy = [need("skopeo"), "--policy", str(policy), "copy", f"oci:{store}:{name(image)}", f"dir:{tmp_path}/copy"]
    run([need("unshare", root=True), "--net", *copy], environment(tmp_path))
    expect_copied(tmp_path / "copy", hub, image)
    proxy = start_proxy({"registry_store": str(store)})
    hub.clear()
    assert set(pull(hub, proxy, image)) == {HIT}
    assert not hub.blob_requests()


# --- what other tools put there ---


def expect_used_as_it_is(hub: Hub, proxy: Pulltap, image: Image) -> None:
    """It is served without its bytes having come from upstream; who asks for the first time costs a HEAD."""
    hub.clear()
    assert set(pull(hub, proxy, image)) == {HIT}
    asked = hub.find(host=hub.names.registry, path_contains="/blobs/")
    assert {record.method for record in hub.blob_requests()} <= {"HEAD"}
    assert len(asked) == len({record.path for record in asked}) <= len(image.blobs)
    hub.clear()
    assert set(pull(hub, proxy, image)) == {HIT}
    assert not hub.blob_requests()


def test_a_folder_that_skopeo_filled_is_used_as_it_is(
    hub: Hub, bare_proxy: BareProxy, clients: Clients, start_proxy: StartProxy, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    skopeo = clients.skopeo(bare_proxy)

    def fill(image: Image) -> None:
        target = f"oci:{tmp_path}/layout:{image.tag}"
        skopeo.skopeo("copy", "--dest-shared-blob-dir", str(store / "blobs"), f"docker://{name(image)}", target)
        assert path(store, image.config).exists()

    before, later = (hub.push(f"library/shared-{seed}", sizes=(1000, 300_000), seed=seed) for seed in (321, 322))
    fill(before)
    proxy = start_proxy({"registry_store": str(store)}, args=WATCHFUL)
    expect_used_as_it_is(hub, proxy, before)
    # Or while it runs.
    fill(later)
    expect_used_as_it_is(hub, proxy, later)
    expect_listed(store, before, later)


def test_what_skopeo_wrote_into_the_index_stays(
    hub: Hub, bare_proxy: BareProxy, clients: Clients, start_proxy: StartProxy, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    skopeo = clients.skopeo(bare_proxy)
    own, pulled = (hub.push(f"library/kept-{seed}", sizes=(1000,), seed=seed) for seed in (331, 332))
    skopeo.skopeo("copy", f"docker://{name(own)}", f"oci:{store}:of-my-own")
    before = indexed(store)
    proxy = start_proxy({"registry_store": str(store)}, args=WATCHFUL)
    expect_used_as_it_is(hub, proxy, own)
    pull(hub, proxy, pulled)
    expect_listed(store, own, pulled)
    assert indexed(store)["of-my-own"] == before["of-my-own"]
    # And the other way round: skopeo adds to what Pulltap wrote, while it runs.
    skopeo.skopeo("copy", f"docker://{name(own)}", f"oci:{store}:another-name")
    pull(hub, proxy, hub.small)
    expect_listed(store, own, pulled, hub.small)
    proxy.stop()
    assert indexed(store).keys() == {"of-my-own", "another-name", *(name(image) for image in (own, pulled, hub.small))}
    skopeo.skopeo("copy", f"oci:{store}:of-my-own", f"dir:{tmp_path}/copy")
    expect_copied(tmp_path / "copy", hub, own)


def test_a_proxy_that_ends_leaves_a_complete_index(hub: Hub, start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    image = hub.push("library/at-the-end", sizes=(1000,), seed=340)
    pull(hub, proxy, image)
    wait_until_stored(proxy, *image.blobs)
    proxy.stop()
    assert indexed(proxy.store).keys() == {name(image)}
    # One that is no longer whole is listed no longer.
    path(proxy.store, image.layers[0]).unlink()
    proxy.start()
    eventually(lambda: not indexed(proxy.store), "the end of its entry")


def test_bytes_of_one_registry_are_not_given_in_the_name_of_another(
    hub: Hub, other_hub: Hub, start_proxy: StartProxy
) -> None:
    hosts = [hub.names.registry, OTHER.registry]
    inject = {OTHER.registry: {"auth": "inject", "realms": [OTHER.auth]}}
    proxy = start_proxy({"registry_hosts": hosts}, inject, WATCHFUL)
    proxy.map_hub(other_hub)
    images = [each.push("library/two-homes", sizes=(1000, 300_000), seed=350) for each in (hub, other_hub)]
    assert images[0].blobs == images[1].blobs
    assert set(pull(hub, proxy, images[0])) == {STORED}
    # The other one has to deliver what it says it has.
    assert set(pull(other_hub, proxy, images[1])) == {STORED}
    for blob in images[1].blobs:
        (sent,) = other_hub.find(host=other_hub.names.cdn, path_contains=blob.digest.partition(":")[2])
        assert (sent.method, sent.body_sent) == ("GET", blob.size)
    for home, image in zip((hub, other_hub), images, strict=True):
        home.clear()
        assert set(pull(home, proxy, image)) == {HIT}
        assert not home.blob_requests()
    names = {name(images[0]), name(images[1], OTHER.registry)}
    eventually(lambda: indexed(proxy.store).keys() == names, "both names in index.json")
