"""Manifests and indexes, read for what they name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.registry.digest import Digest
from addon.registry.manifest import INDEX, MANIFEST, Descriptor, Manifest, parse

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest(letter: str, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{letter * {'sha256': 64, 'sha512': 128}.get(algorithm, 8)}"


def entry(letter: str, size: Any = 1, media_type: Any = LAYER, **more: Any) -> dict[str, Any]:
    return {"digest": digest(letter), "size": size, "mediaType": media_type, **more}


def read(**fields: Any) -> Manifest:
    return parse(json.dumps({"schemaVersion": 2, **fields}).encode())


def listed(*platforms: dict[str, Any] | None) -> Manifest:
    """An index of manifests for these platforms, whose digests are a, b, c and so on."""
    letters = "abcdef"
    return read(
        manifests=[
            entry(letter, 1, MANIFEST, **({} if platform is None else {"platform": platform}))
            for letter, platform in zip(letters, platforms, strict=False)
        ]
    )


def on(os: Any, architecture: Any, variant: Any = None) -> dict[str, Any]:
    return {"os": os, "architecture": architecture} | ({"variant": variant} if variant is not None else {})


# Manifests.


@pytest.mark.parametrize("media_type", [MANIFEST, DOCKER_MANIFEST])
def test_a_manifest_names_its_config_and_its_layers(media_type: str) -> None:
    found = read(mediaType=media_type, config=entry("a", 7, "application/x"), layers=[entry("b", 8), entry("c", 0)])
    assert found == Manifest(
        media_type,
        (
            Descriptor(Digest.parse(digest("a")), 7, "application/x"),
            Descriptor(Digest.parse(digest("b")), 8, LAYER),
            Descriptor(Digest.parse(digest("c")), 0, LAYER),
        ),
    )


def test_oci_lets_the_media_type_be_left_out() -> None:
    assert read(config=entry("a")).media_type == MANIFEST
    assert listed(None).media_type == INDEX
    assert read(config=entry("a"), mediaType=7).media_type == MANIFEST


def test_an_artifact_is_a_manifest() -> None:
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest("e"), "size": 2, "data": "e30="}
    found = read(artifactType="application/x", config=empty, layers=[entry("a", 3, "text/plain")], subject=entry("b"))
    # Its subject is another image.
    assert [blob.digest.encoded[0] for blob in found.blobs] == ["e", "a"]


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    ],
)
def test_layers_that_no_registry_holds_are_left_out(media_type: str) -> None:
    found = read(config=entry("a"), layers=[entry("b", 1, media_type), entry("c")])
    assert [blob.digest.encoded[0] for blob in found.blobs] == ["a", "c"]
    assert read(layers=[entry("b", 1, media_type)]).blobs == ()


def test_layers_may_be_named_by_any_algorithm() -> None:
    found = read(config=entry("a"), layers=[{"digest": digest("b", "sha512"), "size": 1}, {"digest": "x:y", "size": 1}])
    assert [(blob.digest.algorithm, blob.media_type) for blob in found.blobs][1:] == [("sha512", ""), ("x", "")]


def test_a_layer_may_stand_twice() -> None:
    assert len(read(config=entry("a"), layers=[entry("b"), entry("b")]).blobs) == 3


# Indexes.


@pytest.mark.parametrize("media_type", [INDEX, DOCKER_LIST])
def test_an_index_names_manifests(media_type: str) -> None:
    child = entry("a", 500, MANIFEST, platform=on("linux", "arm", "v7"))
    assert read(mediaType=media_type, manifests=[child]) == Manifest(
        media_type, (), (Descriptor(Digest.parse(digest("a")), 500, MANIFEST, "linux/arm/v7"),)
    )


@pytest.mark.parametrize(
    ("platform", "shown"),
    [
        (on("linux", "amd64"), "linux/amd64"),
        (on("linux", "arm64", "v8"), "linux/arm64/v8"),
        (on("linux", "arm64", ""), "linux/arm64"),
        (on("windows", "amd64") | {"os.version": "10.0.17763"}, "windows/amd64"),
        (on("unknown", "unknown"), "unknown/unknown"),
        (None, ""),
        ({}, ""),
        (on(None, None), ""),
        # Anybody may write an index, and it is shown in a terminal.
        (on("linux\x1b[31m", "amd64"), ""),
        (on("linux", "x" * 33), ""),
        (on("linux", ["amd64"]), ""),
        (on("linux", "a/b"), ""),
    ],
)
def test_platforms(platform: dict[str, Any] | None, shown: str) -> None:
    assert [each.platform for each in listed(platform).manifests] == [shown]


@pytest.mark.parametrize(
    ("platforms", "wanted", "found"),
    [
        ([on("linux", "amd64"), on("linux", "arm64")], "linux/arm64", "b"),
        ([on("linux", "amd64"), on("linux", "arm64")], "linux/s390x", None),
        ([on("linux", "amd64"), on("windows", "amd64")], "windows/amd64", "b"),
        # The very one goes before one that is more particular.
        ([on("linux", "amd64", "v3"), on("linux", "amd64")], "linux/amd64", "b"),
        ([on("linux", "amd64", "v3"), on("linux", "amd64")], "linux/amd64/v3", "a"),
        ([on("linux", "amd64", "v3")], "linux/amd64", "a"),
        ([on("linux", "amd64")], "linux/amd64/v3", None),
        ([on("linux", "arm", "v6"), on("linux", "arm", "v7")], "linux/arm/v7", "b"),
        ([on("linux", "arm", "v6"), on("linux", "arm", "v7")], "linux/arm", "a"),
        ([on("linux", "arm64")], "linux/arm64/v8", "a"),
        ([on("linux", "arm64", "v8")], "linux/arm64", "a"),
        ([on("linux", "arm")], "linux/arm64", None),
        ([on("linux", "arm64")], "linux/arm", None),
        ([None, on("linux", "amd64")], "linux/amd64", "b"),
        # The first of several, as clients choose.
        ([on("linux", "amd64"), on("linux", "amd64")], "linux/amd64", "a"),
        ([], "linux/amd64", None),
    ],
)
def test_what_is_there_for_a_platform(platforms: list[Any], wanted: str, found: str | None) -> None:
    index = listed(*platforms) if platforms else read(config=entry("a"))
    one = index.for_platform(wanted)
    assert (one.digest.encoded[0] if one else None) == found


# What is neither.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"{}",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"manifests":' * 100_000,
        b'{"manifests":[],"layers":[]}',
        b'{"manifests":7}',
        b'{"manifests":"ab"}',
        b'{"manifests":{"a":1}}',
        b'{"layers":[7]}',
        b'{"layers":["x"]}',
        b'{"config":"x"}',
        # An image's config has fields of the same names.
        b'{"architecture":"amd64","config":{"Env":[]},"rootfs":{"type":"layers"}}',
        # Docker's schema 1.
        b'{"schemaVersion":1,"name":"a","fsLayers":[{"blobSum":"sha256:aa"}],"signatures":[]}',
        b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}',
    ],
)
def test_what_is_no_manifest(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not a manifest: "):
        parse(content)


@pytest.mark.parametrize(
    "wrong",
    [
        {"digest": None},
        {"digest": 7},
        {"digest": "latest"},
        {"digest": f"sha256:{'A' * 64}"},
        {"digest": "sha256:../../x"},
        {"size": None},
        {"size": "1"},
        {"size": -1},
        {"size": 1.5},
        {"size": True},
        {"size": 1 << 63},
        {"size": float("inf")},
        {"size": float("nan")},
        {"platform": "linux/amd64"},
        {"platform": ["linux"]},
    ],
)
@pytest.mark.parametrize("place", ["manifests", "layers"])
def test_one_wrong_descriptor_spoils_all(place: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^not a manifest: "):
        read(**{place: [entry("a"), entry("b") | wrong]})
    without = {key: value for key, value in entry("b").items() if key not in wrong}
    if "platform" not in wrong:
        with pytest.raises(ValueError, match=r"^not a manifest: "):
            read(**{place: [without]})


def test_the_largest_size_is_that_of_the_specification() -> None:
    assert read(config=entry("a", (1 << 63) - 1)).blobs[0].size == (1 << 63) - 1


def test_one_that_is_both_is_neither() -> None:
    with pytest.raises(ValueError, match="both blobs and manifests"):
        read(config=entry("a"), manifests=[entry("b")])


def test_an_error_is_short_and_printable() -> None:
    with pytest.raises(ValueError, match="not a manifest") as refused:
        read(layers=[entry("a", "\x1b" * 10_000)])
    assert len(str(refused.value)) < 200
    assert str(refused.value).isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(digest("a")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["digest", "size", "mediaType", "platform", "os"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["config", "layers", "manifests", "mediaType"]), json_values, max_size=4))
def test_whatever_it_is_it_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        found = read(**fields)
    except ValueError:
        return
    assert not (found.blobs and found.manifests)
    assert all(each.size >= 0 for each in (*found.blobs, *found.manifests))
