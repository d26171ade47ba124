"""How mitmproxy's tools are started, and what a start says that cannot be."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from mitmproxy import exceptions, options
from mitmproxy.tools import main as tools

from addon.ui import ca, launch


class Started:
    """Stands in for one of mitmproxy's tools."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
        self.arguments: Sequence[str] | None = None
        self.error: Exception | None = None
        monkeypatch.setattr(tools, tool, self)
        monkeypatch.setattr(sys, "argv", [])

    def __call__(self, arguments: Sequence[str]) -> None:
        self.arguments = arguments
        if self.error is not None:
            raise self.error


@pytest.fixture
def mitmdump(monkeypatch: pytest.MonkeyPatch) -> Started:
    monkeypatch.delenv("PULLTAP_HOME", raising=False)
    return Started(monkeypatch, "mitmdump")


@pytest.fixture(autouse=True)
def _usual_mask() -> Iterator[None]:
    usual = os.umask(0o022)
    yield
    os.umask(usual)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mitm-config.yaml"
    path.write_text("# The hosts.\nregistry_hosts: [quay.io]\nlisten_port: '3128'\n")
    return path


@pytest.mark.parametrize("tool", ["mitmdump", "mitmproxy", "mitmweb"])
def test_a_tool_gets_its_arguments(monkeypatch: pytest.MonkeyPatch, config: Path, tool: str) -> None:
    monkeypatch.delenv("PULLTAP_HOME", raising=False)
    started = Started(monkeypatch, tool)
    assert launch.main([tool, str(config), "-p", "0", "-q"]) == 0
    assert started.arguments == ["-p", "0", "-q"]
    assert sys.argv == [tool, "-p", "0", "-q"]


def test_it_makes_the_ca_first(
    monkeypatch: pytest.MonkeyPatch, mitmdump: Started, config: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PULLTAP_HOME", str(tmp_path))
    assert launch.main(["mitmdump", str(config)]) == 0
    assert (tmp_path / ca.FILE).exists()
    assert mitmdump.arguments == []
    # Nor may anybody else read what is made later, such as saved flows.
    (tmp_path / "flows").touch()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path != config} == {0o600}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# one\nregistry_hosts: [", "mitm-config.yaml:2: this is not YAML: expected the node content"),
        ("# one\n3128: listen_port\n", "mitm-config.yaml:2: 3128 is no option's name\n"),
    ],
)
def test_a_file_that_cannot_be_read_starts_nothing(
    mitmdump: Started, config: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    config.write_text(text)
    assert launch.main(["mitmdump", str(config)]) == 1
    assert message in capsys.readouterr().err
    assert mitmdump.arguments is None


def test_a_home_that_is_none_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, mitmdump: Started, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PULLTAP_HOME", "/dev/null")
    assert launch.main(["mitmdump", str(config)]) == 1
    assert capsys.readouterr().err == "no CA can be made in /dev/null: Not a directory\n"
    assert mitmdump.arguments is None


def test_a_ca_that_is_none_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, mitmdump: Started, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PULLTAP_HOME", str(tmp_path))
    (tmp_path / ca.FILE).write_text("nothing\n")
    assert launch.main(["mitmdump", str(config)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / ca.FILE} holds no CA: ")
    assert said.endswith("the next start makes one\n")
    assert mitmdump.arguments is None


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("listen_port", "a whole number"),
        ("http2", "true or false"),
        ("listen_host", "a string"),
        ("mode", "a list of strings"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_line(
    mitmdump: Started, config: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    config.write_text(f"# one\n\n{option}: 3.5\n")
    with pytest.raises(TypeError) as raised:
        options.Options().update(**{option: 3.5})
    mitmdump.error = raised.value
    assert launch.main(["mitmdump", str(config)]) == 1
    assert capsys.readouterr().err == f"{config}:3: {option} is 3.5, but is to be {said}\n"


@pytest.mark.parametrize("error", ["no such thing", "Expected <class 'int'> for onboarding_port, but got <x>."])
def test_another_error_stays_what_it_is(mitmdump: Started, config: Path, error: str) -> None:
    mitmdump.error = TypeError(error)
    with pytest.raises(TypeError, match="^" + error[:8]):
        launch.main(["mitmdump", str(config)])
    mitmdump.error = exceptions.OptionsError("no")
    with pytest.raises(exceptions.OptionsError):
        launch.main(["mitmdump", str(config)])
