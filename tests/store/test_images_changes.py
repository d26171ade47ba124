"""When it has to be found out anew which images are whole, and when nothing has changed by which they could be."""

import json

import pytest

from addon.store.disk import Store
from addon.store.images import NAME

from .blobs import digest_of, put
from .pulled import Pulls, manifest


@pytest.fixture
def pulls(store: Store) -> Pulls:
    return Pulls(store)


def listed(store: Store) -> list[str]:
    """The names in the index, as other tools see them."""
    return [entry["annotations"][NAME] for entry in json.loads(store.layout.index.read_text())["manifests"]]


def test_what_changes_and_what_does_not(store: Store, pulls: Pulls) -> None:
    def more() -> bool:
        """Whether something may have changed since the last time."""
        before, seen[0] = seen[0], store.changes
        return seen[0] != before

    seen = [store.changes]
    layer = digest_of(b"a layer")
    pulls.image("alpine", b"a layer")
    assert more()
    # The same once more, as most pulls are.
    pulls.passed("alpine", manifest(b"a layer"))
    store.inventory.used(layer)
    store.flush()
    store.reconcile()
    store.remove([])
    store.images.forget([])
    assert store.verify(layer)
    assert not more()
    # Nor is it a change that a blob which is known by its file is looked at for the first time.
    store.path(digest_of(b"strange")).write_bytes(b"strange")
    store.reconcile()
    assert more()
    assert store.verify(digest_of(b"strange"))
    assert not more()
    pulls.passed("alpine", manifest(b"a layer", b"more"))
    assert more()
    store.path(digest_of(b"by hand")).write_bytes(b"by hand")
    store.reconcile()
    assert more()
    store.remove([layer])
    assert more()
    put(store, b"a layer")
    assert more()
    store.room.shrink(0)
    assert more()
    store.images.forget(store.images.all())
    assert more()


class Watched(Store):
    """A store that tells how often it found out which images are whole."""

    looked = 0

    def write_index(self) -> bool:
        self.looked += 1
        return super().write_index()


def test_closing_leaves_the_index_right_and_does_nothing_without_need(store: Store) -> None:
    looked = []
    for name in ("alpine", "", "busybox"):
        other = Watched(store.root)
        if name:
            other.path(digest_of(b"a layer")).write_bytes(b"a layer")
            other.path(digest_of(b"{}")).write_bytes(b"{}")
            other.reconcile()
            Pulls(other).passed(name, manifest(b"a layer"))
        other.close()
        looked.append(other.looked)
    assert looked == [1, 0, 1]
    assert listed(store) == ["docker.io/library/alpine:latest", "docker.io/library/busybox:latest"]
    other = Watched(store.root)
    Pulls(other).passed("third", manifest(b"a layer"))
    other.write_index()
    other.close()
    assert other.looked == 1
