"""Hunts for inputs of the parsers that they do not stand: ``python -m tests.fuzz [--with hypothesis] [SECONDS]``.

Each parser gets its share of the seconds (default: 60). With atheris, which looks for inputs that reach new code, where
it is installed; else with hypothesis, which tries at random. What is found is printed, and the exit status is 1.
"""

import argparse
import importlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

from .targets import ALPHABETS, SEEDS, TARGETS

ATHERIS = "atheris"
_LIMITS = ("-max_len=4096", "-timeout=10", "-verbosity=0")


def inputs(name: str) -> st.SearchStrategy[str]:
    """What hypothesis tries: seeds cut up and put together, what the parser's own characters give, and anything."""
    piece = st.sampled_from([seed[at : at + 12] for seed in SEEDS[name] for at in range(0, min(len(seed), 120), 6)])
    return st.one_of(
        st.text(ALPHABETS[name], max_size=60),
        st.lists(st.one_of(piece, st.text(max_size=3)), max_size=8).map("".join),
        st.text(max_size=60),
    )


def by_chance(name: str, seconds: float) -> int:
    """Try with hypothesis; returns how many inputs were tried. What does not hold is raised."""
    ends, tried = time.monotonic() + seconds, 0
    while time.monotonic() < ends:

        @hypothesis.settings(max_examples=500, deadline=None, derandomize=False, database=None)
        @hypothesis.given(inputs(name))
        def holds(text: str) -> None:
            nonlocal tried
            tried += 1
            TARGETS[name](text)

        holds()
    return tried


def by_coverage(name: str, seconds: float) -> None:
    """Try with atheris, which ends the process."""
    import atheris  # noqa: PLC0415 - it need not be installed

    # Only what is imported from here on can be watched, and all of Python takes a minute and a half.
    for loaded in [each for each in sys.modules if each.partition(".")[0] == "addon" or each.endswith(".fuzz.targets")]:
        del sys.modules[loaded]
    with atheris.instrument_imports(include=["addon"]):
        target = importlib.import_module("tests.fuzz.targets").TARGETS[name]

    def one(raw: bytes) -> None:
        target(raw.decode("utf-8", "surrogateescape"))

    found = f"-artifact_prefix={tempfile.gettempdir()}/pulltap-{name}-"
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[name]):
            Path(folder, str(number)).write_text(seed)
        atheris.Setup([name, f"-max_total_time={max(1, round(seconds))}", *_LIMITS, found, folder], one)
        atheris.Fuzz()


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--with", dest="means", choices=(ATHERIS, "hypothesis"))
    parser.add_argument("--only", choices=tuple(TARGETS), help=argparse.SUPPRESS)
    parser.add_argument("seconds", type=float, nargs="?", default=60)
    asked = parser.parse_args()
    means = asked.means or (ATHERIS if importlib.util.find_spec(ATHERIS) else "hypothesis")
    if asked.only:
        by_coverage(asked.only, asked.seconds)
        return 0
    share, status = asked.seconds / len(TARGETS), 0
    for name in TARGETS:
        if means == ATHERIS:
            # Each in a process of its own: atheris ends with the first one.
            command = [sys.executable, "-m", "tests.fuzz", "--only", name, str(share)]
            ended = subprocess.run(command, check=False).returncode
            print(f"{name}: {'holds' if not ended else 'DOES NOT HOLD'}", flush=True)  # noqa: T201 - the command's output
            status |= bool(ended)
        else:
            print(f"{name}: holds for {by_chance(name, share)} inputs", flush=True)  # noqa: T201 - as above
    return status


if __name__ == "__main__":
    sys.exit(main())
