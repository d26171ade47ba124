"""The store's commands, as they are typed beside a proxy."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Done:
    """What a command returned and printed."""

    status: int
    lines: list[str]


Run = Callable[..., Done]
"""Runs one: its words, and settings that differ from the usual ones."""


class Terminal(io.StringIO):
    """A standard input where somebody sits."""

    def isatty(self) -> bool:
        return True


def cells(line: str) -> list[str]:
    """The cells of a table's row, however long the test takes."""
    return re.split(r" {2,}", re.sub(r"\b\d+ s ago", "0 s ago", line))
