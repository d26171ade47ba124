"""`./run.sh warm …`: what fills a store without any container runtime, and what stands in its way."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ..standin import Blob, Fault, Hub, Image
from .beside import Beside, interrupt
from .clients.raw import Raw
from .conftest import Clients, StartProxy
from .programs import eventually
from .screen import Screen
from .stores import indexed, pull, small

MIB = 1024 * 1024
HIT = "pulltap; hit"


@pytest.fixture
def beside(hub: Hub, tmp_path: Path) -> Beside:
    """A config of its own, and no proxy."""
    return Beside.alone(tmp_path / "beside", hub)


def stored(beside: Beside) -> set[str]:
    """The digests of all that is stored, once it was found to be right."""
    found = set()
    for path in (beside.store_path / "blobs").glob("*/*"):
        assert hashlib.new(path.parent.name, path.read_bytes()).hexdigest() == path.name
        found.add(f"{path.parent.name}:{path.name}")
    return found


def digests(image: Image) -> set[str]:
    """All that a client of this machine's platform needs."""
    return {blob.digest for blob in (image.manifest, image.platform, *image.blobs)}


def at_the_cdn(hub: Hub, blob: Blob) -> list[str]:
    """The ranges of a blob for which the CDN was asked; empty for all of it."""
    found = hub.find(host=hub.names.cdn, path_contains=blob.digest.partition(":")[2])
    return [record.header("Range") or "" for record in found]


def fault(hub: Hub, blob: Blob, **what: Any) -> Fault:
    """A fault of the CDN with one blob."""
    return hub.faults.add(Fault(host=hub.names.cdn, path_contains=blob.digest.partition(":")[2], **what))


# --- what it brings ---


def test_a_pull_after_it_needs_no_blob_from_upstream(
    hub: Hub, beside: Beside, start_proxy: StartProxy, clients: Clients
) -> None:
    images = [small(hub, "warm", index=True), hub.single]
    by_digest = f"library/warm:v1@{images[0].platform.digest}"
    done = beside.warm("warm", "docker.io/library/single:latest", by_digest)
    assert (done.status, done.err) == (0, "")
    assert [re.sub(r"[\d.]+ KiB|linux/\w+", "*", line) for line in done.out.splitlines()] == [
        "docker.io/library/warm:latest for *: 3 blobs, *; all fetched",
        "docker.io/library/single:latest: 3 blobs, *; all fetched",
        f"docker.io/library/warm@{images[0].platform.digest}: 3 blobs, *; all stored already",
    ]
    assert stored(beside) == digests(images[0]) | digests(images[1])
    assert not list((beside.store_path / "pulltap" / "ingest").iterdir())
    assert indexed(beside.store_path).keys() == {f"docker.io/{image.reference}" for image in images}
    docker = clients.docker(start_proxy({"registry_store": str(beside.store_path)}))
    hub.clear()
    for image in images:
        assert docker.pull(image.reference) == image.config.digest
    assert not hub.blob_requests()


def test_platforms_are_chosen(hub: Hub, beside: Beside) -> None:
    image = small(hub, "platforms", index=True)
    manifest = json.loads(hub.content(image.manifest))
    mine, other = manifest["manifests"]
    platform = "linux/{architecture}".format_map(other["platform"])
    refused = beside.warm("--platform", "windows/amd64", "platforms")
    assert (refused.status, refused.out) == (1, "")
    assert re.search(r"platforms:latest is not there for windows/amd64; there are linux/\w+, linux/\w+$", refused.err)
    only = beside.warm("platforms", "--platform", platform).out
    assert only.startswith(f"docker.io/library/platforms:latest for {platform}: 3 blobs, ")
    assert mine["digest"] not in stored(beside)
    done = beside.warm("platforms", "--platform", "all")
    assert re.search(
        r" for linux/\w+, linux/\w+: 6 blobs, 42\d\.\d KiB; 21\d\.\d KiB fetched, 3 blobs stored", done.out
    )
    assert stored(beside) >= digests(image) | {other["digest"]}
    shown = json.loads(beside.store("ls", "--json").out)["images"]
    assert [[each["missing"] for each in listed["platforms"]] for listed in shown] == [[[], []]]


# --- on a terminal ---


@pytest.fixture
def screen(hub: Hub, beside: Beside, tmp_path: Path) -> Iterator[Screen]:
    """A terminal in which an image of two layers is being fetched; the second one stalls at two MiB of three."""
    image = small(hub, "watched", 1000, 3 * MIB)
    fault(hub, image.layers[1], stall_after=2 * MIB)
    screen = beside.warm_on(tmp_path / "terminal", "watched", columns=80)
    yield screen
    screen.stop()


def test_a_terminal_shows_how_far_each_blob_is(hub: Hub, screen: Screen) -> None:
    layers = small(hub, "watched", 1000, 3 * MIB).layers
    screen.wait_for(f"{layers[0].digest[:19]} fetched")
    shown = screen.wait_for("2.0 MiB of 3.0 MiB")
    assert re.search(rf"^{layers[0].digest[:19]} fetched ━+ 10\.0 KiB of 10\.0 KiB", shown, re.MULTILINE)
    assert re.search(rf"^{layers[1].digest[:19]} +━+[╸╺]?━* 2\.0 MiB of 3\.0 MiB", shown, re.MULTILINE)
    hub.faults.clear()
    assert screen.wait_for_end() == 0
    # The bars go, and a line stays.
    (line, *_) = filter(None, screen.text.splitlines())
    assert line == "docker.io/library/watched:latest: 3 blobs, 3.0 MiB; all fetched"


def test_who_stops_it_goes_on_later(hub: Hub, screen: Screen, beside: Beside) -> None:
    layer = small(hub, "watched", 1000, 3 * MIB).layers[1]
    screen.wait_for("2.0 MiB of 3.0 MiB")
    screen.press("C-c")
    assert screen.wait_for_end() == 130
    # The bars go.
    assert screen.text.splitlines()[0] == "stopped; what has come is kept"
    hub.faults.clear()
    hub.clear()
    assert beside.warm("watched").status == 0
    (asked,) = at_the_cdn(hub, layer)
    assert asked == f"bytes={2 * MIB}-"
    assert layer.digest in stored(beside)


def test_it_is_stopped_without_a_terminal_as_well(hub: Hub, beside: Beside) -> None:
    image = small(hub, "stopped", 3 * MIB)
    stalled = fault(hub, image.layers[0], stall_after=MIB)
    process = beside.start_warm("stopped")
    assert stalled.reached.wait(60)
    done = interrupt(process)
    assert (done.status, done.out, done.err) == (130, "", "stopped; what has come is kept\n")
    assert image.layers[0].digest not in stored(beside)


# --- beside a proxy ---


def test_what_a_proxy_is_fetching_is_fetched_once(hub: Hub, start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    beside, raw = Beside.of(proxy, hub), Raw(proxy.port, proxy.ca)
    ours, theirs = small(hub, "of-the-proxy", 3 * MIB), small(hub, "of-warm", 3 * MIB)
    # The proxy began, and warm joins.
    stalled = fault(hub, ours.layers[0], stall_after=MIB)
    client = raw.open("GET", hub.url(ours.blob_path(ours.layers[0])))
    client.read(1000)
    process = beside.start_warm("of-the-proxy")
    eventually(lambda: beside.store_path.joinpath("blobs", ours.config.digest.replace(":", "/")).exists(), "the config")
    stalled.release.set()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (
        0,
        "docker.io/library/of-the-proxy:latest: 2 blobs, 3.0 MiB; all fetched\n",
        "",
    )
    assert client.rest().whole
    assert at_the_cdn(hub, ours.layers[0]) == [""]
    # Warm began, and a client of the proxy joins.
    stalled = fault(hub, theirs.layers[0], stall_after=MIB)
    process = beside.start_warm("of-warm")
    assert stalled.reached.wait(60)
    # The CDN is ahead of who takes its bytes.
    ingests = beside.store_path / "pulltap" / "ingest"
    digits = theirs.layers[0].digest.partition(":")[2]
    eventually(lambda: bool(list(ingests.glob(f"*{digits}*.lease"))), "the lease")
    client = raw.open("GET", hub.url(theirs.blob_path(theirs.layers[0])))
    assert dict(client.headers)["Cache-Status"] == "pulltap; fwd=miss; collapsed"
    assert client.read(MIB // 2) == hub.content(theirs.layers[0])[: MIB // 2]
    stalled.release.set()
    assert client.rest().whole
    assert process.wait(60) == 0
    assert at_the_cdn(hub, theirs.layers[0]) == [""]
    # The running proxy knows what warm brought.
    hub.clear()
    assert set(pull(hub, proxy, theirs)) == {HIT}
    assert not hub.find(host=hub.names.cdn, method="GET")


# --- what stands in its way ---


REFUSED = {
    "nowhere": r"library/nowhere:latest: it is not there, or needs a login, which registry_docker_config names \(",
    "private/warm": "private/warm:latest: it is not there, or needs a login",
    "fine:v9": r"library/fine:v9: it is not there \(registry-1.docker.io answered 404 to v9\)",
    f"fine@sha256:{'0' * 64}": "it is not there",
    "registry.invalid/a/b": "registry.invalid is not among registry_hosts: its blobs are not kept",
    "ghcr.io/a/b": "ghcr.io/a/b:latest: ghcr.io:443: .*outside of the test",
}


def test_what_cannot_be_had_is_told_in_a_line_and_stops_no_other(hub: Hub, beside: Beside) -> None:
    image = small(hub, "fine")
    hub.push("private/warm", sizes=(1000,), seed=400)
    hub.make_private("private/warm")
    done = beside.warm(*REFUSED, "fine")
    assert done.status == 1
    for line, complaint in zip(done.err.splitlines(), REFUSED.values(), strict=True):
        assert re.search(f"^run.sh warm: .*{complaint}", line)
    assert re.fullmatch(r"docker\.io/library/fine:latest: 3 blobs, 210\.\d KiB; all fetched\n", done.out)
    assert stored(beside) == digests(image)


def test_what_makes_no_sense_is_refused_before_anything_is_done(hub: Hub, beside: Beside) -> None:
    done = beside.warm("fine", "a:b:c")
    assert (done.status, done.out) == (2, "")
    assert done.err == "run.sh warm: no image: 'a:b:c'; write name:tag, or registry/name:tag\n"
    assert not hub.requests


def test_a_rate_limit_is_told_with_its_end(hub: Hub, beside: Beside) -> None:
    small(hub, "fine")
    hub.pull_limit.limit = 0
    done = beside.warm("fine")
    assert done.status == 1
    assert "library/fine:latest: the registry limits pulls; try again in 60 s" in done.err


def test_a_private_image_comes_with_the_login_of_the_config(hub: Hub, tmp_path: Path) -> None:
    image = hub.push("private/warm", sizes=(1000, 50_000), seed=400)
    hub.add_account("owner", "secret", "private/warm")
    hub.make_private("private/warm")
    login = base64.b64encode(b"owner:secret").decode()
    config = tmp_path / "docker.json"
    config.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": login}}}))
    config.chmod(0o600)
    known = Beside.alone(tmp_path / "known", hub, {"registry_docker_config": str(config)})
    assert known.warm("private/warm").status == 0
    assert stored(known) == digests(image)


FAULTS: dict[str, tuple[Mapping[str, Any], str]] = {
    "cut": ({"cut_after": MIB}, ""),
    "reset": ({"cut_after": MIB, "reset": True}, ""),
    "wrong-bytes": ({"corrupt_at": MIB}, "the 3154183 bytes received have the digest sha256:"),
    "an-error": ({"status": 500, "times": None}, "answered 500 to sha256:"),
    "another-blob": ({"status": 200, "body": b"something else"}, "the 14 bytes received have the digest sha256:"),
}


def test_upstream_faults(hub: Hub, beside: Beside) -> None:
    images = {name: small(hub, name, 3 * MIB) for name in FAULTS}
    for name, (what, _) in FAULTS.items():
        fault(hub, images[name].layers[0], **what)
    done = beside.warm(*FAULTS)
    assert done.status == 1
    said = [line for line in done.err.splitlines() if line.startswith("run.sh warm: ")]
    complaints = {name: complaint for name, (_, complaint) in FAULTS.items() if complaint}
    for line, (name, complaint) in zip(said, complaints.items(), strict=True):
        assert f"library/{name}:latest: " in line
        assert complaint in line
        assert images[name].layers[0].digest not in stored(beside)
    hub.faults.clear()
    done = beside.warm(*FAULTS)
    assert (done.status, done.err) == (0, "")
    assert stored(beside) == {digest for image in images.values() for digest in digests(image)}
