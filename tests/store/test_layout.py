import errno
import json
import os
import pwd
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from addon.registry.digest import ALGORITHMS
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.layout import Layout, open_file

from .blobs import ORIGIN, digest_of, open_files, put, read

CONTENT = b"a layer"


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


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
    assert {path.name for path in modes} >= {"sha256", "sha512", "index.json", "catalog.db", "catalog.db-wal"}
    assert {path: mode for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_what_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    (tmp_path / "store" / "blobs").mkdir(mode=0o755)
    Store(tmp_path / "store").close()
    for path in (tmp_path / "store", tmp_path / "store" / "blobs"):
        assert path.stat().st_mode & 0o777 == 0o755


WITHIN = ["", "blobs", "blobs/sha256", "pulltap", "pulltap/ingest", "pulltap/quarantine"]


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


@pytest.mark.parametrize("linked", [*WITHIN[1:], "blobs/sha512", "pulltap/catalog.db"])
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


def test_of_what_lies_there_only_files_by_the_names_of_blobs_are_stored(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    digests = [digest_of(CONTENT, algorithm) for algorithm in ALGORITHMS]
    for digest in digests:
        layout.blob(digest).write_bytes(CONTENT)
    folder = layout.blobs / "sha256"
    for name in ("notes.txt", "A" * 64, "a" * 63, "a" * 128):
        (folder / name).write_bytes(CONTENT)
    (folder / ("b" * 64)).mkdir()
    os.mkfifo(folder / ("c" * 64))
    (folder / ("d" * 64)).symlink_to(layout.blob(digests[0]))
    assert {(digest, status.st_size) for digest, status in layout.stored()} == {
        (digest, len(CONTENT)) for digest in digests
    }


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    (layout.blobs / "sha512").rmdir()
    with pytest.raises(FileNotFoundError):
        layout.stored()


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_what_is_half_written_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Store(tmp_path).close()
    before, content = open_files(), (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if name == "oci-layout":
        # It is not taken for the folder of another program.
        (tmp_path / "pulltap").rename(tmp_path / "blobs" / "away")

    def full(_fd: int, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space left"):
            Store(tmp_path)
    assert not (tmp_path / name).exists()
    assert open_files() == before
    Store(tmp_path).close()
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_of_what_a_power_cut_left_the_name_the_text_comes_again(tmp_path: Path, name: str) -> None:
    Store(tmp_path).close()
    content = (tmp_path / name).read_bytes()
    os.truncate(tmp_path / name, 0)
    Store(tmp_path).close()
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    Store(tmp_path).close()
    before = open_files()
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(StoreError, match=r"cannot use .* as store: No such device"):
        Store(tmp_path)
    assert open_files() == before


# Files.


def test_a_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        open_file(path, os.O_RDONLY)
    fd = open_file(path, os.O_RDWR | os.O_CREAT)
    os.write(fd, CONTENT)
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert path.stat().st_mode & 0o777 == 0o600
    fd = open_file(path, os.O_RDONLY)
    assert os.read(fd, 100) == CONTENT
    os.close(fd)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(__file__)])
def test_nothing_else_is_opened_nor_waited_for(tmp_path: Path, flags: int, make: Callable[[Path], None]) -> None:
    before = open_files()
    path = tmp_path / "file"
    make(path)
    with pytest.raises(OSError, match=r"it is no file|Is a directory|symbolic link"):
        open_file(path, flags)
    assert open_files() == before
