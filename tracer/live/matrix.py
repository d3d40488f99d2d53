"""A matrix of counts, node by node, in as many columns and lines as there are; what does not fit is summed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tracer.live.figures import count_text, fit
from tracer.live.sheet import Ink, Line, plain

__all__ = ["Numbers", "matrix", "node_text", "wanted_width"]

Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]

_REST = -2
"""Stands for the nodes for which there is no room."""
_LEAST = 6


def node_text(node: int) -> str:
    """`N3`; `?` where it is not known which one, `rest` for those that share a column."""
    return f"N{node}" if node >= 0 else "rest" if node == _REST else "?"


def matrix(
    corner: str,
    rows: Sequence[int],
    columns: Sequence[int],
    numbers: Numbers,
    size: tuple[int, int],
    ink: Ink,
    text: Callable[[float], str] = count_text,
) -> list[Line]:
    """The lines, the first of which is the heading. numbers: of shape (len(rows), len(columns)), by node id.

    corner: what rows and columns are. size: columns and lines of the terminal that there are. Numbers off the diagonal,
    which went or lie elsewhere, are bold; 0 is a dot.
    """
    width, height = size
    label = _label_width(corner)
    most = max(1, height - 1)
    rows, numbers = _condensed(rows, numbers, most)
    cell = _cell_width(numbers, text)
    columns, turned = _condensed(columns, numbers.T, max(1, (width - label) // cell))
    heading: Line = [plain(fit(corner, label), ink.dim)]
    heading += [plain(node_text(node).rjust(cell), ink.node(node, bold=True)) for node in columns]
    lines = [heading]
    for row, its in zip(rows, turned.T.tolist(), strict=True):
        line: Line = [plain(fit(node_text(row), label), ink.node(row, bold=True))]
        for column, number in zip(columns, its, strict=True):
            shown = text(number) if number else "·"
            style = ink.dim if not number else ink.none if row == column else ink.bold
            line.append(plain(shown.rjust(cell), style))
        lines.append(line)
    return lines[: max(height, 0)]


def wanted_width(
    corner: str, columns: Sequence[int], numbers: Numbers, text: Callable[[float], str] = count_text
) -> int:
    """Columns of the terminal in which all of it can be shown."""
    return _label_width(corner) + len(columns) * _cell_width(numbers, text)


def _label_width(corner: str) -> int:
    return max(len(corner), 4) + 1


def _cell_width(numbers: Numbers, text: Callable[[float], str]) -> int:
    widest = max((len(text(number)) for number in numbers.ravel().tolist()), default=0)
    return max(_LEAST, widest + 1)


def _condensed(nodes: Sequence[int], numbers: Numbers, most: int) -> tuple[Sequence[int], Numbers]:
    """At most `most` rows: those with the largest sums, in their order, and the sum of the others."""
    if len(nodes) <= most:
        return nodes, numbers
    kept = np.sort(np.argsort(-numbers.sum(axis=1), kind="stable")[: most - 1])
    others = np.delete(numbers, kept, axis=0).sum(axis=0, keepdims=True)
    return [*(nodes[at] for at in kept.tolist()), _REST], np.concatenate([numbers[kept], others])
