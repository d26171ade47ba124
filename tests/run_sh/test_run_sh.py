"""run.sh from the outside: each test runs it in a copy of its own, with stand-ins for Python, pip, uv and mitmproxy.

They see a PATH with nothing but those stand-ins and the few tools that run.sh may use. They run under bash and under
dash: what both understand, macOS's bash 3.2 does, too.
"""

import stat
import subprocess
from pathlib import Path

import pytest

from .checkout import Checkout

# --- what is started -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "tool"),
    [((), "mitmdump"), (("console",), "mitmproxy"), (("web",), "mitmweb")],
)
def test_starts_the_tool_with_the_addon_and_the_arguments_as_they_are(
    checkout: Checkout, args: tuple[str, ...], tool: str
) -> None:
    rest = ["--mode", "reverse:a b", "", "*", "$HOME", "it's"]
    assert checkout.output(*args, *rest) == [
        tool,
        "[--set]",
        f"[confdir={checkout.link.parent}]",
        "[-s]",
        f"[{checkout.root}/addon/main.py]",
        *(f"[{arg}]" for arg in rest),
    ]


@pytest.mark.parametrize(
    ("args", "passed"),
    [
        ((), []),
        (("--version",), ["[--version]"]),
        (("~d example.com",), ["[~d example.com]"]),
        (("--", "example.com"), ["[example.com]"]),
        (("--", "console"), ["[console]"]),
        (("-q", "--", "x"), ["[-q]", "[--]", "[x]"]),
    ],
)
def test_what_is_no_command_goes_to_mitmdump(checkout: Checkout, args: tuple[str, ...], passed: list[str]) -> None:
    assert checkout.output(*args)[5:] == passed


def test_an_unknown_command_is_refused_with_those_that_exist(bare: Checkout) -> None:
    for word in ("stor", "store", "bench"):
        complaint = bare.complaint(word, status=2)
        assert f'"{word}"' in complaint
        assert "console web test help" in complaint
    (bare.root / "bench").mkdir()
    (bare.root / "addon/ui").mkdir()
    (bare.root / "addon/ui/cli.py").touch()
    assert "console web test bench store warm help" in bare.complaint("stor", status=2)


@pytest.mark.parametrize("word", ["store", "warm"])
def test_commands_beside_the_proxy_are_a_module_and_see_its_config(checkout: Checkout, word: str) -> None:
    (checkout.root / "addon/ui").mkdir()
    (checkout.root / "addon/ui/cli.py").touch()
    checkout.output(word, "rm", "a b", "--", "-q")
    assert checkout.calls()[-1] == f"-P -m addon.ui.cli {word} rm a b -- -q"
    assert checkout.link.readlink() == checkout.root / "mitm-config.yaml"
    assert checkout.calls("-I -m pip")[-1].endswith("requirements.txt")
    assert "missing.yaml" in checkout.complaint(word, PULLTAP_CONFIG="missing.yaml")


def test_the_benchmarks_are_a_module(checkout: Checkout) -> None:
    (checkout.root / "bench").mkdir()
    checkout.output("bench", "-q")
    assert checkout.calls()[-1] == "-P -m bench -q"
    assert checkout.calls("-I -m pip")[-1].endswith("requirements-dev.txt")


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_help_needs_nothing_and_names_the_variables(bare: Checkout, word: str) -> None:
    text = "\n".join(bare.output(word, HOME=""))
    for name in ("PULLTAP_CONFIG", "PULLTAP_HOME", "PULLTAP_PYTHON", "console", "web", "test", "store", "warm"):
        assert name in text
    assert bare.calls() == []


def test_runs_through_links_from_any_folder(checkout: Checkout) -> None:
    elsewhere = checkout.root.parent / "elsewhere"
    elsewhere.mkdir()
    (checkout.root / "second").symlink_to("run.sh")
    (elsewhere / "pulltap").symlink_to("../a checkout/second")
    done = subprocess.run(
        [checkout.shell, "elsewhere/pulltap"],
        env=checkout.env | {"CDPATH": str(elsewhere.parent)},
        cwd=elsewhere.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"[{checkout.root}/addon/main.py]" in done.stdout


# --- the tests -------------------------------------------------------------------------------------------------------


def test_test_checks_everything_and_fails_if_anything_did(checkout: Checkout) -> None:
    side_by_side = ["[-n]", "[2]", "[--dist]", "[worksteal]"]
    steps = ["ruff", "[check]", "ruff", "[format]", "[--check]", "mypy", "pytest", *side_by_side]
    assert checkout.output("test") == steps
    Path(f"{checkout.log}.ruff.fail").touch()
    done = checkout.run("test")
    assert done.returncode == 1
    assert done.stdout.splitlines() == steps
    assert done.stderr.endswith("failed: ruff check, ruff format --check\n")


def test_test_with_arguments_is_pytest(checkout: Checkout) -> None:
    assert checkout.output("test", "-k", "a or b") == ["pytest", "[-k]", "[a or b]"]


# --- the config file -------------------------------------------------------------------------------------------------


def test_links_the_config_file_into_a_private_folder(checkout: Checkout) -> None:
    checkout.output()
    assert checkout.link.readlink() == checkout.root / "mitm-config.yaml"
    assert stat.S_IMODE(checkout.link.parent.stat().st_mode) == 0o700


def test_the_link_follows_the_setting(checkout: Checkout) -> None:
    other = checkout.root.parent / "my config.yaml"
    other.touch()
    checkout.output()
    checkout.output(PULLTAP_CONFIG=other.name)  # relative to where the user stands
    assert checkout.link.readlink() == other
    checkout.output()
    assert checkout.link.readlink() == checkout.root / "mitm-config.yaml"


def test_a_dangling_link_is_mended(checkout: Checkout) -> None:
    checkout.link.parent.mkdir(parents=True)
    checkout.link.symlink_to("/nowhere")
    checkout.output()
    assert checkout.link.readlink() == checkout.root / "mitm-config.yaml"


def test_a_real_config_file_in_the_way_is_kept(checkout: Checkout) -> None:
    checkout.link.parent.mkdir(parents=True)
    checkout.link.write_text("precious: true\n")
    complaint = checkout.complaint()
    assert str(checkout.link) in complaint
    assert "PULLTAP_CONFIG=" in complaint
    assert "move it away" in complaint
    assert checkout.link.read_text() == "precious: true\n"

    checkout.output(PULLTAP_CONFIG=str(checkout.link))  # the way out that it names
    assert checkout.link.read_text() == "precious: true\n"
    assert not checkout.link.is_symlink()


@pytest.mark.parametrize("config", ["missing.yaml", "home"])
def test_a_config_file_that_cannot_be_read_is_named(bare: Checkout, config: str) -> None:
    assert str(bare.root.parent / config) in bare.complaint(PULLTAP_CONFIG=config)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"XDG_DATA_HOME": "/xdg"}, "/xdg/pulltap"),
        ({"XDG_DATA_HOME": ""}, "/home/.local/share/pulltap"),
        ({"PULLTAP_HOME": "/my home", "XDG_DATA_HOME": "/xdg"}, "/my home"),
        ({"PULLTAP_HOME": "rel"}, "/rel"),
        ({"PULLTAP_HOME": "/my home", "HOME": ""}, "/my home"),
    ],
)
def test_where_the_ca_lives(checkout: Checkout, env: dict[str, str], expected: str) -> None:
    world = checkout.root.parent
    env = {name: f"{world}{value}" if value.startswith("/") else value for name, value in env.items()}
    assert f"[confdir={world}{expected}]" in checkout.output(**env)
    assert (world / expected.lstrip("/") / "config.yaml").is_symlink()


def test_without_a_home_it_asks_for_one(bare: Checkout) -> None:
    assert "PULLTAP_HOME" in bare.complaint(HOME="")
    del bare.env["HOME"]
    assert "PULLTAP_HOME" in bare.complaint()


def test_a_home_that_cannot_be_made_is_named(bare: Checkout) -> None:
    (bare.root.parent / "file").touch()
    assert "PULLTAP_HOME names another folder" in bare.complaint(PULLTAP_HOME="file/home")
