"""What a soak takes for right, for level and for at rest; and a short one, from its begin to its end."""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bench import soak
from bench.soak_checks import Book, Got, Wanted, content_range, fault_of, flipped, parts
from bench.soak_faults import Chance, counts
from bench.soak_samples import (
    GROWTH,
    MIB,
    OBJECTS,
    THREADS,
    Sample,
    grown,
    judge,
    kib,
    late,
    level,
    markdown,
    size,
    slope,
)
from tests.standin.wire import Request

ROOT = Path(__file__).parents[1]
CONTENT = bytes(range(200))


# Whether an answer is right.


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    file = tmp_path / "blob"
    file.write_bytes(CONTENT)
    return Wanted("sha256:right", len(CONTENT), file, "library/one")


def got(
    status: int = 200, body: bytes = CONTENT, digest: str = "sha256:right", *, whole: bool = True, **more: str
) -> Got:
    headers = tuple((key.replace("_", "-"), str(value)) for key, value in more.items())
    return Got(status, headers, len(body), digest, body, whole)


MULTIPART = (
    b"--cut\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-1/200\r\n\r\n\x00\x01\r\n"
    b"--cut\r\nContent-Range: bytes 7-7/200\r\n\r\n\x07\r\n--cut--\r\n"
)

BYPASS = 'pulltap; fwd=bypass; detail="no room"'


@pytest.mark.parametrize(
    "answer",
    [
        got(),
        got(206, CONTENT[5:9], content_range="bytes 5-8/200"),
        got(206, MULTIPART, content_type="multipart/byteranges; boundary=cut"),
        got(digest="sha256:another", whole=False),
        got(206, b"no", whole=False, content_range="bytes 5-8/200"),
        got(503, b"later"),
        got(307, b"", cache_status=BYPASS),
        got(403, b"<Code>AccessDenied</Code>", cache_status=BYPASS),
        got(200, bytes([0xFF, *CONTENT[1:]]), "sha256:flipped", cache_status=BYPASS),
        got(206, bytes([5, 6, 7 ^ 0xFF]), content_range="bytes 5-7/200", cache_status=BYPASS),
    ],
)
def test_answers_that_are_as_they_should_be(wanted: Wanted, answer: Got) -> None:
    assert fault_of(answer, wanted) == ""


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (got(digest="sha256:another"), "200 bytes of 200 with the digest sha256:another"),
        (got(200, bytes([0xFF, *CONTENT[1:]]), "sha256:flipped"), "sha256:flipped"),
        (got(200, CONTENT[:-1], "sha256:shorter", cache_status=BYPASS), "199 bytes of 200"),
        (got(200, bytes([1, *CONTENT[1:]]), "sha256:other", cache_status=BYPASS), "sha256:other"),
        (got(206, CONTENT[5:8], content_range="bytes 5-8/200"), "3 wrong bytes as the range 5-8/200"),
        (got(206, CONTENT[4:8], content_range="bytes 5-8/200"), "4 wrong bytes as the range 5-8/200"),
        (got(206, CONTENT[5:9], content_range="bytes 5-8/201"), "4 wrong bytes as the range 5-8/201"),
        (got(206, CONTENT[5:9]), "a 206 with the Content-Range ''"),
        (got(206, MULTIPART, content_type="multipart/byteranges; boundary=other"), "the parts have no end"),
        (
            got(206, MULTIPART.replace(b"\x07", b"\x08"), content_type="multipart/byteranges; boundary=cut"),
            "1 wrong bytes as the range 7-7/200",
        ),
        (got(404, b"gone"), "404 b'gone'"),
        (got(401, b"who"), "401 b'who'"),
        (got(307, b""), "307 b''"),
        (got(403, b"<Code>AccessDenied</Code>"), "403"),
        (got(416, b"", cache_status=BYPASS), "416"),
    ],
)
def test_answers_that_are_wrong(wanted: Wanted, answer: Got, fault: str) -> None:
    assert fault in fault_of(answer, wanted)
    assert fault_of(answer, wanted)


def test_a_token_of_ones_own_may_have_been_voided(wanted: Wanted) -> None:
    assert fault_of(got(401, b"who"), wanted, own=True) == ""


def test_only_one_turned_byte_is_upstreams_fault() -> None:
    assert flipped(b"a\x00b", b"a\xffb")
    assert not flipped(b"ab", b"ab")
    assert not flipped(b"\x00\x00", b"\xff\xff")
    assert not flipped(b"a\x01b", b"a\xffb")
    assert not flipped(b"a", b"ab")


@pytest.mark.parametrize("value", ["", "bytes */200", "bytes 1-2/*", "bytes 1-2/200, 4-5/200"])
def test_content_range_of_something_else(value: str) -> None:
    assert content_range(value) is None
    assert content_range("bytes 1-2/200") == (1, 3, 200)


@pytest.mark.parametrize(
    "body", [b"", b"--cut--", MULTIPART.replace(b"--cut--", b"--cut"), MULTIPART.replace(b"Content-Range", b"Range")]
)
def test_parts_of_something_else(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"no end|no Content-Range"):
        parts("multipart/byteranges; boundary=cut", body)


def test_the_book_keeps_the_longest_waits() -> None:
    book = Book()
    for seconds in (1.0, 9.0, *([0.1] * 20), 5.0):
        book.waited(seconds, "GET")
    assert [seconds for seconds, _ in book.longest[:3]] == [9.0, 5.0, 1.0]
    assert len(book.longest) < 20


# Faults by chance.


def test_a_rule_applies_to_its_share() -> None:
    rule = Chance(name="often", chance=0.25, source=random.Random(1))
    applied = sum(rule.draw() for _ in range(1000))
    assert rule.hits == applied
    assert 200 < applied < 300
    assert counts([rule, Chance(name="often", hits=2), Chance(name="never")]) == {"often": applied + 2, "never": 0}


def test_a_stall_ends_by_itself() -> None:
    rule = Chance(longest_stall=0.2)
    rule.wait()
    assert rule.reached.is_set()


def test_a_rule_is_for_whom_it_names() -> None:
    request = cast(Request, SimpleNamespace(host="cdn", method="GET", path="/blob"))
    assert Chance(host="cdn").matches(request)
    assert not Chance(host="registry").matches(request)


# What is level.

REST = Sample(0, 100 * MIB, 90 * MIB, 30, 10, 8, 100_000, 500_000, 0, 0, 0, 0, 120 * MIB, 1 * MIB)
LIMIT = 128 * MIB


def verdicts(start: Sample, end: Sample, samples: list[Sample]) -> dict[str, bool]:
    return {line.name: line.good for line in judge(start, end, samples, LIMIT)}


def steady(grows: float = 0.0) -> list[Sample]:
    """Half an hour with samples that go up and down, and up by so many MiB an hour."""
    noise = random.Random(1)
    return [
        replace(REST, seconds=at, rss=int((100 + grows * at / 3600 + noise.uniform(-3, 3)) * MIB), connections=7)
        for at in range(0, 1800, 10)
    ]


def test_what_stays_is_level() -> None:
    assert all(verdicts(REST, REST, steady()).values())


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("file descriptors", replace(REST, fds=31)),
        ("threads", replace(REST, threads=THREADS + 1)),
        ("asyncio tasks", replace(REST, tasks=9)),
        ("objects of Python", replace(REST, objects=int(100_001 * (1 + OBJECTS)))),
        ("leases", replace(REST, leases=1)),
        ("store, MiB", replace(REST, store=LIMIT + 1)),
        ("catalog.db, MiB", replace(REST, catalog=REST.catalog + MIB + 1)),
    ],
)
def test_what_is_more_at_the_end_is_told(name: str, end: Sample) -> None:
    assert [name for name, good in verdicts(REST, end, steady()).items() if not good] == [name]


def test_a_thread_more_has_files_of_its_own() -> None:
    assert all(verdicts(REST, replace(REST, threads=REST.threads + 1, fds=REST.fds + 2), steady()).values())
    assert not verdicts(REST, replace(REST, threads=REST.threads + 1, fds=REST.fds + 3), steady())["file descriptors"]


def test_a_limit_that_was_exceeded_for_a_moment_is_told() -> None:
    samples = steady()
    samples[50] = replace(samples[50], store=LIMIT + 1)
    assert not verdicts(REST, REST, samples)["store, MiB"]


def test_memory_that_grows_is_told() -> None:
    assert not verdicts(REST, REST, steady(GROWTH + 10))["resident memory, MiB"]
    assert verdicts(REST, REST, steady(GROWTH - 10))["resident memory, MiB"]


def test_what_memory_did_at_first_does_not_count() -> None:
    samples = [replace(each, rss=50 * MIB) if each.seconds < 590 else each for each in steady()]
    assert len(late(samples)) == len([each for each in samples if each.seconds > 590])
    assert verdicts(REST, REST, samples)["resident memory, MiB"]


def test_slope() -> None:
    found = slope([(0, 1.0), (1800, 2.0), (3600, 3.0)])
    assert found.per_hour == pytest.approx(2)
    assert found.error == pytest.approx(0)
    assert slope([(0, 0.0), (1800, 2.0), (3600, 0.0)]).error > 1


def test_two_samples_say_nothing() -> None:
    assert level(slope([(0, 1.0), (10, 50.0)]))
    assert late([]) == []


def test_table() -> None:
    end = replace(REST, fds=31)
    table = markdown(judge(REST, end, steady(), LIMIT))
    assert "| file descriptors | 30 | 31 | 31 | at rest no more, but 2 for each thread more | **grows** |" in table
    assert "| asyncio tasks | 8 | 8 | 8 | at rest no more | level |" in table


def test_kinds_that_grew() -> None:
    start = replace(REST, more={"kinds": {"a.A": 5, "b.B": 5, "c.C": 5}})
    end = replace(REST, more={"kinds": {"a.A": 7, "b.B": 1005, "c.C": 4}})
    assert grown(start, end) == ["b.B +1,000", "a.A +2"]


def test_kernels_lists() -> None:
    text = (
        "00400000-7ffd9e4f5000 ---p 00000000 00:00 0 [rollup]\nRss:      1024 kB\nPss:       512 kB\nPss_Dirty: 7 kB\n"
    )
    assert (kib(text, "Rss"), kib(text, "Pss"), kib(text, "Swap")) == (1024 * 1024, 512 * 1024, 0)


def test_size_of_a_store(tmp_path: Path) -> None:
    for name, count in {
        "blobs/sha256/a": 3,
        "blobs/sha512/b": 4,
        "pulltap/ingest/c": 5,
        "pulltap/quarantine/d": 6,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(count))
    (tmp_path / "pulltap/catalog.db").write_bytes(bytes(100))
    assert size(tmp_path) == 18


# All of it.


@pytest.mark.slow
def test_a_short_one(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "bench", "soak", "--minutes", "0.3", "--seed", "4"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    # So short a time says nothing about what is level.
    assert "wrong: nothing" in done.stdout, done.stdout + done.stderr
    assert "| store, MiB |" in done.stdout
    assert "evicted" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_grower_ends_with_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def report(end: Sample, wrong: list[str]) -> int:
        run = SimpleNamespace(samples=steady(), troubles=lambda: wrong)
        return soak.report(cast(soak.Soak, run), (REST, end), ["something"], None)

    assert report(REST, []) == 0
    assert report(replace(REST, fds=31), []) == 1
    assert report(REST, ["a wrong byte", "a wrong byte"]) == 1
    assert "WRONG (2 x): a wrong byte" in capsys.readouterr().out
