"""`./run.sh store rm` and `gc`: what they ask, and what goes."""

import io
import sys

import pytest

from addon.registry.digest import Digest
from addon.store.disk import Store
from addon.store.errors import NoRoom

from ..doubles import open_files
from ..store.blobs import ORIGIN, digest_of, put
from ..store.pulled import Pulls, manifest
from .commanded import Done, Run, Terminal

ALPINE = "docker.io/library/alpine:latest"


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
