"""Which columns of the table there is room for, and how wide they are."""

from __future__ import annotations

from tracer.live.rows import Column

__all__ = ["Width", "widths"]

Width = tuple[Column, int]

_LEAST = {
    Column.PID: 7,
    Column.ADDRESS: 12,
    Column.NAME: 12,
    Column.POLICY: 7,
    Column.VERDICT: 7,
    Column.SIZE: 6,
    Column.PAGES: 7,
    Column.NODES: 8,
    Column.CHANGE: 7,
    Column.FAULTS: 6,
    Column.MOVES: 6,
}
_MOST = {Column.NODES: 40, Column.POLICY: 24}
_LEAVING = (
    Column.POLICY,
    Column.SIZE,
    Column.MOVES,
    Column.FAULTS,
    Column.PID,
    Column.CHANGE,
    Column.NODES,
    Column.PAGES,
    Column.NAME,
)
"""In this order they go where the terminal is narrow."""
_LEAVING_JUDGED = (
    Column.SIZE,
    Column.POLICY,
    Column.MOVES,
    Column.FAULTS,
    Column.PID,
    Column.CHANGE,
    Column.NODES,
    Column.VERDICT,
    Column.PAGES,
    Column.NAME,
)
"""The same where there are verdicts: what policies are about stays longer than the size of areas."""
INDENT = 2
"""Cells by which the VMAs of a process stand in from its own line."""


def widths(total: int, several: bool, tree: bool, judged: bool = False) -> list[Width]:
    """The columns with their widths, which with a blank between each two add up to `total`. judged: with verdicts."""
    chosen = dict(_LEAST)
    if not judged:
        del chosen[Column.VERDICT]
    if not several or tree:
        del chosen[Column.PID]
    if tree:
        chosen[Column.ADDRESS] += INDENT
    for column in _LEAVING_JUDGED if judged else _LEAVING:
        if _sum(chosen) <= total:
            break
        chosen.pop(column, None)
    left = total - _sum(chosen)
    if left < 0:
        return [(Column.ADDRESS, max(total, 0))]
    # A third for the bar, a fifth for the policy, as far as they want it; the name gets the rest.
    for column, part in ((Column.NODES, left // 3), (Column.POLICY, left // 5)):
        if column in chosen:
            more = min(part, _MOST[column] - chosen[column])
            chosen[column] += more
            left -= more
    chosen[Column.NAME if Column.NAME in chosen else Column.ADDRESS] += left
    return list(chosen.items())


def _sum(chosen: dict[Column, int]) -> int:
    return sum(chosen.values()) + len(chosen) - 1
