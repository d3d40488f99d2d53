"""What the outputs of flows and of faults share: headings, VMAs in order of weight, matrices, and JSON of a place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from tracer.model.accumulate import FaultRow, FaultSums, FlowRow, FlowSums, Period, Place, Seen
from tracer.render.paths import name_fields, text_name
from tracer.render.table import table
from tracer.render.targets import untraced
from tracer.render.terminal import word
from tracer.render.timestamp import timestamp
from tracer.render.trust import trust_fields

__all__ = ["Matrix", "VmaColumns", "counted", "first_vmas", "heading", "json_frame", "json_place"]

Row = TypeVar("Row", FlowRow, FaultRow)
AnyPeriod = Period[FlowSums] | Period[FaultSums]


def counted(count: int, one: str) -> str:
    """`1 page`, `2 pages`."""
    return f"{count} {one}{'' if count == 1 else 's'}"


def heading(what: str, period: AnyPeriod, summary: str) -> Iterator[str]:
    """What it is, of how long, until when, of whom; and who is missing."""
    seconds = f"{period.seconds:.1f} s until {timestamp(period.ended, 'milliseconds')}"
    yield f"# {what} of {seconds}: {summary}, {counted(len(period.targets), 'target')}"
    yield from untraced(period.untraced)


class Matrix:
    """Numbers by (group, node) and node, a table with a row for each of the former.

    groups: the order in which they are shown; one in which nothing was added is left out.
    extra: the name of one more column, which belongs to the row as a whole.
    """

    def __init__(self, groups: Iterable[str], extra: str) -> None:
        self._groups = list(groups)
        self._extra = extra
        self._cells: defaultdict[tuple[str, int, int], int] = defaultdict(int)
        self._extras: defaultdict[tuple[str, int], int] = defaultdict(int)

    def add(self, group: str, row: int, column: int, number: int, extra: int) -> None:
        """row, column: node ids; column -1: no node."""
        self._cells[group, row, column] += number
        self._extras[group, row] += extra

    def lines(self, head: tuple[str, str], nodes: Iterable[int]) -> Iterator[str]:
        """head: what groups and rows are. nodes: columns that are shown also if they are empty."""
        columns = sorted({*nodes, *(column for _, _, column in self._cells)} - {-1})
        if any(column == -1 for _, _, column in self._cells):
            columns.append(-1)
        rows: list[list[str | int]] = [
            [group, f"N{row}", *(self._cells.get((group, row, column), 0) for column in columns), extra]
            for group in self._groups
            for (its_group, row), extra in sorted(self._extras.items())
            if its_group == group
        ]
        names = ["none" if column == -1 else f"N{column}" for column in columns]
        return table([*head, *names, self._extra], rows, left=head)


def first_vmas(rows: Sequence[Row], weight: Callable[[Row], tuple[int, ...]], most: int) -> tuple[list[Row], int]:
    """The rows of the `most` weightiest VMAs (0: of all), VMA by VMA, each with its weightiest rows first; and how
    many VMAs there are in all.

    weight: numbers, the first one decides; those of a VMA are the sums of its rows'.
    """
    vmas: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        vmas.setdefault((row.place.pid, row.place.vma.start if row.place.vma else -1), []).append(row)

    def heaviest(its: list[Row]) -> tuple[int, ...]:
        return tuple(-sum(column) for column in zip(*map(weight, its), strict=True))

    ranked = sorted(vmas.items(), key=lambda item: (heaviest(item[1]), item[0]))
    shown = ranked[: most or None]
    return [row for _, its in shown for row in sorted(its, key=weight, reverse=True)], len(ranked)


class VmaColumns:
    """The columns that name the VMA of a row: as many as are needed to tell the targets apart."""

    def __init__(self, places: Iterable[Place], several: bool) -> None:
        """several: whether the session may have more than one target."""
        self._several = several
        self._namespaces = any(place.pid != place.namespace_pid for place in places)
        self.header = ["PID", *["NSPID"] * self._namespaces, *["COMMAND"] * several, "VMA", "NAME"]
        self.left = ["COMMAND", "VMA", "NAME"]

    def cells(self, place: Place) -> list[str | int]:
        """As the header says; every word escaped."""
        vma = place.vma
        cells: list[str | int] = [place.pid]
        if self._namespaces:
            cells.append(place.namespace_pid)
        if self._several:
            cells.append(word(place.comm) or "-")
        cells.append(f"{vma.start:x}-{vma.end:x}" if vma else "-")
        cells.append(word(vma.path) if vma else "(not mapped any more)")
        return cells


def json_frame(period: AnyPeriod, key: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The object of one period: `rows` under `key`, and what every output says of trust."""
    return {
        "time": timestamp(period.ended),
        "seconds": round(period.seconds, 6),
        key: rows,
        "trust": [_json_seen(target) for target in period.targets],
        "untraced": period.untraced,
    }


def _json_seen(target: Seen) -> dict[str, Any]:
    return {
        "pid": target.pid,
        "ns_pid": target.namespace_pid,
        "comm": text_name(target.comm),
        "hooks": target.hooks,
        "reader": target.reader,
        "ended": target.ended,
        **trust_fields(target.trust),
    }


def json_place(place: Place) -> dict[str, Any]:
    """start and end are null, and the name is empty, where no VMA is known."""
    vma = place.vma
    return {
        "pid": place.pid,
        "ns_pid": place.namespace_pid,
        "comm": text_name(place.comm),
        "start": f"{vma.start:x}" if vma else None,
        "end": f"{vma.end:x}" if vma else None,
        **name_fields(vma.path if vma else b""),
    }
