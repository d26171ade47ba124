import contextlib
import errno
import fcntl
import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from addon.registry.digest import ALGORITHMS, Digest
from addon.store.disk import Store
from addon.store.errors import DigestMismatch, NoRoom, StoreError
from addon.store.room import Limits

from .blobs import ORIGIN, digest_of, open_files, put, read
from .processes import finish, process

CONTENT = b"a layer"
DIGEST = digest_of(CONTENT)


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_blobs_are_named_as_in_a_layout(store: Store) -> None:
    for algorithm in ALGORITHMS:
        digest = put(store, CONTENT, algorithm)
        path = store.root / "blobs" / algorithm / hashlib.new(algorithm, CONTENT).hexdigest()
        assert path == store.path(digest)
        assert path.read_bytes() == CONTENT


def test_blobs_survive_the_next_start(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = put(store, CONTENT)
    store.provenance.record("ghcr.io", "a", digest)
    store.close()
    before = tree(tmp_path)
    again = Store(tmp_path)
    assert read(again, digest) == CONTENT
    assert again.provenance.belongs("ghcr.io", "a", digest)
    again.close()
    assert tree(tmp_path) == before


def test_an_image_layout_of_another_program_is_a_store(tmp_path: Path) -> None:
    layout, index = '{"imageLayoutVersion":"1.0.0" }', '{"schemaVersion":2,"manifests":[{"digest":"sha256:x"}]}'
    (tmp_path / "oci-layout").write_text(layout)
    (tmp_path / "index.json").write_text(index)
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    digest = digest_of(CONTENT)
    (tmp_path / "blobs" / "sha256" / digest.encoded).write_bytes(CONTENT)
    (tmp_path / "notes.txt").write_text("mine")
    store = Store(tmp_path)
    assert read(store, digest) == CONTENT
    # What was there stays as it was.
    assert (tmp_path / "oci-layout").read_text() == layout
    assert (tmp_path / "index.json").read_text() == index
    assert (tmp_path / "notes.txt").read_text() == "mine"
    # But whose blob that is, nobody knows.
    assert not store.provenance.delivered_by("ghcr.io", digest)
    store.close()


# Opening.


def test_what_is_not_stored(store: Store) -> None:
    assert store.open(digest_of(CONTENT)) is None
    put(store, CONTENT)
    assert store.open(digest_of(CONTENT, "sha512")) is None
    assert store.open(Digest.parse("md5:abc")) is None


def test_the_size_is_known_from_the_start(store: Store) -> None:
    reader = store.open(put(store, CONTENT))
    assert reader is not None
    assert reader.size == len(CONTENT)
    reader.close()


def test_no_link_is_followed(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    digest = digest_of(CONTENT)
    store.path(digest).symlink_to(secret)
    with pytest.raises(OSError, match="it is a symbolic link"):
        store.open(digest)
    # A fill puts the blob in the link's place.
    put(store, CONTENT)
    assert not store.path(digest).is_symlink()
    assert secret.read_bytes() == CONTENT


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_no_blob(store: Store, make: Callable[[Path], None]) -> None:
    digest = digest_of(CONTENT)
    make(store.path(digest))
    before = open_files()
    assert store.open(digest) is None
    assert open_files() == before


def test_a_folder_in_the_place_of_a_blob_is_put_away(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    path = store.path(DIGEST)
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    assert store.open(DIGEST) is None
    (aside,) = (found.parent for found in store.layout.ours.rglob("notes.txt"))
    assert str(aside) in caplog.text
    assert read(store, put(store, CONTENT)) == CONTENT


def test_a_socket_is_no_blob(store: Store) -> None:
    before = open_files()
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(store.path(DIGEST).parent):
        listening.bind(DIGEST.encoded)
    with pytest.raises(OSError, match="No such device"):
        store.open(DIGEST)
    assert open_files() == before


def test_readers_survive_what_happens_to_the_file(store: Store) -> None:
    digest = put(store, CONTENT)
    reader = store.open(digest)
    assert reader is not None
    store.path(digest).unlink()
    assert store.open(digest) is None
    assert reader.read(0, 100) == CONTENT
    reader.close()


# Being read.

REMOVER = """
import sys
from pathlib import Path
from addon.store.disk import Store
from tests.store.blobs import digest_of
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(len(store.remove([digest_of(b"a layer")])))
store.close()
"""


def test_what_is_being_read_is_not_removed_by_another_process(store: Store) -> None:
    reader = store.open(put(store, CONTENT))
    assert reader is not None
    again = reader.again(reader.size)
    reader.close()
    for open_still, gone in ((True, "0\n"), (False, "1\n")):
        if not open_still:
            again.close()
        with process(REMOVER, store.root) as remover:
            assert finish(remover) == gone
        assert store.path(DIGEST).exists() is open_still
    assert store.inventory.entries() == []


def test_what_is_about_to_go_is_not_opened(store: Store) -> None:
    before = open_files()
    path = store.path(put(store, CONTENT))
    with path.open("rb") as remover:
        fcntl.flock(remover, fcntl.LOCK_EX)
        assert store.open(DIGEST) is None
    assert read(store, DIGEST) == CONTENT
    assert open_files() == before


def test_who_read_along_still_reads_once_it_is_stored(store: Store) -> None:
    ingest = store.ingest(DIGEST, ORIGIN)
    ingest.write(0, [CONTENT])
    reader = ingest.reader()
    ingest.commit()
    assert store.remove([DIGEST]) == []
    reader.close()
    assert store.remove([DIGEST]) == [DIGEST]


def test_what_is_not_stored_is_as_good_as_removed(store: Store) -> None:
    store.path(DIGEST).write_bytes(CONTENT)
    assert store.remove([DIGEST, digest_of(b"other")]) == [DIGEST, digest_of(b"other")]
    assert store.open(DIGEST) is None


# A disk, or a catalogue, that fails.


def test_an_opening_that_fails_leaves_nothing_open(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, CONTENT)
    before = open_files()

    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", flock)
        with pytest.raises(OSError, match="No locks"):
            store.open(DIGEST)
    store.inventory.drop([DIGEST])
    with store._catalog.writing() as db:
        db.execute("DROP TABLE blobs")
    with pytest.raises(StoreError, match="no such table"):
        store.open(DIGEST)
    with pytest.raises(StoreError, match="no such table"):
        store.verify(DIGEST)
    assert open_files() == before


# Writing.


def test_a_probe_leaves_nothing(store: Store) -> None:
    before = tree(store.root)
    store.check_writable()
    assert tree(store.root) == before


def test_a_store_that_is_gone_cannot_be_written(store: Store) -> None:
    (store.root / "pulltap" / "ingest").rmdir()
    with pytest.raises(OSError, match="No such file"):
        store.check_writable()
    with pytest.raises(OSError, match="No such file"):
        store.ingest(digest_of(CONTENT), ORIGIN)


def test_a_probe_that_fails_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files, before = open_files(), tree(store.root)

    def failing(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    # It waits for the disk where it is told to.
    store.check_writable(1000)
    with pytest.raises(OSError, match="Input/output"):
        store.check_writable(1000, sync=True)
    assert (open_files(), tree(store.root)) == (files, before)


# Manifests, which come whole.


def test_a_manifest_is_stored_as_nobodys_blob(store: Store) -> None:
    store.put(DIGEST, CONTENT, ORIGIN)
    assert read(store, DIGEST) == CONTENT
    assert list(store.layout.ingests.iterdir()) == []
    # Whoever delivered it as a manifest does not give it as a blob.
    assert not store.provenance.unclaimed(DIGEST)
    assert not store.provenance.delivered_by(ORIGIN, DIGEST)


def test_once_it_is_stored_it_is_only_used(store: Store) -> None:
    put(store, CONTENT)
    inode = store.path(DIGEST).stat().st_ino
    for _ in range(2):
        store.put(DIGEST, CONTENT, ORIGIN)
    assert store.path(DIGEST).stat().st_ino == inode
    assert store.provenance.unclaimed(DIGEST)
    store.flush()
    assert [entry.uses for entry in store.inventory.entries()] == [2]


def test_one_that_turned_bad_is_stored_anew(store: Store) -> None:
    store.put(DIGEST, CONTENT, ORIGIN)
    for bad in (b"A layer", b"", CONTENT + b"x"):
        store.path(DIGEST).write_bytes(bad)
        store.put(DIGEST, CONTENT, ORIGIN)
        assert read(store, DIGEST) == CONTENT
    assert len(list(store.layout.quarantine.iterdir())) == 3


def test_the_wrong_bytes_do_no_harm_to_the_right_ones(store: Store) -> None:
    store.put(DIGEST, CONTENT, ORIGIN)
    store.put(DIGEST, b"A layer", ORIGIN)
    assert read(store, DIGEST) == CONTENT
    assert list(store.layout.quarantine.iterdir()) == []


def test_a_link_is_no_manifest(store: Store, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"theirs")
    store.path(DIGEST).symlink_to(tmp_path / "target")
    store.put(DIGEST, CONTENT, ORIGIN)
    assert read(store, DIGEST) == CONTENT
    assert (tmp_path / "target").read_bytes() == b"theirs"


def test_what_another_attempt_left_of_it_is_not_needed(store: Store) -> None:
    left = store.ingest(DIGEST, ORIGIN)
    left.write(0, [b"a l"])
    left.keep()
    store.put(DIGEST, CONTENT, ORIGIN)
    assert read(store, DIGEST) == CONTENT


def test_one_that_another_process_takes_in_need_not_be(store: Store) -> None:
    ingest = store.ingest(DIGEST, ORIGIN)
    store.put(DIGEST, CONTENT, ORIGIN)
    assert store.open(DIGEST) is None
    ingest.write(0, [CONTENT])
    ingest.commit()
    assert read(store, DIGEST) == CONTENT


def test_the_wrong_bytes_are_no_manifest(store: Store) -> None:
    before = open_files()
    with pytest.raises(DigestMismatch):
        store.put(DIGEST, b"A layer", ORIGIN)
    assert store.open(DIGEST) is None
    assert list(store.layout.ingests.iterdir()) == []
    assert open_files() == before


def test_one_for_which_there_is_no_room_is_not_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", Limits(max_size=len(CONTENT) - 1))
    before = open_files()
    with pytest.raises(NoRoom):
        store.put(DIGEST, CONTENT, ORIGIN)
    assert store.open(DIGEST) is None
    assert list(store.layout.ingests.iterdir()) == []
    assert open_files() == before
    store.close()


def test_one_that_nobody_can_be_told_of_is_not_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_digests: object) -> None:
        raise StoreError("no room for rows")

    monkeypatch.setattr(store.provenance, "disown", failing)
    with pytest.raises(StoreError, match="no room for rows"):
        store.put(DIGEST, CONTENT, ORIGIN)
    # Else it would seem to be an operator's.
    assert store.open(DIGEST) is None
    assert list(store.layout.ingests.iterdir()) == []
