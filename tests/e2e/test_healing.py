"""Stored blobs that turn bad, in every way that a disk and a person can think of: the next pull works, by itself."""

import contextlib
import hashlib
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..standin import ACCEPT, Hub, Image, bad_sectors, watchful
from .clients.containers import Podman, Skopeo
from .clients.docker import Docker
from .clients.raw import Raw, Reply
from .conftest import StartProxy
from .programs import CommandFailed, eventually
from .proxies import Pulltap
from .stores import flip, is_whole, quarantined, stored, wait_until_stored

MIB = 1024 * 1024
SIZE = 3 * MIB + 17
REPOSITORY = "library/turning"
HIT, STORED = "pulltap; hit", "pulltap; fwd=miss; stored"


class Patient:
    """One stored blob, and what becomes of it."""

    def __init__(self, hub: Hub, proxy: Pulltap, size: int = SIZE) -> None:
        self._hub = hub
        self._proxy = proxy
        self._raw = Raw(proxy.port, proxy.ca)
        self._content = os.urandom(size)
        self.blob = hub.push_blob(REPOSITORY, self._content)
        self.url = hub.url(f"/v2/{REPOSITORY}/blobs/{self.blob.digest}")
        self.path = stored(proxy, self.blob)
        self.expect(STORED)
        wait_until_stored(proxy, self.blob)
        hub.clear()

    def head(self) -> Reply:
        return self._raw.request("HEAD", self.url)

    def get(self, *headers: tuple[str, str]) -> Reply:
        return self._raw.request("GET", self.url, headers)

    def expect(self, status: str) -> None:
        """The whole blob comes, and from there."""
        reply = self.get()
        assert (reply.status, reply.header("Cache-Status")) == (200, status)
        assert reply.whole
        assert reply.body == self._content

    def is_right(self, reply: Reply) -> bool:
        """Whether what came is how the blob begins."""
        return self._content.startswith(reply.body)

    def expect_healed(self) -> None:
        """What lies there now is the blob, and from now on it is a hit."""
        eventually(lambda: is_whole(self.path), "the commit")
        self._hub.clear()
        self.expect(HIT)
        assert not self._hub.blob_requests()
        self.expect_bad_aside()

    def expect_bad_aside(self, *contents: bytes) -> None:
        """Those are the bytes of this blob that went to quarantine."""
        found = [path.read_bytes() for path in quarantined(self._proxy, self.blob)]
        assert sorted(found) == sorted(contents) or not contents


@pytest.fixture(scope="module")
def sectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bad sectors are written down."""
    path = tmp_path_factory.mktemp("sectors") / "bad"
    path.touch()
    return path


@pytest.fixture(scope="module")
def proxy(docker_hub: Hub, sectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulltap]:
    """Pulltap as shipped, on a disk that may have bad sectors; one for all of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(bad_sectors.VARIABLE, str(sectors))
        pulltap = Pulltap(tmp_path_factory.mktemp("turning") / "proxy", docker_hub, args=["-s", bad_sectors.__file__])
    yield pulltap
    pulltap.stop()
    assert not pulltap.trouble(), pulltap.trouble()


@pytest.fixture
def patient(hub: Hub, proxy: Pulltap) -> Patient:
    return Patient(hub, proxy)


# --- bytes that turned bad ---


def test_a_flipped_bit_is_found_when_the_client_asks_again(patient: Patient, proxy: Pulltap) -> None:
    bad = flip(patient.path)
    # Nothing but the bytes shows it, so it is given out once; whoever gets it finds it wrong, and asks again.
    first = patient.get()
    assert (first.header("Cache-Status"), first.body) == (HIT, bad)
    patient.expect(STORED)
    patient.expect_healed()
    patient.expect_bad_aside(bad)
    assert proxy.log().count(f"blob {patient.blob.digest} turned bad") == 1


def test_a_part_of_it_or_its_head_is_no_second_time(patient: Patient) -> None:
    bad = flip(patient.path)
    for _ in range(2):
        assert patient.get(("Range", f"bytes=0-{SIZE - 1}")).body == bad
    assert patient.head().header("Cache-Status") == HIT
    assert patient.get().body == bad
    patient.expect(STORED)
    patient.expect_healed()


def truncated(path: Path) -> None:
    os.truncate(path, MIB)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def written_to(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"something else")


@pytest.mark.parametrize("spoil", [truncated, emptied, grown, written_to])
def test_what_shows_is_found_by_the_next_hit(patient: Patient, proxy: Pulltap, spoil: Callable[[Path], None]) -> None:
    spoil(patient.path)
    bad = patient.path.read_bytes()
    patient.expect(STORED)
    patient.expect_healed()
    patient.expect_bad_aside(bad)
    assert f"blob {patient.blob.digest} turned bad" in proxy.log()


# --- another thing in its place ---


def removed(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("of somebody's")


def link_to_itself_elsewhere(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def unreadable(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):
        listener.bind(path.name)


@pytest.mark.parametrize("replace", [removed, folder, link_to_itself_elsewhere, link_to_nowhere, pipe, unreadable])
def test_whatever_is_in_its_place_it_comes_anew(patient: Patient, replace: Callable[[Path], None]) -> None:
    replace(patient.path)
    patient.expect(STORED)
    patient.expect_healed()


def test_a_folder_is_put_away_with_what_is_in_it(patient: Patient, proxy: Pulltap) -> None:
    folder(patient.path)
    patient.expect(STORED)
    patient.expect_healed()
    (aside,) = (proxy.store / "pulltap").glob(f"{patient.blob.digest.replace(':', '-')}.*")
    assert (aside / "something").read_text() == "of somebody's"
    assert f"there was a folder; it went to {aside}" in proxy.log()


# --- a disk that fails in the midst ---


def test_a_blob_that_the_disk_fails_to_read_is_cut_and_comes_anew(
    patient: Patient, proxy: Pulltap, sectors: Path
) -> None:
    sectors.write_text(f"{patient.path.stat().st_ino} {MIB}\n")
    cut = patient.get()
    assert (cut.status, cut.whole) == (200, False)
    assert patient.is_right(cut)
    patient.expect(STORED)
    patient.expect_healed()
    assert len(quarantined(proxy, patient.blob)) == 1
    assert f"blob {patient.blob.digest} turned bad: it cannot be read" in proxy.log()


def test_a_client_that_goes_on_behind_the_cut_gets_the_rest(patient: Patient, sectors: Path) -> None:
    sectors.write_text(f"{patient.path.stat().st_ino} {MIB}\n")
    cut = patient.get()
    assert 0 < len(cut.body) < SIZE
    rest = patient.get(("Range", f"bytes={len(cut.body)}-"))
    assert (rest.status, rest.whole) == (206, True)
    assert hashlib.sha256(cut.body + rest.body).hexdigest() == patient.path.name
    patient.expect_healed()


def test_a_blob_that_shrinks_while_it_is_read_is_cut_and_comes_anew(hub: Hub, proxy: Pulltap) -> None:
    patient = Patient(hub, proxy, 48 * MIB)
    slow = Raw(proxy.port, proxy.ca).open("GET", patient.url)
    slow.read(MIB)
    os.truncate(patient.path, 40 * MIB)
    assert not slow.rest().whole
    slow.close()
    patient.expect(STORED)
    patient.expect_healed()


# --- real clients ---


def pull(client: Docker | Podman | Skopeo, image: Image) -> None:
    """Pull all of an image; what an earlier pull brought is of no use to this one."""
    if not isinstance(client, Skopeo):
        with contextlib.suppress(CommandFailed):
            client.remove(image.reference)
    client.pull(image.reference)


@pytest.mark.parametrize("name", ["docker", "podman", "skopeo"])
def test_a_flipped_bit_costs_a_client_one_pull(
    hub: Hub, proxy: Pulltap, name: str, request: pytest.FixtureRequest, sectors: Path
) -> None:
    client: Docker | Podman | Skopeo = request.getfixturevalue(name)
    image = hub.push(f"library/turning-{name}", sizes=(40_000, SIZE), seed=random.randrange(1 << 30))
    layer = stored(proxy, image.layers[1])
    pull(client, image)
    wait_until_stored(proxy, *image.blobs)
    bad = flip(layer)
    with pytest.raises(CommandFailed):
        pull(client, image)
    hub.clear()
    pull(client, image)
    # Only what was bad came anew.
    assert {record.path for record in hub.find(host=hub.names.registry, path_contains="/blobs/")} == {
        image.blob_path(image.layers[1])
    }
    eventually(lambda: is_whole(layer), "the commit")
    assert [path.read_bytes() for path in quarantined(proxy, image.layers[1])] == [bad]
    proxy.wait_for_log(f"blob {image.layers[1].digest} turned bad")
    if name == "docker":
        # A disk that fails in the midst costs Docker none: it goes on behind the cut by itself.
        sectors.write_text(f"{layer.stat().st_ino} {MIB}\n")
        pull(client, image)
        eventually(lambda: is_whole(layer), "the commit")
        assert len(quarantined(proxy, image.layers[1])) == 2


# --- without any client ---


def test_a_blob_that_nobody_asks_for_is_looked_at_all_the_same(hub: Hub, start_proxy: StartProxy) -> None:
    proxy = start_proxy(args=["-s", watchful.__file__])
    patients = [Patient(hub, proxy, size) for size in (1000, SIZE)]
    for patient in patients:
        bad = flip(patient.path)
        proxy.wait_for_log(f"blob {patient.blob.digest} turned bad")
        eventually(lambda: not patient.path.exists(), "the bad blob in quarantine")  # noqa: B023 - called at once
        patient.expect_bad_aside(bad)
        patient.expect(STORED)
        patient.expect_healed()


def test_a_manifest_that_turned_bad_is_written_down_anew(hub: Hub, proxy: Pulltap) -> None:
    image = hub.push("library/turning-manifest", sizes=(1000,), seed=1)
    raw = Raw(proxy.port, proxy.ca)

    def see() -> Reply:
        return raw.request("GET", hub.url(image.manifest_path), [ACCEPT])

    right = see().body
    path = stored(proxy, image.manifest)
    eventually(path.exists, "the manifest in the store")
    flip(path)
    # Clients get it from the registry, as ever.
    assert see().body == right
    eventually(lambda: is_whole(path), "the right manifest in the store")
