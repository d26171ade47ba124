import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from addon.store.blob import BlobReader

from .blobs import open_files

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def reader(path: Path) -> Iterator[BlobReader]:
    reader = BlobReader(os.open(path, os.O_RDONLY), len(CONTENT))
    yield reader
    reader.close()


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 1),
        (0, len(CONTENT)),
        (5, 10),
        (len(CONTENT) - 1, 1),
        (len(CONTENT) - 3, 10),
        (len(CONTENT), 10),
        (10**12, 1),
    ],
)
def test_reading_by_offset(reader: BlobReader, offset: int, length: int) -> None:
    assert reader.read(offset, length) == CONTENT[offset : offset + length]


def test_the_size_is_that_of_the_opening(reader: BlobReader, path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")
    assert reader.size == len(CONTENT)
    # What came later is there to be read all the same.
    assert reader.read(len(CONTENT), 10) == b"more"


@pytest.mark.parametrize("gone", [Path.unlink, lambda path: path.rename(path.with_name("other"))])
def test_it_outlives_its_name(reader: BlobReader, path: Path, gone: object) -> None:
    assert callable(gone)
    gone(path)
    path.write_bytes(b"another file of that name")
    assert reader.read(0, len(CONTENT)) == CONTENT


def test_readers_do_not_disturb_each_other(reader: BlobReader) -> None:
    def slices(reader: BlobReader) -> bytes:
        return b"".join(reader.read(offset, 100) for offset in range(0, len(CONTENT), 100))

    again = reader.again(len(CONTENT))
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(slices, [reader, again] * 8)) == {CONTENT}
    again.close()


def test_a_second_reader_is_closed_on_its_own(reader: BlobReader) -> None:
    again = reader.again(7)
    assert (again.size, reader.size) == (7, len(CONTENT))
    reader.close()
    assert again.read(0, 5) == CONTENT[:5]
    again.close()
    with pytest.raises(ValueError, match="closed"):
        again.read(0, 5)


def test_a_second_reader_is_as_verified_as_the_first(path: Path) -> None:
    for verified in (True, False):
        reader = BlobReader(os.open(path, os.O_RDONLY), len(CONTENT), verified=verified)
        again = reader.again(len(CONTENT))
        assert again.verified is verified
        reader.close()
        again.close()


def test_reading_into_a_buffer(reader: BlobReader) -> None:
    buffer = bytearray(100)
    assert reader.read_into(5, memoryview(buffer)) == 100
    assert buffer == CONTENT[5:105]
    assert reader.read_into(len(CONTENT) - 10, memoryview(buffer)) == 10
    assert buffer[:10] == CONTENT[-10:]
    assert reader.read_into(len(CONTENT), memoryview(buffer)) == 0


def test_two_readers_of_the_same_file_whatever_its_name(reader: BlobReader, path: Path) -> None:
    again = reader.again(7)
    path.rename(path.with_name("moved"))
    moved = BlobReader(os.open(path.with_name("moved"), os.O_RDONLY), len(CONTENT))
    path.write_bytes(CONTENT)
    other = BlobReader(os.open(path, os.O_RDONLY), len(CONTENT))
    assert reader.same_file(again)
    assert reader.same_file(moved)
    assert not reader.same_file(other)
    assert reader.stat().st_size == len(CONTENT)
    for each in (again, moved, other):
        each.close()


@pytest.mark.parametrize(
    "work",
    [
        lambda reader: reader.read(0, 5),
        lambda reader: reader.read_into(0, memoryview(bytearray(5))),
        lambda reader: reader.stat(),
        lambda reader: reader.again(5),
        lambda reader: reader.same_file(reader),
    ],
)
def test_a_closed_reader_reads_nothing(reader: BlobReader, work: Callable[[BlobReader], object]) -> None:
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        work(reader)


def test_closing_twice_closes_no_other_file(reader: BlobReader, path: Path) -> None:
    reader.close()
    # Takes the number that has just become free.
    with path.open("rb") as other:
        reader.close()
        assert other.read(5) == CONTENT[:5]
        with pytest.raises(ValueError, match="closed"):
            reader.read(0, 5)


def test_a_reader_is_closed_at_once(path: Path) -> None:
    before = open_files()
    readers = [BlobReader(os.open(path, os.O_RDONLY), len(CONTENT)) for _ in range(10)]
    assert open_files() == before + 10
    for reader in readers:
        reader.close()
    assert open_files() == before


def test_a_forgotten_reader_is_closed(path: Path) -> None:
    before = open_files()
    for _ in range(10):
        BlobReader(os.open(path, os.O_RDONLY), len(CONTENT)).again(7)
    assert open_files() == before
