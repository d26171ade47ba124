import errno
import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from addon.store.disk import Store
from addon.store.following import Following
from addon.store.lease import boot

from .blobs import ORIGIN, digest_of, open_files, read
from .ingests import CONTENT, SIZE, Folder, everything
from .processes import finish, process, tell

pytestmark = pytest.mark.usefixtures("nothing_stays_open")

OWNER = """
import os, signal, sys
from pathlib import Path
from tests.store.ingests import CONTENT, SIZE, Folder
ingest = Folder(Path(sys.argv[1])).ingest()
print("ready", flush=True)

def wait():
    sys.stdin.readline()

wait()
ingest.announce(SIZE)
for part in sys.argv[3:]:
    start, stop = map(int, part.split("-"))
    ingest.write(start, [CONTENT[start:stop]])
    while ingest.absorb():
        pass
    print(ingest.offset, flush=True)
    wait()
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
getattr(ingest, sys.argv[2])()
"""


def follow(folder: Folder) -> Following:
    following = Following.of(folder.place)
    assert following is not None
    return following


def test_where_nobody_is_at_it_nobody_is_followed(folder: Folder) -> None:
    assert Following.of(folder.place) is None
    # What is kept is nobody's.
    folder.place.plain.write_bytes(CONTENT[:600])
    assert Following.of(folder.place) is None


@pytest.mark.parametrize(
    ("end", "left"),
    [("commit", []), ("keep", ["one"]), ("abort", []), ("withdraw", []), ("killed", ["one", "one.lease"])],
)
def test_another_process_is_followed_to_its_end(folder: Folder, end: str, left: list[str]) -> None:
    with process(OWNER, folder.root, end, "0-600", f"600-{SIZE}") as owner:
        following = follow(folder)
        assert following.progress().offset == 0
        reader = following.reader()
        for offset in (600, SIZE):
            tell(owner)
            assert owner.stdout
            assert owner.stdout.readline() == f"{offset}\n"
            progress = following.progress()
            assert (progress.offset, progress.size, progress.boot) == (offset, SIZE, boot())
            assert following.under_way()
            assert everything(reader) == CONTENT[:offset]
            assert (
                Following.of(
                    folder.place,
                )
                is not None
            )
        if end == "killed":
            tell(owner)
            assert owner.wait() == -signal.SIGKILL
        else:
            finish(owner)
    # Over; and whichever end that was, the bytes can still be read.
    assert not following.under_way()
    assert following.progress().withdrawn is (end == "withdraw")
    late = following.reader()
    assert late.size == (0 if end == "withdraw" else SIZE)
    before = open_files()
    following.close()
    following.close()
    assert open_files() == before - 2
    assert everything(reader) == everything(late) == CONTENT
    reader.close()
    late.close()
    assert folder.left() == left
    assert Following.of(folder.place) is None


def test_one_that_has_holes_is_followed_up_to_the_first(folder: Folder) -> None:
    with process(OWNER, folder.root, "commit", "0-600", f"700-{SIZE}", "600-700") as owner:
        following = None
        for offset in (600, 600, SIZE):
            tell(owner)
            assert owner.stdout
            assert owner.stdout.readline() == f"{offset}\n"
            # From before it had any, and from when it had some.
            followed = [follow(folder), *([following] if following else [])]
            for each in followed:
                assert each.progress().offset == offset
                reader = each.reader()
                assert reader.size == offset
                assert reader.read(0, offset) == CONTENT[:offset]
                reader.close()
            for each in followed[1:]:
                each.close()
            following = followed[0]
        finish(owner)
    assert following is not None
    assert not following.under_way()
    following.close()
    assert folder.final.read_bytes() == CONTENT


def test_what_is_stored_is_the_file_that_was_followed(store: Store) -> None:
    digest = digest_of(CONTENT)
    ingest = store.ingest(digest, ORIGIN)
    assert store.following(digest, "ghcr.io") is None
    following = store.following(digest, ORIGIN)
    assert following is not None
    along = following.reader()
    ingest.write(0, [CONTENT])
    ingest.commit()
    stored = store.open(digest)
    assert stored is not None
    assert stored.same_file(along)
    assert read(store, digest) == everything(along)
    for each in (stored, along, following):
        each.close()
    assert store.following(digest, ORIGIN) is None


def test_who_has_only_just_begun_is_not_followed_yet(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = folder.ingest()
    folder.place.plain.unlink()
    assert Following.of(folder.place) is None
    folder.place.plain.touch()
    follow(folder).close()
    ingest.abort()


def test_one_that_gets_its_first_hole_meanwhile_is_found(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:600]])
    opened: list[str] = []
    real = os.open

    def spread_behind_its_back(path: Path, flags: int, mode: int = 0o777) -> int:
        opened.append(Path(path).name)
        if len(opened) == 2:
            # Between the look at the lease and that at the file.
            ingest.write(700, [CONTENT[700:]])
        return real(path, flags, mode)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", spread_behind_its_back)
        following = follow(folder)
    assert opened == ["one.lease", "one", "one.holes"]
    assert following.progress().offset == 600
    following.close()
    ingest.abort()


def test_one_that_is_kept_meanwhile_is_found_or_is_over(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:600]])
    ingest.write(700, [CONTENT[700:]])
    real = os.open

    def keep_behind_its_back(path: Path, flags: int, mode: int = 0o777) -> int:
        if path == folder.place.holes:
            ingest.keep()
        return real(path, flags, mode)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", keep_behind_its_back)
        following = follow(folder)
    assert following.progress().offset == 600
    assert not following.under_way()
    following.close()


def test_what_was_followed_stays_until_that_was_seen(store: Store) -> None:
    digest = digest_of(CONTENT)
    ingest = store.ingest(digest, ORIGIN)
    following = store.following(digest, ORIGIN)
    assert following is not None
    ingest.write(0, [CONTENT])
    ingest.commit()
    assert store.remove([digest]) == []
    following.close()
    assert store.remove([digest]) == [digest]


# What cannot be followed.


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/zero"), os.mkfifo])
def test_what_is_no_file_is_not_followed(folder: Folder, make: Callable[[Path], None]) -> None:
    make(folder.place.lease)
    with pytest.raises(OSError, match=r"symbolic link|it is no file"):
        Following.of(folder.place)
    folder.place.lease.unlink()
    ingest = folder.ingest()
    folder.place.plain.unlink()
    make(folder.place.plain)
    with pytest.raises(OSError, match=r"symbolic link|it is no file"):
        Following.of(folder.place)
    ingest.abort()


def test_what_fails_leaves_nothing_open(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = folder.ingest()
    before = open_files()
    real = os.open

    def too_many(path: Path, flags: int, mode: int = 0o777) -> int:
        if path == folder.place.plain:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, mode)

    def no_locks(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    for target, name, failing in ((os, "open", too_many), (fcntl, "flock", no_locks)):
        with monkeypatch.context() as patched:
            patched.setattr(target, name, failing)
            with pytest.raises(OSError, match=r"Too many|No locks") as failed:
                Following.of(folder.place)
        # Not even as long as the error, and with it what was under way, is looked at.
        assert failed.value.errno in (errno.EMFILE, errno.ENOLCK)
        assert open_files() == before
    ingest.abort()
