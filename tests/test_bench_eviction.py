"""The policies that the benchmark compares do what was published, and hindsight is never worse than they are."""

import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addon.store.eviction import POLICY, GreedyDual
from bench.eviction import OURS, POLICIES, compare, markdown
from bench.policies import Cache, Gdsf, Hits, Lru, Lru2, S3Fifo, Sieve, belady, bound, replay
from bench.traces import MIB, Trace, Traffic, generate

ROOT = Path(__file__).parents[1]
LFU_DA = GreedyDual(exponent=1, per_request=0, per_byte=1)
GDSF_1 = GreedyDual(exponent=1, per_request=1, per_byte=0)


def ask(cache: Cache, names: str, sizes: dict[str, int] | None = None) -> str:
    """Ask for some, each of one byte unless told otherwise; it returns the misses."""
    missed = ""
    for name in names:
        if not cache.get(ord(name), (sizes or {}).get(name, 1)):
            missed += name
    return missed


def there(cache: Cache) -> str:
    return "".join(sorted(map(chr, cache)))


def trace(names: str, sizes: Sequence[int] = (1,) * 26) -> Trace:
    return Trace([ord(name) - ord("A") for name in names], sizes)


# Each policy by itself.


def test_lru() -> None:
    cache = Lru(3)
    assert ask(cache, "ABCAD") == "ABCD"
    assert there(cache) == "ACD"


def test_lru_2() -> None:
    cache = Lru2(3)
    ask(cache, "AABC")
    # B and C were used once; A is oldest, but was used twice.
    assert ask(cache, "D") == "D"
    assert there(cache) == "ACD"
    # B's first use is still known, and C's is not followed by any.
    assert ask(cache, "B") == "B"
    assert there(cache) == "ABD"
    assert ask(cache, "E") == "E"
    assert there(cache) == "ABE"
    # Last use but one: A's is the first request, B's the third.
    ask(cache, "EF")
    assert there(cache) == "BEF"
    cache = Lru2(2)
    ask(cache, "ABABA")
    # A's is the third request now, B's the second.
    ask(cache, "C")
    assert there(cache) == "AC"


def test_sieve() -> None:
    cache = Sieve(3)
    ask(cache, "ABCA")
    ask(cache, "D")
    # A was used: the hand passed it, and took B.
    assert there(cache) == "ACD"
    ask(cache, "E")
    assert there(cache) == "ADE"
    # The hand goes on from there, to D, and does not begin at A again.
    ask(cache, "F")
    assert there(cache) == "AEF"
    ask(cache, "EFG")
    # It passed E and F, that were used, and began anew.
    assert there(cache) == "EFG"


def test_s3_fifo_lets_pass_what_is_used_once() -> None:
    cache = S3Fifo(10)
    ask(cache, "ABCDEFGHIJ" + "A")
    ask(cache, "K")
    assert there(cache) == "ACDEFGHIJK"
    # B's name is known: it goes into the main queue, as A did.
    ask(cache, "B")
    ask(cache, "abcdefghijklmnop")
    assert there(cache) == "ABijklmnop"


def test_s3_fifo_gives_what_was_used_another_turn() -> None:
    cache = S3Fifo(4)
    ask(cache, "ABCD" * 2)
    ask(cache, "E")
    assert there(cache) == "BCDE"
    ask(cache, "BFE")
    assert there(cache) == "BCDE"
    ask(cache, "G")
    assert there(cache) == "BDEG"
    cache = S3Fifo(3)
    ask(cache, "AABCDBED")
    assert there(cache) == "ABD"
    # A's use brought it from the small queue into the main one, and is used up.
    ask(cache, "F")
    assert there(cache) == "BDF"


def test_s3_fifo_gives_what_was_used_twice_two_turns() -> None:
    cache = S3Fifo(3)
    ask(cache, "ABABCD" + "BB" + "CED")
    assert there(cache) == "BCD"
    ask(cache, "FEGF")
    assert there(cache) == "BEF"
    ask(cache, "H")
    assert there(cache) == "BFH"


def test_gdsf_ages() -> None:
    cache = Gdsf(3, LFU_DA)
    ask(cache, "AABC")
    ask(cache, "D")
    assert there(cache) == "ACD"
    ask(cache, "E")
    assert there(cache) == "ADE"
    # A's two uses weigh as much as the age and one use.
    ask(cache, "F")
    assert there(cache) == "DEF"


def test_gdsf_forgets_the_uses_of_what_went() -> None:
    cache = Gdsf(2, LFU_DA)
    ask(cache, "AAABCDE")
    assert there(cache) == "DE"
    ask(cache, "AFG")
    assert there(cache) == "FG"


def test_gdsf_weighs_cost_against_size() -> None:
    sizes = {"A": 8, "B": 1, "C": 2}
    # A is used five times. Where all cost the same, each of its bytes is good for less than B's all the same.
    for policy, left in ((GDSF_1, "BC"), (POLICY, "BC"), (LFU_DA, "AC")):
        cache = Gdsf(10, policy)
        ask(cache, "AAAAAB" + "C", sizes)
        assert there(cache) == left


@pytest.mark.parametrize(
    "cache", [Lru(4), Lru2(4), Sieve(4), S3Fifo(4), Gdsf(4, POLICY)], ids=lambda cache: type(cache).__name__
)
def test_what_is_too_large_passes(cache: Cache) -> None:
    ask(cache, "AB")
    assert ask(cache, "XX", {"X": 5}) == "XX"
    assert there(cache) == "AB"
    # A large one takes the place of several.
    ask(cache, "CDY", {"Y": 3})
    assert cache.used <= 4
    assert "Y" in there(cache)


# Hindsight.


def test_belady() -> None:
    assert belady(trace("ABCAB"), 2) == Hits(2, 2)
    assert belady(trace("ABA"), 1) == Hits(1, 1)
    assert belady(trace("ABBA", [2, 1]), 2) == Hits(1, 1)
    assert belady(trace("ABBA", [2, 1]), 3) == Hits(2, 3)
    assert belady(trace("AA", [2]), 1) == Hits(0, 0)


def test_bound() -> None:
    # A takes 2 bytes for 3 requests, B 1 for 1; there are 2 for 4.
    assert bound(trace("ABBA", [2, 1]), 2) == Hits(2, 3)
    assert bound(trace("ABBA", [2, 1]), 1) == Hits(1, 1)
    # Four times 1 byte for 3 requests; there is 1 for 7.
    parts = bound(trace("ABCABCA"), 1)
    assert parts.requests == pytest.approx(7 / 3)
    assert parts.size == pytest.approx(7 / 3)
    # No cache of 4 bytes can hold both at once, but the bound does not see that.
    assert bound(trace("BCACB", [1, 1, 4]), 4) == Hits(2, 5)


def best(trace: Trace, capacity: int, worth: Sequence[int]) -> int:
    """The optimum, by trying everything."""
    states = {frozenset[int](): 0}
    for blob in trace.blobs:
        after: dict[frozenset[int], int] = {}
        for held, score in states.items():
            got = score + (worth[blob] if blob in held else 0)
            everything = held | {blob}
            for count in range(len(everything) + 1):
                for kept in map(frozenset, itertools.combinations(everything, count)):
                    if sum(trace.sizes[each] for each in kept) <= capacity:
                        after[kept] = max(after.get(kept, 0), got)
        states = after
    return max(states.values())


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
    st.lists(st.integers(1, 4), min_size=4, max_size=4),
    st.integers(1, 9),
)
def test_no_policy_beats_hindsight(blobs: list[int], sizes: list[int], capacity: int) -> None:
    found = Trace(blobs, sizes)
    most = Hits(best(found, capacity, [1] * 4), best(found, capacity, sizes))
    limit = bound(found, capacity)
    assert most.requests <= limit.requests + 1e-9
    assert most.size <= limit.size + 1e-9
    for name, run in POLICIES.items():
        if run is not bound:
            hits = run(found, capacity)
            assert hits.requests <= most.requests, name
            assert hits.size <= most.size, name
    equal = Trace(blobs, [1] * 4)
    assert belady(equal, capacity).requests == best(equal, capacity, [1] * 4)


@given(st.lists(st.integers(0, 9), max_size=60), st.lists(st.integers(1, 9), min_size=10, max_size=10))
def test_no_cache_is_larger_than_it_may_be(blobs: list[int], sizes: list[int]) -> None:
    for make in (Lru, Lru2, Sieve, S3Fifo, lambda capacity: Gdsf(capacity, POLICY)):
        cache = make(12)
        for blob in blobs:
            cache.get(blob, sizes[blob])
            assert cache.used == sum(sizes[each] for each in cache) <= 12
            assert blob in set(cache)


# The traces.

FEW = Traffic(days=8, bases=5, repositories=30, pulls=30, machines=4)


def test_a_trace_is_its_seeds() -> None:
    assert generate(7, FEW) == generate(7, FEW)
    assert generate(7, FEW) != generate(8, FEW)


def test_a_trace_is_skewed_and_its_blobs_are_of_all_sizes() -> None:
    found = generate(7)
    counts = sorted(Counter(found.blobs).values(), reverse=True)
    assert sum(counts[: len(counts) // 10]) > len(found.blobs) / 2
    assert counts.count(1) > len(counts) / 4
    asked = [found.sizes[blob] for blob in set(found.blobs)]
    assert min(asked) < 2000
    assert max(asked) > 1000 * MIB
    assert found.size == sum(asked) < found.volume


def test_a_machine_keeps_what_it_has() -> None:
    nothing_else = Traffic(days=3, pulls=0, machines=1, pushes=1e-9, base_days=10**9, scan_days=99)
    found = generate(1, nothing_else)
    assert found.blobs
    assert len(set(found.blobs)) == len(found.blobs)


def test_a_scan_pulls_each_image_once() -> None:
    found = generate(1, Traffic(days=1, pulls=0, machines=0, pushes=1e-9, base_days=10**9, scan_days=1))
    counts = Counter(found.blobs)
    # Configs and upper layers once, those of base images for each that is built on them.
    assert sum(1 for count in counts.values() if count == 1) > 250
    assert 1 < max(counts.values()) <= 250
    assert Counter(found.blobs).total() == len(found.blobs)


def test_ci_pulls_the_same_again() -> None:
    found = generate(1, Traffic(days=5, pulls=50, machines=0, pushes=1e-9, base_days=10**9, scan_days=99))
    assert len(set(found.blobs)) < len(found.blobs) / 3


# The comparison.


def test_the_stores_policy_saves_more_than_lru() -> None:
    found = compare([generate(7, Traffic(days=12))], [0.05])
    (ours,), (lru,) = found[OURS], found["LRU"]
    assert ours.size > lru.size
    assert ours.requests > lru.requests + 0.05
    most = found["bound for any (PFOO-U)"][0]
    assert most.requests <= 1
    assert most.size <= 1
    for name, (rates,) in found.items():
        assert 0 < rates.size <= most.size, name
        assert 0 < rates.requests <= most.requests, name


def test_the_table_has_a_row_for_each_policy() -> None:
    lines = markdown({OURS: [Hits(0.5, 0.25)], "LRU": [Hits(1, 0)]}, [0.1]).splitlines()
    assert lines[0] == "| hit rate of bytes / of requests, % | 10% |"
    assert lines[2:] == [f"| **{OURS}** | 25.0 / 50.0 |", "| LRU | 0.0 / 100.0 |"]


def test_the_command_prints_it() -> None:
    command = [sys.executable, "-P", "-m", "bench", "eviction", "--days", "3", "--seeds", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("trace 5: ")
    for name in POLICIES:
        assert re.search(rf"^\| \**{re.escape(name)}\** \|", done.stdout, re.MULTILINE), name


def test_replay_counts_requests_and_bytes() -> None:
    assert replay(trace("AABAB", [3, 5]), Lru(8)) == Hits(3, 3 + 3 + 5)


def test_it_is_documented() -> None:
    text = (ROOT / "docs/benchmarks.md").read_text()
    assert "`./run.sh bench eviction`" in text
    assert [name for name in POLICIES if name not in text] == []
