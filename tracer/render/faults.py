"""Page faults of some period, by node of the CPU and node of the page, as text and as one line of JSON
(`faults.schema.json`)."""

from __future__ import annotations

from collections.abc import Iterator

from tracer.model.accumulate import FaultRow, FaultSums, Period
from tracer.model.events import Kind
from tracer.render.happened import Matrix, VmaColumns, counted, first_vmas, heading, json_frame, json_place
from tracer.render.stream import json_line as framed
from tracer.render.table import table

__all__ = ["json_line", "lines"]

_PLACED = "placed"


def lines(
    period: Period[FaultSums],
    what: str = "faults",
    most_vmas: int = 10,
    several: bool = False,
    threads: bool = False,
    node: int | None = None,
) -> Iterator[str]:
    """The matrix by kind, and the VMAs behind it; without newlines, everything foreign escaped.

    what: the heading's first words. most_vmas: 0 for all. several: whether there may be more than one target.
    threads: with a column for the thread. node: only faults that left a page on this node.
    """
    rows = _rows(period, node)
    faults, placed = sum(row.count for row in rows), sum(row.pages for row in rows if row.placing)
    where = "" if node is None else f" on node {node}"
    yield from heading(what, period, f"{counted(faults, 'fault')}, which placed {counted(placed, 'page')}{where}")
    if rows:
        yield "# pages by kind of fault, node of the CPU that touched them (rows) and node they lie on (columns)"
        yield from _matrix(period, rows, node)
        yield from _vmas(rows, most_vmas, several, threads)


def _rows(period: Period[FaultSums], node: int | None) -> list[FaultRow]:
    return [row for row in period.sums.rows() if node is None or row.page_node == node]


def _matrix(period: Period[FaultSums], rows: list[FaultRow], node: int | None) -> Iterator[str]:
    matrix = Matrix([_PLACED, *(kind.name.lower() for kind in Kind)], "faults")
    for row in rows:
        for group in (row.kind.name.lower(), *[_PLACED] * row.placing):
            matrix.add(group, row.cpu_node, row.page_node, row.pages, row.count)
    return matrix.lines(("kind", "CPU"), period.nodes if node is None else ())


def _vmas(rows: list[FaultRow], most: int, several: bool, threads: bool) -> Iterator[str]:
    shown, count = first_vmas(rows, lambda row: (row.pages * row.placing, row.count, row.pages), most)
    some = f": {most} of {count} (--vmas 0 shows all)" if most and most < count else ""
    yield f"# the VMAs behind it, most placed pages first{some}"
    columns = VmaColumns((row.place for row in shown), several)
    header = ["pages", "KiB", "faults", "kind", "CPU", "page", *["thread"] * threads, *columns.header]
    yield from table(
        header,
        ([*_cells(row), *[row.thread] * threads, *columns.cells(row.place)] for row in shown),
        left=["kind", "CPU", "page", *columns.left],
    )


def _cells(row: FaultRow) -> list[str | int]:
    page = f"N{row.page_node}" if row.page_node >= 0 else "none"
    return [row.pages, row.kib, row.count, row.kind.name.lower(), f"N{row.cpu_node}", page]


def json_line(period: Period[FaultSums], threads: bool = False, node: int | None = None) -> str:
    """Everything (on one node, if one is given), on one line of ASCII without newline."""
    rows = sorted(_rows(period, node), key=lambda row: (-row.pages * row.placing, -row.count))
    faults = [
        {
            **json_place(row.place),
            "cpu_node": row.cpu_node,
            "page_node": row.page_node if row.page_node >= 0 else None,
            "kind": row.kind.name.lower(),
            **({"thread": row.thread} if threads else {}),
            "count": row.count,
            "pages": row.pages,
            "bytes": row.kib * 1024,
        }
        for row in rows
    ]
    return framed("faults", json_frame(period, "faults", faults))
