"""`./run.sh store …`, and the same in mitmproxy's prompt: what people type, and what becomes of the store."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..standin import Fault, Hub
from .beside import Beside, Done
from .clients.raw import Raw
from .conftest import StartProxy
from .programs import eventually
from .proxies import Pulltap
from .stores import fill, flip, indexed, is_open, quarantined, small, stored, wait_until_stored

MIB = 1024 * 1024
KIB = 1024
USAGE = 2


@pytest.fixture(scope="module")
def proxy(docker_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulltap]:
    """Pulltap as shipped, beside which most of these commands run; each test brings images of its own."""
    pulltap = Pulltap(tmp_path_factory.mktemp("commands") / "proxy", docker_hub)
    yield pulltap
    pulltap.stop()
    assert not pulltap.trouble(), pulltap.trouble()


@pytest.fixture
def beside(hub: Hub, proxy: Pulltap) -> Beside:
    return Beside.of(proxy, hub)


def listed(beside: Beside) -> dict[str, Any]:
    """What `ls --json` says of images, by name."""
    done = beside.store("ls", "--json")
    assert (done.status, done.err) == (0, "")
    return {image["name"]: image for image in json.loads(done.out)["images"]}


def numbers(beside: Beside) -> dict[str, Any]:
    """What `stats --json` says."""
    done = beside.store("stats", "--json")
    assert (done.status, done.err) == (0, "")
    content = json.loads(done.out)
    assert isinstance(content, dict)
    return content


def blobs(beside: Beside) -> set[str]:
    """The digests of all files in the places of blobs."""
    return {f"{path.parent.name}:{path.name}" for path in (beside.store_path / "blobs").glob("*/*")}


def size(beside: Beside) -> int:
    """Bytes of all of those."""
    return sum(path.stat().st_size for path in (beside.store_path / "blobs").glob("*/*"))


# --- what there is ---


def test_images_are_listed_with_what_is_stored_of_each_platform(hub: Hub, proxy: Pulltap, beside: Beside) -> None:
    one, both = small(hub, "listed-one"), small(hub, "listed-both", index=True)
    fill(hub, proxy, one, both)
    done = beside.store("ls")
    assert (done.status, done.err) == (0, "")
    head, *rows, total = done.out.splitlines()
    assert re.split(r"  +", head) == ["IMAGE", "PLATFORM", "STORED", "SIZE", "LAST USED"]
    row = next(row for row in rows if "listed-both" in row)
    assert re.fullmatch(r"docker\.io/library/listed-both:latest +linux/\w+ +3/3 +[\d.]+ KiB +\d+ s ago", row)
    assert re.fullmatch(rf"\d+ blobs, [\d.]+ [KM]iB in {re.escape(str(proxy.store))}", total)
    image = listed(beside)["docker.io/library/listed-both:latest"]
    assert (image["registry"], image["repository"], image["reference"]) == (
        hub.names.registry,
        "library/listed-both",
        "latest",
    )
    assert (image["digest"], image["pinned"]) == (both.manifest.digest, False)
    sizes = [blob.size for blob in (both.manifest, both.platform, *both.blobs)]
    assert image["size"] == sum(sizes)
    (platform,) = image["platforms"]
    assert (platform["digest"], platform["blobs"], platform["missing"]) == (both.platform.digest, 3, [])
    # Taken away by hand: it shows.
    stored(proxy, both.layers[1]).unlink()
    (platform,) = listed(beside)["docker.io/library/listed-both:latest"]["platforms"]
    assert platform["missing"] == [both.layers[1].digest]
    assert re.search(r"listed-both:latest +linux/\w+ +2/3 ", beside.store("ls").out)


def test_blobs_are_listed_with_their_repositories_and_uses(hub: Hub, proxy: Pulltap, beside: Beside) -> None:
    image = small(hub, "used-twice")
    fill(hub, proxy, image)
    fill(hub, proxy, image)
    layer = image.layers[1]
    content = json.loads(beside.store("ls", "--json").out)
    assert content["store"] == str(proxy.store)
    entry = next(each for each in content["blobs"] if each["digest"] == layer.digest)
    assert (entry["size"], entry["repositories"]) == (layer.size, ["docker.io/library/used-twice"])
    done = beside.store("ls", "--blobs")
    assert done.status == 0
    short = layer.digest[: len("sha256:") + 12]
    assert re.search(rf"{short} +[\d.]+ KiB +\d+ s ago +\d+ +docker\.io/library/used-twice$", done.out, re.MULTILINE)
    # Nothing is folded, and nothing ends in spaces, where a program reads along.
    assert not [line for line in done.out.splitlines() if line != line.rstrip()]


def test_the_numbers_agree_with_what_was_done(hub: Hub, start_proxy: StartProxy) -> None:
    proxy = start_proxy({"registry_store_max_size": "300m"})
    beside, image = Beside.of(proxy, hub), small(hub, "counted")
    assert beside.store("gc") == Done(0, "There is nothing to remove.\n", "")
    fill(hub, proxy, image)
    fill(hub, proxy, image)
    proxy.stop()
    found = numbers(beside)
    sizes = [blob.size for blob in image.blobs]
    assert (found["blobs"], found["images"]) == (len(sizes) + 1, 1)
    assert found["blob_bytes"] == sum(sizes) + image.manifest.size
    assert (found["limit_bytes"], found["bad"]) == (300 * MIB, 0)
    assert (found["misses"], found["upstream_bytes"]) == (len(sizes), sum(sizes))
    assert (found["hits"], found["hit_bytes"]) == (len(sizes), sum(sizes))
    shown = beside.store("stats").out
    assert re.search(r"^hits +3, 50% of 6$", shown, re.MULTILINE)
    assert re.search(r"^limit +300\.0 MiB, and 1\.0 GiB of the disk stay free$", shown, re.MULTILINE)


# --- whether it is good ---


def test_a_bad_blob_is_found_told_and_fetched_anew(hub: Hub, proxy: Pulltap, beside: Beside) -> None:
    good, spoilt = small(hub, "good"), small(hub, "spoilt")
    fill(hub, proxy, good, spoilt)
    done = beside.store("verify", "good", f"spoilt@{spoilt.manifest.digest}")
    assert (done.status, done.err) == (0, "")
    assert done.out == "8 blobs, all good\n"
    bad = flip(stored(proxy, spoilt.layers[1]))
    done = beside.store("verify", "spoilt")
    assert done.status == 1
    told, total = done.out.splitlines()
    where = f"{proxy.store}/pulltap/quarantine"
    assert told == f"bad: {spoilt.layers[1].digest}; it went to {where}, and is fetched anew by the next pull"
    assert total == "1 blob bad, 3 good"
    (aside,) = quarantined(proxy, spoilt.layers[1])
    assert aside.read_bytes() == bad
    # The running proxy has noticed, and the next pull puts it right.
    fill(hub, proxy, spoilt)
    assert beside.store("verify", spoilt.layers[1].digest).out == "1 blob, all good\n"
    assert beside.store("verify", "good").out == "4 blobs, all good\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("verify", "nowhere"), "no image 'nowhere' and no blob of that digest is in the store"),
        (("verify", "sha256:0123456789"), "no blob sha256:0123456789 is in the store"),
        (("rm", "--yes", "Not/A/Name"), "no image: 'Not/A/Name'"),
        (("pin", "good:tag:twice"), "no image: 'good:tag:twice'"),
        (("gc", "--to", "much", "--yes"), "'much' is no size; write 50g, or 500m"),
        (("polish",), "invalid choice: 'polish'"),
        (("rm",), "IMAGE|DIGEST"),
        ((), "ACTION"),
    ],
)
def test_what_makes_no_sense_is_refused(beside: Beside, words: tuple[str, ...], complaint: str) -> None:
    done = beside.store(*words)
    assert (done.status, done.out) == (USAGE, "")
    assert complaint in done.err
    assert "Traceback" not in done.err


# --- what goes, and what stays ---


def test_an_image_goes_with_what_is_its_own(hub: Hub, start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    beside = Beside.of(proxy, hub)
    # The first layers are the same in both.
    gone, kept = small(hub, "gone", 1000, 200_000, seed=1), small(hub, "kept", 1000, 300_000, seed=1)
    assert gone.layers[0] == kept.layers[0]
    fill(hub, proxy, gone, kept)
    refused = beside.store("rm", "gone")
    assert refused.status == USAGE
    assert "nothing was removed: there is no terminal to ask at; add --yes" in refused.err
    assert blobs(beside) >= {blob.digest for blob in gone.blobs}
    # Right after the pull: nobody seems to read it any more.
    done = beside.store("rm", "--yes", "gone")
    assert (done.status, done.err) == (0, "")
    *plan, said = done.out.splitlines()
    short = {blob: f"{blob.digest[:19]}" for blob in (gone.manifest, *gone.blobs)}
    assert plan[:2] == ["This is removed:", f"  docker.io/library/gone:latest ({short[gone.manifest]})"]
    own = {gone.manifest, gone.config, gone.layers[1]}
    assert {line.split()[1].rstrip(",") for line in plan if line.startswith("  blob ")} == {short[blob] for blob in own}
    assert plan[-1] == "  (1 blob more will stay, since other images have them, too)"
    assert re.fullmatch(r"3 blobs, [\d.]+ KiB went", said)
    assert blobs(beside) == {blob.digest for blob in (kept.manifest, *kept.blobs)}
    assert indexed(beside.store_path).keys() == {"docker.io/library/kept:latest"}
    # The running proxy knows it, and fetches it again.
    hub.clear()
    fill(hub, proxy, gone)
    assert hub.count(host=hub.names.cdn, method="GET") == 2
    # One blob, by the beginning of its digest.
    done = beside.store("rm", "--yes", gone.layers[1].digest[:16])
    assert done.status == 0
    assert gone.layers[1].digest not in blobs(beside)
    # And with no proxy at all.
    proxy.stop()
    assert beside.store("rm", "--yes", "gone", "kept").status == 0
    assert not blobs(beside)
    assert not indexed(beside.store_path)


def test_a_blob_that_is_being_read_stays_until_it_is_not(hub: Hub, proxy: Pulltap, beside: Beside) -> None:
    image = small(hub, "read", 48 * MIB)
    fill(hub, proxy, image)
    (layer,) = image.layers
    slow = Raw(proxy.port, proxy.ca).open("GET", hub.url(image.blob_path(layer)))
    slow.read(MIB)
    done = beside.store("rm", "--yes", "read")
    assert done.status == 1
    assert f"blob {layer.digest[:19]} stays: it is being read just now" in done.out
    rest = slow.rest()
    assert rest.whole
    assert len(rest.body) == layer.size - MIB
    slow.close()
    assert blobs(beside) >= {layer.digest}
    eventually(lambda: not is_open(proxy, stored(proxy, layer)), "the end of its reader")
    assert beside.store("rm", "--yes", layer.digest).status == 0
    assert layer.digest not in blobs(beside)


def test_the_store_is_made_small_but_what_is_pinned_stays(hub: Hub, start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    beside = Beside.of(proxy, hub)
    images = [small(hub, f"sized-{number}", 400 * KIB) for number in range(4)]
    done = beside.store("pin", "sized-0", "never-pulled")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"docker.io/library/{name}:latest is pinned; it has not been pulled yet: ./run.sh warm fetches it"
        for name in ("sized-0", "never-pulled")
    ]
    fill(hub, proxy, *images)
    assert re.search(r"sized-0:latest .* pinned$", beside.store("ls").out, re.MULTILINE)
    done = beside.store("gc", "--to", "1m", "--yes")
    assert (done.status, done.err) == (0, "")
    assert re.search(r"^  [\d.]+ KiB or more of blobs, those of least use first$", done.out, re.MULTILINE)
    assert size(beside) <= MIB
    assert {blob.digest for blob in (images[0].manifest, *images[0].blobs)} <= blobs(beside)
    # It cannot become smaller than what is pinned; then nothing goes at all.
    before = blobs(beside)
    done = beside.store("gc", "--to", "100k", "--yes")
    assert done.status == 1
    assert "the store cannot be made as small as 102400 bytes, and what may go does not suffice" in done.err
    assert blobs(beside) == before
    done = beside.store("unpin", "sized-0", "sized-1")
    assert done.status == 1
    assert done.out.splitlines() == [
        "docker.io/library/sized-0:latest may go again",
        "docker.io/library/sized-1:latest was not pinned",
    ]
    assert beside.store("gc", "--to", "100k", "--yes").status == 0
    assert size(beside) <= 100 * KIB


def test_what_is_of_no_use_goes_and_what_is_on_its_way_stays(hub: Hub, start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    beside, raw = Beside.of(proxy, hub), Raw(proxy.port, proxy.ca)
    image, loose = small(hub, "of-use"), hub.push_blob("library/loose", b"nobody's" * 1000)
    fill(hub, proxy, image)
    assert raw.request("GET", hub.url(f"/v2/library/loose/blobs/{loose.digest}")).whole
    wait_until_stored(proxy, loose)
    flip(stored(proxy, image.layers[1]))
    assert beside.store("verify").status == 1
    left = proxy.store / "pulltap" / "ingest" / f"sha256-{'0' * 64}.0123456789abcdef"
    left.write_bytes(bytes(5000))
    coming = hub.push_blob("library/loose", bytes(3 * MIB))
    fault = hub.faults.add(Fault(host=hub.names.cdn, stall_after=2 * MIB))
    slow = raw.open("GET", hub.url(f"/v2/library/loose/blobs/{coming.digest}"))
    slow.read(MIB)
    done = beside.store("gc", "--unreferenced", "--yes")
    assert (done.status, done.err) == (0, "")
    assert re.search(r"^  200\.0 KiB of bad blobs$", done.out, re.MULTILINE)
    assert re.search(r"^  1 blob of no known image, 7\.8 KiB$", done.out, re.MULTILINE)
    assert not left.exists()
    assert not list((proxy.store / "pulltap" / "quarantine").iterdir())
    assert loose.digest not in blobs(beside)
    # Whoever is being served notices nothing.
    fault.release.set()
    assert slow.rest().body == bytes(2 * MIB)
    assert blobs(beside) >= {image.manifest.digest, image.config.digest, image.layers[0].digest}


# --- a store that cannot be used, a config that means nothing ---


def test_trouble_is_told_in_a_line(hub: Hub, tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "holiday.jpg").touch()
    done = Beside.alone(tmp_path / "a", hub, {"registry_store": str(occupied)}).store("ls")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"run.sh store: {occupied} is no store: it holds 'holiday.jpg', but no oci-layout")
    done = Beside.alone(tmp_path / "b", hub, {"registry_stor": "x", "registry_access": 7}).store("ls")
    assert (done.status, done.out) == (1, "")
    assert re.search(r"config\.yaml:\d+: .*registry_stor\b", done.err)
    assert "registry_access" in done.err
    assert "Traceback" not in done.err
