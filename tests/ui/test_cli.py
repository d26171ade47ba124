"""The commands beside the proxy: their words, the config they go by, and how they end."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from addon.settings import ConfigError
from addon.store.disk import Store
from addon.store.errors import StoreError
from addon.ui import cli, store_cli, warm
from addon.ui.options import OPTIONS

from ..doubles import open_files


@pytest.fixture(autouse=True)
def _usual_mask() -> Iterator[None]:
    usual = os.umask(0o022)
    yield
    os.umask(usual)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mitm-config.yaml"
    path.write_text(f"registry_store: {tmp_path}/store\n")
    monkeypatch.setenv("PULLTAP_CONFIG", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def complaint(capsys: pytest.CaptureFixture[str], *words: str, status: int = 1) -> str:
    """What a command says that fails; it prints nothing else."""
    assert cli.main(words) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def failing(error: BaseException) -> Callable[..., int]:
    def run(*_: object) -> int:
        raise error

    return run


# The config.


def test_without_a_word_in_it_all_is_at_its_default(config: Path, tmp_path: Path) -> None:
    for text in ("", "# nothing\n", "listen_port: 3128\n"):
        config.write_text(text)
        settings = cli.settings()
        assert (settings.store, settings.max_size) == (tmp_path / "cache" / "pulltap", 50 << 30)
    config.unlink()
    assert cli.settings().min_free == 1 << 30


def test_the_config_of_the_proxy_is_heeded(config: Path, tmp_path: Path) -> None:
    config.write_text(
        f"registry_store: {tmp_path}/elsewhere\nregistry_store_max_size: 5m\nregistry_hosts: [quay.io]\n"
        "registries:\n  ghcr.io:\n    ping: local\n"
    )
    settings = cli.settings()
    assert (settings.store, settings.max_size) == (tmp_path / "elsewhere", 5 << 20)
    assert set(settings.registries) == {"quay.io", "ghcr.io"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# one\nregistry_hosts: [", ":2: this is not YAML: "),
        ("\nregistry_stor: x\n", ":2: unknown key registry_stor; did you mean registry_store?"),
        ("\n\nregistry_store: 7\n", ":3: registry_store is 7, but is to be a string"),
        ("\nregistry_store_max_size: much\n", ":2: registry_store_max_size is to be a size such as 50g"),
        ("registry_access: x\n", ":1: registry_access is 'x', but is to be one of check, trust"),
        ("registries:\n  ghcr.io:\n    pong: x\n", ":3: unknown key registries.ghcr.io.pong; did you mean ping?"),
    ],
)
def test_a_config_that_cannot_be_used_is_told_with_its_line(
    config: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    config.write_text(text)
    said = complaint(capsys, "store", "ls")
    assert said.startswith(f"run.sh store: {config}{message}")
    assert said.count("\n") == 1
    assert not (config.parent / "store").exists()


def test_every_fault_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("registry_stor: x\nregistry_access: 7\nregistries: 3\n")
    said = complaint(capsys, "store", "stats")
    assert [f"{config}:{line}: " in said for line in (1, 2, 3)] == [True] * 3


def test_a_fault_that_no_line_holds(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "registry_access", (str, "everybody", ""))
    with pytest.raises(ConfigError, match=r"^registry_access is 'everybody'"):
        cli.settings()
    assert config.exists()


# Words.


def test_a_command_works_on_the_store_of_the_config(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["store", "stats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["store"] == f"{tmp_path}/store"
    # What is made is nobody else's.
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert files
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "store", *files)} == {0}
    assert config.exists()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nothing",),
        ("store",),
        ("store", "nothing"),
        ("store", "rm"),
        ("store", "pin"),
        ("store", "ls", "--js"),
        ("store", "ls", "x"),
        ("store", "gc", "--to"),
        ("warm",),
        ("warm", "alpine", "--plat", "x"),
        ("store", "ls", "--", "-q"),
        ("store", "rm", "--", "alpine"),
    ],
)
@pytest.mark.usefixtures("config")
def test_words_that_make_no_sense(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ./run.sh ")


@pytest.mark.parametrize("words", [("--help",), ("store", "--help"), ("store", "gc", "-h"), ("warm", "-h")])
def test_help_needs_no_config(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    monkeypatch.delenv("PULLTAP_CONFIG", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ./run.sh ")


@pytest.mark.parametrize(
    ("words", "images", "platforms", "passed_on"),
    [
        (["alpine"], ["alpine"], None, []),
        (["a", "b", "--platform", "linux/arm64", "--platform", "all"], ["a", "b"], ["linux/arm64", "all"], []),
        (["alpine", "--", "--mode", "upstream:x", "--", "y"], ["alpine"], None, ["--mode", "upstream:x", "--", "y"]),
        (["alpine", "--"], ["alpine"], None, []),
    ],
)
def test_warm_gets_its_words_and_mitmdumps(
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    images: list[str],
    platforms: list[str] | None,
    passed_on: list[str],
) -> None:
    got: list[object] = []

    def run(chosen: argparse.Namespace, passed_on: Sequence[str]) -> int:
        got.extend((chosen.images, chosen.platform, passed_on))
        return 7

    monkeypatch.setattr(warm, "run", run)
    assert cli.main(["warm", *words]) == 7
    assert got == [images, platforms, passed_on]


# How it ends.


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("no such image"), 2, "no such image"),
        (StoreError("no room"), 1, "no room"),
        (ConfigError("no config"), 1, "no config"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (OSError(13, "Permission denied", "/a/file"), 1, "Permission denied (/a/file)"),
        (OSError("it is gone"), 1, "it is gone"),
        (StoreError("[bold]no[/nothing] markup :smile:"), 1, "[bold]no[/nothing] markup :smile:"),
    ],
)
@pytest.mark.usefixtures("config")
def test_trouble_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, status: int, said: str
) -> None:
    for module, words in ((store_cli, ("store", "ls")), (warm, ("warm", "alpine"))):
        monkeypatch.setattr(module, "run", failing(error))
        assert complaint(capsys, *words, status=status) == f"run.sh {words[0]}: {said}\n"


@pytest.mark.usefixtures("config")
def test_who_types_control_c_sees_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store_cli, "run", failing(KeyboardInterrupt()))
    assert complaint(capsys, "store", "verify", status=130) == "stopped\n"


@pytest.mark.usefixtures("config")
def test_a_fault_of_ours_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_cli, "run", failing(TypeError("a fault")))
    with pytest.raises(TypeError, match="a fault"):
        cli.main(["store", "ls"])


def test_the_store_of_somebody_else(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "store").close()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    said = complaint(capsys, "store", "ls")
    assert said.startswith(f"run.sh store: {tmp_path}/store belongs to ")
    assert "and this runs as user 54321: run it as " in said
    assert config.exists()


def test_a_folder_that_is_no_store(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = open_files()
    config.write_text(f"registry_store: {tmp_path}\n")
    assert "is no store: it holds 'mitm-config.yaml', but no oci-layout" in complaint(capsys, "store", "ls")
    config.write_text(f"registry_store: {config}\n")
    assert f"cannot use {config} as store: File exists" in complaint(capsys, "store", "ls")
    assert open_files() == before


def process(*words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-m", "addon.ui.cli", *words]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("words", [("ls", "--json"), ("stats", "--json"), ("ls",), ("stats",)])
@pytest.mark.usefixtures("config")
def test_a_reader_that_has_seen_enough_is_no_trouble(words: tuple[str, ...]) -> None:
    with process("store", *words) as started:
        assert started.stdout
        assert started.stderr
        started.stdout.close()
        assert started.stderr.read() == b""
        assert started.wait() == 1


@pytest.mark.usefixtures("config")
def test_it_is_a_program() -> None:
    with process("store", "ls") as started:
        out, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (0, b"")
    assert b"0 blobs, 0 B in " in out


@pytest.mark.parametrize("words", [("ls", "--json"), ("stats",)])
@pytest.mark.usefixtures("config")
def test_what_cannot_be_written_is_told(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-P", "-m", "addon.ui.cli", "store", *words]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2], stdout=full, stderr=subprocess.PIPE, check=False, text=True
        )
    assert (done.returncode, done.stderr) == (1, "run.sh store: No space left on device\n")
