"""The table of docs/accuracy.md, made of what tests/kernel/test_exact.py has found on each machine.

`tests/accuracy.py` (`make accuracy`) runs the machines and calls `write`. A row of the table is an operation, a column
a machine; a cell sums up all steps of the operation there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.kernel.exactness import LOCAL_SHARE, PATIENCE

__all__ = ["Column", "cell", "page_size", "table", "write"]

PAGE = Path(__file__).resolve().parents[1] / "docs/accuracy.md"
BEGIN, END = "<!-- table: begin (from make accuracy) -->", "<!-- table: end -->"
LEGEND = """\
A row is an operation; each is several steps (`tests/kernel/operations*.py` says which), and after each step the whole
target is compared: every VMA, every node. A cell says, of the worst step:

    0 e 1 4     pages off after one refresh; seen by events (e), by an audit of everything (a), or by
                either, depending on the step (ea); refreshes until all was equal; milliseconds of a
                refresh (the median of the steps)
    -           that kernel, or that machine, cannot do it

The milliseconds are there to compare rows. Virtual machines are emulated: they need twenty times as much."""


@dataclass(frozen=True, slots=True)
class Column:
    """A machine: its nodes in words, and what test_exact.py left there."""

    nodes: str
    document: dict[str, Any]

    @property
    def heading(self) -> str:
        """The kernel's series and the nodes."""
        return f"{'.'.join(self.document['kernel'].split('.')[:2])}: {self.nodes}"

    @property
    def told(self) -> str:
        """The machine in words."""
        return f"{self.heading} (Linux {self.document['kernel']}, {self.document['written'][:10]})"

    def operations(self) -> dict[str, list[dict[str, Any]]]:
        """Name -> rows of its steps, with the walk; clearing up after it is a step."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.document["rows"]:
            if (row["hooks"], row["reader"]) == ("tracepoint", "walk"):
                found.setdefault(row["operation"], []).append(row)
        return found


def page_size(operation: str) -> str:
    """The kind of pages that an operation is about, by its name."""
    for word, size in (("64 KiB", "64 KiB"), ("1 GiB", "hugetlb 1 GiB"), ("hugetlb", "hugetlb 2 MiB")):
        if word in operation:
            return size
    large = ("THP", "khugepaged", "huge zero", "COLLAPSE")
    return "THP" if any(word in operation for word in large) else "4 KiB"


def _seen_by(rows: list[dict[str, Any]]) -> str:
    everything = [row["regions_read"] * LOCAL_SHARE > row["regions_total"] for row in rows]
    return "e" * (not all(everything)) + "a" * any(everything)


def cell(rows: list[dict[str, Any]]) -> str:
    """One operation on one machine."""
    if any(row["lacks"] for row in rows):
        return "-"
    off = max(row["pages_off"] + row["areas_off"] for row in rows)
    never = any(row["refreshes"] == 0 for row in rows)
    refreshes = f">{PATIENCE}" if never else str(max(row["refreshes"] for row in rows))
    return f"{off} {_seen_by(rows)} {refreshes} {median(row['milliseconds'] for row in rows):.0f}"


def _summary(columns: list[Column]) -> str:
    rows = [row for column in columns for of in column.operations().values() for row in of if not row["lacks"]]
    off = sum(row["pages_off"] + row["areas_off"] for row in rows)
    wrong = sum(bool(row["pages_off"] + row["areas_off"]) for row in rows)
    return f"{len(rows)} comparisons of a whole target: {off} pages off, in {wrong} of them."


def table(columns: list[Column], missing: list[str]) -> list[str]:
    """Markdown lines. missing: machines that have not been run."""
    by_column = [column.operations() for column in columns]
    names = dict.fromkeys(name for operations in by_column for name in operations)
    lines = [_summary(columns), "", LEGEND, ""]
    lines += [f"Machines, as kernel: nodes (with CPUs + without): {'; '.join(column.told for column in columns)}."]
    lines += [f"Not run: {', '.join(missing)}."] if missing else []
    lines += ["", "| operation | pages | " + " | ".join(column.heading for column in columns) + " |"]
    lines += ["|---" * (len(columns) + 2) + "|"]
    for name in names:
        cells = [cell(operations[name]) if name in operations else "" for operations in by_column]
        lines.append(f"| {_short(name)} | {page_size(name)} | " + " | ".join(cells) + " |")
    return lines


def _short(name: str) -> str:
    """Without the page size, which has a column of its own."""
    stem, _, size = name.rpartition(", ")
    return stem if stem and size in ("4 KiB", "64 KiB", "THP", "hugetlb") else name


def write(columns: list[Column], missing: list[str], page: Path = PAGE) -> None:
    """Replace what is between the two marks."""
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    page.write_text("\n".join([before + BEGIN, *table(columns, missing), END + after]))


def read(path: Path) -> dict[str, Any]:
    """What test_exact.py left."""
    document: dict[str, Any] = json.loads(path.read_text())
    return document
