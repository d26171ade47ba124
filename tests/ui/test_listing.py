"""What is in a store, as its commands list it."""

import time

import pytest

from addon.registry.digest import Digest
from addon.registry.reference import Reference
from addon.store.disk import Store
from addon.store.room import Limits
from addon.store.tally import Count
from addon.ui import listing

from ..store.blobs import digest_of, put, read
from ..store.pulled import Pulls, manifest, theirs

AMD = manifest(b"base", b"for amd64", config=b"amd64")
ARM = manifest(b"base", b"for arm64", config=b"arm64")
BOTH = {"linux_amd64": AMD, "linux_arm64": ARM}
DAY = 24 * 3600


def pull_both(pulls: Pulls) -> Digest:
    """An image of two platforms, of which one is whole; its index's digest."""
    top = pulls.index("alpine", **BOTH)
    pulls.passed(f"alpine@{digest_of(AMD)}", AMD)
    pulls.passed(f"alpine@{digest_of(ARM)}", ARM)
    pulls.blobs(b"amd64", b"base", b"for amd64")
    return top


def contents(store: Store, *wanted: bytes) -> list[bytes]:
    """Which of these blobs are stored."""
    return [content for content in wanted if read(store, digest_of(content)) == content]


# Words for people.


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (50 << 30, "50.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert listing.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (DAY - 1, "23 h ago"),
        (10 * DAY, "10 d ago"),
        # Somebody has put the clock back.
        (-100, "0 s ago"),
    ],
)
def test_how_long_ago(monkeypatch: pytest.MonkeyPatch, seconds: float, shown: str) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000.5)
    assert listing.ago(1_000_000.5 - seconds) == shown
    assert listing.ago(None) == "-"


def test_times_for_programs() -> None:
    assert listing.when(1_000_000_000.9) == "2001-09-09T01:46:40+00:00"
    assert listing.when(0) == "1970-01-01T00:00:00+00:00"
    assert listing.when(None) is None


def test_so_many() -> None:
    assert [listing.counted(n, "blob") for n in (0, 1, 2)] == ["0 blobs", "1 blob", "2 blobs"]
    assert listing.verified(3, 0, 0) == "3 blobs, all good"
    assert listing.verified(1, 2, 3) == "2 blobs bad, 1 good, 3 went meanwhile"


# Images.


def test_an_image_with_its_platforms(store: Store, pulls: Pulls) -> None:
    top = pull_both(pulls)
    (listed,) = listing.images(store)
    size = sum(path.stat().st_size for path in store.layout.blobs.rglob("*") if path.is_file())
    assert (listed.size, listed.pinned) == (size, False)
    assert listed.used == pytest.approx(time.time(), abs=60)
    assert listed.fields() == {
        "name": "docker.io/library/alpine:latest",
        "registry": "registry-1.docker.io",
        "repository": "library/alpine",
        "reference": "latest",
        "digest": str(top),
        "size": size,
        "last_used": listing.when(listed.used),
        "pinned": False,
        "platforms": [
            {"platform": "linux/amd64", "digest": str(digest_of(AMD)), "blobs": 3, "missing": []},
            {
                "platform": "linux/arm64",
                "digest": str(digest_of(ARM)),
                "blobs": 3,
                "missing": sorted(map(str, (digest_of(b"arm64"), digest_of(b"for arm64")))),
            },
        ],
    }
    *row, used, pinned = listing.row(listed)
    assert row == ["docker.io/library/alpine:latest", "linux/amd64\nlinux/arm64", "3/3\n1/3", listing.size(size)]
    assert used.endswith(" s ago")
    assert pinned == ""


def test_an_image_of_which_nothing_is_stored(store: Store, pulls: Pulls) -> None:
    pulls.passed("alpine", AMD, stored=False)
    (listed,) = listing.images(store)
    assert listing.row(listed) == ("docker.io/library/alpine:latest", "-", "-", "0 B", "-", "")
    assert listed.fields()["last_used"] is None
    assert listed.fields()["platforms"] == []


def test_a_platform_that_nobody_tells(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    (listed,) = listing.images(store)
    assert listing.row(listed)[1:3] == ("-", "2/2")
    assert listed.fields()["platforms"][0]["platform"] is None


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_pinned_image_says_so(store: Store, pulls: Pulls, by: str) -> None:
    digest = pulls.image("alpine", b"a layer")
    pulls.image("ghcr.io/library/alpine", b"another")
    store.images.pin(Reference.parse("alpine" if by == "tag" else f"alpine@{digest}"))
    assert {each.image.name: each.pinned for each in listing.images(store)} == {
        "docker.io/library/alpine:latest": True,
        "ghcr.io/library/alpine:latest": False,
    }
    assert [listing.row(each)[-1] for each in listing.images(store)] == ["", "pinned"]


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert listing.images(store) == []
    assert listing.blobs(store) == []


# Blobs.


def test_a_blob_with_where_it_is_from(store: Store) -> None:
    digest, strange = put(store, b"a layer"), digest_of(b"by hand")
    for registry, repository in (("registry-1.docker.io", "library/b"), ("http://localhost:5000", "a")):
        store.provenance.record(registry, repository, digest)
    store.inventory.used(digest)
    store.flush()
    store.path(strange).write_bytes(b"by hand")
    store.reconcile()
    found = {blob.entry.digest: blob.fields() for blob in listing.blobs(store)}
    entry = next(entry for entry in store.inventory.entries() if entry.digest == digest)
    assert found[digest] == {
        "digest": str(digest),
        "size": 7,
        "stored": listing.when(entry.stored),
        "last_used": listing.when(entry.used),
        "uses": 1,
        "verified": listing.when(entry.verified),
        "repositories": ["localhost:5000/a", "docker.io/library/b"],
    }
    assert (found[strange]["verified"], found[strange]["repositories"]) == (None, [])


def test_what_was_not_used_for_longest_comes_first(store: Store) -> None:
    digests = [put(store, content) for content in (b"one", b"two", b"three")]
    store.inventory.used(digests[0])
    store.flush()
    assert [blob.entry.digest for blob in listing.blobs(store)] == [*digests[1:], digests[0]]


# What names mean.


def test_names_of_images_and_beginnings_of_digests(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    other = put(store, b"other", "sha512")
    everything = {entry.digest for entry in store.inventory.entries()}
    assert set(listing.digests(store, [])) == everything
    assert set(listing.digests(store, ["alpine"])) == everything - {other}
    layer = digest_of(b"a layer")
    for name in (str(layer), layer.short, str(layer)[: len("sha256:") + 7]):
        assert listing.digests(store, [name]) == [layer]
    assert listing.digests(store, [str(other)[:20], "alpine", str(layer)]) == sorted(everything, key=str)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("busybox", "no image 'busybox' and no blob of that digest is in the store; 'store ls' lists them"),
        ("alpine:3", "no image 'alpine:3' and no blob"),
        ("Alpine", "no image: 'Alpine'; write name:tag"),
        ("", "no image: ''"),
        ("sha256:", "no blob sha256: is in the store; 'store ls --blobs' lists them"),
        # Too short to be meant.
        (str(digest_of(b"a layer"))[: len("sha256:") + 6], "no blob sha256:"),
        (f"sha256:{'0' * 64}", "no blob sha256:0000"),
        (f"sha512:{'0' * 128}", "no blob sha512:0000"),
        (f"alpine@sha256:{'0' * 64}", "no image 'alpine@sha256:0000"),
        (f"md5:{'0' * 32}", "no image 'md5:0000"),
    ],
)
def test_names_that_mean_nothing(store: Store, pulls: Pulls, name: str, message: str) -> None:
    pulls.image("alpine", b"a layer")
    for work in (listing.digests, listing.removal):
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            work(store, [name])


def test_a_beginning_that_is_not_the_only_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_SHORTEST_PREFIX", 0)
    put(store, b"one")
    put(store, b"two")
    with pytest.raises(ValueError, match=r"^2 stored blobs begin with sha256:$"):
        listing.digests(store, ["sha256:"])


def test_an_image_of_which_a_part_is_stored(store: Store, pulls: Pulls) -> None:
    top = pull_both(pulls)
    blobs = {top, *map(digest_of, (AMD, ARM, b"amd64", b"base", b"for amd64"))}
    assert set(listing.digests(store, ["alpine"])) == blobs


# Removing.


def test_what_removing_an_image_means(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"base", b"alpine", config=b"a")
    pulls.image("busybox", b"base", b"busybox", config=b"b")
    plan = listing.removal(store, ["alpine", "alpine"])
    assert [image.name for image in plan.images] == ["docker.io/library/alpine:latest"]
    own = {digest_of(blob) for blob in (manifest(b"base", b"alpine", config=b"a"), b"alpine", b"a")}
    assert {entry.digest for entry in plan.blobs} == own
    assert plan.size == sum(store.path(digest).stat().st_size for digest in own)
    assert plan.shared == 1
    # Nothing has happened yet.
    assert len(store.inventory.entries()) == 7
    assert listing.remove(store, plan) == []
    assert contents(store, b"base", b"alpine", b"busybox", b"a", b"b") == [b"base", b"busybox", b"b"]
    assert [image.name for image in store.images.all()] == ["docker.io/library/busybox:latest"]
    assert "alpine" not in store.layout.index.read_text()
    assert "busybox" in store.layout.index.read_text()


def test_images_that_go_together_take_along_what_they_share(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"base", b"alpine")
    pulls.image("busybox", b"base", b"busybox")
    plan = listing.removal(store, ["alpine", "busybox"])
    assert plan.shared == 0
    listing.remove(store, plan)
    assert store.inventory.entries() == []


def test_two_tags_of_one_image(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine:3", b"a layer")
    digest = pulls.passed("alpine:latest", manifest(b"a layer"))
    plan = listing.removal(store, ["alpine:3"])
    assert (plan.blobs, plan.shared) == ((), 3)
    listing.remove(store, plan)
    assert [image.name for image in store.images.all()] == ["docker.io/library/alpine:latest"]
    # By its digest, all that leads to it goes.
    assert len(listing.removal(store, [f"alpine@{digest}"]).blobs) == 3


def test_a_blob_goes_though_images_have_it(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"base", b"alpine")
    pulls.image("busybox", b"base", b"busybox")
    plan = listing.removal(store, [str(digest_of(b"base")), "alpine"])
    assert digest_of(b"base") in {entry.digest for entry in plan.blobs}
    # The config.
    assert plan.shared == 1
    listing.remove(store, plan)
    assert contents(store, b"base", b"{}") == [b"{}"]


def test_what_is_being_read_stays(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"one", b"two")
    reader = store.open(digest_of(b"one"))
    assert reader is not None
    stayed = listing.remove(store, listing.removal(store, ["alpine"]))
    assert [entry.digest for entry in stayed] == [digest_of(b"one")]
    assert contents(store, b"one", b"two") == [b"one"]
    assert [entry.digest for entry in store.inventory.entries()] == [digest_of(b"one")]
    reader.close()
    assert listing.remove(store, listing.removal(store, [str(digest_of(b"one"))])) == []


def test_a_pinned_image_is_to_be_unpinned_first(store: Store, pulls: Pulls) -> None:
    digest = pulls.image("alpine", b"a layer")
    for name in ("alpine", f"alpine@{digest}"):
        store.images.pin(Reference.parse(name))
        with pytest.raises(
            ValueError, match=r"docker\.io/library/alpine:latest is pinned, and stays until it is unpinned"
        ):
            listing.removal(store, ["alpine"])
        store.images.unpin(Reference.parse(name))
    assert listing.removal(store, ["alpine"]).blobs


def test_what_a_pinned_digest_has_stays_though_no_tag_leads_to_it(store: Store, pulls: Pulls) -> None:
    old = pulls.image("alpine", b"base", b"old", config=b"a")
    store.images.pin(Reference.parse(f"alpine@{old}"))
    pulls.image("alpine", b"base", b"new", config=b"b")
    plan = listing.removal(store, ["alpine"])
    assert plan.shared == 1
    listing.remove(store, plan)
    assert contents(store, b"base", b"old", b"new", b"a") == [b"base", b"old", b"a"]


def test_what_another_tool_has_put_there_stays(store: Store, pulls: Pulls) -> None:
    theirs(store, b"base", b"of another tool")
    pulls.image("alpine", b"new")
    pulls.image("busybox", b"base", config=b"b")
    plan = listing.removal(store, ["alpine", "busybox"])
    assert plan.shared == 2
    listing.remove(store, plan)
    assert contents(store, b"base", b"of another tool", b"{}", b"new") == [b"base", b"of another tool", b"{}"]


# What the store was good for.


def test_numbers(store: Store, pulls: Pulls) -> None:
    store.room.limits = Limits(1 << 30, 1 << 20)
    pulls.image("alpine", b"a layer")
    (store.layout.quarantine / "bad").write_bytes(bytes(2000))
    (store.layout.ingests / "rest").write_bytes(bytes(3000))
    for count, more in ((Count.HITS, 3), (Count.MISSES, 1), (Count.HIT_BYTES, 1 << 20), (Count.BAD, 1)):
        store.tally.add(count, more)
    numbers = listing.stats(store)
    size = store.inventory.total()
    assert numbers.pop("free_bytes") == pytest.approx(store.room.usage().free, rel=0.5)
    assert numbers == {
        "blobs": 3,
        "images": 1,
        "blob_bytes": size,
        "ingest_bytes": 3000,
        "quarantine_bytes": 2000,
        "limit_bytes": 1 << 30,
        "min_free_bytes": 1 << 20,
        "hits": 3,
        "hit_bytes": 1 << 20,
        "misses": 1,
        "collapsed": 0,
        "upstream_bytes": 0,
        "bypassed": 0,
        "bad": 1,
    }
    lines = dict(listing.stats_lines({**numbers, "free_bytes": 5 << 30}))
    assert lines["blobs"] == f"3, {size} B"
    assert lines["limit"] == "1.0 GiB, and 1.0 MiB of the disk stay free"
    assert lines["free"] == "5.0 GiB on the disk"
    assert (lines["hits"], lines["from the store"]) == ("3, 75% of 4", "1.0 MiB")
    assert (lines["on their way"], lines["quarantine"], lines["bad blobs"]) == ("2.9 KiB", "2.0 KiB", "1")


def test_numbers_of_a_new_store(store: Store) -> None:
    assert dict(listing.stats_lines(listing.stats(store)))["hits"] == "0"
