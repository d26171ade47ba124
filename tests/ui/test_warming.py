"""Images that are pulled into the store without a client: what is fetched, and what stands in the way."""

import asyncio
import json
from collections.abc import Iterable

import pytest

from addon.parts import Parts
from addon.registry.digest import Digest
from addon.registry.reference import Reference
from addon.ui.warming import ALL, FETCHED, STORED, Part

from ..doubles import HUB, digest_of
from ..hub import Hub
from ..store.blobs import read
from ..store.pulled import index, manifest
from .warmed import AMD64, ARM64, NAME, REPOSITORY, SlowHub, Start, Warm, asked, image, stored, until

CONFIG, BASE, LAYER = b"{}", b"base" * 100, b"layer" * 200
"""The blobs of most images here."""


# What is fetched.


async def test_an_image_of_one_platform(warm: Warm, hub: Hub, parts: Parts) -> None:
    digest = image(hub, "3.20", BASE, LAYER)
    warmed = await warm(f"{NAME}:3.20")
    # It is what it is, whatever the platform.
    assert (warmed.platforms, warmed.size, warmed.fetched) == ([], 2 + 400 + 1000, 1402)
    assert [part.note for part in warmed.parts] == [FETCHED] * 3
    assert [part.received for part in warmed.parts] == [2, 400, 1000]
    for content in (CONFIG, BASE, LAYER):
        assert read(parts.store, digest_of(content)) == content
        assert parts.store.provenance.belongs(HUB, REPOSITORY, digest_of(content))
    assert warm.asked() == ["token", "manifests 3.20", *asked("blobs", CONFIG, BASE, LAYER)]
    assert parts.verdicts.may_pull(HUB, REPOSITORY, "anonymous")
    # It is a whole image of the layout, which other programs can read.
    assert stored(parts, digest)
    parts.store.write_index()
    listed = json.loads((parts.store.root / "index.json").read_text())["manifests"]
    assert [each["digest"] for each in listed] == [str(digest)]


async def test_the_second_time_the_manifest_alone_is_asked_for(warm: Warm, hub: Hub, parts: Parts) -> None:
    image(hub, "3.20", BASE)
    await warm(f"{NAME}:3.20")
    warm.asked()
    again = await warm(f"{NAME}:3.20")
    assert [(part.note, part.received) for part in again.parts] == [(STORED, 2), (STORED, 400)]
    assert again.fetched == 0
    # That is a use like any other.
    parts.store.flush()
    uses = {entry.digest: entry.uses for entry in parts.store.inventory.entries()}
    assert uses[digest_of(BASE)] == uses[digest_of(CONFIG)] == 1
    # The registry knows whether the tag has moved.
    assert warm.asked() == ["manifests 3.20"]


async def test_a_tag_that_moved(warm: Warm, hub: Hub, parts: Parts) -> None:
    image(hub, "latest", BASE, b"old")
    await warm(NAME)
    warm.asked()
    new = image(hub, "latest", BASE, b"new")
    warmed = await warm(NAME)
    assert [part.note for part in warmed.parts] == [STORED, STORED, FETCHED]
    assert warmed.fetched == 3
    assert warm.asked() == ["manifests latest", *asked("blobs", b"new")]
    assert [found.descriptor.digest for found in parts.store.images.find(Reference.parse(NAME))] == [new]


async def test_an_image_by_its_digest(warm: Warm, hub: Hub) -> None:
    digest = image(hub, "3.20", BASE)
    warmed = await warm(f"{NAME}@{digest}")
    assert str(warmed.reference) == f"docker.io/library/alpine@{digest}"
    assert warm.asked()[:2] == ["token", f"manifests {digest}"]


@pytest.mark.parametrize("content", [b"", b"x", b"y" * 100_000])
async def test_layers_of_all_lengths(warm: Warm, hub: Hub, parts: Parts, content: bytes) -> None:
    image(hub, "latest", content)
    await warm(NAME)
    assert read(parts.store, digest_of(content)) == content


async def test_a_layer_that_stands_twice_is_fetched_once(warm: Warm, hub: Hub) -> None:
    image(hub, "latest", BASE, LAYER, BASE, CONFIG)
    warmed = await warm(NAME)
    assert len(warmed.parts) == 3
    assert warm.asked()[2:] == asked("blobs", CONFIG, BASE, LAYER)


async def test_progress_is_told(warm: Warm, hub: SlowHub) -> None:
    image(hub, "latest", BASE, LAYER)
    hub.hold(LAYER)
    told: list[tuple[Digest, int, str]] = []

    def watch(part: Part) -> None:
        told.append((part.descriptor.digest, part.received, part.note))

    warming = asyncio.create_task(warm(NAME, watch=watch))
    question = await hub.held()
    blobs = [digest_of(content) for content in (CONFIG, BASE, LAYER)]
    # First of all how much there is to come.
    assert told[:3] == [(digest, 0, "") for digest in blobs]
    question.begin(200, Content_Length="1000")
    question.send(LAYER[:300])
    await until(lambda: (blobs[2], 300, "") in told)
    question.send(LAYER[300:])
    question.finish()
    await warming
    for digest, size in zip(blobs, (2, 400, 1000), strict=True):
        assert [line for line in told if line[0] == digest][-1] == (digest, size, FETCHED)


# Indexes.


@pytest.fixture
def platforms(hub: Hub) -> dict[str, Digest]:
    """An image for two platforms, with an attestation; the digests of what it lists."""
    each = {
        "linux_amd64": manifest(BASE, b"amd64", config=b"1"),
        "linux_arm64": manifest(BASE, b"arm64", config=b"2"),
        "unknown_unknown": manifest(b"attested", config=b"3"),
    }
    hub.tag(REPOSITORY, "latest", index(**each))
    for blob in (BASE, b"amd64", b"arm64", b"attested", b"1", b"2", b"3"):
        hub.push(REPOSITORY, blob)
    return {name: hub.push(REPOSITORY, content) for name, content in each.items()}


@pytest.mark.parametrize(
    ("chosen", "found", "blobs"),
    [
        ([AMD64], [AMD64], [b"1", BASE, b"amd64"]),
        ([ARM64], [ARM64], [b"2", BASE, b"arm64"]),
        (["linux/arm64/v8"], [ARM64], [b"2", BASE, b"arm64"]),
        ([AMD64, AMD64], [AMD64], [b"1", BASE, b"amd64"]),
        ([ARM64, AMD64], [ARM64, AMD64], [b"2", BASE, b"arm64", b"1", b"amd64"]),
        ([ALL], [AMD64, ARM64, "unknown/unknown"], [b"1", BASE, b"amd64", b"2", b"arm64", b"3", b"attested"]),
        ([ARM64, ALL], [ARM64, AMD64, "unknown/unknown"], [b"2", BASE, b"arm64", b"1", b"amd64", b"3", b"attested"]),
    ],
    ids=lambda value: "+".join(str(each) for each in value if isinstance(each, str)),
)
async def test_an_image_for_several_platforms(
    warm: Warm, platforms: dict[str, Digest], chosen: list[str], found: list[str], blobs: Iterable[bytes]
) -> None:
    warmed = await warm(NAME, *chosen)
    assert warmed.platforms == found
    assert [part.descriptor.digest for part in warmed.parts] == [digest_of(blob) for blob in blobs]
    manifests = [f"manifests {platforms[platform.replace('/', '_')]}" for platform in found]
    # What two platforms share is fetched once.
    assert warm.asked() == ["token", "manifests latest", *manifests, *asked("blobs", *blobs)]


@pytest.mark.usefixtures("platforms")
@pytest.mark.parametrize("chosen", [["linux/s390x"], [AMD64, "linux/s390x"]], ids=" ".join)
async def test_a_platform_that_is_not_there(warm: Warm, chosen: list[str]) -> None:
    assert await warm.failing(NAME, *chosen) == (
        "docker.io/library/alpine:latest is not there for linux/s390x; there are linux/amd64, linux/arm64"
    )
    # Nor is the one that is.
    assert warm.asked() == ["token", "manifests latest"]


async def test_an_index_without_platforms(warm: Warm, hub: Hub) -> None:
    content = manifest(BASE)
    hub.tag(REPOSITORY, "latest", index(unknown_unknown=content))
    assert (
        await warm.failing(NAME) == "docker.io/library/alpine:latest is not there for linux/amd64; it names no platform"
    )
    hub.push(REPOSITORY, content)
    hub.push(REPOSITORY, BASE)
    hub.push(REPOSITORY, CONFIG)
    assert (await warm(NAME, ALL)).size == len(CONFIG + BASE)


async def test_an_index_of_indexes(warm: Warm, hub: Hub) -> None:
    one, two = manifest(b"amd64"), manifest(b"arm64")
    # The same manifest may stand twice.
    below = index(linux_amd64=one, linux_arm64=two, linux_386=one)
    for content in (below, one, two, CONFIG, b"amd64", b"arm64"):
        hub.push(REPOSITORY, content)
    hub.tag(REPOSITORY, "latest", index(unknown_unknown=below))
    warmed = await warm(NAME, ALL)
    assert [part.descriptor.digest for part in warmed.parts] == [digest_of(b) for b in (CONFIG, b"amd64", b"arm64")]
    manifests = [f"manifests {digest_of(content)}" for content in (below, one, two)]
    assert warm.asked() == ["token", "manifests latest", *manifests, *asked("blobs", CONFIG, b"amd64", b"arm64")]


# Blobs that are there.


@pytest.fixture
async def elsewhere(hub: Hub, parts: Parts) -> None:
    """The image's blobs are stored, as those of another repository; the tag stands for the same ones here."""
    image(hub, "latest", BASE, LAYER, repository="other/copy")
    await Warm(hub, parts)("other/copy")
    image(hub, "latest", BASE, LAYER)
    hub.asked()


@pytest.mark.usefixtures("elsewhere")
async def test_those_of_another_repository_are_asked_about(warm: Warm, parts: Parts) -> None:
    warm.asked()
    warmed = await warm(NAME)
    assert [part.note for part in warmed.parts] == [STORED] * 3
    assert warm.asked() == ["token", "manifests latest", *asked("HEAD blobs", CONFIG, BASE, LAYER)]
    # From now on it is known that they are in this one.
    assert parts.store.provenance.belongs(HUB, REPOSITORY, digest_of(LAYER))
    await warm(NAME)
    assert warm.asked() == ["manifests latest"]


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_nor_are_they_given_to_who_may_not_read_them_here(
    warm: Warm, hub: Hub, parts: Parts, status: int
) -> None:
    hub.refused[str(digest_of(LAYER))] = status
    assert f"answered {status} to {digest_of(LAYER).short})" in await warm.failing(NAME)
    assert not parts.store.provenance.belongs(HUB, REPOSITORY, digest_of(LAYER))


@pytest.mark.usefixtures("elsewhere")
async def test_those_of_another_registry_are_fetched(warm: Warm, hub: Hub) -> None:
    image(hub, "latest", BASE, LAYER, repository="owner/app")
    warm.asked()
    warmed = await warm("ghcr.io/owner/app")
    assert [part.note for part in warmed.parts] == [FETCHED] * 3
    assert "HEAD" not in " ".join(warm.asked())


async def test_what_an_operator_put_there_is_asked_about(warm: Warm, hub: Hub, parts: Parts) -> None:
    image(hub, "latest", BASE)
    path = parts.store.path(digest_of(BASE))
    path.write_bytes(BASE)
    assert [part.note for part in (await warm(NAME)).parts] == [FETCHED, STORED]
    assert asked("HEAD blobs", BASE)[0] in warm.asked()
    assert path.read_bytes() == BASE


async def test_a_blob_that_turned_bad_is_fetched_anew(warm: Warm, hub: Hub, parts: Parts) -> None:
    image(hub, "latest", BASE, LAYER)
    await warm(NAME)
    warm.asked()
    # As another program does: its time tells that nobody has looked at it since.
    parts.store.path(digest_of(LAYER)).write_bytes(b"rotten" * 200)
    parts.store.path(digest_of(BASE)).touch()
    assert [part.note for part in (await warm(NAME)).parts] == [STORED, STORED, FETCHED]
    assert warm.asked() == ["manifests latest", *asked("blobs", LAYER)]
    assert read(parts.store, digest_of(LAYER)) == LAYER
    assert [path.read_bytes() for path in parts.store.layout.quarantine.iterdir()] == [b"rotten" * 200]


# What stands in the way.


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        ("quay.io/a/b", "quay.io"),
        ("ghcr.io:5000/a/b", "ghcr.io:5000"),
        ("[2001:db8::1]:5000/a/b", "[2001:db8::1]:5000"),
    ],
)
async def test_a_registry_whose_blobs_are_not_kept(warm: Warm, name: str, registry: str) -> None:
    assert await warm.failing(name) == f"{registry} is not among registry_hosts: its blobs are not kept"
    assert not warm.asked()


@pytest.mark.parametrize("host", ["ghcr.io:5000", "[2001:db8::1]", "[2001:db8::1]:5000"])
async def test_a_registry_at_a_port_of_its_own(hub: SlowHub, host: str, start: Start) -> None:
    parts = start(hosts=[host])
    image(hub, "latest", BASE, repository="a/b")
    hub.token = "nobody"
    warm = Warm(hub, parts)
    assert await warm.failing(f"{host}/a/b")
    assert warm.asked()


LOGIN = "it is not there, or needs a login, which registry_docker_config names"
REFUSALS = {
    401: f"{LOGIN} (registry-1.docker.io answered 401 to {{}})",
    403: "this account may not pull it (registry-1.docker.io answered 403 to {})",
    404: "it is not there (registry-1.docker.io answered 404 to {})",
    429: "the registry limits pulls; try again in 7 s (registry-1.docker.io answered 429 to {})",
    500: "registry-1.docker.io answered 500 to {}",
}


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_manifest_that_is_refused(warm: Warm, hub: Hub, parts: Parts, status: int) -> None:
    digest = image(hub, "latest", BASE)
    hub.refused = {"latest": status, str(digest): status}
    for name, what in ((NAME, "latest"), (f"{NAME}@{digest}", str(digest))):
        said = await warm.failing(name)
        assert said == f"{Reference.parse(name)}: {REFUSALS[status].format(what)}"
    assert not parts.store.inventory.digests()


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_blob_that_is_refused(warm: Warm, hub: Hub, parts: Parts, status: int) -> None:
    image(hub, "latest", BASE, LAYER)
    hub.refused[str(digest_of(BASE))] = status
    said = REFUSALS[status].format(digest_of(BASE).short)
    assert await warm.failing(NAME) == f"docker.io/library/alpine:latest: {said}"
    # What can be had is kept.
    assert read(parts.store, digest_of(LAYER)) == LAYER
    hub.refused.clear()
    assert [part.note for part in (await warm(NAME)).parts] == [STORED, FETCHED, STORED]


async def test_a_repository_of_others(warm: Warm, hub: Hub) -> None:
    image(hub, "latest", BASE)
    hub.private[REPOSITORY] = {"owner"}
    assert "needs a login" in await warm.failing(NAME)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a manifest: Expecting value"),
        (b"<html>", "not a manifest: Expecting value"),
        (b"{}", "not a manifest: it names neither blobs nor manifests"),
        (b"[" * 100_000, "not a manifest: "),
    ],
    ids=["nothing", "a page", "neither", "deep"],
)
async def test_a_manifest_that_is_none(warm: Warm, hub: Hub, parts: Parts, content: bytes, why: str) -> None:
    hub.tag(REPOSITORY, "latest", content)
    assert (await warm.failing(NAME)).startswith(f"docker.io/library/alpine:latest: {why}")
    assert not parts.store.inventory.digests()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_another_manifest_than_the_digest_names(warm: Warm, hub: Hub, parts: Parts, algorithm: str) -> None:
    right, wrong = manifest(BASE), manifest(LAYER)
    digest = digest_of(right, algorithm)
    hub.blobs[REPOSITORY, str(digest)] = wrong
    said = f"docker.io/library/alpine@{digest}: the registry gave another manifest than {digest}"
    assert await warm.failing(f"{NAME}@{digest}") == said
    # One that an index lists is no better.
    hub.tag(REPOSITORY, "latest", index(linux_amd64=right))
    hub.blobs[REPOSITORY, str(digest_of(right))] = wrong
    assert "another manifest than" in await warm.failing(NAME)
    assert str(digest_of(wrong)) not in parts.store.inventory.digests()
    for content in (BASE, CONFIG):
        hub.push(REPOSITORY, content)
    hub.blobs[REPOSITORY, str(digest)] = right
    assert len((await warm(f"{NAME}@{digest}")).parts) == 2


async def test_a_blob_that_is_another_one(warm: Warm, hub: Hub, parts: Parts) -> None:
    image(hub, "latest", BASE, LAYER)
    hub.blobs[REPOSITORY, str(digest_of(LAYER))] = LAYER[::-1]
    said = await warm.failing(NAME)
    assert said.startswith(f"docker.io/library/alpine:latest: blob {digest_of(LAYER).short}: ")
    assert not stored(parts, digest_of(LAYER))
    assert stored(parts, digest_of(BASE))
    assert not list(parts.store.layout.ingests.iterdir())


async def test_the_network_is_down(warm: Warm, hub: Hub) -> None:
    image(hub, "latest", BASE)
    hub.failing = 502
    assert await warm.failing(NAME) == "docker.io/library/alpine:latest: no route to host"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (503, "the token service auth.docker.io failed (503)"),
        (429, "the token service auth.docker.io limits requests (429)"),
        (401, f"{LOGIN} (registry-1.docker.io answered 401 to latest)"),
    ],
)
async def test_the_token_service_gives_none(warm: Warm, hub: Hub, status: int, said: str) -> None:
    image(hub, "latest", BASE)
    hub.token_status = status
    assert await warm.failing(NAME) == f"docker.io/library/alpine:latest: {said}"
