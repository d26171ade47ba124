"""What a collection removes of a store, and what it leaves."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from addon.registry.reference import Reference
from addon.store.disk import Store
from addon.store.errors import NoRoom
from addon.store.room import UNLIMITED, Limits
from addon.ui import listing

from ..store.blobs import ORIGIN, digest_of, put, read
from ..store.pulled import Pulls, theirs


def collect(store: Store, to: int | None = None, *, unreferenced: bool = False) -> tuple[int, int]:
    return listing.collect(store, listing.waste(store, to, unreferenced=unreferenced))


def test_where_all_is_of_use_there_is_nothing_to_say(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    plan = listing.waste(store, unreferenced=True)
    assert plan == listing.Waste(0, 0, (), 0, UNLIMITED)
    assert plan.lines() == []
    size = store.inventory.total()
    assert collect(store) == (size, size)


def test_bad_blobs_and_rests_go(store: Store) -> None:
    put(store, b"a layer")
    (store.layout.quarantine / "bad").write_bytes(bytes(2048))
    broken = store.ingest(digest_of(b"broken"), ORIGIN)
    broken.write(0, [bytes(1024)])
    broken.keep()
    assert listing.waste(store).lines() == ["2.0 KiB of bad blobs", "up to 1.0 KiB of rests of broken fills"]
    assert collect(store) == (7 + 2048 + 1024, 7)
    assert list(store.layout.quarantine.iterdir()) == []
    assert list(store.layout.ingests.iterdir()) == []


def test_what_is_on_its_way_stays(store: Store) -> None:
    ingest = store.ingest(digest_of(b"under way"), ORIGIN)
    ingest.announce(9)
    ingest.write(0, [b"under"])
    with pytest.raises(NoRoom, match="on its way in"):
        collect(store, 0)
    collect(store, unreferenced=True)
    ingest.write(5, [b" way"])
    ingest.verify(9)
    ingest.commit()
    assert read(store, digest_of(b"under way")) == b"under way"


def test_what_is_over_the_limit_goes_what_is_of_least_use_first(store: Store) -> None:
    digests = [put(store, bytes([n]) * 1000) for n in range(4)]
    for digest in digests[1:3]:
        store.inventory.used(digest)
    store.room.limits = Limits(2500)
    plan = listing.waste(store)
    assert plan.over == 1500
    assert plan.lines() == ["1.5 KiB or more of blobs, those of least use first"]
    assert listing.collect(store, plan) == (4000, 2000)
    assert {entry.digest for entry in store.inventory.entries()} == set(digests[1:3])


@pytest.mark.parametrize(("to", "limit"), [(None, 2500), (1000, 1000), (9000, 2500), (0, 0)])
def test_to_how_little(store: Store, to: int | None, limit: int) -> None:
    for n in range(2):
        put(store, bytes([n]) * 1000)
    store.room.limits = Limits(2500)
    plan = listing.waste(store, to)
    assert (plan.limit, plan.over) == (limit, max(0, 2000 - limit))
    assert listing.collect(store, plan)[1] <= limit


def test_what_is_pinned_makes_it_no_smaller(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", bytes(5000))
    store.images.pin(Reference.parse("alpine"))
    with pytest.raises(NoRoom, match="cannot be made as small as 1000 bytes"):
        collect(store, 1000)
    assert read(store, digest_of(bytes(5000)))


def test_what_no_image_names_goes_where_that_is_wanted(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    put(store, b"of nobody")
    assert listing.waste(store).unreferenced == ()
    plan = listing.waste(store, unreferenced=True)
    assert [entry.digest for entry in plan.unreferenced] == [digest_of(b"of nobody")]
    assert plan.lines() == ["1 blob of no known image, 9 B"]
    listing.collect(store, plan)
    assert {entry.digest for entry in store.inventory.entries()} == set(pulls.digests)


def test_that_counts_for_the_limit(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    size = store.inventory.total()
    put(store, bytes(5000))
    store.room.limits = Limits(size + 100)
    plan = listing.waste(store, unreferenced=True)
    assert (plan.over, len(plan.unreferenced)) == (0, 1)
    listing.collect(store, plan)
    assert store.inventory.total() == size


def test_images_that_are_known_in_other_ways_stay(store: Store, pulls: Pulls) -> None:
    old = pulls.image("alpine", b"old")
    store.images.pin(Reference.parse(f"alpine@{old}"))
    pulls.image("alpine", b"new")
    theirs(store, b"of another tool")
    put(store, b"of nobody")
    collect(store, unreferenced=True)
    stored = [read(store, digest_of(blob)) for blob in (b"old", b"new", b"of another tool", b"of nobody")]
    assert stored == [b"old", b"new", b"of another tool", None]


def test_what_is_being_read_is_not_collected(store: Store) -> None:
    digest = put(store, b"of nobody")
    reader = store.open(digest)
    assert reader is not None
    collect(store, unreferenced=True)
    assert store.path(digest).exists()
    reader.close()
    collect(store, unreferenced=True)
    assert not store.path(digest).exists()


def test_what_is_long_gone_is_forgotten_and_the_index_written(store: Store, pulls: Pulls) -> None:
    pulls.image("alpine", b"a layer")
    pulls.passed("gone", b'{"mediaType":"x"}', stored=False)
    store.provenance.record("ghcr.io", "a/b", digest_of(b"gone"))
    with store._catalog.writing() as db:
        month = time.time() - 31 * 24 * 3600
        db.execute("UPDATE provenance SET seen = ?", (month,))
        db.execute("UPDATE tags SET seen = ?", (month,))
    collect(store)
    assert store.provenance.unclaimed(digest_of(b"gone"))
    assert [image.name for image in store.images.all()] == ["docker.io/library/alpine:latest"]
    assert "library/alpine" in store.layout.index.read_text()


def test_a_quarantine_that_somebody_else_clears_is_no_trouble(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.layout.quarantine / "bad").touch()
    usual = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        for path in usual(folder):
            os.unlink(path)  # noqa: PTH108 - the one that is tested is another
            yield path

    monkeypatch.setattr(
        Path, "iterdir", lambda folder: iterdir(folder) if folder == store.layout.quarantine else usual(folder)
    )
    collect(store)
