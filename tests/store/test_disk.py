import hashlib
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from addon.registry.digest import ALGORITHMS, Digest
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.ingest import HOLES, Ingest

from .blobs import ORIGIN, digest_of, open_files, put, read

CONTENT = b"a layer"


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# The folder.


def test_a_new_store_is_an_oci_image_layout(tmp_path: Path) -> None:
    root = tmp_path / "some" / "where"
    Store(root).close()
    assert json.loads((root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((root / "index.json").read_text())
    assert (index["schemaVersion"], index["manifests"]) == (2, [])
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert {path.name for path in root.iterdir()} == {"oci-layout", "index.json", "blobs", "pulltap"}
    assert {path.name for path in (root / "blobs").iterdir()} == set(ALGORITHMS)


def test_only_its_owner_may_enter(tmp_path: Path) -> None:
    usual = os.umask(0)
    try:
        store = Store(tmp_path / "store")
        put(store, CONTENT)
        left = store.ingest(digest_of(b"other"), ORIGIN)
        left.write(0, [b"o"])
        left.keep()
        store.provenance.record("ghcr.io", "a", digest_of(CONTENT))
        modes = {path: path.stat().st_mode & 0o777 for path in (store.root, *store.root.rglob("*"))}
        store.close()
    finally:
        os.umask(usual)
    assert {path.name for path in modes} >= {"sha256", "sha512", "index.json", "provenance.db", "provenance.db-wal"}
    assert {path: mode for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_what_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    (tmp_path / "store" / "blobs").mkdir(mode=0o755)
    Store(tmp_path / "store").close()
    for path in (tmp_path / "store", tmp_path / "store" / "blobs"):
        assert path.stat().st_mode & 0o777 == 0o755


WITHIN = ["", "blobs", "blobs/sha256", "pulltap", "pulltap/ingest"]


@pytest.mark.parametrize("within", WITHIN)
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: str) -> None:
    root = tmp_path / "store"
    Store(root).close()
    folder = str(root / within).rstrip("/")
    theirs = os.geteuid() + 54321
    real = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        status = real(path, follow_symlinks=follow_symlinks)
        if str(path) != folder:
            return status
        return os.stat_result((*status[:4], theirs, *status[5:]))

    monkeypatch.setattr(Path, "stat", stat)
    before = tree(root)
    with pytest.raises(StoreError) as refused:
        Store(root)
    assert str(refused.value).startswith(f"{folder} belongs to user {theirs}, and this runs as ")
    assert str(refused.value).endswith(f": run it as user {theirs}, or name another folder in registry_store")
    assert tree(root) == before


def test_root_does_not_run_on_a_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "store"
    root.mkdir()
    if os.geteuid() == 0:
        os.chown(root, 1, 1)
    name = pwd.getpwuid(root.stat().st_uid).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(
        StoreError, match=f"belongs to {name}, and this runs as root: run it as {name}, or name another"
    ):
        Store(root)
    assert not list(root.iterdir())


@pytest.mark.parametrize("within", WITHIN)
def test_a_folder_in_which_others_may_write(tmp_path: Path, caplog: pytest.LogCaptureFixture, within: str) -> None:
    root = tmp_path / "store"
    Store(root).close()
    folder = root / within
    folder.chmod(0o770)
    Store(root).close()
    assert [record.getMessage() for record in caplog.records] == [
        f"its group may write in {folder}, and so decide what clients get: chmod g-w {folder}"
    ]
    folder.chmod(0o1777)
    with pytest.raises(StoreError, match=f"everybody may write in {folder}, .*: chmod o-w {folder}"):
        Store(root)


@pytest.mark.parametrize("linked", [*WITHIN[1:], "blobs/sha512", "pulltap/provenance.db"])
def test_no_folder_of_a_store_leads_elsewhere(tmp_path: Path, linked: str) -> None:
    root, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    Store(root).close()
    path = root / linked
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    before = tree(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    with pytest.raises(StoreError, match=f"{path} is a symbolic link: remove it, or name another folder"):
        Store(root)
    assert (tree(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == before


@pytest.mark.parametrize("linked", ["oci-layout", "index.json", "blobs", "pulltap"])
def test_nothing_is_written_through_a_link_that_leads_nowhere(tmp_path: Path, linked: str) -> None:
    root = tmp_path / "store"
    Store(root).close()
    (root / linked).rename(tmp_path / "away")
    (root / linked).symlink_to(tmp_path / "made")
    with pytest.raises(StoreError, match=r"symbolic link|is no store"):
        Store(root)
    assert not (tmp_path / "made").exists()


def test_the_store_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = Store(tmp_path / "store")
    assert read(store, put(store, CONTENT)) == CONTENT
    store.close()
    assert (tmp_path / "disk" / "oci-layout").exists()


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


@pytest.mark.parametrize("name", ["Documents", ".bashrc", "pulltap", "blob", "a.txt"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / name).mkdir()
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=rf"{tmp_path} is no store: it holds '{name}'.*registry_store"):
        Store(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("names", [[], ["lost+found"], ["blobs"], [".DS_Store", "blobs"]])
def test_a_folder_that_is_as_good_as_empty_is_taken(tmp_path: Path, names: Iterable[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    store = Store(tmp_path)
    assert read(store, put(store, CONTENT)) == CONTENT
    store.close()


def test_another_process_may_make_the_store_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[Store] = []
    look = Path.iterdir

    def iterdir(self: Path) -> Iterable[Path]:
        if self == tmp_path and not others:
            monkeypatch.undo()
            others.append(Store(tmp_path))
        return look(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    store = Store(tmp_path)
    digest = put(store, CONTENT)
    assert read(others[0], digest) == CONTENT
    for each in (store, *others):
        each.close()


def a_file(root: Path) -> None:
    root.write_text("")


def a_file_for_a_folder(root: Path) -> None:
    (root / "blobs").mkdir(parents=True)
    (root / "blobs" / "sha256").write_text("")


def a_file_for_our_folder(root: Path) -> None:
    Store(root).close()
    (root / "pulltap").rename(root / "away")
    (root / "pulltap").write_text("")


@pytest.mark.parametrize("obstacle", [a_file, a_file_for_a_folder, a_file_for_our_folder])
def test_a_folder_that_cannot_be_used(tmp_path: Path, obstacle: Callable[[Path], None]) -> None:
    obstacle(tmp_path / "store")
    with pytest.raises(StoreError, match=r"cannot use .*store as store: .*registry_store"):
        Store(tmp_path / "store")


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


def test_readers_survive_what_happens_to_the_file(store: Store) -> None:
    digest = put(store, CONTENT)
    reader = store.open(digest)
    assert reader is not None
    store.path(digest).unlink()
    assert store.open(digest) is None
    assert reader.read(0, 100) == CONTENT
    reader.close()


# Ingests, and what is left of them.


def begin(store: Store, content: bytes, *, origin: str = ORIGIN) -> Ingest:
    """An ingest of `CONTENT` that has come so far."""
    ingest = store.ingest(digest_of(CONTENT), origin)
    ingest.write(0, [content])
    return ingest


def finish(ingest: Ingest) -> None:
    while ingest.absorb():
        pass
    ingest.write(ingest.offset, [CONTENT[ingest.offset :]])
    ingest.verify(len(CONTENT))
    ingest.commit()


def ingests(store: Store) -> list[bytes]:
    return sorted(path.read_bytes() for path in (store.root / "pulltap" / "ingest").iterdir())


def test_a_link_in_the_way_of_an_ingest(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"theirs")
    ingest = begin(store, CONTENT)
    (path,) = (store.root / "pulltap" / "ingest").iterdir()
    ingest.abort()
    path.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic link"):
        begin(store, CONTENT)
    # The next start puts it away.
    Store(store.root).close()
    finish(begin(store, CONTENT))
    assert secret.read_bytes() == b"theirs"
    assert read(store, digest_of(CONTENT)) == CONTENT


def test_a_start_removes_what_is_of_no_use(store: Store) -> None:
    folder = store.root / "pulltap" / "ingest"
    name = f"sha256-{'a' * 64}.0123456789abcdef"
    for left in (f"{name}.deadbeef{HOLES}", f"sha256-{'b' * 64}.0123456789abcdef"):
        (folder / left).touch()
    (folder / f"{name}.beefdead{HOLES}").write_bytes(b"a \0\0yer")
    (folder / name).write_bytes(b"a la")
    mine = begin(store, CONTENT[:2])
    blob = put(store, b"stored")
    again = Store(store.root)
    # What has holes is gone; what can be gone on with is not, nor what is under way, though by this very process.
    assert ingests(store) == [b"a ", b"a la"]
    assert read(again, blob) == b"stored"
    finish(mine)
    assert read(again, digest_of(CONTENT)) == CONTENT
    again.close()


def test_a_broken_fill_goes_on_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    begin(store, CONTENT[:3]).keep()
    store.close()
    store = Store(tmp_path)
    ingest = store.ingest(digest_of(CONTENT), ORIGIN)
    assert (ingest.kept, ingest.offset) == (3, 0)
    finish(ingest)
    assert read(store, digest_of(CONTENT)) == CONTENT
    assert ingests(store) == []
    store.close()


def test_nobody_goes_on_with_what_another_registry_sent(store: Store) -> None:
    begin(store, b"evil", origin="evil.example").keep()
    ingest = store.ingest(digest_of(CONTENT), ORIGIN)
    assert ingest.kept == 0
    finish(ingest)
    assert read(store, digest_of(CONTENT)) == CONTENT
    assert store.ingest(digest_of(CONTENT), "evil.example").kept == 4


def test_the_same_blob_twice_at_once(tmp_path: Path) -> None:
    # A change of the settings makes a second store, while the first one's fills go on.
    stores = [Store(tmp_path), Store(tmp_path)]
    begun = [begin(store, CONTENT[:2]) for store in stores * 3]
    begun[2].keep()
    begun[3].abort()
    assert len(ingests(stores[0])) == 4
    for ingest in (begun[4], begun[0], begun[1], begun[5]):
        finish(ingest)
        assert read(stores[0], digest_of(CONTENT)) == CONTENT
    assert ingests(stores[0]) == []
    for store in stores:
        store.close()


FILL = """
import sys
from pathlib import Path
from addon.registry.digest import Digest
from addon.store.disk import Store
store = Store(Path(sys.argv[1]))
ingest = store.ingest(Digest.parse(sys.argv[2]), "registry-1.docker.io")
ingest.write(0, [b"a "])
print("ready", flush=True)
sys.stdin.readline()
ingest.write(2, [b"layer"])
ingest.verify(7)
ingest.commit()
store.close()
"""


def test_processes_share_a_store(tmp_path: Path) -> None:
    digest = digest_of(CONTENT)
    command = [sys.executable, "-c", FILL, str(tmp_path), str(digest)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as second,
    ):
        for process in (first, second):
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
        # One that starts meanwhile leaves both alone.
        store = Store(tmp_path)
        assert store.open(digest) is None
        for process in (first, second):
            process.communicate(b"\n")
            assert process.returncode == 0
            assert read(store, digest) == CONTENT
    assert ingests(store) == []
    store.close()


def test_threads_share_a_store(store: Store) -> None:
    contents = [b"%d" % n * 1000 for n in range(50)]
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda content: put(store, content), contents * 2))
    assert [read(store, digest) for digest in digests] == contents * 2


def test_a_closed_store_records_nothing(tmp_path: Path) -> None:
    before = open_files()
    store = Store(tmp_path)
    store.close()
    with pytest.raises(StoreError):
        store.provenance.record("ghcr.io", "a", digest_of(CONTENT))
    assert open_files() == before
