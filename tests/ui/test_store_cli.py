"""`./run.sh store …`: what each action shows, does and returns; all but those that remove."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.ui import listing

from ..store.blobs import digest_of, put
from ..store.pulled import Pulls, manifest
from .commanded import Done, Run, cells

ALPINE = "docker.io/library/alpine:latest"


def spoil(store: Store, content: bytes) -> Digest:
    """Let a stored blob turn bad."""
    digest = digest_of(content)
    store.path(digest).write_bytes(content[:-1] + b"?")
    return digest


# Listing.


def test_images(run: Run, store: Store, pulls: Pulls) -> None:
    amd, arm = manifest(b"one"), manifest(b"two", b"three")
    pulls.index("alpine", linux_amd64=amd, linux_arm64=arm)
    for content in (amd, arm):
        pulls.passed(f"alpine@{digest_of(content)}", content)
    pulls.blobs(b"{}", b"one", b"two")
    pulls.passed("ghcr.io/a/b:gone", amd, stored=False)
    size = store.inventory.total()
    done = run("ls")
    assert done.status == 0
    assert [cells(line) for line in done.lines] == [
        ["IMAGE", "PLATFORM", "STORED", "SIZE", "LAST USED"],
        ["ghcr.io/a/b:gone", "-", "2/2", f"{len(amd) + 5} B", "0 s ago"],
        [ALPINE, "linux/amd64", "2/2", f"{size / 1024:.1f} KiB", "0 s ago"],
        ["", "linux/arm64", "2/3"],
        [f"6 blobs, {size / 1024:.1f} KiB in {store.root}"],
    ]


def test_blobs(run: Run, store: Store) -> None:
    digest = put(store, b"a layer")
    store.provenance.record("registry-1.docker.io", "library/alpine", digest)
    store.provenance.record("ghcr.io", "a/b", digest)
    put(store, b"of nobody")
    store.inventory.used(digest)
    store.flush()
    done = run("ls", "--blobs")
    assert [cells(line) for line in done.lines] == [
        ["DIGEST", "SIZE", "LAST USED", "USES", "REPOSITORIES"],
        [digest_of(b"of nobody").short, "9 B", "0 s ago", "0", "-"],
        [digest.short, "7 B", "0 s ago", "1", "ghcr.io/a/b, docker.io/library/alpine"],
        [f"2 blobs, 16 B in {store.root}"],
    ]


def test_json_is_the_same_each_time(run: Run, store: Store, pulls: Pulls) -> None:
    pulls.image("busybox", b"a layer", b"another")
    pulls.image("alpine", b"a layer")
    done = run("ls", "--json")
    content = json.loads("\n".join(done.lines))
    assert list(content) == ["store", "images", "blobs"]
    assert content["store"] == str(store.root)
    assert [image["name"] for image in content["images"]] == [ALPINE, "docker.io/library/busybox:latest"]
    assert len(content["blobs"]) == 5
    assert list(content["images"][0]) == [
        *("name", "registry", "repository", "reference", "digest", "size", "last_used", "pinned", "platforms")
    ]
    assert list(content["images"][0]["platforms"][0]) == ["platform", "digest", "blobs", "missing"]
    assert list(content["blobs"][0]) == [*("digest", "size", "stored", "last_used", "uses", "verified", "repositories")]
    assert run("ls", "--json", "--blobs") == done
    assert run("ls", "--json") == done


def test_what_others_did_in_the_folders_is_seen(run: Run, store: Store) -> None:
    gone = put(store, b"gone")
    store.path(digest_of(b"by hand")).write_bytes(b"by hand")
    store.path(gone).unlink()
    (line, total) = run("ls", "--blobs").lines[1:]
    assert cells(line)[0] == digest_of(b"by hand").short
    assert total.startswith("1 blob, 7 B in ")


def test_a_store_that_is_not_there_yet_is_empty(run: Run, tmp_path: Path) -> None:
    assert run("ls", store=str(tmp_path / "new")).lines[-1] == f"0 blobs, 0 B in {tmp_path}/new"


def test_names_are_no_markup(run: Run, store: Store, pulls: Pulls, tmp_path: Path) -> None:
    pulls.image("[fe80::1]:5000/app", b"a layer")
    assert cells(run("ls").lines[1])[0] == "[fe80::1]:5000/app:latest"
    assert run("pin", "[fe80::1]:5000/app").lines == ["[fe80::1]:5000/app:latest is pinned"]
    odd = tmp_path / "[bold]x[/nothing] :smile:"
    assert run("ls", store=str(odd)).lines[-1] == f"0 blobs, 0 B in {odd}"
    assert run("stats", store=str(odd)).lines[0] == f"store           {odd}"
    assert store.root != odd


# Verifying.


def test_all_is_verified_where_nothing_is_named(run: Run, store: Store, pulls: Pulls) -> None:
    assert run("verify").lines == ["0 blobs, all good"]
    pulls.image("alpine", b"a layer")
    store.path(digest_of(b"by hand")).write_bytes(b"by hand")
    assert run("verify") == Done(0, ["4 blobs, all good"])
    reader = store.open(digest_of(b"by hand"))
    assert reader is not None
    assert reader.verified
    reader.close()


def test_a_bad_blob_is_told_and_goes(run: Run, store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    pulls.image("busybox", b"another", config=b"b")
    store.write_index()
    bad = spoil(store, b"a layer")
    assert run("verify", "busybox") == Done(0, ["3 blobs, all good"])
    done = run("verify", "busybox", bad.short, "alpine")
    assert done.status == 1
    assert done.lines == [
        f"bad: {bad}; it went to {store.layout.quarantine}, and is fetched anew by the next pull",
        "1 blob bad, 5 good",
    ]
    assert not store.path(bad).exists()
    assert "alpine" not in store.layout.index.read_text()
    assert run("verify", "alpine") == Done(0, ["2 blobs, all good"])


def test_what_cannot_be_read_holds_up_nothing(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    good, unreadable = put(store, b"good"), put(store, b"unreadable")
    verify = Store.verify

    def failing(store: Store, digest: Digest, *args: Any) -> bool | None:
        if digest == unreadable:
            raise PermissionError(13, "Permission denied")
        return verify(store, digest, *args)

    monkeypatch.setattr(Store, "verify", failing)
    assert run("verify") == Done(1, [f"{unreadable} cannot be read: Permission denied", "1 blob bad, 1 good"])
    assert store.path(good).exists()
    assert store.path(unreadable).exists()


def test_what_goes_meanwhile_is_not_bad(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [put(store, content) for content in (b"one", b"two")]
    verify = Store.verify

    def taking(store: Store, digest: Digest, *args: Any) -> bool | None:
        store.remove(digests)
        return verify(store, digest, *args)

    monkeypatch.setattr(Store, "verify", taking)
    assert run("verify") == Done(0, ["0 blobs, all good, 2 went meanwhile"])


def test_what_comes_meanwhile_is_verified_as_well(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, b"one")
    usual = listing.digests

    def late(beside: Store, names: Collection[str]) -> list[Digest]:
        put(store, b"two")
        return usual(beside, names)

    monkeypatch.setattr(listing, "digests", late)
    assert run("verify") == Done(0, ["2 blobs, all good"])


# Numbers, and pins.


def test_numbers(run: Run, store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    done = run("stats", max_size=1 << 30, min_free=1 << 20)
    assert (done.status, done.lines[0]) == (0, f"store           {store.root}")
    assert done.lines[2] == "limit           1.0 GiB, and 1.0 MiB of the disk stay free"
    content = json.loads("\n".join(run("stats", "--json", max_size=1 << 30).lines))
    assert list(content) == [
        *("store", "blobs", "images", "blob_bytes", "ingest_bytes", "quarantine_bytes", "limit_bytes", "free_bytes"),
        *("min_free_bytes", "hits", "hit_bytes", "misses", "collapsed", "upstream_bytes", "bypassed", "bad"),
    ]
    assert (content["blobs"], content["images"], content["limit_bytes"]) == (3, 1, 1 << 30)
    # Those of the process beside, as far as it has written them down.
    assert content["hits"] == 0


def test_pins(run: Run, store: Store, pulls: Pulls) -> None:
    digest = pulls.image("alpine", b"a layer")
    assert run("pin", "alpine", f"alpine@{digest}", "busybox") == Done(
        0,
        [
            f"{ALPINE} is pinned",
            f"docker.io/library/alpine@{digest} is pinned",
            "docker.io/library/busybox:latest is pinned; it has not been pulled yet: ./run.sh warm fetches it",
        ],
    )
    assert digest in store.images.pinned()
    assert run("ls").lines[1].endswith("pinned")
    assert run("unpin", "alpine") == Done(0, [f"{ALPINE} may go again"])
    assert digest in store.images.pinned()
    assert run("unpin", "alpine", f"alpine@{digest}") == Done(
        1, [f"{ALPINE} was not pinned", f"docker.io/library/alpine@{digest} may go again"]
    )
    assert digest not in store.images.pinned()


@pytest.mark.parametrize("action", ["pin", "unpin"])
def test_with_one_name_that_is_none_nothing_is_pinned(run: Run, store: Store, action: str) -> None:
    with pytest.raises(ValueError, match="no image: 'Al Pine'"):
        run(action, "alpine", "Al Pine")
    assert store.images.pins() == []
