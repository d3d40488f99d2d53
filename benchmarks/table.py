"""The result of a benchmark, and its rendering as a Markdown table. Pure: no measuring here."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Row", "Section", "render"]

HEADER = ("", "median", "quartiles", "rounds", "goal", "")


@dataclass(frozen=True)
class Row:
    """values: one per round. unit: "×" for ratios, "ms", "ns", ... limit: the median that it should not exceed."""

    name: str
    values: tuple[float, ...]
    unit: str
    limit: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the rounds; with one round both are its value."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third


@dataclass
class Section:
    """One table: a title, what was done, and its rows."""

    title: str
    method: str
    rows: list[Row] = field(default_factory=list)

    def add(self, name: str, values: Iterable[float], unit: str, limit: float | None = None) -> None:
        self.rows.append(Row(name, tuple(values), unit, limit))


def number(value: float, unit: str) -> str:
    """Three digits that mean something: ratios always with three decimals, times by their size, counts whole."""
    if value == int(value) and unit in ("regions", "events"):
        return f"{value:.0f}"
    if unit == "×" or abs(value) < 1:
        return f"{value:.3f}"
    if abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def _cells(row: Row) -> tuple[str, ...]:
    first, third = row.quartiles
    goal, verdict = "", ""
    if row.limit is not None:
        goal = f"≤ {row.limit:g} {row.unit}"
        verdict = "met" if row.median <= row.limit else "**missed**"
    return (
        row.name,
        f"{number(row.median, row.unit)} {row.unit}",
        f"{number(first, row.unit)} to {number(third, row.unit)}",
        str(len(row.values)),
        goal,
        verdict,
    )


def _lines(cells: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(HEADER))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    text.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return text


def render(sections: Iterable[Section], facts: Iterable[tuple[str, str]]) -> str:
    """The whole report in Markdown. facts: what was measured where, as (name, value)."""
    lines = [f"- {name}: {value}" for name, value in facts]
    for section in sections:
        lines += ["", f"## {section.title}", "", section.method, ""]
        lines += _lines([HEADER, *(_cells(row) for row in section.rows)])
    return "\n".join(lines) + "\n"
