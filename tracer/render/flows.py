"""Pages that moved between nodes in some period, as text and as one line of JSON (`flows.schema.json`)."""

from __future__ import annotations

from collections.abc import Iterator

from tracer.model.accumulate import FlowRow, FlowSums, Period
from tracer.render.happened import Matrix, VmaColumns, counted, first_vmas, heading, json_frame, json_place
from tracer.render.stream import json_line as framed
from tracer.render.table import table

__all__ = ["json_line", "lines"]

_ALL = "all"


def lines(period: Period[FlowSums], what: str = "flows", most_vmas: int = 10, several: bool = False) -> Iterator[str]:
    """The matrix by reason, the VMAs behind it, and the whole machine; without newlines, everything foreign escaped.

    what: the heading's first words. most_vmas: 0 for all. several: whether there may be more than one target.
    """
    rows = period.sums.rows()
    pages, kib, failed = (sum(getattr(row, key) for row in rows) for key in ("pages", "kib", "failed"))
    yield from heading(what, period, f"{counted(pages, 'page')} moved ({kib} KiB), {failed} failed")
    if rows:
        yield "# pages by reason, node they left (rows) and node they reached (columns); the failed ones stayed"
        yield from _matrix(period, rows)
        yield from _vmas(rows, most_vmas, several)
    yield from _machine(period)


def _matrix(period: Period[FlowSums], rows: list[FlowRow]) -> Iterator[str]:
    reasons = sorted({row.reason for row in rows})
    matrix = Matrix(reasons if len(reasons) == 1 else [_ALL, *reasons], "failed")
    for row in rows:
        for group in (_ALL, row.reason):
            matrix.add(group, row.source, row.destination, row.pages, row.failed)
    return matrix.lines(("reason", "from"), period.nodes)


def _vmas(rows: list[FlowRow], most: int, several: bool) -> Iterator[str]:
    shown, count = first_vmas(rows, lambda row: (row.pages, row.failed, row.kib), most)
    some = f": {most} of {count} (--vmas 0 shows all)" if most and most < count else ""
    yield f"# the VMAs behind it, most pages first{some}"
    columns = VmaColumns((row.place for row in shown), several)
    header = ["pages", "KiB", "failed", "from", "to", "reason", *columns.header]
    cells = (
        [
            row.pages,
            row.kib,
            row.failed,
            _node(row.source),
            _node(row.destination),
            row.reason,
            *columns.cells(row.place),
        ]
        for row in shown
    )
    yield from table(header, cells, left=["from", "to", "reason", *columns.left])


def _node(number: int) -> str:
    """A block of memory may hold pages of two nodes; then which one it is was not found out."""
    return f"N{number}" if number >= 0 else "?"


def _machine(period: Period[FlowSums]) -> Iterator[str]:
    if period.machine is None:
        yield "# pages that the whole machine migrated: not known here"
        return
    rows = [(reason, *counts) for reason, counts in period.machine.items() if any(counts)]
    yield f"# pages that the whole machine migrated{'' if rows else ': none'}"
    yield from table(["reason", "migrated", "failed"], rows, left=["reason"])


def json_line(period: Period[FlowSums]) -> str:
    """Everything, on one line of ASCII without newline."""
    rows = sorted(period.sums.rows(), key=lambda row: (-row.pages, -row.failed))
    flows = [
        {
            **json_place(row.place),
            "from": row.source,
            "to": row.destination,
            "reason": row.reason,
            "pages": row.pages,
            "bytes": row.kib * 1024,
            "failed": row.failed,
        }
        for row in rows
    ]
    frame = json_frame(period, "flows", flows)
    if period.machine is None:
        frame["machine"] = None
    else:
        frame["machine"] = {
            reason: {"migrated": migrated, "failed": failed} for reason, (migrated, failed) in period.machine.items()
        }
    return framed("flows", frame)
