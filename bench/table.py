"""What came of a run: samples, their medians and spread, and how they compare with the goals."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

Format = str
"""How a figure is written: a format specification, with the unit behind it."""


@dataclass(frozen=True)
class Goal:
    """What is to be reached.

    `bound` is for the ratio of Pulltap's median to the best peer's; with `plus`, for the difference from it; with
    `alone`, for the median itself.
    """

    bound: float
    at_least: bool = False
    plus: bool = False
    alone: bool = False
    factor: float = 1.0
    """What the bound is multiplied with to be read by people."""

    def figure(self, ours: float, best: float | None) -> float | None:
        """What is compared with the bound; None where there is no peer to compare with."""
        if self.alone:
            return ours
        if best is None:
            return None
        if self.plus:
            return ours - best
        return ours / best if best else None

    def met(self, figure: float) -> bool:
        """Whether the figure is good enough."""
        return figure >= self.bound if self.at_least else figure <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        if self.alone or self.plus:
            return f"{sign} {'+' if self.plus else ''}{self.bound * self.factor:.6g}"
        return f"{sign} {self.bound:g} x"


@dataclass
class Row:
    """One measure: the samples of each side.

    `missing` names the peers that are not installed; `beside` those whose figure is only for reading.
    """

    name: str
    unit: str
    goal: Goal | None
    factor: float = 1.0
    """Samples are multiplied with it to be read in `unit`."""
    more_is_better: bool = False
    samples: dict[str, list[float]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    beside: Sequence[str] = ()
    note: str = ""

    def add(self, side: str, sample: float) -> None:
        """One more sample of a side."""
        self.samples.setdefault(side, []).append(sample)

    def median(self, side: str) -> float | None:
        """Of a side's samples; None where it has none."""
        samples = self.samples.get(side)
        return statistics.median(samples) if samples else None

    @property
    def best(self) -> float | None:
        """The best peer's median."""
        peers = [side for side in self.samples if side != OURS and side not in self.beside and not side.startswith("/")]
        medians = [statistics.median(self.samples[side]) for side in peers]
        return (max if self.more_is_better else min)(medians) if medians else None

    @property
    def figure(self) -> float | None:
        """What the goal is about: a ratio, a difference or a value."""
        ours = self.median(OURS)
        return self.goal.figure(ours, self.best) if self.goal and ours is not None else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where that cannot be said."""
        return self.goal.met(self.figure) if self.goal and self.figure is not None else None

    def shown(self, side: str) -> str:
        """A side's median with its spread."""
        samples = [sample * self.factor for sample in self.samples.get(side, ())]
        if not samples:
            return "-"
        text = _number(statistics.median(samples))
        return f"{text} ({_number(min(samples))} … {_number(max(samples))})" if len(samples) > 1 else text

    def as_json(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "measure": self.name,
            "unit": self.unit,
            "samples": {side: [value * self.factor for value in found] for side, found in self.samples.items()},
            "missing": self.missing,
            "goal": str(self.goal) if self.goal else None,
            "figure": self.figure,
            "met": self.met,
        }


OURS = "pulltap"


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def markdown(rows: Sequence[Row]) -> str:
    """The table: medians, in parentheses the lowest and highest sample."""
    lines = ["| measure | Pulltap | against | ratio | goal | |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        peers = [f"{side} {row.shown(side)}" for side in row.samples if side != OURS]
        peers += [f"{name}: missing" for name in row.missing]
        verdict = {True: "met", False: "**not met**", None: ""}[row.met]
        cells = [f"{row.name}, {row.unit}", row.shown(OURS), " · ".join(peers) or "-", _figure(row)]
        lines.append(f"| {' | '.join([*cells, str(row.goal or ''), verdict])} |")
    notes = [f"- {row.name}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, "", *notes]) if notes else "\n".join(lines)


def _figure(row: Row) -> str:
    if row.goal is None or row.figure is None:
        return ""
    if row.goal.alone:
        return ""
    if row.goal.plus:
        return f"{row.figure * row.factor:+.1f}"
    return f"{row.figure:.2f} x"
