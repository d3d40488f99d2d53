"""Refresh a session after a step, compare it with the kernel, and keep the row of the table."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tests.kernel.compare import Difference, difference
from tests.kernel.target import Truth, read_truth
from tests.kernel.world import Step
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot

__all__ = ["Refreshing", "Row", "Table", "check", "lacks"]

LOCAL_SHARE = 3
"""A change in one place may have at most this part of all regions read again: a third."""
PATIENCE = 10
"""Refreshes after which what is still not equal is taken to remain so."""


class Refreshing(Protocol):
    """What is needed of a `tracer.session.Session`."""

    def refresh(self) -> Sample: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One step for one way of tracing. pages_off, areas_off: after one refresh; the _second ones after another, to
    show that a second look changes nothing. regions_*: 2 MiB regions that each of the two read, of regions_total.
    refreshes: how many it took until all was equal, 0 if it was not after PATIENCE. milliseconds: of the first one.
    lacks: why the kernel cannot do it; the numbers are then of no step.
    """

    operation: str
    step: str
    hooks: str
    reader: str
    pages_off: int = 0
    areas_off: int = 0
    pages_off_second: int = 0
    areas_off_second: int = 0
    regions_read: int = 0
    regions_read_second: int = 0
    regions_total: int = 0
    refreshes: int = 0
    milliseconds: float = 0.0
    audited: str = ""
    unsure: str = ""
    lacks: str = ""
    differences: tuple[str, ...] = ()

    @property
    def failure(self) -> str:
        """What is wrong with it, or nothing."""
        if self.pages_off or self.areas_off or self.pages_off_second or self.areas_off_second:
            return f"{self.step}: " + "; ".join(self.differences)
        if self.unsure:
            return f"{self.step}: equal, but shown as unsure: {self.unsure}"
        if self.hooks != "none" and not self.audited and self.regions_read * LOCAL_SHARE > self.regions_total:
            return f"{self.step}: {self.regions_read} of {self.regions_total} regions read again for a local change"
        return ""

    @property
    def cell(self) -> str:
        """The row as a cell of the printed table: pages off, then regions read again by both refreshes of all."""
        if self.lacks:
            return f"kernel lacks it ({self.lacks})"
        off = str(self.pages_off) + (f" +{self.areas_off} VMAs" if self.areas_off else "")
        if self.pages_off_second or self.areas_off_second:
            off += f", then {self.pages_off_second} +{self.areas_off_second} VMAs"
        return f"{off} | {self.regions_read}+{self.regions_read_second}/{self.regions_total}"


def check(operation: str, step: Step, pid: int, session: Refreshing, look: Callable[[int], Truth] = read_truth) -> Row:
    """Two refreshes of the session, each compared with what the kernel says of the process."""
    began = time.perf_counter()
    first = session.refresh().only
    milliseconds = (time.perf_counter() - began) * 1000
    truth = look(pid)
    second = session.refresh().only
    off: list[Difference] = [difference(truth, snapshot) for snapshot in (first, second)]
    return Row(
        operation,
        step.name,
        first.hooks,
        first.reader,
        off[0].pages,
        off[0].areas,
        off[1].pages,
        off[1].areas,
        first.refresh.regions_read,
        second.refresh.regions_read,
        truth.regions,
        _refreshes(off, truth, session),
        round(milliseconds, 2),
        step.audited,
        unsure=_unsure(second),
        differences=off[0].lines or off[1].lines,
    )


def _refreshes(off: list[Difference], truth: Truth, session: Refreshing) -> int:
    """How many refreshes it takes until all is equal, after those whose differences are given; 0: too many."""
    for number, it in enumerate(off, 1):
        if not it:
            return number
    for number in range(len(off) + 1, PATIENCE + 1):
        if not difference(truth, session.refresh().only):
            return number
    return 0


def _unsure(snapshot: Snapshot) -> str:
    """What a second refresh of a process at rest still cannot vouch for; it must be nothing."""
    trust = snapshot.trust
    doubts = {"settling": trust.settling, "unexplained": trust.unexplained, "lost": trust.lost}
    return ", ".join(f"{name} {count}" for name, count in doubts.items() if count)


def lacks(operation: str, hooks: str, reader: str, reason: str) -> Row:
    """The row of an operation that this kernel cannot do."""
    return Row(operation, "", hooks, reader, lacks=reason)


@dataclass(slots=True)
class Table:
    """All rows of a run."""

    nodes: list[int]
    rows: list[Row] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """As text: a line a step, a column a way of tracing."""
        columns = list(dict.fromkeys((row.hooks, row.reader) for row in self.rows))
        cells: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
        for row in self.rows:
            cells.setdefault((row.operation, row.step), {})[row.hooks, row.reader] = row.cell
        heads = ["operation: step", *(f"{hooks}, {reader}" for hooks, reader in columns)]
        body = [
            [f"{operation}: {step}" if step else operation, *(by.get(column, "") for column in columns)]
            for (operation, step), by in cells.items()
        ]
        widths = [max(len(line[at]) for line in [heads, *body]) for at in range(len(heads))]
        yield f"kernel {os.uname().release}, nodes {','.join(map(str, self.nodes))}"
        yield "cells: pages off | regions read again, by the first + the second refresh / regions of the target"
        for line in [heads, *body]:
            yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()

    def write(self, directory: Path) -> Path:
        """`exact-<release>.table` and `.json`; the path of the former."""
        stem = f"exact-{os.uname().release}"
        path = directory / f"{stem}.table"
        path.write_text("\n".join(self.lines()) + "\n")
        document = {
            "kernel": os.uname().release,
            "nodes": self.nodes,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": [asdict(row) for row in self.rows],
        }
        (directory / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n")
        return path
