"""The benchmark works: each measure yields a row, and what is not installed is named."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.__main__ import MEASURES
from bench.load import Client, Outcome
from bench.table import OURS, Goal, Row, markdown
from tests.e2e.programs import need

ROOT = Path(__file__).parents[1]


def run(*args: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **({"PATH": path} if path is not None else {})}
    command = [sys.executable, "-P", "-m", "bench", "--quick", "--runs", "1", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_measures_yield_rows(tmp_path: Path) -> None:
    need("nginx")
    need("cc")
    found = tmp_path / "found.json"
    done = run("--json", str(found), "--folder", str(tmp_path), "hit", "new-connection", "miss", "collapse")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["measure"]: row for row in json.loads(found.read_text())["rows"]}
    assert {"hit, CPU", "miss, CPU", "small hit on a new connection, CPU"} < set(rows)
    assert all(row["samples"][OURS] and "nginx" in row["samples"] for row in rows.values())
    assert "| hit, CPU, s/GiB |" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_cold_pull_is_timed_both_ways() -> None:
    for program in ("nginx", "cc", "docker", "containerd", "docker-registry"):
        need(program)
    need("dockerd", root=True)
    # Docker's sockets are in there, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="pulltap-") as name:
        folder, found = Path(name), Path(name, "found.json")
        done = run("--json", str(found), "--folder", name, "segments")
        assert done.returncode == 0, done.stdout + done.stderr
        (row,) = json.loads(found.read_text())["rows"]
        assert [path.name for path in folder.iterdir()] == ["found.json"]
    assert row["measure"] == "cold docker pull, one layer of 32 MiB, 20 MB/s per connection"
    assert row["samples"][OURS]
    assert row["samples"]["direct"]


def test_missing_peer_is_named(tmp_path: Path) -> None:
    for program in ("nginx", "cc", "ld", "as"):
        (tmp_path / program).symlink_to(need(program))
    if Path("/usr/sbin/docker-registry").exists():
        pytest.skip("docker-registry is where it is always looked for")
    done = run("hit", path=str(tmp_path))
    assert "distribution (docker-registry is not installed): missing" in done.stdout, done.stdout + done.stderr


def test_nothing_without_the_upstream(tmp_path: Path) -> None:
    done = run("hit", path=str(tmp_path))
    assert done.returncode == 1
    assert "nothing can be measured: " in done.stderr


def test_unknown_measure_is_refused() -> None:
    done = run("hti")
    assert done.returncode == 2
    assert "no measure 'hti'" in done.stderr


def test_ratio_is_to_the_best_peer() -> None:
    row = Row("rate", "MB/s", Goal(1.0, at_least=True), more_is_better=True, beside=("slow",))
    for side, samples in {OURS: [9.0, 10.0, 30.0], "nginx": [20.0], "distribution": [8.0], "slow": [99.0]}.items():
        for sample in samples:
            row.add(side, sample)
    assert row.figure == pytest.approx(0.5)
    assert row.met is False
    assert "| 10.0 (9.00 … 30.0) |" in markdown([row])


def test_difference_and_value_goals() -> None:
    row = Row("first byte", "ms", Goal(0.020, plus=True, factor=1000), 1000)
    row.add(OURS, 0.018)
    row.add("direct", 0.002)
    assert row.figure == pytest.approx(0.016)
    assert row.met
    assert "+16.0" in markdown([row])
    alone = Row("memory", "MiB", Goal(200, alone=True))
    alone.add(OURS, 201)
    assert alone.met is False


def test_unfairness_leaves_slow_clients_out() -> None:
    clients = [
        Client(slow, 1, seconds, 1) for slow, seconds in ((True, 99.0), (False, 1.0), (False, 1.0), (False, 3.0))
    ]
    assert Outcome(3.0, clients, [], []).unfairness == pytest.approx(3.0)


def test_every_measure_is_documented() -> None:
    text = (ROOT / "docs/benchmarks.md").read_text()
    assert [name for name in MEASURES if f"`{name}`" not in text] == []
