"""What differs between two moments, as text and as one line of JSON (`difference.schema.json`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from tracer.model.accumulate import Place
from tracer.model.difference import Area, Change, Difference, Move, Target
from tracer.model.snapshot import Snapshot
from tracer.render.happened import Matrix, VmaColumns, counted
from tracer.render.jsonl import by_node, target_fields, vma_fields
from tracer.render.paths import text_name
from tracer.render.stream import json_line as framed
from tracer.render.table import table
from tracer.render.terminal import printable, word
from tracer.render.timestamp import timestamp

__all__ = ["Moment", "json_line", "lines"]

_ALL = "all"
_MOST_MOVES = 3
"""Moves of one VMA that the text names; JSON has all of them."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One of the two. time: of the sample, aware. file: the recording's name."""

    time: datetime
    file: bytes


def lines(
    difference: Difference,
    before: Moment,
    after: Moment,
    same_run: bool = True,
    most_vmas: int = 10,
    several: bool = False,
) -> Iterator[str]:
    """Totals, what moved, and the VMAs that changed; without newlines, everything foreign escaped.

    same_run: both are of one recording. most_vmas: 0 for all. several: whether there may be more than one target.
    """
    yield _heading(difference, before, after, same_run)
    for target in difference.targets:
        if target.replaced:
            yield f"# process {target.latest.pid} executed another program in between: all of its memory is new"
    yield "# pages on each node"
    yield from _totals(difference)
    if difference.moves is None:
        if same_run:
            yield "# moves were not recorded: moved is what in each VMA some nodes lost and others got"
    elif difference.moves:
        yield "# pages that moved, by reason, node they left (rows) and node they reached (columns)"
        yield from _moves(difference.moves, difference.node_ids)
    if difference.changes:
        yield from _changes(difference, most_vmas, several)


def _heading(difference: Difference, before: Moment, after: Moment, same_run: bool) -> str:
    times = [timestamp(moment.time, "milliseconds") for moment in (before, after)]
    if same_run:
        seconds = (after.time - before.time).total_seconds()
        what = f"difference over {seconds:.1f} s, from {times[0]} to {times[1]}"
    else:
        first, second = (printable(moment.file) for moment in (before, after))
        what = f"difference between {first} at {times[0]} and {second} at {times[1]}"
    pages = sum(difference.delta)
    more = f"{counted(abs(pages), 'page')} {'more' if pages >= 0 else 'fewer'}"
    vmas = f"{counted(len(difference.changes), 'VMA')} changed"
    return f"# {what}: {more}, {difference.moved} moved, {vmas}, {counted(len(difference.targets), 'target')}"


def _totals(difference: Difference) -> Iterator[str]:
    def row(what: str, pages: Sequence[int], spelt: Any = str) -> list[str | int]:
        return [what, *map(spelt, pages), spelt(sum(pages))]

    rows = [
        row("before", difference.before),
        row("after", difference.after),
        row("change", difference.delta, _signed),
    ]
    return table(["when", *(f"N{node}" for node in difference.node_ids), _ALL], rows, left=["when"])


def _moves(moves: Iterable[Move], node_ids: tuple[int, ...]) -> Iterator[str]:
    its = list(moves)
    reasons = sorted({move.reason for move in its})
    matrix = Matrix(reasons if len(reasons) == 1 else [_ALL, *reasons], "KiB")
    for move in its:
        for group in (_ALL, move.reason):
            matrix.add(group, move.source, move.destination, move.pages, move.kib)
    return matrix.lines(("reason", "from"), node_ids)


def _changes(difference: Difference, most: int, several: bool) -> Iterator[str]:
    shown = difference.changes[: most or None]
    count = len(difference.changes)
    yield "# the VMAs that changed, weightiest first" + (
        f": {most} of {count} (--vmas 0 shows all)" if most and most < count else ""
    )
    places = [_place(change) for change in shown]
    columns = VmaColumns(places, several)
    moves = difference.moves is not None
    policies = any("policy" in change.words for change in shown)
    nodes = [f"N{node}" for node in difference.node_ids]
    header = ["before", "after", *nodes, "moved", *["moves"] * moves, "what", *["policy"] * policies, *columns.header]
    cells = (
        [
            *(sum(sum(area.pages) for area in areas) for areas in (change.before, change.after)),
            *map(_signed, change.delta),
            change.moved,
            *[_moves_cell(change.moves or ())] * moves,
            ",".join(change.words),
            *[_policy_cell(change)] * policies,
            *columns.cells(place),
        ]
        for change, place in zip(shown, places, strict=True)
    )
    yield from table(header, cells, left=["moves", "what", "policy", *columns.left])


def _signed(number: int) -> str:
    return f"{number:+d}" if number else "0"


def _moves_cell(moves: Sequence[Move]) -> str:
    """`N0>N1=40,N1>N0=2`: of all reasons together."""
    pages: dict[tuple[int, int], int] = {}
    for move in moves:
        key = move.source, move.destination
        pages[key] = pages.get(key, 0) + move.pages
    ranked = sorted(pages, key=lambda key: (-pages[key], key))
    cells = [f"{_node(key[0])}>{_node(key[1])}={pages[key]}" for key in ranked[:_MOST_MOVES]]
    return ",".join([*cells, *["..."] * (len(ranked) > _MOST_MOVES)]) or "-"


def _node(number: int) -> str:
    """A block of memory may hold pages of two nodes; then which one it is was not found out."""
    return f"N{number}" if number >= 0 else "?"


def _policy_cell(change: Change) -> str:
    if "policy" not in change.words:
        return "-"
    return ">".join("+".join(word(policy.encode()) for policy in policies) for policies in change.policies)


def _place(change: Change) -> Place:
    """The whole of it, from its first VMA to its last, as last seen."""
    areas = change.after or change.before
    vma = replace(areas[0].vma, start=areas[0].vma.start, end=areas[-1].vma.end)
    snapshot = change.target.latest
    return Place(snapshot.pid, snapshot.namespace_pid or snapshot.pid, snapshot.comm, vma)


def json_line(difference: Difference, before: Moment, after: Moment, same_run: bool = True) -> str:
    """Everything, on one line of ASCII without newline."""
    nodes = difference.node_ids
    fields = {
        "from": _moment(before),
        "to": _moment(after),
        "same_run": same_run,
        "seconds": round((after.time - before.time).total_seconds(), 6) if same_run else None,
        "totals": {
            "from": by_node(nodes, difference.before),
            "to": by_node(nodes, difference.after),
            "change": by_node(nodes, difference.delta),
        },
        "moved": difference.moved,
        "moves": _json_moves(difference.moves),
        "targets": [_json_target(target) for target in difference.targets],
        "vmas": [_json_change(change, nodes) for change in difference.changes],
    }
    return framed("difference", fields)


def _moment(moment: Moment) -> dict[str, str]:
    return {"time": timestamp(moment.time), "file": text_name(moment.file)}


def _json_moves(moves: Sequence[Move] | None) -> list[dict[str, Any]] | None:
    if moves is None:
        return None
    return [
        {
            "from": move.source,
            "to": move.destination,
            "reason": move.reason,
            "pages": move.pages,
            "bytes": move.kib * 1024,
        }
        for move in moves
    ]


def _json_target(target: Target) -> dict[str, Any]:
    return {"from": _json_process(target.before), "to": _json_process(target.after), "replaced": target.replaced}


def _json_process(snapshot: Snapshot | None) -> dict[str, Any] | None:
    if snapshot is None:
        return None
    return target_fields(snapshot)


def _json_change(change: Change, nodes: tuple[int, ...]) -> dict[str, Any]:
    snapshot = change.target.latest

    def areas(its: tuple[Area, ...]) -> list[dict[str, Any]]:
        return [vma_fields(area.vma, area.policy, nodes, area.pages) for area in its]

    return {
        "pid": snapshot.pid,
        "ns_pid": snapshot.namespace_pid or snapshot.pid,
        "comm": text_name(snapshot.comm),
        "changes": list(change.words),
        "from": areas(change.before),
        "to": areas(change.after),
        "pages": change.pages,
        "bytes": change.pages * change.page_kb * 1024,
        "nodes": {node: count for node, count in by_node(nodes, change.delta).items() if count},
        "moved": change.moved,
        "moves": _json_moves(change.moves),
    }
