import os
from collections.abc import Iterator
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


def test_closing_twice_closes_no_other_file(reader: BlobReader, path: Path) -> None:
    reader.close()
    # Takes the number that has just become free.
    with path.open("rb") as other:
        reader.close()
        assert other.read(5) == CONTENT[:5]
        with pytest.raises(ValueError, match="closed"):
            reader.read(0, 5)


def test_a_forgotten_reader_is_closed(path: Path) -> None:
    before = open_files()
    for _ in range(10):
        BlobReader(os.open(path, os.O_RDONLY), len(CONTENT)).again(7)
    assert open_files() == before
