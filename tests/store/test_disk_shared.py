"""Ingests in a store that is used again, and by several at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.store.ingest import Ingest
from addon.store.place import HOLES, LEASE

from .blobs import ORIGIN, digest_of, open_files, put, read
from .processes import finish, process, tell

CONTENT = b"a layer"
DIGEST = digest_of(CONTENT)


def begin(store: Store, content: bytes, *, origin: str = ORIGIN) -> Ingest:
    """An ingest of `CONTENT` that has come so far."""
    ingest = store.ingest(DIGEST, origin)
    ingest.write(0, [content])
    return ingest


def end(ingest: Ingest) -> None:
    while ingest.absorb():
        pass
    ingest.write(ingest.offset, [CONTENT[ingest.offset :]])
    ingest.verify(len(CONTENT))
    ingest.commit()


def ingests(store: Store) -> list[bytes]:
    """What lies on its way in, without the leases."""
    paths = [path for path in store.layout.ingests.iterdir() if not path.name.endswith(LEASE)]
    return sorted(path.read_bytes() for path in paths)


@contextmanager
def opened(root: Path) -> Iterator[Store]:
    store = Store(root)
    yield store
    store.close()


# One after the other.


def test_a_link_in_the_way_of_an_ingest(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"theirs")
    begin(store, CONTENT).keep()
    (path,) = store.layout.ingests.iterdir()
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic link"):
        begin(store, CONTENT)
    # The next start puts it away.
    Store(store.root).close()
    end(begin(store, CONTENT))
    assert secret.read_bytes() == b"theirs"
    assert read(store, DIGEST) == CONTENT


def test_a_start_removes_what_is_of_no_use(store: Store) -> None:
    name = f"sha256-{'a' * 64}.0123456789abcdef"
    other = f"sha256-{'b' * 64}.0123456789abcdef"
    (store.layout.ingests / other).touch()
    (store.layout.ingests / f"{other}{HOLES}").write_bytes(b"a \0\0yer")
    (store.layout.ingests / name).write_bytes(b"a la")
    mine = begin(store, CONTENT[:2])
    blob = put(store, b"stored")
    with opened(store.root) as again:
        # What has holes is gone; what can be gone on with is not, nor what is under way, though by this very process.
        assert ingests(store) == [b"a ", b"a la"]
        assert read(again, blob) == b"stored"
        end(mine)
        assert read(again, DIGEST) == CONTENT


def test_a_broken_fill_goes_on_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        begin(store, CONTENT[:3]).keep()
    with opened(tmp_path) as store:
        assert store.kept(DIGEST, ORIGIN) == 3
        ingest = store.ingest(DIGEST, ORIGIN)
        assert (ingest.kept, ingest.offset) == (3, 0)
        end(ingest)
        assert read(store, DIGEST) == CONTENT
        assert ingests(store) == []


def test_nobody_goes_on_with_what_another_registry_sent(store: Store) -> None:
    begin(store, b"evil", origin="evil.example").keep()
    assert store.kept(DIGEST, ORIGIN) == 0
    ingest = store.ingest(DIGEST, ORIGIN)
    assert ingest.kept == 0
    end(ingest)
    assert read(store, DIGEST) == CONTENT
    again = store.ingest(DIGEST, "evil.example")
    assert again.kept == 4
    again.abort()


# At once.


def test_the_same_blob_twice_at_once(tmp_path: Path) -> None:
    # A change of the settings makes a second store, while the first one's fills go on.
    with opened(tmp_path) as store, opened(tmp_path) as other:
        first = begin(store, CONTENT[:2])
        with pytest.raises(BlockingIOError):
            other.ingest(DIGEST, ORIGIN)
        # From another registry, it is another fill.
        second = begin(other, CONTENT[:3], origin="ghcr.io")
        end(first)
        assert read(other, DIGEST) == CONTENT
        end(second)
        assert read(store, DIGEST) == CONTENT
        assert list(store.layout.ingests.iterdir()) == []


RACER = """
import sys
from pathlib import Path
from addon.store.disk import Store
from tests.store.blobs import ORIGIN, digest_of
content = b"a layer"
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    ingest = store.ingest(digest_of(content), ORIGIN)
except BlockingIOError:
    print("overtaken", flush=True)
else:
    ingest.write(0, [content[:2]])
    print("first", flush=True)
    sys.stdin.readline()
    ingest.write(2, [content[2:]])
    ingest.verify(len(content))
    ingest.commit()
    print("stored")
store.close()
"""


def test_of_processes_that_race_for_one_ingest_one_fills_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        racers = [stack.enter_context(process(RACER, tmp_path)) for _ in range(4)]
        for racer in racers:
            tell(racer)
        said = []
        for racer in racers:
            assert racer.stdout
            said.append(racer.stdout.readline().strip())
        assert sorted(said) == ["first", *["overtaken"] * 3]
        with opened(tmp_path) as store:
            # One that starts meanwhile leaves it alone.
            assert store.open(DIGEST) is None
            assert ingests(store) == [CONTENT[:2]]
            assert [finish(racer) for racer in racers] == ["stored\n" if one == "first" else "" for one in said]
            assert read(store, DIGEST) == CONTENT
            assert list(store.layout.ingests.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from addon.store.disk import Store
from tests.store.blobs import put, read
print("ready", flush=True)
sys.stdin.readline()
store = Store(Path(sys.argv[1]))
for n in range(20):
    content = b"%d of %s" % (n, sys.argv[2].encode())
    digest = put(store, content)
    store.inventory.used(digest)
    store.flush()
    store.provenance.record("ghcr.io", sys.argv[2], digest)
    assert read(store, digest) == content
store.close()
"""


def test_processes_share_a_store_from_its_making_on(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with ExitStack() as stack:
        writers = [stack.enter_context(process(WRITER, root, f"team{n}")) for n in range(4)]
        for writer in writers:
            tell(writer)
        for writer in writers:
            finish(writer)
    with opened(root) as store:
        for team in (f"team{n}" for n in range(4)):
            for n in range(20):
                digest = digest_of(b"%d of %s" % (n, team.encode()))
                reader = store.open(digest)
                assert reader is not None
                assert reader.verified
                reader.close()
                assert store.provenance.repositories(digest) == [("ghcr.io", team)]
        assert [entry.uses for entry in store.inventory.entries()] == [1] * 80


def test_threads_share_a_store(store: Store) -> None:
    contents = [b"%d" % n * 1000 for n in range(50)]
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda content: put(store, content), contents))
        assert list(pool.map(lambda digest: read(store, digest), digests * 2)) == contents * 2


def test_a_closed_store_records_nothing(tmp_path: Path) -> None:
    before = open_files()
    store = Store(tmp_path)
    store.close()
    store.close()
    with pytest.raises(StoreError):
        store.provenance.record("ghcr.io", "a", DIGEST)
    assert open_files() == before
