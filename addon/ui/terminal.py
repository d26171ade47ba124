"""What the commands show people: lines, which are never folded, and bars, where there is a terminal for them."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from addon.ui.listing import size

INTERRUPTED = 130
"""The exit status after a Ctrl-C, as shells have it."""
_WIDE = 1000
"""Columns of what is no terminal."""


def console(*, stderr: bool = False) -> Console:
    """Where lines go as they are: names and paths are no markup."""
    made = Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = _WIDE
    return made


def show(out: Console, table: Table) -> None:
    """Show a table; a program that reads it finds no spaces at the ends of lines."""
    if out.is_terminal:
        out.print(table, soft_wrap=False)
        return
    with out.capture() as shown:
        out.print(table, soft_wrap=False)
    for line in shown.get().splitlines():
        out.print(line.rstrip())


def bars(out: Console, *, transient: bool = False) -> Progress:
    """A bar for each task, whose completed and total are bytes.

    Args:
        out: where they are shown; nowhere if that is no terminal.
        transient: whether nothing of them stays once all is done.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), _Bytes(), _Speed(), TimeRemainingColumn())
    return Progress(*columns, console=out, disable=not out.is_terminal, transient=transient)


class _Bytes(ProgressColumn):
    """How many bytes are there, of how many."""

    def render(self, task: Task) -> Text:
        """See `ProgressColumn.render`."""
        total = "" if task.total is None else f" of {size(int(task.total))}"
        return Text(f"{size(int(task.completed))}{total}", style="progress.download")


class _Speed(ProgressColumn):
    """How many bytes come in a second."""

    def render(self, task: Task) -> Text:
        """See `ProgressColumn.render`."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{size(int(speed))}/s", style="progress.data.speed")
