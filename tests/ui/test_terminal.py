"""What people see of lines and bars, and what programs read instead."""

import io
import sys

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from addon.ui import terminal


class Terminal(io.StringIO):
    """A standard stream that says of itself that it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let standard output be a terminal, 40 columns wide."""
    stream = Terminal()
    for name, value in {"TERM": "xterm", "COLUMNS": "40", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    # pytest puts its own one there between a fixture and its test.
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def table() -> Table:
    """One that is wider than 40 columns."""
    made = Table("name", "digest", box=None, pad_edge=False)
    made.add_row("alpine", "a" * 64)
    made.add_row("docker.io/library/debian", "b")
    return made


LINES = [
    "[bold]name[/bold] :smile: 'quoted' 127.0.0.1 /a/path",
    "word " * 300 + "end",
    "x" * 3000,
]


@pytest.mark.parametrize("line", LINES, ids=["no markup", "words", "long"])
@pytest.mark.parametrize("stderr", [False, True], ids=["stdout", "stderr"])
def test_a_line_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], line: str, *, stderr: bool) -> None:
    terminal.console(stderr=stderr).print(line)
    shown = capsys.readouterr()
    assert ((shown.err, shown.out) if stderr else (shown.out, shown.err)) == (f"{line}\n", "")


@pytest.mark.parametrize("line", LINES, ids=["no markup", "words", "long"])
def test_a_terminal_folds_lines_by_itself(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    tty = on_terminal(monkeypatch)
    out = terminal.console()
    assert (out.is_terminal, out.width) == (True, 40)
    out.print(line)
    assert tty.getvalue() == f"{line}\n"


def test_what_is_no_terminal_gets_a_table_in_whole_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal.show(terminal.console(), table())
    assert capsys.readouterr().out.splitlines() == [
        "name                      digest",
        f"alpine                    {'a' * 64}",
        "docker.io/library/debian  b",
    ]


def test_a_table_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    tty = on_terminal(monkeypatch)
    terminal.show(terminal.console(), table())
    lines = [Text.from_ansi(line).plain.rstrip() for line in tty.getvalue().splitlines()]
    assert max(map(len, lines)) <= 40
    assert lines[0].split() == ["name", "digest"]


def test_bars_are_for_terminals_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.bars(terminal.console()) as progress:
        task = progress.add_task("blob", total=1000)
        progress.update(task, completed=1000)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("total", "completed", "shown"),
    [
        (3 << 20, 1536, "1.5 KiB of 3.0 MiB"),
        (None, 3 << 30, "3.0 GiB"),
        (0, 0, "0 B of 0 B"),
    ],
)
def test_a_bar_tells_bytes_in_the_units_of_the_settings(total: int | None, completed: int, shown: str) -> None:
    stream = io.StringIO()
    out = Console(file=stream, force_terminal=True, color_system=None, width=100, legacy_windows=False)
    progress = terminal.bars(out)
    # The name of an image is no markup.
    task = progress.add_task("[red]sha256:0123", total=total)
    progress.update(task, completed=completed)
    out.print(progress)
    assert "[red]sha256:0123" in stream.getvalue()
    assert f" {shown} " in stream.getvalue()


def test_a_bar_tells_the_speed_once_there_is_one() -> None:
    now = 100.0
    stream = io.StringIO()
    out = Console(file=stream, force_terminal=True, color_system=None, width=100)
    progress = terminal.bars(out)
    progress.get_time = lambda: now
    task = progress.add_task("blob", total=4 << 20)
    out.print(progress)
    assert "/s" not in stream.getvalue()
    for _ in range(3):
        now += 1
        progress.advance(task, 1 << 20)
    out.print(progress)
    assert " 1.0 MiB/s " in stream.getvalue()
    # Of a blob that is there, how fast it was.
    now += 1
    progress.advance(task, 1 << 20)
    now += 1000
    out.print(progress)
    assert stream.getvalue().splitlines()[-1].count("1.0 MiB/s") == 1


@pytest.mark.parametrize("transient", [True, False])
def test_bars_stay_or_go(*, transient: bool) -> None:
    stream = io.StringIO()
    out = Console(file=stream, force_terminal=True, width=100)
    with terminal.bars(out, transient=transient) as progress:
        progress.update(progress.add_task("blob", total=10), completed=10)
    erased = "\x1b[1A\x1b[2K"
    assert stream.getvalue().endswith(erased) is transient
    assert "blob" in stream.getvalue()
