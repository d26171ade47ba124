"""An ingest whose bytes come out of order."""

import itertools
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.store import ingest as module
from addon.store.ingest import Ingest
from addon.store.place import HOLES

from .ingests import CONTENT, SIZE, Folder, absorb, everything


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Pieces of `CONTENT`, all of it, in some order."""
    cuts = sorted({0, SIZE, *draw(st.lists(st.integers(0, SIZE), max_size=8))})
    return draw(st.permutations(list(itertools.pairwise(cuts))))


@given(arrivals(), st.integers(0, 9), st.lists(st.booleans(), min_size=9, max_size=9), st.integers(1000, 20000))
def test_pieces_may_come_in_any_order_and_in_two_attempts(
    pieces: list[tuple[int, int]], broken: int, absorbs: list[bool], step: int
) -> None:
    def receive(ingest: Ingest, pieces: list[tuple[int, int]]) -> None:
        reader = ingest.reader()
        for (start, stop), absorbed in zip(pieces, absorbs, strict=False):
            middle = (start + stop) // 2
            ingest.write(start, [CONTENT[start:middle], CONTENT[middle:stop]])
            if absorbed:
                absorb(ingest)
            assert everything(reader)[: ingest.offset] == CONTENT[: ingest.offset]
        absorb(ingest)
        reader.close()

    with TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_STEP", step)
        folder = Folder(Path(path))
        first = folder.ingest()
        receive(first, pieces[:broken])
        first.keep()
        # All up to the first hole, and nothing behind it.
        hole = min((start for start, _ in pieces[broken:]), default=SIZE)
        assert folder.kept() == (CONTENT[:hole] if hole else None)
        assert folder.left() == (["one"] if hole else [])
        assert folder.place.kept() == hole
        second = folder.ingest()
        assert (second.kept, second.offset) == (hole, 0)
        receive(second, [piece for piece in pieces if piece[0] >= hole])
        assert second.offset == SIZE
        second.verify(SIZE)
        second.commit()
        assert folder.final.read_bytes() == CONTENT
        assert folder.left() == []


def test_a_step_at_a_time(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEP", 4000)
    ingest = folder.ingest()
    ingest.write(100, [CONTENT[100:]])
    assert not ingest.absorb()
    assert ingest.offset == 0
    ingest.write(0, [CONTENT[:100]])
    offsets = []
    while ingest.absorb():
        offsets.append(ingest.offset)
        # Up to here, a copy of the hash goes on elsewhere.
        proven, hasher = ingest.proven
        assert proven == ingest.offset
        hasher.update(CONTENT[proven:])
        assert hasher.hexdigest() == ingest.digest.encoded
    assert offsets == [4100, 8100]
    assert ingest.offset == SIZE
    ingest.abort()


def test_what_is_missing_is_told(folder: Folder) -> None:
    folder.place.plain.write_bytes(CONTENT[:100])
    ingest = folder.ingest()
    os.truncate(folder.place.plain, 50)
    with pytest.raises(OSError, match="ends at 50, before 100"):
        absorb(ingest)
    ingest.abort()


def test_while_there_are_holes_its_name_says_so(folder: Folder) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:10]])
    assert folder.left() == ["one", "one.lease"]
    ingest.write(20, [CONTENT[20:]])
    assert folder.left() == [f"one{HOLES}", "one.lease"]
    # Also when they are filled: what was written behind them is not hashed yet.
    ingest.write(10, [CONTENT[10:20]])
    assert folder.left() == [f"one{HOLES}", "one.lease"]
    ingest.keep()
    assert folder.left() == ["one"]
    assert folder.kept() == CONTENT


def test_what_lies_behind_a_hole_is_not_kept(folder: Folder) -> None:
    ingest = folder.ingest()
    ingest.write(0, [CONTENT[:10]])
    ingest.write(20, [CONTENT[20:]])
    ingest.keep()
    assert folder.left() == ["one"]
    assert folder.kept() == CONTENT[:10]


def test_what_has_holes_can_be_dropped(folder: Folder) -> None:
    ingest = folder.ingest()
    ingest.write(20, [CONTENT[20:]])
    ingest.abort()
    assert folder.left() == []
