"""Which images are known, what they consist of, and which are pinned."""

from collections.abc import Callable
from pathlib import Path

import pytest

from addon.registry.digest import Digest
from addon.registry.manifest import MANIFEST, Descriptor
from addon.registry.reference import Reference
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.images import LARGEST, Images, host_of

from .blobs import digest_of, put
from .pulled import Pulls, index, manifest

HUB = "registry-1.docker.io"
AMD = manifest(b"base", b"for amd64", config=b"amd64")
ARM = manifest(b"base", b"for arm64", config=b"arm64")
BOTH = {"linux_amd64": AMD, "linux_arm64": ARM}
DAY = 24 * 3600


class Clock:
    now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pulls(store: Store) -> Pulls:
    return Pulls(store)


@pytest.fixture
def images(store: Store) -> Images:
    return store.images


def names(images: Images) -> list[str]:
    return [image.name for image in images.all()]


def known(images: Images, name: str) -> list[str]:
    return [image.name for image in images.find(Reference.parse(name))]


# What is known.


def test_tags_and_digests_that_passed_are_known(images: Images, pulls: Pulls) -> None:
    assert names(images) == []
    alpine = pulls.image("alpine:3.20", b"a layer")
    other = pulls.image(f"ghcr.io/team/app@{digest_of(manifest(b'other'))}", b"other")
    pulls.image("ghcr.io/team/app:1", b"a third")
    assert names(images) == ["ghcr.io/team/app:1", f"ghcr.io/team/app@{other}", "docker.io/library/alpine:3.20"]
    found = images.all()[-1]
    assert (found.registry, found.repository, found.reference) == (HUB, "library/alpine", "3.20")
    assert found.descriptor == Descriptor(alpine, len(manifest(b"a layer")), MANIFEST)
    assert [image.by_digest for image in images.all()] == [False, True, False]


def test_a_tag_that_moves_means_what_it_meant_last(images: Images, pulls: Pulls) -> None:
    old = pulls.image("alpine", b"old")
    new = pulls.image("alpine", b"new")
    assert [image.descriptor.digest for image in images.all()] == [new]
    # A client that asks for the digest that a HEAD of the tag told makes both known.
    pulls.image(f"alpine@{old}", b"old")
    assert names(images) == ["docker.io/library/alpine:latest", f"docker.io/library/alpine@{old}"]


def test_when_it_passed_last(store: Store) -> None:
    clock = Clock()
    images = Images(store.layout, store._catalog, clock)
    for _ in range(2):
        images.saw(HUB, "library/alpine", "3", Descriptor(digest_of(AMD), len(AMD), MANIFEST))
        assert [image.seen for image in images.all()] == [clock.now]
        clock.now += DAY


def test_what_passed_by_its_digest_within_an_image_goes_without_saying(images: Images, pulls: Pulls) -> None:
    # As docker and containerd pull: the tag's digest, then the index and the manifest by theirs.
    top = pulls.index("alpine", **BOTH)
    pulls.passed(f"alpine@{top}", index(**BOTH))
    pulls.passed(f"alpine@{digest_of(AMD)}", AMD)
    assert names(images) == ["docker.io/library/alpine:latest"]
    # But not in another repository.
    pulls.passed(f"team/app@{digest_of(AMD)}", AMD)
    assert f"docker.io/team/app@{digest_of(AMD)}" in names(images)


def test_an_index_by_digest_hides_what_it_lists(images: Images, pulls: Pulls) -> None:
    top = pulls.index(f"alpine@{digest_of(index(**BOTH))}", **BOTH)
    pulls.passed(f"alpine@{digest_of(ARM)}", ARM)
    assert names(images) == [f"docker.io/library/alpine@{top}"]


def test_images_are_found_by_tag_and_by_digest(images: Images, pulls: Pulls) -> None:
    top = pulls.index("alpine:3", **BOTH)
    pulls.passed("alpine:latest", index(**BOTH))
    assert known(images, "docker.io/library/alpine:3") == ["docker.io/library/alpine:3"]
    assert known(images, f"alpine@{top}") == ["docker.io/library/alpine:3", "docker.io/library/alpine:latest"]
    for name in ("alpine:4", "ghcr.io/library/alpine:3", "alpines:3", f"alpine@{digest_of(b'other')}"):
        assert known(images, name) == []
    # One that goes without saying can be named all the same, once it passed.
    assert known(images, f"alpine@{digest_of(AMD)}") == []
    pulls.passed(f"alpine@{digest_of(AMD)}", AMD)
    assert known(images, f"alpine@{digest_of(AMD)}") == [f"docker.io/library/alpine@{digest_of(AMD)}"]


def test_a_name_may_stand_for_two_registries(images: Images, pulls: Pulls) -> None:
    pulls.passed("localhost:5000/app", AMD)
    pulls.passed("localhost:5000/app", ARM, http=True)
    assert known(images, "localhost:5000/app") == ["localhost:5000/app:latest"] * 2


@pytest.mark.parametrize(
    ("identity", "host"),
    [
        ("ghcr.io", "ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        ("http://localhost:5000", "localhost:5000"),
        ("http://registry.example at 192.0.2.1", "registry.example"),
    ],
)
def test_the_host_of_an_identity(identity: str, host: str) -> None:
    assert host_of(identity) == host


def test_what_is_forgotten_takes_along_what_is_within_it(images: Images, pulls: Pulls) -> None:
    top = pulls.index("alpine", **BOTH)
    for name, content in ((f"alpine@{top}", index(**BOTH)), (f"alpine@{digest_of(AMD)}", AMD)):
        pulls.passed(name, content)
    pulls.passed(f"team/app@{digest_of(AMD)}", AMD)
    images.forget(images.find(Reference.parse("alpine")))
    assert names(images) == [f"docker.io/team/app@{digest_of(AMD)}"]
    images.forget([])
    assert len(names(images)) == 1


def test_what_has_not_passed_for_a_month_and_is_gone_is_forgotten(store: Store, pulls: Pulls) -> None:
    clock = Clock()
    images = Images(store.layout, store._catalog, clock)
    there, gone = put(store, AMD), digest_of(ARM)
    for tag, digest in (("there", there), ("gone", gone)):
        images.saw(HUB, "library/alpine", tag, Descriptor(digest, 1, MANIFEST))
    clock.now += 20 * DAY
    images.saw(HUB, "library/alpine", "young", Descriptor(gone, 1, MANIFEST))
    assert images.prune() == 0
    clock.now += 11 * DAY
    assert images.prune() == 1
    assert [image.reference for image in images.all()] == ["there", "young"]


# What an image consists of.


def test_all_blobs_of_an_image(images: Images, pulls: Pulls) -> None:
    pulls.index("alpine", **BOTH)
    (image,) = images.all()
    top, amd, arm = image.descriptor.digest, digest_of(AMD), digest_of(ARM)
    # As far as its manifests are stored.
    assert images.blobs_of(image) == {top, amd, arm}
    pulls.passed(f"alpine@{amd}", AMD)
    assert images.blobs_of(image) == {top, amd, arm, *map(digest_of, (b"amd64", b"base", b"for amd64"))}


def test_platforms_and_what_is_missing(images: Images, pulls: Pulls) -> None:
    top = pulls.index("alpine", **BOTH)
    (image,) = images.all()
    assert images.variants(image, lambda _: True) == []
    pulls.passed(f"alpine@{digest_of(ARM)}", ARM)
    stored = {top, *pulls.blobs(b"arm64", b"base")}
    (variant,) = images.variants(image, stored.__contains__)
    assert (variant.platform, variant.manifest.digest) == ("linux/arm64", digest_of(ARM))
    assert [blob.digest for blob in variant.blobs] == [digest_of(blob) for blob in (b"arm64", b"base", b"for arm64")]
    assert variant.missing == {digest_of(b"for arm64")}
    pulls.passed(f"alpine@{digest_of(AMD)}", AMD)
    # In the order of the index.
    assert [each.platform for each in images.variants(image, lambda _: True)] == ["linux/amd64", "linux/arm64"]


def test_an_image_without_an_index_has_one_platform_that_nobody_tells(images: Images, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    (image,) = images.all()
    (variant,) = images.variants(image, lambda _: True)
    assert (variant.platform, variant.manifest, variant.missing) == ("", image.descriptor, frozenset())


def test_an_index_may_list_indexes(images: Images, pulls: Pulls) -> None:
    inner = index(linux_amd64=AMD)
    pulls.index("alpine", linux_arm64=ARM, any_any=inner)
    for content in (inner, AMD, ARM):
        pulls.passed(f"alpine@{digest_of(content)}", content)
    (image,) = images.all()
    assert [each.platform for each in images.variants(image, lambda _: True)] == ["linux/arm64", "linux/amd64"]
    assert images.blobs_of(image) >= {digest_of(content) for content in (inner, AMD, ARM, b"for amd64", b"for arm64")}


def test_one_manifest_may_serve_two_platforms(images: Images, pulls: Pulls) -> None:
    pulls.index("alpine", linux_amd64=AMD, linux_arm64=AMD)
    pulls.passed(f"alpine@{digest_of(AMD)}", AMD)
    (image,) = images.all()
    assert [each.platform for each in images.variants(image, lambda _: True)] == ["linux/amd64", "linux/arm64"]


def test_indexes_that_list_each_other_many_times_are_looked_at_once(images: Images, pulls: Pulls) -> None:
    content = AMD
    for _ in range(30):
        content = index(linux_amd64=content, linux_arm64=content)
        pulls.passed("alpine", content)
    pulls.passed(f"alpine@{digest_of(AMD)}", AMD)
    image = next(image for image in images.all() if not image.by_digest)
    assert len(images.variants(image, lambda _: True)) == 2
    assert len(images.blobs_of(image)) == 30 + 4


def test_a_manifest_that_goes_is_not_known_from_memory(images: Images, pulls: Pulls, store: Store) -> None:
    digest = pulls.image("alpine", b"a layer")
    assert images.manifest(digest)
    store.remove([digest])
    assert images.manifest(digest) is None
    assert images.variants(images.all()[0], lambda _: True) == []


def test_what_is_no_manifest(images: Images, store: Store, tmp_path: Path) -> None:
    assert images.manifest(put(store, b"a layer")) is None
    assert images.manifest(digest_of(b"nowhere")) is None
    assert images.manifest(put(store, bytes(LARGEST + 1))) is None
    bad, linked, folder = (digest_of(content) for content in (AMD, ARM, b"folder"))
    store.path(bad).write_bytes(ARM)
    assert images.manifest(bad) is None
    (tmp_path / "manifest").write_bytes(ARM)
    store.path(linked).symlink_to(tmp_path / "manifest")
    assert images.manifest(linked) is None
    store.path(folder).mkdir()
    assert images.manifest(folder) is None
    strange = Digest("sha384", "a" * 96)
    store.path(strange).parent.mkdir()
    store.path(strange).write_bytes(AMD)
    assert images.manifest(strange) is None


def test_the_largest_manifest(images: Images, store: Store) -> None:
    content = AMD + b" " * (LARGEST - len(AMD))
    assert images.manifest(put(store, content))


def test_a_manifest_of_the_other_algorithm(images: Images, store: Store) -> None:
    assert images.manifest(put(store, AMD, "sha512"))


def test_more_manifests_than_are_kept_in_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("addon.store.images._REMEMBERED", 2)
    images = Images(store.layout, store._catalog)
    digests = [put(store, manifest(b"layer %d" % n)) for n in range(5)]
    for _ in range(2):
        assert all(images.manifest(digest) for digest in digests)


# Pins.


def test_pins_are_listed_by_name(images: Images) -> None:
    wanted = [Reference.parse(name) for name in ("ghcr.io/a/b:2", "alpine", f"alpine@{digest_of(AMD)}")]
    for _ in range(2):
        for each in wanted:
            images.pin(each)
    assert images.pins() == sorted(wanted, key=lambda each: (each.registry, each.repository, each.reference))
    assert images.unpin(wanted[0])
    assert not images.unpin(wanted[0])
    assert wanted[0] not in images.pins()


def test_what_a_pinned_tag_holds(images: Images, pulls: Pulls) -> None:
    assert images.pinned() == set()
    images.pin(Reference.parse("alpine"))
    # It may not have passed yet.
    assert images.pinned() == set()
    pulls.image("alpine:3", b"another")
    pulls.image("ghcr.io/library/alpine", b"elsewhere")
    old = pulls.image("alpine", b"old")
    assert images.pinned() == {old, digest_of(b"{}"), digest_of(b"old")}
    new = pulls.image("alpine", b"new")
    assert images.pinned() == {new, digest_of(b"{}"), digest_of(b"new")}
    images.unpin(Reference.parse("alpine"))
    assert images.pinned() == set()


@pytest.mark.parametrize("by", ["index", "manifest"])
def test_a_pinned_digest_is_held_whatever_its_tag_says(images: Images, pulls: Pulls, by: str) -> None:
    top = pulls.index("alpine", **BOTH)
    pulls.passed(f"alpine@{digest_of(AMD)}", AMD)
    held = {digest_of(content) for content in (AMD, b"amd64", b"base", b"for amd64")}
    images.pin(Reference.parse(f"alpine@{top if by == 'index' else digest_of(AMD)}"))
    assert images.pinned() >= held
    assert (top in images.pinned()) is (by == "index")
    # podman asks for the tag alone: nothing else says that the image ever was.
    pulls.image("alpine", b"new")
    images.forget(images.all())
    assert images.pinned() >= held
    assert digest_of(b"new") not in images.pinned()


def test_an_image_of_a_registry_without_tls_is_pinned_by_its_name(images: Images, pulls: Pulls) -> None:
    digest = pulls.passed("localhost:5000/app", AMD, http=True)
    images.pin(Reference.parse("localhost:5000/app"))
    assert digest in images.pinned()


def test_what_is_pinned_does_not_go(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"pinned" * 100)
    pulls.image("busybox", b"not pinned" * 100)
    store.images.pin(Reference.parse("alpine"))
    store.room.shrink(sum(entry.size for entry in store.inventory.entries()) - 1000)
    assert store.images.pinned() <= {entry.digest for entry in store.inventory.entries()}
    assert digest_of(b"not pinned" * 100) not in {entry.digest for entry in store.inventory.entries()}


# Several processes, and a disk that fails.


def test_what_another_process_saw_is_known(store: Store, images: Images) -> None:
    other = Store(store.root)
    Pulls(other).image("alpine", b"a layer")
    other.images.pin(Reference.parse("alpine"))
    assert names(images) == ["docker.io/library/alpine:latest"]
    assert digest_of(b"a layer") in images.pinned()
    other.close()
    again = Store(store.root)
    assert names(again.images) == ["docker.io/library/alpine:latest"]
    again.close()


@pytest.mark.parametrize(
    "work",
    [
        lambda images: images.saw(HUB, "a", "b", Descriptor(digest_of(b""), 0)),
        lambda images: images.all(),
        lambda images: images.pin(Reference.parse("a")),
        lambda images: images.unpin(Reference.parse("a")),
        lambda images: images.pinned(),
        lambda images: images.prune(),
        lambda images: images.write_index(lambda _: True),
    ],
)
def test_a_catalogue_that_cannot_be_used(store: Store, work: Callable[[Images], object]) -> None:
    images = store.images
    store.close()
    with pytest.raises(StoreError, match=r"cannot use .*catalog\.db"):
        work(images)
