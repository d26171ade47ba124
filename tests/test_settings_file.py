"""The config file, read for its lines: what is wrong in it, and where."""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from addon import settings
from addon.settings import (
    REGISTRIES,
    ConfigError,
    ConfigFile,
    check_file,
    parse_registries,
    read_file,
)
from addon.ui.options import OPTIONS

SHIPPED = Path(__file__).parent.parent / "mitm-config.yaml"
TYPES = {"registry_hosts": Sequence[str], "registry_store": str, "registry_max_fills": int, "registry_flag": bool}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def checked(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return [str(fault) for fault in check_file(read_file(path), TYPES)]


def test_a_file_in_which_nothing_is_wrong(path: Path) -> None:
    text = """
listen_port: 3128
http2: false
registry_hosts: [ghcr.io]
registry_store: /srv/store
registry_max_fills: 3
registry_flag: true
registries:
  ghcr.io:
    auth: inject
"""
    assert checked(path, text) == []
    file = read_file(path)
    assert file.values["registry_max_fills"] == 3
    assert file.values[REGISTRIES] == {"ghcr.io": {"auth": "inject"}}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("registry_host: [x]", 1, "unknown key registry_host; did you mean registry_hosts?"),
        (
            "\n# x\n\nregistry_qqqqqqqqqqqqqq: 1",
            4,
            "registry_qqqqqqqqqqqqqq; known are registry_flag, registry_hosts, ",
        ),
        ("registry_store: 5", 1, "registry_store is 5, but is to be a string"),
        ("registry_store:", 1, "registry_store is None, but is to be a string"),
        ("a: 1\nregistry_store: [x]", 2, "registry_store is ['x'], but is to be a string"),
        ("registry_max_fills: '5'", 1, "registry_max_fills is '5', but is to be a whole number"),
        ("registry_max_fills: 5.5", 1, "registry_max_fills is 5.5, but is to be a whole number"),
        ("registry_max_fills: true", 1, "registry_max_fills is True, but is to be a whole number"),
        ("registry_flag: 1", 1, "registry_flag is 1, but is to be true or false"),
        ("registry_hosts: ghcr.io", 1, "registry_hosts is 'ghcr.io', but is to be a list of strings"),
        ("registry_hosts: [ghcr.io, 5]", 1, "registry_hosts is ['ghcr.io', 5], but is to be a list of strings"),
        ("registry_hosts: {ghcr.io: 1}", 1, "registry_hosts is {'ghcr.io': 1}, but is to be a list of strings"),
        ("registries: []", 1, "registries is to be a mapping"),
        ("registries:\n  ghcr.io:\n    auth: inject\n  quay.io:", 4, "registries.quay.io is to be a mapping"),
        ("registries:\n  g_cr.io: {}", 2, "registries.g_cr.io: 'g_cr.io' is no host and no host:port"),
        ("registries:\n  5000: {}", 2, "registries.5000: 5000 is no host and no host:port"),
        ("registries:\n  ghcr.io:\n    auth: x", 3, "registries.ghcr.io.auth is 'x', but is to be one of"),
        ("registries:\n  ghcr.io:\n    auth: inject\n    png: x", 4, "ghcr.io.png; did you mean ping?"),
        ("registries:\n  ghcr.io:\n    realms:\n    - a\n    - b_c", 3, "registries.ghcr.io.realms: 'b_c' is no host"),
        # A key that came by a reference has no line of its own: that of the nearest key above it has to do.
        ("x: &x {pings: local}\nregistries:\n  ghcr.io:\n    <<: *x", 3, "ghcr.io.pings; did you mean ping?"),
    ],
)
def test_a_fault_is_told_with_its_line(path: Path, text: str, line: int, message: str) -> None:
    (fault,) = checked(path, text)
    assert fault.startswith(f"{path.resolve()}:{line}: ")
    assert message in fault


def test_all_faults_are_told_at_once(path: Path) -> None:
    path.write_text("registry_store: 1\nregistry_hosts: 2\nregistry_x: 3\nregistries: 4\n")
    faults = check_file(read_file(path), TYPES)
    assert [(fault.line, fault.key) for fault in faults] == [
        (1, "registry_store"),
        (2, "registry_hosts"),
        (3, "registry_x"),
        (4, REGISTRIES),
    ]
    assert {fault.path for fault in faults} == {path.resolve()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "# nothing\n",
        "--- \n",
        "registries:\n# ghcr.io: {}",
        "- a\n- b\n",
        "text",
        "5: 6\n",
        "other: registry_x",
    ],
)
def test_files_without_anything_of_ours(path: Path, text: str) -> None:
    assert checked(path, text) == []


def test_a_file_that_is_not_there_is_empty(path: Path) -> None:
    assert read_file(path) == ConfigFile(path.resolve(), {}, {})


@pytest.mark.parametrize(
    "content",
    [
        b"a: [",
        b"a: b: c",
        b"\ta: b",
        b"a: &x *x",
        b"a: !!python/object:x y",
        b"? [a]\n: b",
        b"a: 2026-99-99",
        b"\xff",
        b"\0",
    ],
)
def test_a_file_that_is_no_yaml(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path.resolve())):
        read_file(path)


def test_a_file_that_cannot_be_read(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match=r"config\.yaml: Is a directory"):
        read_file(path)


@given(st.text() | st.text("ab: -[]{}&*!'\"\n#\t0123|>?%@"))
def test_any_file_is_read_or_refused(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            file = read_file(path)
        except ConfigError:
            return
    check_file(file, TYPES)
    assert all(line > 0 for line in file.lines.values())


def test_the_link_is_followed_to_the_file_that_people_edit(path: Path, tmp_path: Path) -> None:
    edited = tmp_path / "mitm-config.yaml"
    edited.write_text("registry_x: 1")
    path.symlink_to(edited)
    (fault,) = check_file(read_file(path), TYPES)
    assert str(fault).startswith(f"{edited.resolve()}:1: ")


def test_places(path: Path) -> None:
    path.write_text("a: 1\nb:\n  c: {d: 2}\n")
    file = read_file(path)
    assert file.line(["b", "c", "d"]) == 3
    assert file.line(["b", "x", "y"]) == 2
    assert file.line(["x"]) == 1
    assert file.place(["b", "c"]) == f"{path.resolve()}:3: "
    # What stands in no file was set by --set, or in the console.
    assert file.place(["x"]) == file.place([]) == ""


# The file that comes with Pulltap.


def test_the_shipped_file_shows_what_could_be_said(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").touch()
    lines = []
    example = False
    for line in SHIPPED.read_text().splitlines():
        # An example begins with a key of ours, and goes on as long as it is indented.
        example = bool(re.match(r"# registr(y_\w+|ies):", line)) or (example and line.startswith("#   "))
        lines.append(line.removeprefix("# ") if example else line)
    path.write_text("\n".join(lines))
    file = read_file(path)
    types = {name: kind for name, (kind, _, _) in OPTIONS.items()}
    assert check_file(file, types) == check_file(read_file(SHIPPED), types) == []
    assert {key for key in file.values if key.startswith("regist")} == {*OPTIONS, REGISTRIES}
    for name, (_, default, _) in OPTIONS.items():
        assert file.values[name] == default or default in ("", [])
    for key in ("auth", "ping", "realms", "credentials"):
        assert f"\n#   {key} " in SHIPPED.read_text()


def test_the_realms_that_the_shipped_file_shows_are_built_in() -> None:
    text = SHIPPED.read_text().partition("# registries:\n")[2]
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#   ")]
    shown = yaml.safe_load("\n".join(lines))
    known = {
        name: entry["realms"] for name, entry in shown.items() if name in settings.DEFAULT_HOSTS and "realms" in entry
    }
    assert {name: list(registry.realms) for name, registry in settings._KNOWN.items()} == known
    # One line is enough, so saying it changes nothing.
    for name, realms in known.items():
        assert parse_registries({name: {"auth": "inject", "realms": realms}}) == parse_registries(
            {name: {"auth": "inject"}}
        )


def test_a_file_that_goes_round_in_circles(path: Path) -> None:
    path.write_text("registry_hosts: [ghcr.io]\nother: &a\n  b: *a\nregistry_max_fills: many\n")
    file = read_file(path)
    assert file.line(["other", "b"]) == 3
    assert [fault.line for fault in check_file(file, TYPES)] == [4]
    path.write_text("[" * 5000)
    with pytest.raises(ConfigError, match="this is nested too deeply"):
        read_file(path)
