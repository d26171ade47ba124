"""``index.json``: what other tools see of the images, and what is kept of theirs."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.images import CONTAINERD_NAME, NAME, OURS

from .blobs import digest_of, put
from .processes import READY, finish, process, tell
from .pulled import Pulls, descriptor, index, manifest

HUB = "registry-1.docker.io"
AMD = manifest(b"base", b"for amd64", config=b"amd64")
ARM = manifest(b"base", b"for arm64", config=b"arm64")
ATTESTED = manifest(b"attested", config=b"attestation")


@pytest.fixture
def pulls(store: Store) -> Pulls:
    return Pulls(store)


def read(store: Store) -> dict[str, Any]:
    content = json.loads(store.layout.index.read_text())
    assert isinstance(content, dict)
    return content


def listed(store: Store) -> list[str]:
    """The names in the index, as other tools see them."""
    return [entry["annotations"][NAME] for entry in read(store)["manifests"]]


def write(store: Store, *entries: object, **more: object) -> None:
    """Write the index as another tool does."""
    store.layout.index.write_text(json.dumps({"schemaVersion": 2, "manifests": entries, **more}))


def theirs(store: Store, name: str, *layers: bytes) -> dict[str, Any]:
    """An image that skopeo has put there, and its entry: nothing of it has passed, or is in the inventory."""
    content = manifest(*layers)
    for blob in (content, b"{}", *layers):
        store.path(digest_of(blob)).write_bytes(blob)
    return descriptor(content, "application/vnd.oci.image.manifest.v1+json", annotations={NAME: name})


# Which images are listed.


def test_an_image_is_listed_once_it_is_whole(store: Store, pulls: Pulls) -> None:
    digest = pulls.passed("alpine:3", manifest(b"one", b"two"))
    assert not store.write_index()
    pulls.blobs(b"{}", b"one")
    assert not store.write_index()
    pulls.blobs(b"two")
    assert store.write_index()
    name = "docker.io/library/alpine:3"
    assert read(store) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": str(digest),
                "size": len(manifest(b"one", b"two")),
                "annotations": {NAME: name, CONTAINERD_NAME: name, OURS: HUB},
            }
        ],
    }
    assert not store.write_index(), "nothing has changed"


def test_it_is_no_longer_once_a_part_of_it_went(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    pulls.image("busybox", b"another")
    store.write_index()
    store.remove([digest_of(b"a layer")])
    assert store.write_index()
    assert listed(store) == ["docker.io/library/busybox:latest"]


def test_a_tag_that_moves_leads_to_what_it_means_now(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"old")
    store.write_index()
    new = pulls.image("alpine", b"new")
    assert store.write_index()
    assert [entry["digest"] for entry in read(store)["manifests"]] == [str(new)]
    # Until what it means now is whole, there is no image of that name.
    pulls.passed("alpine", manifest(b"newer"))
    store.write_index()
    assert listed(store) == []


def test_one_whole_platform_suffices(store: Store, pulls: Pulls) -> None:
    top = pulls.index("alpine", linux_amd64=AMD, linux_arm64=ARM)
    pulls.passed(f"alpine@{digest_of(AMD)}", AMD)
    pulls.passed(f"alpine@{digest_of(ARM)}", ARM)
    pulls.blobs(b"base", b"arm64")
    assert not store.write_index()
    pulls.blobs(b"for arm64")
    assert store.write_index()
    assert [entry["digest"] for entry in read(store)["manifests"]] == [str(top)]


def test_what_is_attested_beside_an_image_is_no_platform(store: Store, pulls: Pulls) -> None:
    pulls.index("alpine", linux_amd64=AMD, unknown_unknown=ATTESTED)
    for content in (AMD, ATTESTED):
        pulls.passed(f"alpine@{digest_of(content)}", content)
    pulls.blobs(b"attestation", b"attested")
    assert not store.write_index()
    pulls.blobs(b"amd64", b"base", b"for amd64")
    assert store.write_index()


def test_an_index_within_an_index(store: Store, pulls: Pulls) -> None:
    inner = index(linux_amd64=AMD)
    pulls.index("alpine", any_any=inner)
    pulls.passed(f"alpine@{digest_of(inner)}", inner)
    pulls.passed(f"alpine@{digest_of(AMD)}", AMD)
    assert not store.write_index()
    pulls.blobs(b"amd64", b"base", b"for amd64")
    assert store.write_index()


def test_a_name_is_listed_once(store: Store, pulls: Pulls) -> None:
    pulls.blobs(b"{}", b"one", b"two")
    pulls.passed("localhost:5000/app", manifest(b"one"))
    pulls.passed("localhost:5000/app", manifest(b"two"), http=True)
    store.write_index()
    assert listed(store) == ["localhost:5000/app:latest"]


def test_an_image_by_its_digest(store: Store, pulls: Pulls) -> None:
    digest = digest_of(manifest(b"a layer"))
    pulls.image(f"ghcr.io/team/app@{digest}", b"a layer")
    store.write_index()
    assert listed(store) == [f"ghcr.io/team/app@{digest}"]


def test_skopeo_finds_the_images(store: Store, pulls: Pulls, tmp_path: Path) -> None:
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    pulls.image("alpine:3", config=config)
    pulls.image("localhost:5000/team/app", b"a layer", config=config)
    store.write_index()
    for name in listed(store):
        source = f"oci:{store.root}:{name}"
        subprocess.run(["skopeo", "copy", "--insecure-policy", source, f"dir:{tmp_path}/copy"], check=True)
        assert json.loads((tmp_path / "copy" / "manifest.json").read_text())["config"]["digest"] == str(
            digest_of(config)
        )


# What other tools have written.


def test_what_others_have_written_stays(store: Store, pulls: Pulls) -> None:
    entry = theirs(store, "mine", b"of another tool")
    nameless = {key: value for key, value in theirs(store, "", b"nameless").items() if key != "annotations"}
    write(store, entry, nameless, annotations={"org.example": "kept"}, artifactType="application/x")
    pulls.image("alpine", b"a layer")
    # Their blobs are not in the inventory yet.
    assert store.write_index()
    found = read(store)
    assert found["manifests"][:2] == [entry, nameless]
    assert found["manifests"][2]["annotations"][NAME] == "docker.io/library/alpine:latest"
    assert (found["annotations"], found["artifactType"]) == ({"org.example": "kept"}, "application/x")
    assert not store.write_index()


def test_what_they_put_there_goes_from_the_index_with_its_manifest(store: Store) -> None:
    entry = theirs(store, "mine", b"of another tool")
    write(store, entry, {**entry, "digest": str(digest_of(b"gone"))})
    assert store.write_index()
    assert read(store)["manifests"] == [entry]
    store.remove([Digest.parse(entry["digest"])])
    assert store.write_index()
    assert read(store)["manifests"] == []


def test_their_name_is_theirs(store: Store, pulls: Pulls) -> None:
    entry = theirs(store, "docker.io/library/alpine:latest", b"of another tool")
    pulls.image("alpine", b"a layer")
    write(store, entry)
    assert not store.write_index()
    assert read(store)["manifests"] == [entry]


def test_the_blobs_of_others_are_known(store: Store, pulls: Pulls) -> None:
    assert store.images.blobs_of_others() == set()
    entry = theirs(store, "mine", b"of another tool")
    write(store, entry, "junk", {"digest": "x:y"})
    pulls.image("alpine", b"a layer")
    store.write_index()
    assert store.images.blobs_of_others() == {
        Digest.parse(entry["digest"]),
        digest_of(b"{}"),
        digest_of(b"of another tool"),
    }


def test_skopeo_writes_beside_it(store: Store, pulls: Pulls, tmp_path: Path) -> None:
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    pulls.image("alpine:3", config=config)
    store.write_index()
    before = read(store)["manifests"]
    source = f"oci:{store.root}:docker.io/library/alpine:3"
    subprocess.run(["skopeo", "copy", "--insecure-policy", source, f"oci:{store.root}:copied"], check=True)
    pulls.image("busybox", config=config)
    store.write_index()
    found = read(store)["manifests"]
    assert [entry["annotations"][NAME] for entry in found] == [
        "copied",
        "docker.io/library/alpine:3",
        "docker.io/library/busybox:latest",
    ]
    assert found[1] == before[0]


# Damage.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b'{"manifests":{}}',
        b'{"manifests":null}',
        b"\xff\xfe",
        b"\0" * 100,
        b"[" * 100_000,
        b'{"manifests":[7,null,"x",[],{},{"digest":7},{"digest":"latest"},{"digest":"sha256:x"},{"digest":["x"]}]}',
    ],
)
def test_a_damaged_index_is_made_anew(store: Store, pulls: Pulls, content: bytes) -> None:
    pulls.image("alpine", b"a layer")
    store.layout.index.write_bytes(content)
    assert store.write_index()
    assert listed(store) == ["docker.io/library/alpine:latest"]


@pytest.mark.parametrize("annotations", [7, "x", [], [NAME], None, {NAME: ["x"]}, {NAME: None}, {OURS: ["x"]}])
def test_strange_annotations_are_somebody_elses(store: Store, pulls: Pulls, annotations: object) -> None:
    entry = {**theirs(store, "mine", b"of another tool"), "annotations": annotations}
    pulls.image("alpine", b"a layer")
    write(store, entry)
    assert store.write_index()
    assert read(store)["manifests"][0] == entry
    assert len(read(store)["manifests"]) == 2


def test_a_missing_index_is_made_anew(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    store.layout.index.unlink()
    assert store.write_index()
    assert listed(store) == ["docker.io/library/alpine:latest"]


def test_what_a_crash_left_is_no_trouble(store: Store, pulls: Pulls) -> None:
    (store.layout.ours / "index.new").write_text("half")
    (store.layout.ours / "index.lock").touch()
    pulls.image("alpine", b"a layer")
    assert store.write_index()
    assert {path.name for path in store.layout.ours.glob("index.*")} == {"index.lock"}


@pytest.fixture
def _no_mask() -> Iterator[None]:
    usual = os.umask(0)
    yield
    os.umask(usual)


@pytest.mark.usefixtures("_no_mask")
def test_nobody_else_may_read_it(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    store.write_index()
    assert store.layout.index.stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o077 for path in store.layout.ours.iterdir()} == {0}


def test_a_disk_that_fails(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    before = store.layout.index.read_bytes()
    store.layout.index.unlink()
    store.layout.index.mkdir()
    (store.layout.index / "x").touch()
    with pytest.raises(OSError, match=r"Is a directory|Directory not empty"):
        store.write_index()
    (store.layout.index / "x").unlink()
    store.layout.index.rmdir()
    store.layout.index.write_bytes(before)
    assert store.write_index()


# Several processes.

WRITER = f"""
import sys
from pathlib import Path
from addon.store.disk import Store
from tests.store.pulled import Pulls, manifest
store = Store(Path(sys.argv[1]))
pulls = Pulls(store)
print("{READY}", flush=True)
sys.stdin.readline()
for n in range(20):
    pulls.passed(f"team/app-{{sys.argv[2]}}:{{n}}", manifest(b"a layer"))
    store.write_index()
print(store.layout.index.read_text().count('"digest"'))
"""


def test_several_processes_write_it(store: Store, pulls: Pulls) -> None:
    pulls.image("team/app", b"a layer")
    with process(WRITER, store.root, 1) as one, process(WRITER, store.root, 2) as two:
        tell(one)
        tell(two)
        assert int(finish(one)) >= 20
        assert int(finish(two)) >= 20
    found = {f"docker.io/team/app-{who}:{n}" for who in (1, 2) for n in range(20)}
    assert sorted(listed(store)) == sorted(found | {"docker.io/team/app:latest"})
    assert not store.write_index()


HOLDER = f"""
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("{READY}", flush=True)
sys.stdin.readline()
"""


def test_the_lock_of_a_process_that_was_killed_holds_nobody_up(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    with process(HOLDER, store.layout.ours / "index.lock") as holder:
        holder.kill()
        holder.wait()
        assert store.write_index()


def test_a_stored_blob_of_the_other_algorithm_counts(store: Store, pulls: Pulls) -> None:
    layer = put(store, b"a layer", "sha512")
    content = json.loads(manifest(b"a layer"))
    content["layers"][0]["digest"] = str(layer)
    pulls.passed("alpine", json.dumps(content).encode())
    pulls.blobs(b"{}")
    assert store.write_index()
