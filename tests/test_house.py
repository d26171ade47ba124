"""Rules that hold for the project as a whole: who may import whom, what has a test, what is written down."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from addon.ui.options import OPTIONS

ROOT = Path(__file__).parent.parent
ADDON = ROOT / "addon"
SOURCES = sorted(path for path in ADDON.rglob("*.py") if path.name != "__init__.py")
# From the top of the house to its ground: a room imports from those below it, never from above or from beside it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("main",),
    ("pullthrough", "passthrough", "ui"),
    ("parts",),
    ("transfer",),
    ("auth",),
    ("store",),
    ("registry",),
)
MITMPROXY = {"main", "pullthrough", "passthrough", "ui", "parts", "transfer"}
"""The rooms that may import mitmproxy, and whatever comes with it."""
PACKAGES = {"auth": {"cachetools"}, "store": {"cachetools"}, "registry": set(), "settings": {"yaml"}}
"""What the others may import, beside the standard library."""
BLOCKING = {"store", "registry", "settings"}
"""The rooms that know nothing of event loops."""
SETTINGS = {"main", "pullthrough", "passthrough", "ui", "parts", "transfer", "auth"}
"""The rooms that may import the settings, which themselves import no room."""


@dataclass(frozen=True)
class Import:
    """A module that a file imports, by its full name, and where."""

    name: str
    line: int

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def room(self) -> str:
        """Of a module of ours: its room; empty for `addon` itself."""
        return self.name.removeprefix("addon").removeprefix(".").partition(".")[0]


def room_of(path: Path) -> str:
    return path.relative_to(ADDON).parts[0].removesuffix(".py")


def imports(source: str) -> Iterator[Import]:
    """All imports of a source, wherever in it they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: main is loaded by its path, where relative imports fail"
            for alias in node.names:
                # `from addon import settings` imports addon.settings, `from addon import __version__` does not.
                deeper = node.module == "addon" and not alias.name.startswith("_")
                yield Import(f"addon.{alias.name}" if deeper else node.module or "", node.lineno)


def floor_of(room: str) -> int:
    return next(floor for floor, rooms in enumerate(FLOORS) if room in rooms)


def faults(room: str, source: str) -> list[str]:
    """What a source of this room imports, and should not."""
    found = []
    for each in imports(source):
        if each.package == "addon":
            if each.room == "settings":
                allowed = room in SETTINGS
            else:
                allowed = each.room in ("", room) or (room != "settings" and floor_of(each.room) > floor_of(room))
        elif each.package in sys.stdlib_module_names:
            allowed = not (each.package == "asyncio" and room in BLOCKING)
        else:
            allowed = room in MITMPROXY or each.package in PACKAGES[room]
        if not allowed:
            found.append(f"line {each.line}: {room} may not import {each.name}")
    return found


@pytest.mark.parametrize("path", sorted(ADDON.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_imports_from_above(path: Path) -> None:
    if path.parent == ADDON and path.name == "__init__.py":
        assert list(imports(path.read_text())) == []
    else:
        assert faults(room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source", "fault"),
    [
        ("registry", "import yaml", "yaml"),
        ("registry", "from addon.store.errors import StoreError", "addon.store.errors"),
        ("registry", "from addon.settings import Registry", "addon.settings"),
        ("settings", "from addon.registry import digest", "addon.registry"),
        ("settings", "import mitmproxy", "mitmproxy"),
        ("store", "import asyncio", "asyncio"),
        ("store", "from mitmproxy import http", "mitmproxy"),
        ("store", "from addon import settings", "addon.settings"),
        ("store", "def f():\n    from addon.transfer.body import Body", "addon.transfer.body"),
        ("auth", "if TYPE_CHECKING:\n    from mitmproxy.http import Request", "mitmproxy.http"),
        ("auth", "from addon.transfer import answers", "addon.transfer"),
        ("transfer", "from addon.parts import Parts", "addon.parts"),
        ("transfer", "import addon.ui.pages", "addon.ui.pages"),
        ("parts", "from addon.pullthrough import Pullthrough", "addon.pullthrough"),
        ("pullthrough", "from addon.passthrough import Passthrough", "addon.passthrough"),
        ("ui", "from addon import main", "addon.main"),
        ("main", "import addon.pullthrough, asyncio, mitmproxy, flask\nfrom addon.store.disk import Store", ""),
        ("ui", "from addon import __version__, settings\nfrom addon.ui.pages import Pages", ""),
        ("transfer", "from addon.auth.tokens import Tokens\nimport OpenSSL", ""),
        ("registry", "import re\nfrom addon.registry import digest", ""),
    ],
)
def test_these_rules_can_be_broken(room: str, source: str, fault: str) -> None:
    assert [each.rpartition(" ")[2] for each in faults(room, source)] == ([fault] if fault else [])


def test_every_room_is_in_the_plan() -> None:
    planned = {room for floor in FLOORS for room in floor} | {"settings"}
    assert {room_of(path) for path in SOURCES} == planned
    assert set(PACKAGES) | MITMPROXY == planned


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_source_has_tests_of_its_own(path: Path) -> None:
    # Those that run the whole proxy test how the sources work together.
    tests = [test.as_posix() for test in (ROOT / "tests").rglob("test_*.py") if "e2e" not in test.parts]
    own = [test for test in tests if re.search(rf"(^|/)test_([a-z]+_)?{re.escape(path.stem)}\.py$", test)]
    namesakes = Counter(source.stem for source in SOURCES)[path.stem]
    assert len(own) >= namesakes, f"there is no test_{path.stem}.py for {path.relative_to(ROOT)}"


@pytest.mark.parametrize("document", ["README.md", "mitm-config.yaml"])
def test_every_option_is_written_down_and_no_other(document: str) -> None:
    named = set(re.findall(r"\bregistry_[a-z_]+\b", (ROOT / document).read_text()))
    assert named == set(OPTIONS)


def test_every_option_explains_itself() -> None:
    for name, (_, _, text) in OPTIONS.items():
        assert re.fullmatch(r"registry_[a-z_]+", name)
        assert re.fullmatch(r"[A-Z].+\.", text), name


def tracked() -> list[Path]:
    """The files of the repository, and those that are about to be."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_package_registrys_host() -> None:
    # Which one serves packages is a matter of whoever installs them. Written so that this file names none.
    hosts = [
        ".".join(parts)
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("yarnpkg", "com"),
            ("proxy", "golang", "org"),
            ("sum", "golang", "org"),
            ("crates", "io"),
            ("rubygems", "org"),
            ("anaconda", "org"),
            ("maven", "org"),
            ("nuget", "org"),
        )
    ]
    named = re.compile("|".join(map(re.escape, hosts)).encode(), re.IGNORECASE)
    assert [str(path.relative_to(ROOT)) for path in tracked() if named.search(path.read_bytes())] == []


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_the_lock_files_hold_versions_and_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    pins = re.findall(r"^[a-z0-9].*", text, re.MULTILINE)
    assert pins
    assert all(re.match(r"[a-z0-9._-]+==\S+ ", pin) for pin in pins)
    assert text.count(" \\\n    --hash=sha256:") >= len(pins)
