"""`./run.sh store …`: what each action shows, asks, does and returns."""

import argparse
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.errors import NoRoom
from addon.ui import store_cli

from ..doubles import open_files, settings
from ..store.blobs import ORIGIN, digest_of, put
from ..store.pulled import Pulls, manifest

ALPINE = "docker.io/library/alpine:latest"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The store as a proxy beside has it open."""
    store = Store(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def pulls(store: Store) -> Pulls:
    return Pulls(store)


@dataclass
class Done:
    """What a command returned and printed."""

    status: int
    lines: list[str]


Run = Callable[..., Done]


@pytest.fixture
def run(store: Store, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command beside it."""

    def run(*words: str, **changes: object) -> Done:
        parser = argparse.ArgumentParser()
        store_cli.add_to(parser.add_subparsers())
        usual = {"store": str(store.root)}
        status = store_cli.run(parser.parse_args(["store", *words]), settings(**{**usual, **changes}))
        return Done(status, capsys.readouterr().out.splitlines())

    return run


class Terminal(io.StringIO):
    """A standard input where somebody sits."""

    def isatty(self) -> bool:
        return True


def cells(line: str) -> list[str]:
    """The cells of a table's row, however long the test takes."""
    return re.split(r" {2,}", re.sub(r"\b\d+ s ago", "0 s ago", line))


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


# Removing.


def test_it_says_what_is_removed_and_removes_it(run: Run, store: Store, pulls: Pulls) -> None:
    digest = pulls.image("alpine", b"base", b"alpine")
    pulls.image("busybox", b"base", b"busybox")
    size = len(manifest(b"base", b"alpine")) + 6
    blobs = sorted([(str(digest), size - 6), (str(digest_of(b"alpine")), 6)])
    done = run("rm", "alpine", "--yes")
    assert done.status == 0
    assert done.lines == [
        "This is removed:",
        f"  {ALPINE} ({digest.short})",
        *(f"  blob {Digest.parse(blob).short}, {length} B" for blob, length in blobs),
        f"  together 2 blobs, {size} B",
        "  (2 blobs more will stay, since other images have them, too)",
        f"2 blobs, {size} B went",
    ]
    assert [line.split()[0] for line in run("ls").lines[1:-1]] == ["docker.io/library/busybox:latest"]


@pytest.mark.parametrize(
    ("answer", "goes"),
    [
        ("y\n", True),
        ("YES\n", True),
        (" y \n", True),
        ("n\n", False),
        ("\n", False),
        ("yesterday\n", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("action", ["rm", "gc"])
def test_at_a_terminal_it_asks(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch, action: str, answer: str, *, goes: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    digest = put(store, b"a layer")
    done = run(*({"rm": ("rm", str(digest)), "gc": ("gc", "--unreferenced")}[action]))
    assert done.status == (0 if goes else 1)
    assert any(line.startswith("Go on? [y/N] ") for line in done.lines)
    assert (done.lines[-1].removeprefix("Go on? [y/N] ") == "Nothing was removed.") is not goes
    assert store.path(digest).exists() is not goes


@pytest.mark.parametrize("words", [("rm", "alpine"), ("gc", "--unreferenced")])
def test_where_nobody_can_be_asked_nothing_goes(
    run: Run, store: Store, pulls: Pulls, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    pulls.image("alpine", b"a layer")
    digest = put(store, b"of nobody")
    with pytest.raises(ValueError, match="nothing was removed: there is no terminal to ask at; add --yes"):
        run(*words)
    assert store.path(digest).exists()
    assert len(store.images.all()) == 1


def test_whatever_happens_the_store_is_closed(
    run: Run, store: Store, pulls: Pulls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    pulls.image("alpine", b"a layer")
    # SQLite keeps files open as long as there is another connection within the process.
    store.close()
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", interrupted)
    before = open_files()
    assert run("ls").status == 0
    with pytest.raises(ValueError, match="no image"):
        run("rm", "busybox")
    with pytest.raises(KeyboardInterrupt):
        run("rm", "alpine")
    assert open_files() == before
    assert store.path(digest_of(b"a layer")).exists()


def test_so_many_blobs_are_named_and_no_more(run: Run, pulls: Pulls) -> None:
    pulls.image("alpine", *(b"layer %d" % n for n in range(30)))
    lines = run("rm", "alpine", "--yes").lines
    assert sum(line.startswith("  blob ") for line in lines) == 20
    assert "  ... and 12 more" in lines
    assert lines[-1].startswith("32 blobs, ")


def test_what_is_being_read_stays(run: Run, store: Store) -> None:
    reader, other = store.open(put(store, b"a layer")), put(store, b"another")
    assert reader is not None
    done = run("rm", str(digest_of(b"a layer")), str(other), "--yes")
    assert done.status == 1
    assert done.lines[-2:] == [
        f"blob {digest_of(b'a layer').short} stays: it is being read just now",
        "1 blob, 7 B went",
    ]
    assert store.path(digest_of(b"a layer")).exists()
    reader.close()


def test_a_name_that_means_nothing_removes_nothing(run: Run, store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    with pytest.raises(ValueError, match="no image 'busybox'"):
        run("rm", "alpine", "busybox", "--yes")
    assert len(store.inventory.entries()) == 3


# Collecting.


def test_where_all_is_of_use_it_asks_nothing(run: Run, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    assert run("gc", "--unreferenced") == Done(0, ["There is nothing to remove."])


def test_what_is_of_no_use_goes(run: Run, store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    size = store.inventory.total()
    (store.layout.quarantine / "bad").write_bytes(bytes(1024))
    left = store.ingest(digest_of(b"broken"), ORIGIN)
    left.write(0, [bytes(2048)])
    left.keep()
    put(store, bytes(4096))
    assert run("gc", "--unreferenced", "--yes") == Done(
        0,
        [
            "This is removed:",
            "  1.0 KiB of bad blobs",
            "  up to 2.0 KiB of rests of broken fills",
            "  1 blob of no known image, 4.0 KiB",
            f"7.0 KiB went; {size} B are in {store.root}",
        ],
    )


def test_it_is_made_as_small_as_is_wanted(run: Run, store: Store) -> None:
    for n in range(4):
        put(store, bytes([n]) * 1024)
    done = run("gc", "--to", "2k", "--yes")
    assert done.lines[1] == "  2.0 KiB or more of blobs, those of least use first"
    assert done.lines[-1] == f"2.0 KiB went; 2.0 KiB are in {store.root}"
    assert run("gc", "--yes", max_size=1024).lines[-1] == f"1.0 KiB went; 1.0 KiB are in {store.root}"


def test_pinned_images_make_it_no_smaller(run: Run, store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", bytes(4096))
    run("pin", "alpine")
    with pytest.raises(NoRoom, match="cannot be made as small as 1024 bytes"):
        run("gc", "--to", "1k", "--yes")
    assert store.path(digest_of(bytes(4096))).exists()


@pytest.mark.parametrize("size", ["", "much", "-5", "1.5g", "5G"])
def test_what_is_no_size(run: Run, size: str) -> None:
    with pytest.raises(ValueError, match=f"'{size}' is no size; write 50g, or 500m"):
        run("gc", f"--to={size}")


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
