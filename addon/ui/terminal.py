"""What the commands show people: lines, which are never folded, and bars, where there is a terminal for them."""

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
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
    whole = Column(no_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=whole.copy()),
        BarColumn(),
        _Bytes(whole.copy()),
        _Speed(whole.copy()),
        TimeRemainingColumn(table_column=whole.copy()),
    )
    return _Bars(out, *columns, transient=transient)


class _Bars(Progress):
    """Leaves room for the ^C that a terminal shows: in the next line, it would have one line too few taken away."""

    def __init__(self, out: Console, *columns: ProgressColumn, transient: bool) -> None:
        self._out = out
        super().__init__(*columns, console=out, disable=not out.is_terminal, transient=transient)

    def get_renderables(self) -> Iterable[RenderableType]:
        """See `Progress.get_renderables`."""
        yield Constrain(self.make_tasks_table(self.tasks), self._out.width - len("^C") - 1)


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
